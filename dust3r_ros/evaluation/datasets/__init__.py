"""Readers of the literature's data sets in their official layouts, at a path the user gives; nothing is downloaded."""

from __future__ import annotations

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import (
    bonn,
    cambridge,
    co3d,
    ddad,
    dtu,
    euroc,
    icl_nuim,
    kitti_depth,
    kitti_odometry,
    nyu,
    realestate10k,
    scannet,
    seven_scenes,
    tum,
)
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View

__all__ = ["DATASETS", "Dataset", "Recording", "View", "named"]

_READERS = (
    tum, seven_scenes, euroc, icl_nuim, scannet, cambridge, co3d, realestate10k, nyu, bonn, kitti_odometry, kitti_depth,
    ddad, dtu,
)  # fmt: skip
DATASETS: dict[str, Dataset] = {module.DATASET.name: module.DATASET for module in _READERS}


def named(name: str) -> Dataset:
    """The data set of that name, in any case. Raises ``InputError`` that lists them."""
    found = DATASETS.get(name.lower())
    if found is None:
        raise InputError(f"data set '{name}' is unknown; known are {', '.join(DATASETS)}")
    return found
