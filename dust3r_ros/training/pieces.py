"""Weights split into files small enough to transfer, and joined again."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dust3r_ros.errors import CheckpointError
from dust3r_ros.io.files import atomic_folder, make_folder, write_bytes, write_text

PIECE = 15_500_000
"""Most bytes of a file."""

_MANIFEST, _WEIGHTS, _CONFIG = "pieces.json", "model.safetensors", "config.json"


def split(checkpoint: Path, folder: Path, size: int = PIECE) -> int:
    """Write the checkpoint folder in float16 as ``folder``/weights.NN of at most ``size`` bytes each, and pieces.json
    with their digests and its config; returns their number. Raises ``CheckpointError`` and ``OutputError``.
    """
    from dust3r_ros.network.checkpoint import load_checkpoint, save_checkpoint

    with tempfile.TemporaryDirectory() as scratch:
        save_checkpoint(load_checkpoint(checkpoint), Path(scratch) / "half", half=True)
        weights = (Path(scratch) / "half" / _WEIGHTS).read_bytes()
        config = json.loads((Path(scratch) / "half" / _CONFIG).read_text(encoding="utf-8"))
    make_folder(folder)
    names = []
    for number, start in enumerate(range(0, len(weights), size)):
        names.append(f"weights.{number:02d}")
        write_bytes(folder / names[-1], weights[start : start + size])
    for left in set(folder.glob("weights.*")) - {folder / name for name in names}:
        left.unlink()
    digest = hashlib.sha256(weights).hexdigest()
    about = {"pieces": names, "bytes": len(weights), "sha256": digest, "config": config}
    write_text(folder / _MANIFEST, json.dumps(about, indent=1) + "\n")
    return len(names)


def join(folder: Path, target: Path) -> Path:
    """The checkpoint folder ``target`` from the output of ``split`` in ``folder``, with card and figures.

    Raises ``CheckpointError`` for pieces that are missing, truncated or from another set, ``OutputError`` for the
    target.
    """
    about = _manifest(folder)
    parts = []
    for name in about["pieces"]:
        try:
            parts.append((folder / name).read_bytes())
        except OSError as error:
            raise CheckpointError(f"'{folder / name}' cannot be read ({error.strerror}); copy all pieces") from error
    weights = b"".join(parts)
    if len(weights) != about["bytes"] or hashlib.sha256(weights).hexdigest() != about["sha256"]:
        raise CheckpointError(
            f"the pieces in '{folder}' have {len(weights)} bytes, not the {about['bytes']} that were written; "
            "a piece is truncated or from another run"
        )
    with atomic_folder(target) as made:
        (made / _WEIGHTS).write_bytes(weights)
        (made / _CONFIG).write_text(json.dumps(about["config"], indent=1) + "\n", encoding="utf-8")
        for beside in ("MODEL_CARD.md", "day.json"):
            if (folder / beside).is_file():
                shutil.copyfile(folder / beside, made / beside)
    return target


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        names = about["pieces"]
        plain = all(isinstance(name, str) and Path(name).name == name for name in names) and names
        if not (plain and isinstance(about["bytes"], int) and isinstance(about["config"], dict) and about["sha256"]):
            raise ValueError("it lacks pieces, bytes, sha256 or config")
    except OSError as error:
        raise CheckpointError(f"'{folder}' holds no pieces of weights ({_MANIFEST}: {error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"'{folder / _MANIFEST}' is not a manifest of pieces: {error}") from error
    return dict(about)
