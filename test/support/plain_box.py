"""Plain boxes on a plain floor: no texture, only edges and the corners where they meet."""

from __future__ import annotations

import cv2
import numpy as np

from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.types import Array, Image

HEIGHT, WIDTH, FOCAL = 480, 640, 560.0
CENTER = ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
SIZE = np.array([0.8, 0.45, 0.55])
CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0.0, 1.0)]) * SIZE
FACES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (1, 5, 7, 3))
GREYS = (70, 95, 55, 80, 120)
FLOOR = 190
ALONE = ((0.0, 0.0, 1.0),)  # x, y, size
GROUP = ((0.0, 0.0, 1.0), (0.9, 0.1, 0.6), (-0.8, 0.3, 0.8), (0.2, 0.9, 0.7), (-0.1, -0.8, 0.5), (0.8, -0.7, 0.9))
_FINE = 4


def viewpoint(degrees: float, distance: float = 1.9, height: float = 1.25) -> Array:
    """``w_T_c`` of a camera that looks at the box from a place on a circle around it."""
    angle = np.radians(degrees)
    return look_at(np.array([distance * np.cos(angle), distance * np.sin(angle), height]), np.array([0.0, 0.0, 0.2]))


def pixels_of(points: Array, w_T_c: Array) -> Array:
    """Pixels (N, 2) of world points (N, 3)."""
    return project(transform(invert(w_T_c), points), FOCAL, CENTER)


def visible(w_T_c: Array) -> np.ndarray:
    """(8,) which corners of a box alone the camera sees: those of a face that is turned to it."""
    seen = np.zeros(len(CORNERS), bool)
    for face in FACES:
        seen[list(face)] |= _turned_to(CORNERS[list(face)], CORNERS, w_T_c)
    return seen


def picture(w_T_c: Array, seed: int = 0, boxes: tuple[tuple[float, float, float], ...] = ALONE) -> Image:
    """What the camera sees (H, W) uint8 of ``boxes``, the nearer before the farther, with a little noise."""
    fine = np.full((HEIGHT * _FINE, WIDTH * _FINE), FLOOR, np.uint8)
    for x, y, size in sorted(boxes, key=lambda box: -float(np.linalg.norm(w_T_c[:2, 3] - box[:2]))):
        corners = CORNERS * size + [x, y, 0.0]
        for face, grey in zip(FACES, GREYS, strict=True):
            if _turned_to(corners[list(face)], corners, w_T_c):
                outline = (pixels_of(corners[list(face)], w_T_c) + 0.5) * _FINE - 0.5
                cv2.fillConvexPoly(fine, np.round(outline).astype(np.int32), int(grey))
    small = cv2.GaussianBlur(cv2.resize(fine, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), (0, 0), 0.8)
    noise = np.random.default_rng(seed).normal(0.0, 1.5, small.shape)
    return np.clip(np.round(small + noise), 0, 255).astype(np.uint8)


def _turned_to(face: Array, corners: Array, w_T_c: Array) -> bool:
    """Whether the camera is on the outer side of a face (4, 3) of a box with ``corners`` (8, 3)."""
    middle = face.mean(axis=0)
    return bool((middle - corners.mean(axis=0)) @ (w_T_c[:3, 3] - middle) > 0)
