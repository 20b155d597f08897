"""The cameras of a mapper: their streams, what is known of them before, what a map says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.features.features import FEATURES
from dust3r_ros.geometry.lens import Lens, plumb_bob
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.types import Camera

_LIVE_FEATURES = 1200


@dataclass(frozen=True)
class _Given:
    """A focal somebody measured, pixels at ``width`` x ``height``; ``std`` relative, 0 holds it."""

    width: int
    height: int
    focal: float
    std: float


class Cameras:
    """Streams by camera name, in the order in which the cameras came."""

    def __init__(self, config: MapperConfig) -> None:
        self._config = config
        self._streams: dict[str, CameraStream] = {}
        self._given: dict[str, _Given] = {}
        self._features = FEATURES

    def __contains__(self, name: str) -> bool:
        return name in self._streams

    def __getitem__(self, name: str) -> CameraStream:
        return self._streams[name]

    def __iter__(self) -> Iterator[CameraStream]:
        return iter(self._streams.values())

    def go_live(self) -> None:
        """Images come at the camera's rate: fewer features of each keyframe, for half the time a keyframe takes."""
        self._features = _LIVE_FEATURES
        for stream in self:
            stream.wanted_features = self._features

    @property
    def count(self) -> int:
        """How many have sent images."""
        return len(self._streams)

    def give(self, name: str, width: int, height: int, focal: float, std: float) -> None:
        """A measured focal of a camera that has not sent an image yet. Raises ``ConfigError``."""
        if name in self._streams:
            raise ConfigError(f"camera '{name}' has sent images already; its focal must be known before the first")
        if not (width > 0 and height > 0 and np.isfinite(focal) and focal > 0):
            raise ConfigError(f"camera '{name}' has focal {focal} at {width}x{height}; all must be positive")
        if not (np.isfinite(std) and 0 <= std < 1):
            raise ConfigError(f"camera '{name}' has the relative std {std} of its focal; it must lie in [0, 1)")
        self._given[name] = _Given(width, height, float(focal), float(std))

    def open(self, name: str, width: int, height: int) -> tuple[CameraStream, Intrinsics]:
        """The stream of a camera that is new, and what is known of its focal. Raises ``InputError``."""
        stream = CameraStream(name, len(self._streams), width, height, self._config)
        stream.wanted_features = self._features
        focal, std = self._config.focal, 0.0
        given = self._given.get(name)
        if given is not None:
            if given.width * height != given.height * width:
                raise InputError(
                    f"camera '{name}' sends {width}x{height} images, but its focal was given for "
                    f"{given.width}x{given.height}; the shapes must agree"
                )
            focal, std = given.focal * width / given.width, given.std
        self._streams[name] = stream
        lens = Lens(stream.long_edge / 2)
        if focal <= 0:
            guess = float(stream.long_edge)
            return stream, Intrinsics(guess, guess, lens=lens)
        value = focal * stream.tracking_scale
        return stream, Intrinsics(value, value, std=std, fixed=std == 0, lens=lens, prior_std=std or inf)

    def describe(self, stream: CameraStream, intrinsics: Intrinsics, support: int) -> Camera:
        """A camera at native resolution as a map knows it by ``focal``, which ``support`` pairs support."""
        scale = 1 / stream.tracking_scale
        native, lens = intrinsics.focal * scale, intrinsics.lens.scaled(scale)
        measured, measured_std = intrinsics.measured or (0.0, inf)
        given = intrinsics.prior if intrinsics.given else 0.0
        return Camera(
            stream.name,
            stream.width,
            stream.height,
            native,
            native * intrinsics.total_std,
            support,
            fixed=intrinsics.fixed,
            principal_offset=lens.center,
            distortion=plumb_bob(lens, native, stream.width, stream.height),
            given=given * scale,
            given_std=0.0 if intrinsics.fixed else given * scale * intrinsics.prior_std if given else 0.0,
            measured=measured * scale,
            measured_std=measured * measured_std * scale if measured else inf,
        )
