"""Cambridge Landmarks (Kendall et al., ICCV 2015): its two lists and VisualSFM's reconstruction."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View, nominal
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array

_HEADER = "Visual Landmark Dataset V1"


def read(path: Path) -> Iterator[Recording]:
    """Scenes: ``path`` itself or the folders in it that hold a dataset_train.txt; one recording per split."""
    for scene in reading.folders(path, "dataset_train.txt"):
        name, focals = scene.resolve().name, _focals(scene / "reconstruction.nvm")
        for split in ("train", "test"):
            views = _views(scene, scene / f"dataset_{split}.txt", focals)
            yield Recording(f"{name}/{split}", DATASET.name, views, ordered=False, split=split, scene=name)


def _views(scene: Path, listing: Path, focals: dict[str, float]) -> tuple[View, ...]:
    lines = reading.text(listing).splitlines()
    if not lines or lines[0].strip() != _HEADER:
        raise InputError(f"'{listing}' begins with {lines[:1]}; only {_HEADER!r} is known")
    views: list[View] = []
    for number, line in enumerate(lines[2:], start=3):  # the second line names the columns
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 8:
            raise InputError(f"'{listing}' line {number} is {line[:80]!r}; it must be 'file X Y Z W P Q R'")
        file = scene / fields[0]
        image = reading.image_reader(file)
        focal = focals.get(_stem(fields[0]))
        K = None if focal is None else _centred(focal, file)
        w_T_c = _camera_pose(listing, reading.floats(listing, fields[1:]))
        views.append(View(nominal(len(views)), "camera", K, w_T_c, image, name=f"{scene.resolve().name}/{fields[0]}"))
    return tuple(views)


def _camera_pose(path: Path, numbers: Array) -> Array:
    """``w_T_c`` from a camera's centre and its quaternion (w first, world to camera)."""
    center, wxyz = numbers[:3], numbers[3:]
    c_T_w = reading.quaternion_pose(path, np.zeros(3), wxyz[[1, 2, 3, 0]])
    return pose(Rotation.from_matrix(c_T_w[:3, :3]).inv().as_matrix(), center)


def _centred(focal: float, file: Path) -> Array:
    width, height = reading.image_size(file)
    return reading.intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, file)


def _focals(path: Path) -> dict[str, float]:
    """{image without suffix: focal in pixels} of an NVM_V3 file; {} where there is none. Raises ``InputError``."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline().split()
            if first[:1] != ["NVM_V3"]:
                raise InputError(f"'{path}' begins with {first[:1]}; only NVM_V3 is known")
            count = next((line.strip() for line in file if line.strip()), "")
            lines = list(islice(file, reading.whole(path, count)))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read: {error}") from error
    if len(lines) != int(count) or any(len(line.split()) < 11 for line in lines):
        raise InputError(f"'{path}' announces {count} cameras; it holds fewer, or truncated lines")
    return {_stem(fields[0]): reading.floats(path, fields[1:2])[0] for fields in map(str.split, lines)}


def _stem(name: str) -> str:
    """The reconstruction lists .jpg where the data set has .png."""
    return name.rsplit(".", 1)[0]


DATASET = Dataset(
    name="cambridge",
    title="Cambridge Landmarks",
    source="University of Cambridge, https://www.repository.cam.ac.uk/handle/1810/251342 (and five more)",
    fetch="the scenes' .zip, unpacked",
    licence="CC BY 2.0 UK",
    layout="""
PATH/ShopFacade/
  dataset_train.txt  dataset_test.txt
  seq1/frame00001.png ...
  reconstruction.nvm   (for the focals)
""",
    notes=(
        "The focal length of each image is from reconstruction.nvm, with a central principal point; without that file\n"
        "K is unknown. VisualSFM's radial distortion is ignored. Metres are as given by the data set. Stamps only\n"
        "number the images."
    ),
    read=read,
)
