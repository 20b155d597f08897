"""Weights that come with the package, by name."""

from __future__ import annotations

import re
from pathlib import Path

from dust3r_ros.errors import CheckpointError

_HOME = Path(__file__).resolve().parents[1] / "weights"
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def shipped(home: Path = _HOME) -> dict[str, Path]:
    """Folders of weights in ``home`` by name."""
    if not home.is_dir():
        return {}
    return {folder.name: folder for folder in sorted(home.iterdir()) if (folder / "config.json").is_file()}


def find_checkpoint(checkpoint: str | Path, home: Path = _HOME) -> Path:
    """Where a checkpoint lies: weights in ``home`` by their name, anything else as a path.

    A name wins against a folder of that name in the working directory (``./tiny`` means the folder). Raises
    ``CheckpointError`` for a single word that is neither a name nor a path that exists.
    """
    path = Path(checkpoint)
    if not isinstance(checkpoint, str) or not _NAME.fullmatch(checkpoint):
        return path
    known = shipped(home)
    if checkpoint in known:
        return known[checkpoint]
    if path.exists():
        return path
    names = f"those that come with it are {', '.join(known)}" if known else "none come with this installation"
    raise CheckpointError(
        f"checkpoint '{checkpoint}' does not exist: it is neither the name of weights ({names}) nor a path;"
        " give a .pth file or a folder with config.json and model.safetensors"
    )
