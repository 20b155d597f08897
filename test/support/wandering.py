"""A camera that wanders in one room for long, in a map that knows no place again: with redundant keyframes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import pytest
from kept import kept
from sequences import SMALL

from dust3r_ros.config import MapperConfig
from dust3r_ros.mapping.culling import Culling
from dust3r_ros.mapping.localization import FrameFinder
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import RenderedSequence, render_path, walk
from dust3r_ros.types import StampedPose

STEP_NS = 10**8


@kept
def _way(seed: int, frames: int) -> RenderedSequence:
    poses = walk("orbit", frames, laps=frames / 180, seed=seed)
    return render_path("orbit", room(), poses, width=240, height=176)


@lru_cache(maxsize=2)
def ways(frames: int = 24) -> list[RenderedSequence]:
    """The same way twice, with different sways."""
    return [_way(seed, frames) for seed in range(2)]


def config(dense: bool) -> MapperConfig:
    """Small steps from keyframe to keyframe."""
    focal = ways()[0].focal
    return replace(SMALL, working_size=96, focal=focal, keyframe_motion=0.02, keyframe_motion_young=0.02, dense=dense)


@contextmanager
def forgetful() -> Iterator[None]:
    """No place is known again, and nothing is culled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrameFinder, "seen_before", lambda *_: None)
        patch.setattr(Culling, "cull", lambda *_, **__: None)
        yield


def wander(mapper: Mapper, way: RenderedSequence, first: int = 0, back: bool = False) -> list[StampedPose]:
    """Feed a way; returns the true poses."""
    steps = range(len(way) - 1, -1, -1) if back else range(len(way))
    truth = []
    for number, step in enumerate(steps, first):
        mapper.process((number + 1) * STEP_NS, "camera", way.images[step])
        truth.append(StampedPose((number + 1) * STEP_NS, "camera", way.w_T_c[step]))
    return truth


def there_and_back(mapper: Mapper) -> list[StampedPose]:
    """Feed one way, and the other backwards; returns the true poses."""
    there, back = ways()
    with forgetful():
        return wander(mapper, there) + wander(mapper, back, len(there), back=True)


@lru_cache(maxsize=1)
def live() -> tuple[Mapper, list[StampedPose]]:
    """A live map that went there and back, which others go on from, and the true poses of its frames."""
    mapper = Mapper(config(dense=False))
    mapper.go_live(False)
    return mapper, there_and_back(mapper)
