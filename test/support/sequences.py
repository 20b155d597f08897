"""Rendered walks that several test modules share, each rendered once."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence

SMALL = MapperConfig(working_size=160, tracking_size=240, keyframe_motion_young=0.04)


@lru_cache(maxsize=8)
def walk(kind: str, frames: int = 24, rate_hz: float = 8.0) -> RenderedSequence:
    """A walk of ``kind`` at 240 x 176."""
    return render_sequence(kind, frames, 240, 176, rate_hz=rate_hz)


def cut(sequence: RenderedSequence, frames: int) -> RenderedSequence:
    """Its first frames."""
    names = ("stamps_ns", "images", "depths", "w_T_c")
    return replace(sequence, **{name: getattr(sequence, name)[:frames] for name in names})


def upright(sequence: RenderedSequence) -> RenderedSequence:
    """The same walk with the camera held upright: a quarter turn about its axis, the image a portrait of odd size."""
    turned = np.eye(4)
    turned[:2, :2] = [[0, 1], [-1, 0]]
    images = np.rot90(sequence.images, axes=(1, 2))[:, 1:-2, 1:-2]  # the middle moves by half a pixel
    depths = np.rot90(sequence.depths, axes=(1, 2))[:, 1:-2, 1:-2]
    height, width = images.shape[1:3]
    return replace(
        sequence,
        images=np.ascontiguousarray(images),
        depths=np.ascontiguousarray(depths),
        w_T_c=sequence.w_T_c @ turned,
        width=width,
        height=height,
    )
