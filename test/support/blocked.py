"""Processes in which packages cannot be imported, as on a machine that lacks them."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# By name of import: what the node does without. All but PyYAML's and NumPy's peers that package.xml names.
OPTIONAL = ("PIL", "evo", "h5py", "matplotlib", "onnxruntime", "rosbags", "safetensors", "torch", "tqdm")

HOOK = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Blocked())
"""


def python_path(folder: Path, names: tuple[str, ...]) -> str:
    """A PYTHONPATH whose processes, and those that they start, import nothing of ``names``.

    ``folder`` gets the module that does it; Python imports it at each start.
    """
    (folder / "sitecustomize.py").write_text(HOOK.format(names=names), encoding="utf-8")
    return os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
