"""Which frames become keyframes."""

from __future__ import annotations

import pytest

from dust3r_ros.config import MapperConfig
from dust3r_ros.keyframes import YOUNG, is_keyframe

CONFIG = MapperConfig(keyframe_motion=0.1, keyframe_motion_young=0.04, keyframe_overlap=0.6)


@pytest.mark.parametrize(
    "motion, overlap, keyframes, expected",
    [
        (0.0, 1.0, 0, False),
        (0.05, 1.0, 0, True),
        (0.05, 1.0, YOUNG - 1, True),
        (0.05, 1.0, YOUNG, False),
        (0.11, 1.0, YOUNG, True),
        (0.0, 0.59, YOUNG, True),
        (0.0, 0.61, YOUNG, False),
        (0.1, 0.6, YOUNG, False),
        (float("inf"), 0.0, YOUNG, True),
    ],
)
def test_the_rule(motion: float, overlap: float, keyframes: int, expected: bool) -> None:
    assert is_keyframe(motion, overlap, keyframes, CONFIG) is expected


def test_more_motion_never_unmakes_a_keyframe() -> None:
    steps = [i / 200 for i in range(60)]
    for keyframes in (0, 100):
        made = [is_keyframe(motion, 0.9, keyframes, CONFIG) for motion in steps]
        assert made == sorted(made) and not made[0] and made[-1]
