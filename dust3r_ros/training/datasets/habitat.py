"""Renders of habitat-sim (Savva et al., ICCV 2019), in this project's own layout: there is no official one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.layouts import reading
from dust3r_ros.training.datasets.layout import FrameRow, Layout, Part, inner
from dust3r_ros.training.datasets.pairs import TrainingSet
from dust3r_ros.types import Array

_FRAMES = "frames.json"
# Its sensors follow OpenGL: x right, y up, looking along -z.
_SENSOR_T_OPTICAL = np.diag([1.0, -1.0, -1.0, 1.0])


class Habitat(Layout):
    """A part is a scene, which is one group."""

    most_frames = 192

    def parts(self, root: Path, split: str) -> list[Part]:
        named = inner(root / split, (_FRAMES,), root)
        return named or (inner(root, (_FRAMES,), root) if split == "train" else [])

    def frames(self, root: Path, part: Part, most: int) -> Iterable[FrameRow]:
        path = part.folder / _FRAMES
        scene = reading.read_json(path)
        K, size = _intrinsics(path, scene)
        frames = scene.get("frames")
        if not isinstance(frames, list):
            raise InputError(f"'{path}' must hold a list 'frames'")
        for number, frame in enumerate(frames):
            color, depth = (_file(path, number, frame, key) for key in ("color", "depth"))
            if Path(depth).suffix.lower() not in reading.SUFFIXES:
                raise InputError(f"'{path}' frame {number} has depth '{depth}'; {', '.join(reading.SUFFIXES)} are read")
            w_T_c = _pose(path, number, frame)
            yield FrameRow(part.name, f"{part.name}/{color}", f"{part.name}/{depth}", K, w_T_c, size=size)


def _intrinsics(path: Path, scene: dict[str, Any]) -> tuple[Array, tuple[int, int]]:
    """K and (width, height) of a sensor with square pixels: hfov spans the image from edge to edge."""
    answer = [scene.get(key) for key in ("width", "height", "hfov")]
    numbers = [float(value) for value in answer if isinstance(value, (int, float)) and value > 0]
    if len(numbers) != 3 or numbers[2] >= 180:
        raise InputError(f"'{path}' has width, height and hfov {answer}; they must be pixels, pixels and degrees")
    width, height, hfov = numbers
    focal = width / (2 * math.tan(math.radians(hfov) / 2))
    K = reading.intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, path)
    return K, (int(width), int(height))


def _file(path: Path, number: int, frame: Any, key: str) -> str:
    name = frame.get(key) if isinstance(frame, dict) else None
    if not isinstance(name, str) or not name:
        raise InputError(f"'{path}' frame {number} has no file '{key}'")
    reading.existing(path.parent / name, f"{key} of frame {number}")
    return name


def _pose(path: Path, number: int, frame: dict[str, Any]) -> Array:
    """``w_T_c`` of a sensor's position and rotation (w, x, y, z), as habitat-sim's sensor states have them."""
    try:
        position, rotation = (np.array(frame[key], np.float64) for key in ("position", "rotation"))
        good = position.shape == (3,) and rotation.shape == (4,)
    except (KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise InputError(f"'{path}' frame {number} must have position [x, y, z] and rotation [w, x, y, z]")
    return reading.quaternion_pose(path, position, rotation[[1, 2, 3, 0]]) @ _SENSOR_T_OPTICAL


TRAINING_SET = TrainingSet(
    name="habitat",
    title="Renders of habitat-sim (HM3D, Gibson, Replica, ScanNet, ...)",
    source="rendered by you with habitat-sim, https://github.com/facebookresearch/habitat-sim",
    fetch="scenes for habitat-sim, each under its own terms; then render colour and depth at poses of your choice",
    licence="that of the scenes (HM3D: Matterport's academic terms; Replica: research only; Gibson: its agreement)",
    layout="""
PATH/train/00006-HkseAnWCgqk/   (or PATH/00006-HkseAnWCgqk/; PATH/val/... to validate with)
  frames.json
  color/000000.jpg ...
  depth/000000.png ...   (16 bit, millimetres; or .npy, .pfm, .exr in metres)
""",
    notes=(
        'frames.json: {"width": 640, "height": 480, "hfov": 90, "frames": [{"color": "color/000000.jpg", "depth":\n'
        '"depth/000000.png", "position": [x, y, z], "rotation": [w, x, y, z]}, ...]}. Position and rotation are those\n'
        "of the colour sensor (agent.get_state().sensor_states), depth is habitat-sim's own, along the optical axis.\n"
        "Colour and depth sensors must have the same position, hfov and resolution. Pairs are within a scene, chosen\n"
        "by depth."
    ),
    reader=Habitat(),
)
