"""Readers of the literature's data sets in their official layouts, at a path the user gives; nothing is downloaded."""

from __future__ import annotations

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import (
    cambridge,
    co3d,
    ddad,
    dtu,
    euroc,
    kitti,
    nyu,
    realestate10k,
    scannet,
    seven_scenes,
    tum,
)
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View

__all__ = ["DATASETS", "Dataset", "Recording", "View", "named"]

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        tum.TUM, seven_scenes.DATASET, euroc.DATASET, tum.ICL_NUIM, scannet.DATASET, cambridge.DATASET,
        co3d.DATASET, realestate10k.DATASET, nyu.DATASET, tum.BONN, kitti.ODOMETRY, kitti.DEPTH, ddad.DATASET,
        dtu.DATASET,
    )
}  # fmt: skip


def named(name: str) -> Dataset:
    """The data set of that name, in any case. Raises ``InputError`` that lists them."""
    found = DATASETS.get(name.lower())
    if found is None:
        raise InputError(f"data set '{name}' is unknown; known are {', '.join(DATASETS)}")
    return found
