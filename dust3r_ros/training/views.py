"""Output of training sets: views with exact cameras and pairs of them, cropped to training size, with colour jitter.

World frame ``w``: any, one per pair. Camera frame: optical (x right, y down, z forward). Lengths: any
unit, one per pair. Pixel centres lie at integer coordinates. NumPy only, so that readers start fast.

Crops have square pixels. A random focal length comes from a random crop size (field of view); the principal point is
centred, or wherever a random window puts it. Depth is taken from the nearest pixel (a mean across an edge is a point
that does not exist), colour is averaged over its footprint.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.types import Array, Array32, Image

HELD_OUT_SEED = 1  # of rendered worlds for evaluation: the same in every run, so that runs of all seeds can be compared


@dataclass(frozen=True, eq=False)
class TrainingView:
    """One image with its truth.

    ``image`` (H, W, 3) uint8 RGB, ``depth`` (H, W) float32: z in the camera, 0 = unknown. ``K`` (3, 3)
    pinhole intrinsics in pixels of this image; its principal point may lie anywhere. ``w_T_c`` (4, 4).
    """

    image: Image
    depth: Array32
    K: Array
    w_T_c: Array

    def points_c(self) -> Array:
        """(H, W, 3) points in the camera's frame; the origin where the depth is unknown."""
        height, width = self.depth.shape
        x = (np.arange(width) - self.K[0, 2]) / self.K[0, 0]  # (W,)
        y = (np.arange(height) - self.K[1, 2]) / self.K[1, 1]  # (H,)
        z = self.depth.astype(np.float64)
        # Undo a skew, which is 0 in all cameras except those of some structure-from-motion models.
        x = x[None, :] - (self.K[0, 1] / self.K[0, 0]) * y[:, None]
        return np.stack([x * z, y[:, None] * z, z], axis=-1)

    def check(self, name: str) -> None:
        """Raises ``InputError`` with ``name`` for impossible shapes, types or numbers."""
        height, width = self.image.shape[:2]
        if self.image.shape != (height, width, 3) or self.image.dtype != np.uint8 or self.image.size == 0:
            raise InputError(f"{name}: image of shape {self.image.shape} and type {self.image.dtype} is not RGB uint8")
        if self.depth.shape != (height, width):
            raise InputError(f"{name}: depth of shape {self.depth.shape} does not fit the image of {width}x{height}")
        if not (np.isfinite(self.depth).all() and (self.depth >= 0).all()):
            raise InputError(f"{name}: depth holds negative or not finite numbers; unknown must be 0")
        self._check_camera(name)

    def _check_camera(self, name: str) -> None:
        if self.K.shape != (3, 3) or not np.isfinite(self.K).all() or min(self.K[0, 0], self.K[1, 1]) <= 0:
            raise InputError(f"{name}: K is {self.K.tolist()}; it must be (3, 3), finite, with focals above 0")
        if self.w_T_c.shape != (4, 4) or not np.isfinite(self.w_T_c).all():
            raise InputError(f"{name}: the pose is not a finite (4, 4) matrix")
        if np.abs(self.w_T_c[:3, :3] @ self.w_T_c[:3, :3].T - np.eye(3)).max() > 1e-3:
            raise InputError(f"{name}: the pose's upper left (3, 3) is not a rotation")


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Two overlapping views; ``source`` names their origin in messages."""

    first: TrainingView
    second: TrainingView
    source: str

    def check(self) -> None:
        """Raises ``InputError`` as ``TrainingView.check``."""
        self.first.check(f"{self.source}, first view")
        self.second.check(f"{self.source}, second view")


class PairSource(Protocol):
    """A source of pairs: a training set on disk, or rendered worlds."""

    @property
    def name(self) -> str:
        """Name of the set in messages and metrics."""

    def __len__(self) -> int | None:
        """Number of pairs; None for an endless source (use ``length``: ``len`` cannot return None)."""

    def pair(self, index: int, rng: np.random.Generator) -> ViewPair:
        """Pair ``index``; the same for the same index and state of ``rng``.

        Raises ``InputError`` that names the file of a sample that cannot be read.
        """


@runtime_checkable
class BatchSource(Protocol):
    """A source that makes whole batches on the training device. It is the only one of a run."""

    def batches(
        self, start: int, number: int, pairs: int, sizes: Sequence[tuple[int, int]], cropping: Any, workers: int
    ) -> Generator[Any, None, None]:
        """Batches (``batches.PairBatch``) from ``number`` on, with ``pairs`` of this process each, of a stage that
        begins after ``start`` pairs of all processes. ``workers`` processes help.
        """

    def at(self, size: tuple[int, int]) -> PairSource:
        """The same worlds, with single pairs of ``size`` (H, W)."""


def length(source: PairSource) -> int | None:
    """Number of pairs of a source, None for an endless one."""
    count = source.__len__()
    return None if count is None else int(count)


_ENHANCERS = ("Brightness", "Contrast", "Color")  # of Pillow
_MOST_HUE = 0.1  # of the colour circle, at strength 1


def jitter(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """``image`` (H, W, 3) uint8 RGB with random brightness, contrast, saturation (factors 1 ± ``strength``, in random
    order), hue and balance of channels; the geometry is untouched.
    """
    from PIL import Image as Pillow
    from PIL import ImageEnhance

    picture = Pillow.fromarray(image)
    for index in rng.permutation(len(_ENHANCERS)):
        factor = float(rng.uniform(max(1 - strength, 0.0), 1 + strength))
        picture = getattr(ImageEnhance, _ENHANCERS[index])(picture).enhance(factor)
    shift = round(255 * _MOST_HUE * strength * float(rng.uniform(-1, 1)))
    if shift:
        hue, saturation, value = picture.convert("HSV").split()
        turned = Pillow.fromarray(np.asarray(hue) + np.uint8(shift % 256))  # wraps round, as the circle does
        picture = Pillow.merge("HSV", (turned, saturation, value)).convert("RGB")
    gains = np.exp(0.2 * strength * rng.uniform(-1, 1, 3))
    return np.clip(np.asarray(picture) * gains + 0.5, 0, 255).astype(np.uint8)


_LEAST_PIXELS = 4  # smallest sides of a usable window
_LEAST_VALID = 0.02  # least share of a pair's pixels with known depth


@dataclass(frozen=True)
class Cropping:
    """How views become training images.

    ``zoom``: the field of view shrinks by a random factor up to this (1: none). ``centred``: the principal point
    becomes the centre, as focal estimation from the network's points assumes; else the window lies anywhere.
    ``colour``: strength of the colour jitter, 0 for none. ``upscale``: a crop may be enlarged by up to this factor.
    """

    zoom: float = 1.0
    centred: bool = True
    colour: float = 0.0
    upscale: float = 2.0


@dataclass(frozen=True)
class Window:
    """Part of an image: ``left``, ``top`` (pixel edges: 0 is the left edge of pixel 0), ``width``, ``height``."""

    left: float
    top: float
    width: float
    height: float


def crop_pair(pair: ViewPair, size: tuple[int, int], rng: np.random.Generator, cropping: Cropping) -> ViewPair:
    """Both views at ``size`` (H, W), each with its own random crop and colours.

    Raises ``InputError`` naming the pair if no crop fits or hardly any known depth is left.
    """
    pair.check()
    views = []
    for view in (pair.first, pair.second):
        try:
            views.append(crop_view(view, size, rng, cropping))
        except InputError as error:
            raise InputError(f"{pair.source}: {error}") from error
    known = np.mean([np.mean(view.depth > 0) for view in views])
    if known < _LEAST_VALID:
        raise InputError(f"{pair.source}: only {100 * known:.1f} % of the depth is known; at least 2 % must be")
    return ViewPair(views[0], views[1], pair.source)


def crop_view(view: TrainingView, size: tuple[int, int], rng: np.random.Generator, cropping: Cropping) -> TrainingView:
    """The view at ``size`` (H, W) with square pixels; raises ``InputError`` when no window fits."""
    if view.depth.shape == size and cropping == Cropping() and _centred(view):
        return view
    window = choose_window(view, size, rng, cropping)
    cut = resample(view, window, size)
    if cropping.colour <= 0:
        return cut

    return TrainingView(jitter(cut.image, rng, cropping.colour), cut.depth, cut.K, cut.w_T_c)


def _centred(view: TrainingView) -> bool:
    height, width = view.depth.shape
    return bool(np.allclose(view.K[:2, 2], ((width - 1) / 2, (height - 1) / 2)) and view.K[0, 0] == view.K[1, 1])


def choose_window(view: TrainingView, size: tuple[int, int], rng: np.random.Generator, cropping: Cropping) -> Window:
    """The part of the view that becomes an image of ``size`` (H, W) with square pixels."""
    height, width = view.depth.shape
    fx, fy = float(view.K[0, 0]), float(view.K[1, 1])
    # In focal lengths, where the output's pixels are square: sides of the largest window of the wanted shape.
    room_x, room_y, center_x, center_y = width / fx, height / fy, view.K[0, 2] + 0.5, view.K[1, 2] + 0.5
    if cropping.centred:
        room_x = 2 * min(center_x, width - center_x) / fx
        room_y = 2 * min(center_y, height - center_y) / fy
    unit = min(room_x / size[1], room_y / size[0])  # focal lengths per output pixel
    if unit * min(size[1] * fx, size[0] * fy) < _LEAST_PIXELS:
        raise InputError(
            f"the principal point ({view.K[0, 2]:.1f}, {view.K[1, 2]:.1f}) of an image of {width}x{height} "
            "leaves no window around it"
        )
    finest = 1 / (cropping.upscale * min(fx, fy))
    smallest = max(unit / max(cropping.zoom, 1.0), min(finest, unit))
    unit = float(np.exp(rng.uniform(np.log(smallest), np.log(unit)))) if smallest < unit else unit
    wide, high = unit * size[1] * fx, unit * size[0] * fy
    if cropping.centred:
        return Window(center_x - wide / 2, center_y - high / 2, wide, high)
    return Window(float(rng.uniform(0, max(width - wide, 0))), float(rng.uniform(0, max(height - high, 0))), wide, high)


def resample(view: TrainingView, window: Window, size: tuple[int, int]) -> TrainingView:
    """The window as a view of ``size`` (H, W)."""
    height, width = size
    scale_x, scale_y = width / window.width, height / window.height
    K = view.K.astype(np.float64).copy()
    K[0, :2] *= scale_x
    K[1, 1] *= scale_y
    K[0, 2] = (view.K[0, 2] + 0.5 - window.left) * scale_x - 0.5
    K[1, 2] = (view.K[1, 2] + 0.5 - window.top) * scale_y - 0.5
    columns = _nearest(width, window.left, scale_x, view.depth.shape[1])
    rows = _nearest(height, window.top, scale_y, view.depth.shape[0])
    depth = np.ascontiguousarray(view.depth[np.ix_(rows, columns)], dtype=np.float32)
    return TrainingView(_picture(view.image, window, size), depth, K, view.w_T_c)


def _nearest(count: int, start: float, scale: float, limit: int) -> np.ndarray:
    """Source pixels nearest to the centres of ``count`` target pixels."""
    return np.clip(np.floor(start + (np.arange(count) + 0.5) / scale).astype(np.int64), 0, limit - 1)


def _picture(image: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    height, width = image.shape[:2]
    left, top = max(window.left, 0.0), max(window.top, 0.0)
    box = (left, top, min(window.left + window.width, width), min(window.top + window.height, height))
    if (window.width, window.height) == (size[1], size[0]) and left.is_integer() and top.is_integer():
        cut = image[int(top) : int(top) + size[0], int(left) : int(left) + size[1]]
        return np.ascontiguousarray(cut)
    if window.width > 4 * size[1]:  # average areas to twice the size first: Lanczos over hundreds of pixels is slow
        return _reduced(image, box, size)
    from PIL import Image as Pillow  # imported here, since rendering on the device does without it

    small = window.width < size[1]
    filter_ = Pillow.Resampling.BICUBIC if small else Pillow.Resampling.LANCZOS
    return np.asarray(Pillow.fromarray(image).resize((size[1], size[0]), filter_, box=box))


def _reduced(image: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    import cv2
    from PIL import Image as Pillow

    half = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    scale_x, scale_y = half.shape[1] / image.shape[1], half.shape[0] / image.shape[0]
    smaller = (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
    picture = Pillow.fromarray(np.asarray(half, np.uint8))
    return np.asarray(picture.resize((size[1], size[0]), Pillow.Resampling.LANCZOS, box=smaller))
