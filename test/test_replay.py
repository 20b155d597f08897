"""Replay: refused frames are counted, the rest is mapped."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.io.frames import Frame
from dust3r_ros.mapper import Mapper
from dust3r_ros.replay import Replay


def test_a_frame_that_the_mapper_refuses_is_counted_and_the_first_reason_kept() -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    frames = [
        Frame(10, "camera", image),
        Frame(20, "camera", np.zeros((20, 30, 3), np.uint8)),
        Frame(10, "camera", image),
        Frame(30, "camera", image),
    ]
    mapper = Mapper()
    replay = Replay(mapper, frames)
    assert [update.stamp_ns for update in replay] == [10, 30]
    assert replay.refused == 2
    assert "30x20" in replay.reason or "20" in replay.reason
    assert mapper.counts.frames == 2


def test_other_errors_are_not_swallowed() -> None:
    class Broken(Mapper):
        def process(self, stamp_ns, camera, image):
            raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="ours"):
        list(Replay(Broken(), [Frame(0, "camera", np.zeros((48, 64, 3), np.uint8))]))
