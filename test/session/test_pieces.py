"""Where a long recording is cut: by motion, at calm places, with frames that neighbours share."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest

from dust3r_ros.config import MapperConfig
from dust3r_ros.scenes.rooms import corridor
from dust3r_ros.scenes.sequence import look_at, render_path
from dust3r_ros.session.pieces import Motion, Piece, cut, most_informative_first
from dust3r_ros.types import Frame

CONFIG = MapperConfig()
STEP_NS = 10**8


def motion(steps: np.ndarray) -> Motion:
    """Of frames, ten a second."""
    found = Motion(CONFIG)
    found.frames = [("camera", STEP_NS * k) for k in range(len(steps))]
    found.steps = steps.tolist()
    return found


def motion_of(images: Iterable[np.ndarray], step_ns: int = STEP_NS) -> Motion:
    """Of images (H, W, 3) of a camera."""
    found = Motion(CONFIG)
    for number, image in enumerate(images):
        needed = found.needs("camera")
        found.see(Frame(step_ns * number, "camera", image if needed else np.zeros((0, 0, 3), np.uint8)))
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

    def image(shift: int) -> np.ndarray:
        return np.repeat(texture[:176, shift : shift + 320, None], 3, axis=2)

    steps = motion_of(image(shift) for shift in [0, 0, *range(1, 101), 100, 100]).steps
    assert sum(steps[:2]) == 0.0 and sum(steps[-2:]) < 0.01
    units = max(100 / 320 / CONFIG.keyframe_motion, 100 / 320 / (1 - CONFIG.keyframe_overlap))
    assert sum(steps) == pytest.approx(units, rel=0.15), "each is less than a pixel of the images compared"
    assert sum(motion_of(image(shift)[:24, :240] for shift in (0, 8, 16)).steps) > 0.0, "of narrow images, too"


def test_motion_too_fast_for_flow_counts_and_noise_does_not() -> None:
    rng = np.random.default_rng(1)
    images = np.kron(rng.integers(0, 255, (12, 22, 40)), np.ones((1, 8, 8))).astype(np.uint8)
    strange = motion_of(np.repeat(images[..., None], 3, axis=3))
    assert sum(strange.steps) >= len(images) - 1, "each image shows another place"
    dark = (20 + 2 * rng.standard_normal((20, 176, 320, 1))).astype(np.uint8)
    assert sum(motion_of(np.repeat(dark, 3, axis=3)).steps) < 1.0


def test_a_piece_in_which_the_camera_turns_is_distinguished_from_a_straight_one() -> None:
    """Along a corridor, looking ahead and to the left; then round by 120 degrees, on an arc."""
    ahead = [np.array([0.05 * k - 6.0, 0.0, 1.35]) for k in range(60)]
    turns = np.radians(np.arange(1, 61) * 2.0)
    arc = [ahead[-1] + 0.6 * np.array([np.sin(turn), 1.0 - np.cos(turn), 0.0]) for turn in turns]
    ways = [*((at, 0.6) for at in ahead), *((at, 0.6 + turn) for at, turn in zip(arc, turns, strict=True))]
    poses = [look_at(at, at + np.array([np.cos(heading), np.sin(heading), 0.0])) for at, heading in ways]
    seen = motion_of(render_path("walk", corridor(), np.stack(poses), width=240, height=176).images)
    assert 10 < sum(seen.steps[:60]) < sum(seen.steps[60:])
    seen.steps = np.full(120, 0.75).tolist()
    straight, bend = cut(seen)
    assert straight.turn < np.radians(15.0) and np.radians(80.0) < bend.turn < np.radians(160.0)
    assert most_informative_first([straight, bend]) == [1]


def test_of_pieces_that_turn_about_as_much_the_shortest_is_most_informative() -> None:
    pieces = [
        Piece((("camera", 0),) * count, 0, 1, turn)
        for count, turn in ((9, 0.2), (20, 2.0), (10, 1.8), (5, 1.0), (5, 1.2))
    ]
    assert most_informative_first(pieces) == [2, 1, 4, 3], "and one that hardly turns determines nothing"
    assert most_informative_first(pieces[:1]) == [0], "but where none does, one has to begin"
