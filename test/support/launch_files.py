"""What launch files say of themselves, read without launch."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILES = {path.name: path for path in sorted((ROOT / "launch").glob("*.launch.py"))}
MAIN = "dust3r.launch.py"


def constants(path: Path) -> dict[str, Any]:
    """The literals at the top of a module, by name."""
    found = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                found[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:  # not a literal
                continue
    return found


def declared(name: str) -> set[str]:
    """Arguments that a launch file declares itself."""
    found = constants(LAUNCH_FILES[name])
    return {*found["ARGUMENTS"], *found.get("PARAMETERS", ())}


def taken(name: str) -> set[str]:
    """Arguments that may be given to a launch file: those of the file that it includes, too."""
    return declared(name) | (declared(MAIN) if name == "robot_example.launch.py" else set())
