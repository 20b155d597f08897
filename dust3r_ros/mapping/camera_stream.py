"""Incoming images of cameras, and what is known about the cameras: sizes, tracked corners, focals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import inf

import cv2
import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.features.features import FEATURES, FeatureCount, Features, extract
from dust3r_ros.features.masks import DarkBorder, EgoMask, ImageMask, Mask, distance_from
from dust3r_ros.geometry.lens import Lens, forward_model
from dust3r_ros.geometry.pinhole import center_of, pixel_grid
from dust3r_ros.geometry.resize import Resize
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.tracking import CornerTracker, Tracks, no_tracks, tracked, tracked_size
from dust3r_ros.tracking.exchange import MakeLandmarks, Renumbering, no_landmarks, no_names, with_landmarks
from dust3r_ros.types import Array, Array32, Camera, Image

_LENSES = 4  # of which lookup tables are kept: keyframes are rectified by the lens of their time
_FEW = 5  # images, of a camera: each knows about as much of its lens as those of another one


@dataclass(eq=False)
class KeyframeRecord:
    """The parts of a keyframe besides pose and depth.

    ``image``: working image (H, W, 3) RGB. ``features``: offsets from the principal point, in pixels of the tracked
    image; ``feature_ids``: the landmarks created for them; a ``link`` has none, only what was followed into it, and is
    there for the sake of the next keyframe. ``masked`` and ``moving``: which pixels (H, W) are left out by the camera's
    mask and because they move; None: none. ``before``: the keyframe at which its camera was before, None for its first;
    ``visit``: the count of visits when it was made. ``lost``: how many of the landmarks it sees lost their position
    when others were culled. ``gray`` (H, W): the tracked image; None for a keyframe of an older run. ``rolling`` (2,):
    the camera's readout that is taken out of what it sees and of ``image``, as is ``zoom``, by how much longer (log)
    its focal was; ``as_shown``: where ``gray`` shows what the readout is taken out of. ``session``: its stamp's.
    """

    stamp_ns: int
    stream: CameraStream
    image: Image
    features: Features
    feature_ids: np.ndarray
    version: int = 0
    masked: Mask | None = None
    moving: Mask | None = None
    before: int | None = None
    visit: int = 0
    lost: int = 0
    gray: Image | None = None
    rolling: tuple[float, float] = (0.0, 0.0)
    as_shown: Tracks = field(default_factory=no_tracks)
    session: int = 0
    zoom: float = 0.0
    link: bool = False

    @property
    def left_out(self) -> Mask | None:
        """Which pixels (H, W) are left out for either reason; None: none."""
        if self.masked is None or self.moving is None:
            return self.moving if self.masked is None else self.masked
        return self.masked | self.moving


class ImageGeometry:
    """The geometry of one camera's native, tracked and working images, and their rectification.

    Offsets are relative to the principal point, in pixels of the tracked image; focals for them are
    ``tracking_scale`` times the native ones.
    """

    def __init__(self, width: int, height: int, config: MapperConfig) -> None:
        self.width, self.height = width, height
        self.resize = Resize.fit(width, height, config.long_edge)
        self.tracking_scale, self._tracking_size = tracked_size(width, height, config.tracking_size)
        self._scales = np.array(self._tracking_size) / [width, height]  # not quite alike: of whole pixels
        self._center = np.array(center_of(self._tracking_size[1], self._tracking_size[0]))
        self._rectifications: list[tuple[Lens, Array32, np.ndarray]] = []

    @property
    def half_size(self) -> Array:
        """(2,) distance of the tracked image's borders from its centre, pixels."""
        return np.array(self._tracking_size) / 2.0

    @property
    def long_edge(self) -> int:
        """Long edge of the tracked image, pixels."""
        return max(self._tracking_size)

    def centred(self, pixels: Array) -> Array:
        """Offsets (N, 2) from the principal point of pixels (N, 2) of the tracked image."""
        return pixels - self._center

    def pixels(self, offsets: Array) -> Array:
        """Pixels (N, 2) of the tracked image at offsets (N, 2) from the principal point: the inverse of ``centred``."""
        return offsets + self._center

    def rectified(self, image: Image, lens: Lens) -> tuple[Image, np.ndarray | None]:
        """The working image (H, W, 3) of a pinhole in place of the lens, and where it is valid (H, W); None: all.

        ``lens``: in pixels of the tracked image. Pixels that the camera does not see repeat the border.
        """
        if lens.plain:
            return image, None
        at, inside = self._lookup(lens, image.shape[0], image.shape[1])
        return cv2.remap(image, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), inside

    def shown(self, lens: Lens) -> np.ndarray | None:
        """Where rectified images are valid (H, W), as from ``rectified``."""
        return None if lens.plain else self._lookup(lens, self.resize.height, self.resize.width)[1]

    def rectify_mask(self, mask: Mask, lens: Lens) -> Mask:
        """A mask (H, W) of the working image, rectified."""
        if lens.plain:
            return mask
        at, _ = self._lookup(lens, *mask.shape)
        return np.asarray(cv2.remap(mask.astype(np.uint8), at, None, cv2.INTER_NEAREST)).astype(bool)

    def distort_mask(self, mask: Mask, lens: Lens) -> Mask:
        """A mask (H, W) of the rectified image in the working image: the inverse of ``rectify_mask``."""
        if lens.plain:
            return mask
        height, width = mask.shape
        seen = self.from_working(pixel_grid(height, width).reshape(-1, 2))
        at = self.to_working(lens.ideal(seen)).reshape(height, width, 2).astype(np.float32)
        return np.asarray(cv2.remap(mask.astype(np.uint8), at, None, cv2.INTER_NEAREST)).astype(bool)

    def _lookup(self, lens: Lens, height: int, width: int) -> tuple[Array32, np.ndarray]:
        """The source of each pixel of the rectified working image (H, W, 2), and whether it is in the image (H, W)."""
        for kept in self._rectifications:
            if kept[0] == lens:
                return kept[1:]
        ideal = self.from_working(pixel_grid(height, width).reshape(-1, 2))
        at = self.to_working(lens.seen(ideal)).reshape(height, width, 2)
        inside = np.all((at >= 0) & (at <= [width - 1, height - 1]), axis=2)
        kept = lens, at.astype(np.float32), inside
        self._rectifications = [kept, *self._rectifications[: _LENSES - 1]]
        return kept[1:]

    def to_working(self, offsets: Array) -> Array:
        """Working pixels (N, 2) of offsets in the tracked image."""
        return self.resize.to_working((self.pixels(offsets) + 0.5) / self._scales - 0.5)

    def from_working(self, pixels: Array) -> Array:
        """Offsets in the tracked image of working pixels (N, 2)."""
        return (self.resize.to_native(pixels) + 0.5) * self._scales - 0.5 - self._center

    def focal_to_working(self, focal: float) -> float:
        """Focal in the working image from one in the tracked image, pixels."""
        return self.resize.focal_to_working(focal / self.tracking_scale)


class CameraStream(ImageGeometry):
    """Converts native images of one camera to the tracked image (grey) and the working image (RGB).

    It returns tracked corners as offsets.
    """

    def __init__(self, name: str, index: int, width: int, height: int, config: MapperConfig) -> None:
        super().__init__(width, height, config)
        self.name, self.index = name, index
        self.images, self.alone = 0, False  # seen so far; whether they are a few photographs, beside other cameras'
        self.live = False  # whether images come at a camera's rate, and some are left out: that is no wide step
        self._count = FeatureCount(video=index == 0)
        self._described: tuple[Image, Features] | None = None
        self.mask: ImageMask | None = None  # of the last image
        self._border, self._ego = DarkBorder(), EgoMask()
        self._constant: tuple[Mask | None, ...] = (None, None)  # what these found in the last image
        self._own: ImageMask | None = None  # the mask of that
        self._shown: tuple[Image, Image] | None = None  # the last tracked image, and as the camera shows it
        self.restart()

    def restart(self) -> None:
        """Forget all corners."""
        self._tracker = CornerTracker()
        self._anchor = no_tracks()  # corners in the last keyframe
        self.anchored_ns = 0  # its stamp
        self.named = no_names()  # landmarks of a front end's own corners in the last image

    def go_back_to(self, gray: Image, mask: ImageMask | None) -> None:
        """An older tracked image, with its ``mask``, becomes the last one; no corners lead there."""
        self.restart()
        self.mask = self._with_own(mask)
        self._tracker.follow(gray)

    def mask_of(self, working: Mask | None) -> ImageMask | None:
        """The mask of an image of which that of the working image (H, W) is known; None: nothing is left out."""
        if working is None:
            return None
        width, height = self._tracking_size
        at = self.to_working(self.centred(pixel_grid(height, width).reshape(-1, 2)))
        column, row = np.clip(np.round(at).astype(int), 0, np.array(working.shape[::-1]) - 1).T
        return ImageMask(distance_from(working[row, column].reshape(height, width)), working)

    def follow(self, gray: Image, seen: Tracks | None = None, make: MakeLandmarks = no_landmarks) -> Tracks:
        """The previous image's corners as offsets in ``gray``; those now under its mask are dropped.

        ``seen``: corners already followed into it elsewhere, as offsets; ``make``: as of ``with_landmarks``.
        """
        if seen is not None:
            ids, self.named = with_landmarks(seen.ids, self.named, make)
            seen = Tracks(ids, self.pixels(seen.pixels)).select(ids >= 0)
        tracks = self._tracker.follow(gray, seen)
        self._count.note(self._tracker.share, self.images)
        return self._offsets(tracks if self.mask is None else self._tracker.drop(self.mask.clear))

    def corners(self, count: int, apart_from: Array) -> Array:
        """At most ``count`` new corners of the last image, away from offsets (M, 2), as offsets (N, 2)."""
        return self.centred(self._tracker.corners(count, self.pixels(apart_from), self.mask))

    def anchor(self, stamp_ns: int, tracks: Tracks) -> None:
        """The last image became a keyframe: follow these corners of it, and measure motion and overlap from here."""
        self._tracker.tracks = Tracks(tracks.ids, self.pixels(tracks.pixels))
        self.anchored_ns, self._anchor = stamp_ns, tracks

    @property
    def tracks(self) -> Tracks:
        """The followed corners, as offsets in the last image."""
        return self._offsets(self._tracker.tracks)

    @property
    def anchored(self) -> Tracks:
        """The corners in the last keyframe, as offsets."""
        return self._anchor

    def rename(self, ids: np.ndarray) -> None:
        """Rename corner k to ``ids[k]``."""
        self._tracker.tracks = self._tracker.tracks.called(ids)
        self._anchor = self._anchor.called(ids)
        self.named = replace(self.named, now=ids[self.named.now])

    def landmark_ids(self) -> list[np.ndarray]:
        """The ids of the corners."""
        return [self._tracker.tracks.ids, self._anchor.ids, self.named.now]

    def renumber_landmarks(self, new: Renumbering) -> None:
        """Landmarks, and so corners, get new ids."""
        self._tracker.tracks, self._anchor = self._tracker.tracks.renumbered(new), self._anchor.renumbered(new)
        self.named = replace(self.named, now=new.of(self.named.now))

    def _offsets(self, tracks: Tracks) -> Tracks:
        return Tracks(tracks.ids, self.centred(tracks.pixels))

    @property
    def masked(self) -> Mask | None:
        """Which pixels (H, W) of the last working image are masked; None: none."""
        return None if self.mask is None else self.mask.working

    def clear(self, offsets: Array) -> Mask:
        """(N,) which offsets (N, 2) in the last image are away from its mask."""
        return np.ones(len(offsets), bool) if self.mask is None else self.mask.clear(self.pixels(offsets))

    def gray(self, image: Image) -> Image:
        """The tracked image (H, W) uint8, without what shines through; raises ``InputError`` for another size."""
        if image.shape != (self.height, self.width, 3):
            raise InputError(
                f"camera '{self.name}' changed from {self.width}x{self.height} to {image.shape[1]}x{image.shape[0]} "
                "pixels; one camera keeps one size (reset the map to use another)"
            )
        shown = tracked(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)), self._tracking_size)
        self._shown = self._ego.unveiled(shown), shown
        return self._shown[0]

    def unveiled(self, gray: Image) -> Image:
        """An earlier tracked image (H, W), without what the last one showed to shine through all of them, if it did."""
        return self._ego.unveiled(gray) if self._ego.appeared else gray

    def see(self, gray: Image, mask: Image | None = None) -> None:
        """A tracked image, with its ``mask`` (from ``check_mask``), becomes the last one."""
        self.images += 1
        given = None if mask is None else ImageMask.of(mask, self._tracking_size, self.resize)
        shown = self._shown[1] if self._shown and self._shown[0] is gray else gray
        self._own = self._constant_mask((self._border.update(shown), self._ego.update(shown)))
        self.mask = self._with_own(given)

    def _with_own(self, mask: ImageMask | None) -> ImageMask | None:
        return mask if self._own is None else self._own.joined(mask)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, an image that is not one of the sequence may be looked at: it has no mask but the camera's own."""
        before, self.mask = self.mask, self._own
        try:
            yield
        finally:
            self.mask = before

    def _constant_mask(self, found: tuple[Mask | None, ...]) -> ImageMask | None:
        """The mask of what is the same in all images: the black border, and what the camera carries along."""
        before, self._constant = self._constant, found
        if all(map(_alike, before, found)):
            return self._own
        native = np.zeros((self.height, self.width), np.uint8)
        for one in found:
            if one is not None:
                native |= cv2.resize(one.astype(np.uint8), native.shape[::-1], interpolation=cv2.INTER_NEAREST)
        return ImageMask.of(native, self._tracking_size, self.resize)

    @property
    def carries_more(self) -> bool:
        """Whether the last image showed that the camera carries along what was taken for the world so far."""
        return self._ego.grew or self._ego.appeared

    def leave_out(self, masked: Mask | None) -> Mask | None:
        """Which pixels of a working image (H, W) are ``masked`` or, as is known by now, the camera's own."""
        if self._own is None:
            return masked
        return self._own.working if masked is None else masked | self._own.working

    def features(self, gray: Image) -> Features:
        """Features of a tracked image, as offsets; those of the last image requested are cached."""
        if self._described is None or self._described[0] is not gray:
            found = extract(gray, FEATURES if self.live else self._count.wanted, self.mask)
            self._described = gray, Features(self.centred(found.pixels), found.descriptors)
        return self._described[1]

    def motion(self, tracks: Tracks) -> float:
        """Median motion of the corners since the last keyframe, as a share of the long edge."""
        _, now, then = np.intersect1d(tracks.ids, self._anchor.ids, assume_unique=True, return_indices=True)
        if len(now) == 0:
            return float("inf")
        return float(np.median(np.linalg.norm(tracks.pixels[now] - self._anchor.pixels[then], axis=1))) / self.long_edge

    def overlap(self, tracks: Tracks) -> float:
        """Share of the last keyframe's corners that are still tracked."""
        return float(np.isin(self._anchor.ids, tracks.ids).mean()) if len(self._anchor.ids) else 0.0


def _alike(a: Mask | None, b: Mask | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def guessed(intrinsics: Intrinsics, stream: CameraStream, working: tuple[float, float] | None) -> Intrinsics:
    """The intrinsics with a network's guess of the focal: pixels of the working image, and its relative deviation."""
    if working is None:
        return intrinsics
    focal = working[0] / stream.focal_to_working(1.0)
    return replace(intrinsics, focal=focal, prior=focal, guess_std=working[1])


@dataclass(frozen=True)
class _Given:
    """A given focal, pixels at ``width`` x ``height``; ``std`` relative, 0 holds it; a ``guess`` is only begun with."""

    width: int
    height: int
    focal: float
    std: float
    guess: bool


class Cameras:
    """Streams by camera name, in order of arrival."""

    def __init__(self, config: MapperConfig) -> None:
        self._config = config
        self._streams: dict[str, CameraStream] = {}
        self._given: dict[str, _Given] = {}
        self._remembered: dict[str, Intrinsics] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._streams

    def __getitem__(self, name: str) -> CameraStream:
        return self._streams[name]

    def __iter__(self) -> Iterator[CameraStream]:
        return iter(self._streams.values())

    @property
    def count(self) -> int:
        """The number of cameras that have sent images."""
        return len(self._streams)

    def complete(self) -> None:
        """No more images come: tell cameras of a few photographs."""
        for stream in self:
            stream.alone = self.count > 1 and stream.images < _FEW

    def give(self, name: str, width: int, height: int, focal: float, std: float, guess: bool = False) -> None:
        """Set a focal of a camera that has not sent an image yet, see ``Mapper.set_camera``. Raises ``ConfigError``."""
        if name in self._streams:
            raise ConfigError(f"camera '{name}' has sent images already; its focal must be known before the first")
        if not (width > 0 and height > 0 and np.isfinite(focal) and focal > 0):
            raise ConfigError(f"camera '{name}' has focal {focal} at {width}x{height}; all must be positive")
        if not (np.isfinite(std) and 0 <= std < 1):
            raise ConfigError(f"camera '{name}' has the relative std {std} of its focal; it must lie in [0, 1)")
        self._given[name] = _Given(width, height, float(focal), float(std), guess)

    def remember(self, name: str, intrinsics: Intrinsics) -> None:
        """Begin a camera that has not sent an image yet with what another map found, unless its focal is given."""
        self._remembered[name] = replace(intrinsics.handed_on(), prior=intrinsics.focal, measured=None)

    def open(self, name: str, width: int, height: int) -> tuple[CameraStream, Intrinsics]:
        """The stream of a new camera, and what is known about its focal. Raises ``InputError``."""
        stream = CameraStream(name, len(self._streams), width, height, self._config)
        focal, std = self._config.focal, 0.0
        guess, guess_std = float(stream.long_edge), inf
        given = self._given.get(name)
        if given is not None:
            if given.width * height != given.height * width:
                raise InputError(
                    f"camera '{name}' sends {width}x{height} images, but its focal was given for "
                    f"{given.width}x{given.height}; the shapes must agree"
                )
            scaled = given.focal * width / given.width
            if given.guess:
                guess, guess_std, focal = scaled * stream.tracking_scale, given.std or inf, 0.0
            else:
                focal, std = scaled, given.std
        self._streams[name] = stream
        lens = Lens(stream.long_edge / 2)
        if focal <= 0 and name in self._remembered:
            return stream, replace(self._remembered[name])
        if focal <= 0:
            return stream, Intrinsics(guess, guess, lens=lens, guess_std=guess_std)
        value = focal * stream.tracking_scale
        calibrated = given is not None and not given.guess
        return stream, Intrinsics(
            value, value, std=std, fixed=std == 0, lens=lens, prior_std=std or inf, focal_only=not calibrated
        )

    def describe(self, stream: CameraStream, intrinsics: Intrinsics, support: int) -> Camera:
        """A camera at native resolution with the map's ``intrinsics``, supported by ``support`` pairs."""
        scale, (across, down) = 1 / stream.tracking_scale, stream.half_size.tolist()
        native, lens = intrinsics.focal * scale, intrinsics.lens.scaled(scale)
        measured, measured_std = intrinsics.measured or (0.0, inf)
        given = intrinsics.prior if intrinsics.given else 0.0
        model, distortion = forward_model(lens, native, stream.width, stream.height)
        return Camera(
            stream.name,
            stream.width,
            stream.height,
            native,
            native * intrinsics.total_std,
            support,
            fixed=intrinsics.fixed,
            principal_offset=lens.center,
            distortion_model=model,
            distortion=distortion,
            given=given * scale,
            given_std=0.0 if intrinsics.fixed else given * scale * intrinsics.prior_std if given else 0.0,
            measured=measured * scale,
            measured_std=measured * measured_std * scale if measured else inf,
            readout=(2 * across * intrinsics.rolling[0], 2 * down * intrinsics.rolling[1]),
        )
