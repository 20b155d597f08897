"""BONN RGB-D Dynamic (Palazzolo et al., IROS 2019): TUM's layout, poses of a marker on the camera."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dust3r_ros.evaluation.datasets import tum
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array, Calibration

# As the data set's page lists them.
CALIBRATION = Calibration(
    *tum.SIZE,
    542.822841,
    542.576870,
    315.593520,
    237.756098,
    "plumb_bob",
    (0.039903, -0.099343, -0.000730, -0.000144, 0.0),
)
# The page's two matrices: a pose T of groundtruth.txt places points of the camera at ros^-1 T ros marker_T_c in the
# world. marker_T_c was fitted with a scale, which is left out here: see ``camera_pose``.
_ROS = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
_MARKER = np.array(
    [
        [1.0157, 0.1828, -0.2389, 0.0113],
        [0.0009, -0.8431, -0.6413, -0.0098],
        [-0.3009, 0.6147, -0.8085, 0.0111],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def camera_pose(T: Array) -> Array:
    """``w_T_c`` of a pose of groundtruth.txt, in the motion capture's unit of length.

    By the page's matrix, lengths in the depth images are 1.059 times too short in comparison.
    """
    marker_T_c = _MARKER.copy()
    U, _, Vt = np.linalg.svd(_MARKER[:3, :3])
    marker_T_c[:3, :3] = U @ Vt
    return _ROS.T @ T @ _ROS @ marker_T_c


def read(path: Path) -> Iterator[Recording]:
    """Sequences: ``path`` itself or the folders in it that hold an rgb.txt."""
    for folder in reading.folders(path, "rgb.txt"):
        yield Recording(folder.name, DATASET.name, tum.listed(folder, CALIBRATION, camera_pose), scene=folder.name)


DATASET = Dataset(
    name="bonn",
    title="BONN RGB-D Dynamic",
    source="University of Bonn, https://www.ipb.uni-bonn.de/data/rgbd-dynamic-dataset/",
    fetch="the sequences' .zip, unpacked",
    licence="none stated (research; cite the paper)",
    layout="""
PATH/rgbd_bonn_balloon/
  rgb.txt  rgb/*.png
  depth.txt  depth/*.png
  groundtruth.txt
""",
    notes=(
        "Depth: 5000 per metre. The file has the poses of a marker, which the two matrices on the set's page convert\n"
        "to the camera's. The scales of poses and depth differ by a factor of 1.059, as given on that page; neither\n"
        "is changed."
    ),
    read=read,
)
