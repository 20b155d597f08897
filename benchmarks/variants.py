"""Recordings as another camera, operator or driver would have made them: their images in other forms and orders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

from dust3r_ros.geometry.pinhole import center_of, pixel_grid
from dust3r_ros.types import Array, Image

# An image, its number, the camera's focal and principal point (2,), pixels
Change = Callable[[Image, int, float, Array], Image]
T = TypeVar("T")

_TURNS = 20  # images of turning on the spot
_SWING_DEG = 8.0


@dataclass(frozen=True)
class Variant:
    """``change`` makes each image, every ``step``-th one; ``scale``: of the focal; ``turns``: images put before."""

    change: Change = lambda image, _number, _focal, _center: image
    step: int = 1
    scale: float = 1.0
    turns: int = 0
    posed: float = 0.95  # the least share of images with a pose

    def images(self, images: Sequence[Image], focal: float, center: Array | None) -> Iterator[Image]:
        """The images (H, W, 3), of ``focal`` pixels around ``center``, as this variant has them.

        ``center``: principal point (2,), pixels; None: the middle of the image.
        """
        center = center_of(*images[0].shape[:2]) if center is None else center
        for k in range(self.turns):
            angle = np.radians(_SWING_DEG) * np.sin(2 * np.pi * k / self.turns)
            yield _turned(images[0], focal, center, angle)
        for number, image in enumerate(images[:: self.step]):
            yield self.change(image, number, focal, center)

    def poses(self, poses: Sequence[T]) -> list[T | None]:
        """What belongs to each of its images, None for those put before."""
        return [None] * self.turns + list(poses[:: self.step])


def _turned(image: Image, focal: float, center: Array, angle: float) -> Image:
    """What the camera sees when it turns by ``angle`` about its vertical axis, as far as the image tells."""
    height, width = image.shape[:2]
    cx, cy = center
    matrix = np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]])
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return cv2.warpPerspective(image, matrix @ turn @ np.linalg.inv(matrix), (width, height))


def _barrel(k1: float) -> Change:
    """A lens with one radial term (OpenCV's k1) before the same sensor; what the recording does not show is black."""

    def change(image: Image, _number: int, focal: float, center: Array) -> Image:
        height, width = image.shape[:2]
        x = (pixel_grid(height, width) - center) / focal
        seen = np.linalg.norm(x, axis=-1, keepdims=True)
        # The polynomial rises up to its fold; beyond the radius it has there, nothing is seen
        straight = np.linspace(0, np.sqrt(-1 / (3 * k1)), 2000)
        bent = straight * (1 + k1 * straight**2)
        radius = np.interp(seen, bent, straight, right=np.nan)
        ratio = np.divide(radius, seen, out=np.ones_like(seen), where=seen > 0)
        at = np.nan_to_num(x * ratio * focal + center, nan=-9.0).astype(np.float32)
        return cv2.remap(image, at, None, cv2.INTER_LINEAR)

    return change


def _half(image: Image, _number: int, _focal: float, _center: Array) -> Image:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _cropped(image: Image, _number: int, _focal: float, _center: Array) -> Image:
    """Without its right quarter: the principal point is an eighth of the width off the centre."""
    return np.ascontiguousarray(image[:, : 3 * image.shape[1] // 4])


def _flickering(image: Image, number: int, _focal: float, _center: Array) -> Image:
    """Exposure and black level that change from image to image."""
    gain, offset = 1 + 0.35 * np.sin(1.3 * number), 12 * np.sin(0.7 * number)
    return np.clip(image.astype(np.float32) * gain + offset, 0, 255).astype(np.uint8)


def _noisy(image: Image, number: int, _focal: float, _center: Array) -> Image:
    """A little out of focus, in little light."""
    noise = np.random.default_rng(number).normal(0, 10, image.shape)
    return np.clip(cv2.GaussianBlur(image, (5, 5), 1.2) + noise, 0, 255).astype(np.uint8)


def _on_its_side(image: Image, _number: int, _focal: float, _center: Array) -> Image:
    return cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)


def _robot_in_view(image: Image, number: int, _focal: float, _center: Array) -> Image:
    """The lowest fifth shows the robot that carries the camera, painted all over."""
    height, width = image.shape[:2]
    rng, below = np.random.default_rng(5), 4 * height // 5
    body = np.full((height - below, width, 3), 150, np.uint8)
    for x, y, w, h in rng.integers(0, [width, height - below, width // 10, height // 10], (80, 4)).tolist():
        cv2.rectangle(body, (x, y), (x + w, y + h), rng.integers(0, 255, 3).tolist(), -1)
    shown = image.copy()
    shown[below:] = body
    return np.clip(shown + np.random.default_rng(number).normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def _with_text(image: Image, number: int, _focal: float, _center: Array) -> Image:
    """Time and name of the camera are written into the image."""
    shown, (height, width) = image.copy(), image.shape[:2]
    size, thick = 0.7 * height / 480, max(1, round(height / 240))
    for text, at in ((f"2026-01-01 12:{number // 60:02d}:{number % 60:02d}", 0.05), ("CAMERA 01 FRONT", 0.97)):
        place = (width // 50, round(at * height))
        cv2.putText(shown, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), thick, cv2.LINE_AA)
    return shown


VARIANTS = {
    "reversed": Variant(step=-1),
    "every second image": Variant(step=2, posed=0.9),
    "half the size": Variant(_half, scale=0.5),
    "cropped off centre": Variant(_cropped),
    "on its side": Variant(_on_its_side),
    "exposure flickers": Variant(_flickering),
    "blur and noise": Variant(_noisy),
    "barrel, k1 = -0.2": Variant(_barrel(-0.2)),
    "barrel, k1 = -0.35": Variant(_barrel(-0.35)),
    "turning before it starts": Variant(turns=_TURNS),
    "robot in view": Variant(_robot_in_view),
    "text in the image": Variant(_with_text),
}
