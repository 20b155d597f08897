"""StaticThings3D (Schröppel et al., 3DV 2022): flying things that keep still, rendered."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.layouts import reading
from dust3r_ros.training.datasets.layout import FrameRow, Layout, Part
from dust3r_ros.training.datasets.pairs import TrainingSet
from dust3r_ros.types import Array

_PASSES = ("frames_cleanpass", "frames_finalpass")
_CAMERAS = ("left", "right")
_SUBSETS = ("A", "B", "C")


class StaticThings3d(Layout):
    """A part is one of the subsets A, B, C; a group is one camera's images of a sequence.

    Files are laid out as in the archives (kind/split/sequence), or as linked by the official converter.
    """

    def parts(self, root: Path, split: str) -> list[Part]:
        if split != "train":
            return []  # only TRAIN exists
        unpacked = [(subset, root / "poses/TRAIN" / subset) for subset in _SUBSETS]
        converted = [(subset, root / "TRAIN" / subset) for subset in _SUBSETS]
        found = [(subset, folder) for subset, folder in (*unpacked, *converted) if folder.is_dir()]
        return [Part(subset, folder, (folder,)) for subset, folder in found]

    def frames(self, root: Path, part: Part, most: int) -> Iterable[FrameRow]:
        for sequence in sorted(folder for folder in part.folder.iterdir() if folder.is_dir()):
            for camera in _CAMERAS:
                yield from _sequence(root, part.name, sequence.name, camera)

    def scene(self, group: str) -> str:
        return group.rpartition("/")[0]  # both cameras see it


def _sequence(root: Path, subset: str, sequence: str, camera: str) -> Iterable[FrameRow]:
    place = f"TRAIN/{subset}/{sequence}"
    unpacked = (root / f"poses/{place}").is_dir()

    def at(kind: str) -> str:
        return f"{kind}/{place}/{camera}" if unpacked else f"{place}/{kind}/{camera}"

    passes = [kind for kind in _PASSES if (root / at(kind)).is_dir()]
    for pose in sorted((root / at("poses")).glob("*.float3")):
        # The unpacked intrinsics are for both cameras.
        lens = f"intrinsics/{place}/{pose.name}" if unpacked else f"{at('intrinsics')}/{pose.name}"
        if not passes:
            raise InputError(f"'{root / at(_PASSES[0])}' is missing; it must hold the images of '{pose}'")
        number = reading.whole(pose, pose.stem)
        image, depth = f"{at(passes[number % len(passes)])}/{pose.stem}.png", f"{at('depths')}/{pose.name}"
        reading.existing(root / image, "image")
        reading.existing(root / depth, "depth file")
        yield FrameRow(f"{place}/{camera}", image, depth, _intrinsics(root / lens), invert(_matrix(pose, 4)))


def _matrix(path: Path, size: int) -> Array:
    M = reading.float3(path).astype(np.float64)
    if M.shape != (size, size):
        raise InputError(f"'{path}' holds an array of shape {M.shape}; it must be ({size}, {size})")
    return reading.rigid(path, M) if size == 4 else M


def _intrinsics(path: Path) -> Array:
    M = _matrix(path, 3)
    return reading.intrinsics(M[0, 0], M[1, 1], M[0, 2], M[1, 2], path)


TRAINING_SET = TrainingSet(
    name="staticthings3d",
    title="StaticThings3D",
    source="University of Freiburg, https://github.com/lmb-freiburg/robustmvd (download_staticthings3d.sh)",
    fetch="depths, intrinsics, poses and frames_cleanpass or frames_finalpass (or both), unpacked into one folder",
    licence="for research, as FlyingThings3D (read the terms at https://lmb.informatik.uni-freiburg.de)",
    layout="""
PATH/frames_cleanpass/TRAIN/A/0000/left/0006.png ...   (frames_finalpass beside or instead)
PATH/depths/TRAIN/A/0000/left/0006.float3 ...
PATH/poses/TRAIN/A/0000/left/0006.float3 ...
PATH/intrinsics/TRAIN/A/0000/0006.float3 ...
or, as convert_staticthings3d.py links them:
PATH/TRAIN/A/0000/frames_cleanpass/left/0006.png ...
PATH/TRAIN/A/0000/depths/left/0006.float3 ...   poses/left/...   intrinsics/left/...
""",
    notes=(
        "Pairs are within one camera's images of a sequence, chosen by depth. Poses map the reference into the\n"
        "camera. If both passes are there, frames alternate between them. There is no validation split."
    ),
    reader=StaticThings3d(),
)
