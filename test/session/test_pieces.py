"""Where a long recording is cut: by motion, at calm places, with frames that neighbours share."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from dust3r_ros.config import MapperConfig
from dust3r_ros.session.pieces import Motion, cut, motion_of
from dust3r_ros.types import Frame

CONFIG = MapperConfig()
STEP_NS = 10**8


def motion(steps: np.ndarray) -> Motion:
    """Of frames, ten a second."""
    found = Motion(CONFIG)
    found.frames = [("camera", STEP_NS * k) for k in range(len(steps))]
    found.steps = steps.tolist()
    return found


def test_a_short_recording_stays_whole() -> None:
    (piece,) = cut(motion(np.full(300, 0.1)))
    assert len(piece.frames) == 300 and piece.between == (0, 299 * STEP_NS + 1)
    assert piece.begin_ns == 0 and piece.end_ns == 299 * STEP_NS + 1


@pytest.mark.parametrize("images", [1000, 4000])
def test_pieces_are_of_equal_motion_however_many_images_show_it(images: int) -> None:
    """The second half is walked three times as fast."""
    steps = np.where(np.arange(images) < images // 2, 1.0, 3.0) * 400 / (2 * images)
    pieces = cut(motion(steps))
    assert len(pieces) == 8
    own = [sum(piece.begin_ns <= stamp_ns < piece.end_ns for _, stamp_ns in piece.frames) for piece in pieces]
    assert sum(own) == images, "each image is of one piece"
    assert own[0] == pytest.approx(3 * own[-1], rel=0.1)
    for one, other in pairwise(pieces):
        assert one.end_ns == other.begin_ns
        shared = set(one.frames) & set(other.frames)
        way = sum(step for frame, step in zip(motion(steps).frames, steps, strict=True) if frame in shared)
        assert way == pytest.approx(5.0, abs=1.0)


def test_a_cut_is_made_where_the_camera_moves_calmly() -> None:
    steps = np.full(700, 0.1)
    steps[350:356] = 1.0  # a sudden turn where the cut would be
    one, other = cut(motion(steps))
    shared = [stamp_ns // STEP_NS for _, stamp_ns in set(one.frames) & set(other.frames)]
    assert max(steps[shared]) == pytest.approx(0.1)


def test_motion_is_measured_in_images_and_a_rest_is_none() -> None:
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (30, 60)), np.ones((8, 8))).astype(np.uint8)

    def frame(number: int, shift: int) -> Frame:
        image = np.repeat(texture[:176, shift : shift + 320, None], 3, axis=2)
        return Frame(STEP_NS * number, "camera", image)

    shifts = [0, 0, *range(1, 101), 100, 100]
    steps = motion_of([frame(number, shift) for number, shift in enumerate(shifts)], CONFIG).steps
    assert sum(steps[:2]) == 0.0 and sum(steps[-2:]) < 0.01
    units = max(100 / 320 / CONFIG.keyframe_motion, 100 / 320 / (1 - CONFIG.keyframe_overlap))
    assert sum(steps) == pytest.approx(units, rel=0.15), "each is less than a pixel of the images compared"
