"""Published training sets in their official layouts, as sources of pairs. Nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from dust3r_ros.errors import InputError
from dust3r_ros.training.datasets import (
    arkitscenes,
    blendedmvs,
    co3d,
    habitat,
    megadepth,
    scannetpp,
    staticthings3d,
    waymo,
)
from dust3r_ros.training.datasets.pairs import PairFolder, TrainingSet

__all__ = ["TRAINING_SETS", "PairFolder", "TrainingSet", "default_cache", "named", "open_set", "summary", "where"]

_READERS = (habitat, megadepth, arkitscenes, staticthings3d, blendedmvs, scannetpp, co3d, waymo)
TRAINING_SETS: dict[str, TrainingSet] = {module.TRAINING_SET.name: module.TRAINING_SET for module in _READERS}


def named(name: str) -> TrainingSet:
    """The training set of that name, in any case. Raises ``InputError`` that lists them."""
    found = TRAINING_SETS.get(name.lower())
    if found is None:
        raise InputError(f"training set '{name}' is unknown; known are {', '.join(TRAINING_SETS)}")
    return found


def default_cache() -> Path:
    """Default folder of listings and overlaps, below the user's cache."""
    above = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(above) / "dust3r_ros" / "training"


def open_set(name: str, path: str | Path, cache: str | Path | None = None) -> PairFolder:
    """The pairs to train on of a training set at ``path``. Raises ``InputError`` as ``TrainingSet.open``."""
    return named(name).open(path, default_cache() if cache is None else cache)


def where(name: str) -> str:
    """What to fetch for a training set, from whom, its licence and directory layout. Raises ``InputError``."""
    return named(name).where()


def summary() -> str:
    """The training sets, one per line: name, title, licence."""
    width = max(map(len, TRAINING_SETS))
    return "".join(f"{one.name:{width}}  {one.title}, {one.licence}\n" for one in TRAINING_SETS.values())
