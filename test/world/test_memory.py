"""The unit of a map, remembered by its keyframes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
from driving import way

from dust3r_ros.types import Array, Keyframe
from dust3r_ros.world import UnitMemory

NOTHING = np.zeros((1, 1), np.float32)


def keyframes(poses: Array, indices: Iterable[int]) -> list[Keyframe]:
    image = np.zeros((1, 1, 3), np.uint8)
    return [Keyframe(k, 0, k, "camera", poses[k], 1.0, image, NOTHING, NOTHING + 1) for k in indices]


@pytest.fixture
def poses() -> Array:
    return way(np.random.default_rng(0), 300)


def test_a_map_that_grows_or_shrinks_is_found_out(poses: Array) -> None:
    memory = UnitMemory()
    assert memory.evidence() is None
    memory.hear(keyframes(poses, range(200)))
    assert memory.evidence() is None, "its unit was never known"
    memory.keep(0.01)
    found = memory.evidence()
    assert found is not None and found.scale == pytest.approx(1.0) and 0.01 < found.relative_std < 0.03
    other = poses.copy()
    other[:, :3, 3] = 0.25 * other[:, :3, 3] + 7.0
    memory.hear(keyframes(other, range(300)))
    found = memory.evidence()
    assert found is not None and found.scale == pytest.approx(4.0)


def test_of_another_map_it_knows_nothing(poses: Array) -> None:
    memory = UnitMemory()
    memory.hear(keyframes(poses, range(100)))
    memory.keep(0.01)
    memory.hear(keyframes(poses, range(150, 200)), removed=range(100))
    assert memory.evidence() is None
    memory.hear(keyframes(poses, range(100)), removed=range(150, 200))
    assert memory.evidence() is not None, "awake again"


def test_a_unit_by_command_is_exact_until_it_is_forgotten(poses: Array) -> None:
    memory = UnitMemory()
    memory.hear(keyframes(poses, range(100)))
    memory.keep(0.01, commanded=True)
    found = memory.evidence()
    assert found is not None and (found.source, found.relative_std) == ("command", 0.0)
    memory.forget()
    assert memory.evidence() is None and not memory.gone
    memory.keep(0.01)
    found = memory.evidence()
    assert found is not None and found.source == "memory"


def test_a_unit_outlives_the_keyframes_by_which_it_was_known(poses: Array) -> None:
    memory = UnitMemory()
    memory.hear(keyframes(poses, range(3)))
    memory.keep(0.0, commanded=True)
    other = poses.copy()
    other[:, :3, 3] *= 0.5
    memory.hear(keyframes(other, range(40)))
    for removed in (1, 2), (0,), range(3, 30), range(30, 38):
        memory.hear([], removed)
        found = memory.evidence()
        assert found is not None and (found.source, found.relative_std) == ("command", 0.0) and not memory.gone
        assert found.scale == pytest.approx(2.0)
    memory.hear(keyframes(poses, range(100, 110)), removed=(38, 39))
    assert memory.gone and memory.evidence() is None, "of another map it says nothing"


def test_keyframes_that_were_left_behind_do_not_speak_for_another_map(poses: Array) -> None:
    memory = UnitMemory()
    memory.hear(keyframes(poses, range(100)))
    memory.keep(0.01)
    memory.hear(keyframes(poses, range(200, 210)), removed=range(97))
    assert memory.evidence() is None


def test_a_camera_at_rest_tells_no_unit() -> None:
    memory = UnitMemory()
    memory.hear(keyframes(np.tile(np.eye(4), (5, 1, 1)), range(5)))
    memory.keep(0.01)
    assert memory.evidence() is None and math.isfinite(memory.relative_std)
