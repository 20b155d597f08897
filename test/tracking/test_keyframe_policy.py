"""Which frames become keyframes."""

from __future__ import annotations

import pytest

from dust3r_ros.config import MapperConfig
from dust3r_ros.tracking.exchange import is_keyframe

CONFIG = MapperConfig(keyframe_motion=0.1, keyframe_motion_young=0.04, keyframe_overlap=0.6)


@pytest.mark.parametrize(
    "motion, overlap, young, expected",
    [
        (0.0, 1.0, True, False),
        (0.05, 1.0, True, True),
        (0.05, 1.0, False, False),
        (0.11, 1.0, False, True),
        (0.0, 0.59, False, True),
        (0.0, 0.61, False, False),
        (0.1, 0.6, False, False),
        (float("inf"), 0.0, False, True),
    ],
)
def test_the_rule(motion: float, overlap: float, young: bool, expected: bool) -> None:
    assert is_keyframe(motion, overlap, young, CONFIG) is expected


def test_more_motion_never_unmakes_a_keyframe() -> None:
    steps = [i / 200 for i in range(60)]
    for young in (True, False):
        made = [is_keyframe(motion, 0.9, young, CONFIG) for motion in steps]
        assert made == sorted(made) and not made[0] and made[-1]


def test_live_those_of_a_young_map_are_farther_apart_but_no_farther_than_others() -> None:
    assert not is_keyframe(0.06, 1.0, True, CONFIG, live=True) and is_keyframe(0.09, 1.0, True, CONFIG, live=True)
    close = MapperConfig(keyframe_motion=0.05, keyframe_motion_young=0.04)
    assert is_keyframe(0.06, 1.0, True, close, live=True)
