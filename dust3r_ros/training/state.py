"""The state of a run on disk: everything that the next step depends on, in one file that is whole or not there."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dust3r_ros.errors import InputError, OutputError
from dust3r_ros.io.files import atomic_path, make_folder

_NAME = re.compile(r"step-(\d+)\.pt")
_FORMAT = 2


def write_state(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """``folder``/step-N.pt, after which all but the last ``keep`` are removed. Raises ``OutputError``, with what was
    there before still there.
    """
    path = make_folder(folder) / f"step-{step:09d}.pt"
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": _FORMAT, **state}, temporary)
        except RuntimeError as error:  # torch's writer does not say OSError when the disk is full
            line = " ".join(str(error).split())[:150]
            raise OutputError(
                f"'{path}' cannot be written: the disk is full or the file too large for it ({line})"
            ) from error
    for old in states(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def states(folder: Path) -> list[Path]:
    """The states in ``folder``, oldest first."""
    found = [path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.partition("-")[2]))


def read_state(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The newest state that can be read, and what is wrong with newer ones. Raises ``InputError`` for none."""
    wrong: list[str] = []
    for path in reversed(states(folder)):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file may raise anything from the unpickler
            wrong.append(f"'{path}' cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:100]})")
            continue
        if isinstance(content, dict) and content.get("format") == _FORMAT:
            return content, wrong
        wrong.append(f"'{path}' is not a state of a training run of this version")
    told = f": {'; '.join(wrong)}" if wrong else ""
    raise InputError(f"there is no state to go on from in '{folder}'{told}; start without --resume")


def random_states() -> dict[str, Any]:
    """All generators that code may draw from without saying so: Python's, NumPy's, torch's."""
    name, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, second = random.getstate()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "python": (version, list(internal), second),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), place, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what ``random_states`` gave."""
    version, internal, second = states["python"]
    random.setstate((version, tuple(internal), second))
    name, keys, place, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def seed_everything(seed: int, rank: int) -> None:
    """Begin all generators anew, differently in every process."""
    mixed = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
