"""Rendered walks that several test modules share, each rendered once."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from kept import kept

from dust3r_ros.config import MapperConfig
from dust3r_ros.scenes import sequence as scenes
from dust3r_ros.scenes.rooms import corridor, room
from dust3r_ros.scenes.sequence import RenderedSequence

SMALL = MapperConfig(working_size=160, tracking_size=240, keyframe_motion_young=0.04)


PART = 12  # frames that are rendered together


@lru_cache(maxsize=16)
def walk(kind: str, frames: int = 24, rate_hz: float = 8.0) -> RenderedSequence:
    """A walk of ``kind`` at 240 x 176, to be read only. A longer one begins with the frames of a shorter one."""
    parts = [_part(kind, number, rate_hz) for number in range(-(-frames // PART))]
    images, depths, poses = (
        np.concatenate([getattr(part, name) for part in parts])[:frames] for name in ("images", "depths", "w_T_c")
    )
    walked = scenes.walk(kind, frames, rate_hz=rate_hz)
    np.testing.assert_allclose(poses, walked, atol=1e-9, err_msg=f"{frames} frames go beyond the end of '{kind}'")
    for array in (images, depths):
        array.setflags(write=False)
    stamps_ns = scenes.stamps(frames, rate_hz)
    return replace(parts[0], stamps_ns=stamps_ns, images=images, depths=depths, w_T_c=walked)


@kept
def _part(kind: str, number: int, rate_hz: float) -> RenderedSequence:
    poses = scenes.walk(kind, PART * (number + 1), rate_hz=rate_hz)[PART * number :]
    world = corridor() if kind == "corridor" else room()
    return scenes.render_path(kind, world, poses, width=240, height=176, rate_hz=rate_hz)


def cut(sequence: RenderedSequence, frames: int | slice) -> RenderedSequence:
    """Its first frames, or some."""
    chosen = slice(frames) if isinstance(frames, int) else frames
    names = ("stamps_ns", "images", "depths", "w_T_c")
    return replace(sequence, **{name: getattr(sequence, name)[chosen] for name in names})


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
