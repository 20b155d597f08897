"""ICL-NUIM (Handa et al., ICRA 2014), in its TUM-compatible form: rendered with y up, so K has fy < 0."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View, nominal
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array

# The page has fy = -480: its cameras have y up and its world is left-handed. Both are flipped in y here: the
# images stay the same, the world becomes right-handed and the camera an optical frame with fy = 480.
K = reading.intrinsics(481.20, 480.00, 319.50, 239.50)
_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])
_PER_METRE = 5000.0


def read(path: Path) -> Iterator[Recording]:
    """Sequences: ``path`` itself or the folders in it that hold an associations.txt."""
    for folder in reading.folders(path, "associations.txt"):
        yield Recording(folder.name, DATASET.name, _views(folder), scene=folder.name)


def _views(folder: Path) -> tuple[View, ...]:
    poses = _poses(folder)
    views = []
    path = folder / "associations.txt"
    for depth_number, depth, number, image in reading.rows(path, 4, "number depth-file number image-file"):
        if depth_number != number:
            raise InputError(f"'{path}' pairs depth {depth_number!r} with image {number!r}; the numbers must be equal")
        index = reading.whole(path, number)
        views.append(
            View(
                nominal(index),
                "camera",
                K,
                poses.get(index),
                reading.image_reader(folder / image),
                reading.depth_reader(folder / depth, _PER_METRE),
                name=f"{folder.name}/{image}",
            )
        )
    return tuple(views)


def _poses(folder: Path) -> dict[int, Array]:
    files = sorted(folder.glob("*.gt.freiburg"))
    if len(files) != 1:
        raise InputError(f"'{folder}' holds {len(files)} files *.gt.freiburg; it must hold one, that of its trajectory")
    poses = {}
    for fields in reading.rows(files[0], 8, "number tx ty tz qx qy qz qw"):
        numbers = reading.floats(files[0], fields[1:])
        pose = reading.quaternion_pose(files[0], numbers[:3], numbers[3:])
        poses[reading.whole(files[0], fields[0])] = _MIRROR @ pose @ _MIRROR
    return poses


DATASET = Dataset(
    name="icl-nuim",
    title="ICL-NUIM",
    source="Imperial College London, https://www.doc.ic.ac.uk/~ahanda/VaFRIC/iclnuim.html",
    fetch="the TUM-compatible PNGs (*_frei_png.tar.gz), and beside them the trajectory's *.gt.freiburg",
    licence="CC BY 3.0",
    layout="""
PATH/living_room_traj0_frei_png/
  associations.txt
  livingRoom0.gt.freiburg
  rgb/0.png ...
  depth/0.png ...
""",
    notes=(
        "Stamps are nominal (30 Hz). The files' left-handed world is mirrored in y, so that fy is +480. An image\n"
        "without a line in the *.gt.freiburg has no pose. Depth: 5000 per metre."
    ),
    read=read,
)
