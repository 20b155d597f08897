"""What kind of recording a scene is, by its true poses: figures are read by kind, for what is hard differs by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dust3r_ros.evaluation.scene import Scene, image_files, read_scene
from dust3r_ros.layouts.reading import read_json
from dust3r_ros.types import Array

LITTLE, WIDE, FORWARD = "little motion", "wide steps", "forward motion"
AROUND, LOOPS, LONG, OTHER = "around an object", "loops", "long video", "none of these"
# In the words of a legend, with the limits below.
MEANINGS = {
    LITTLE: "a path of at most 0.7 m",
    WIDE: "the camera turns by 6 degrees or more from image to image (median)",
    FORWARD: "it moves along its optical axis (within 25 degrees, median)",
    AROUND: "all optical axes meet in one place, from directions 30 degrees or more apart",
    LOOPS: "a tenth of the images or more show what others showed a long way before or after",
    LONG: "150 images or more",
}
_LITTLE_M, _LITTLE_IMAGES = 0.7, 20  # a path; fewer images are stills
_WIDE_DEG = 6.0
_FORWARD = np.cos(np.radians(25.0))
_AROUND, _AROUND_DEG = 0.15, 30.0  # how far the axes miss the place, in distances to it
_NEAR, _ALIKE_DEG, _BACK = 0.15, 30.0, 0.1  # of the extent of all places; share of images
_LONG = 150


def kinds_of(path: Path) -> list[str]:
    """The kinds of the scene in ``path``, as in ``MEANINGS``; ``OTHER`` alone where it is none of these.

    Images that were changed (``variant`` in intrinsics.json names how) are the only kind of their scene, so that what
    they cost is seen. Raises ``InputError`` for a scene that cannot be read.
    """
    variant = read_json(path / "intrinsics.json").get("variant", "")
    return [variant] if variant else kinds_of_motion(read_scene(path), len(image_files(path)))


def kinds_of_motion(scene: Scene, images: int) -> list[str]:
    """The kinds that the true motion of a scene of so many ``images`` makes it."""
    w_T_c = np.stack([pose.w_T_c for pose in scene.truth])
    steps = np.linalg.norm(np.diff(w_T_c[:, :3, 3], axis=0), axis=1)
    if len(steps) < 2 or not steps.sum() > 0:
        return [OTHER]
    little = scene.metric and steps.sum() <= _LITTLE_M and images >= _LITTLE_IMAGES
    held = {
        LITTLE: little,
        WIDE: np.median(_turns(w_T_c)) >= _WIDE_DEG,
        FORWARD: np.median(_along_axis(w_T_c)) >= _FORWARD,
        AROUND: _is_around(w_T_c),
        LOOPS: _returning(w_T_c) >= _BACK,
        LONG: images >= _LONG,
    }
    return [kind for kind, is_so in held.items() if is_so] or [OTHER]


def _turns(w_T_c: Array) -> Array:
    """Degrees from each view (N, 4, 4) to the next."""
    relative = np.einsum("nij,nik->njk", w_T_c[:-1, :3, :3], w_T_c[1:, :3, :3])
    return np.degrees(np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1)))


def _along_axis(w_T_c: Array) -> Array:
    """|cos| of the angle between each step and the optical axis before it."""
    steps = np.diff(w_T_c[:, :3, 3], axis=0)
    length = np.linalg.norm(steps, axis=1)
    return np.abs(np.sum(steps * w_T_c[:-1, :3, 2], axis=1)) / np.maximum(length, 1e-12)


def _angles(axes: Array) -> Array:
    """(N, N) degrees between unit vectors (N, 3)."""
    return np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1)))


def _is_around(w_T_c: Array) -> bool:
    centers, axes = w_T_c[:, :3, 3], w_T_c[:, :3, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]  # what of a vector is across the axis
    place = np.linalg.lstsq(across.sum(axis=0), np.einsum("nij,nj->i", across, centers), rcond=None)[0]
    distance = np.median(np.sum((place - centers) * axes, axis=1))
    missed = np.median(np.linalg.norm(np.einsum("nij,nj->ni", across, place - centers), axis=1))
    return bool(missed <= _AROUND * distance and _angles(axes).max() >= _AROUND_DEG)


def _returning(w_T_c: Array) -> float:
    """Share of the views near to one from which the path is longer than all places are wide, looking the same way."""
    centers = w_T_c[:, :3, 3]
    extent = np.linalg.norm(np.ptp(centers, axis=0))
    walked = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(centers, axis=0), axis=1))])
    near = np.linalg.norm(centers[:, None] - centers[None], axis=2) < _NEAR * extent
    alike = _angles(w_T_c[:, :3, 2]) < _ALIKE_DEG
    return float(np.mean((near & alike & (np.abs(walked[:, None] - walked[None]) > extent)).any(axis=1)))
