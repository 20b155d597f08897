"""Which keyframes are near, and with which of them a new one is paired for depth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from walls import AGAIN, BEFORE, PICTURE, wall

from dust3r_ros.config import MapperConfig
from dust3r_ros.features.features import Features
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.covisibility import Neighbourhood, depth_sources, strangers
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks, no_tracks

CONFIG = MapperConfig()
LEFT, RIGHT, REAR = (
    CameraStream(name, index, 320, 240, CONFIG) for index, name in enumerate(("left", "right", "rear"))
)
BACK = np.diag([-1.0, 1.0, -1.0])


def nothing() -> Features:
    return Features(np.zeros((0, 2)), np.zeros((0, 128), np.uint8))


def near(*streams: CameraStream, sparse: SparseMap | None = None) -> Neighbourhood:
    """Keyframes of ``streams``; those of ``sparse``, or of which nobody knows where they are."""
    image, state = np.zeros((240, 320, 3), np.uint8), Reconstruction(CONFIG)
    for k, stream in enumerate(streams):
        state.append(KeyframeRecord(k, stream, image, nothing(), np.zeros(0, int)))
        state.sparse.add(stream.index, no_tracks(), None)
    state.sparse = sparse or state.sparse
    return Neighbourhood(state)


def test_one_camera() -> None:
    alone = near(*[LEFT] * 8)
    assert [alone.neighbours(i) for i in (0, 1, 2, 7)] == [[], [0], [1, 0], [6, 5, 4]]
    assert alone.recent(7) == [4, 5, 6] and alone.newest(LEFT) == [7]
    assert alone.window(7, 4) == [4, 5, 6, 7] and alone.window(1, 4) == [0, 1]


def test_cameras_in_turn() -> None:
    both = near(LEFT, RIGHT, LEFT, RIGHT, LEFT, RIGHT, LEFT)
    assert both.neighbours(6) == [4, 2, 0, 5], "three of its own, and the newest of the other"
    assert both.recent(6) == [0, 1, 2, 3, 4, 5]
    assert both.newest(LEFT) == [6, 5] and both.newest(RIGHT) == [5, 6] and both.newest(REAR) == [6, 5]


def test_a_camera_that_seldom_makes_keyframes_is_not_left_alone_in_the_window() -> None:
    both = near(RIGHT, RIGHT, *[LEFT] * 8, RIGHT)
    assert both.window(10, 4) == [0, 1, 7, 8, 9, 10]


def test_a_camera_that_is_new() -> None:
    both = near(LEFT, LEFT, RIGHT)
    assert both.neighbours(2) == [1]
    assert both.neighbours(3, REAR, lambda other: False) == [2, 1], "whatever it sees"
    assert both.neighbours(3, LEFT, lambda other: False) == [1, 0]


def looking() -> Neighbourhood:
    """Left and rear look away from each other, at landmarks of their own."""
    sparse = SparseMap(1.0)
    sparse.intrinsics += [Intrinsics(300.0, 300.0) for _ in range(3)]
    rng = np.random.default_rng(0)
    ahead = sparse.landmarks.new(40)
    sparse.points[ahead] = rng.uniform([-1, -0.5, 3], [1, 0.5, 5], (40, 3))
    streams = (LEFT, REAR, RIGHT, LEFT, REAR)
    for stream in streams:
        w_T_c = pose(BACK if stream is REAR else np.eye(3), [0.1 * stream.index, 0.0, 0.0])
        sparse.add(stream.index, Tracks(ahead if stream is not REAR else ahead[:0], rng.uniform(-9, 9, (40, 2))), w_T_c)
    return near(*streams, sparse=sparse)


def test_only_those_that_see_the_same_count() -> None:
    assert looking().neighbours(3) == [0, 2], "not the rear one"
    assert looking().neighbours(4) == [1], "no other one"


def test_facing() -> None:
    ways = looking()
    assert set(ways.facing(pose(np.eye(3), [0.0, 0.0, 0.1]))) <= {0, 2, 3}
    assert set(ways.facing(pose(BACK, [0.2, 0.0, 0.1]))) == {1, 4}
    assert ways.facing(pose(BACK, [0.2, 0.0, 0.1]), [4]) == [1]
    assert ways.facing(None) == []


def test_a_camera_that_came_back_goes_on_from_there() -> None:
    there = near(*[LEFT] * 8, RIGHT)
    state = there._state
    for index in (3, 2):
        state.visit(index)
    assert there.newest(LEFT) == [2, 8] and there.window(8, 3) == [2, 3, 8]
    state.append(KeyframeRecord(9, LEFT, np.zeros((240, 320, 3), np.uint8), nothing(), np.zeros(0, int)))
    state.sparse.add(LEFT.index, no_tracks(), None)
    assert there.neighbours(9)[:3] == [2, 1, 0], "not those made last"
    assert there.neighbours(7)[:3] == [6, 5, 4], "and older ones keep theirs"
    assert there.window(9, 4) == [1, 2, 3, 8, 9]


def test_same_views_are_those_that_see_the_same_from_as_near() -> None:
    points = np.random.default_rng(0).uniform([-2, -1.5, 4], [2, 1.5, 6], (200, 3))
    sparse = SparseMap(1.0)
    sparse.intrinsics.append(Intrinsics(265.0, 265.0, std=0.0, fixed=True))
    ids = sparse.landmarks.new(200)
    sparse.points = points
    poses = [pose(np.eye(3), np.array([x, 0.0, 0.0])) for x in (0.0, 0.1, 0.2, 3.0)] + [pose(BACK, np.zeros(3))]
    for w_T_c in poses:
        sparse.add(0, Tracks(ids, np.zeros((200, 2))), w_T_c)
    there = near(*[LEFT] * 5, sparse=sparse)
    frame = pose(np.eye(3), np.array([0.08, 0.0, 0.0]))
    assert there.same_view(LEFT, frame) == [], "all of them are new"
    there._state.visits += CONFIG.window
    assert there.same_view(LEFT, frame) == [1, 0, 2]
    assert there.same_view(RIGHT, frame) == [], "of its own camera only"
    far = pose(np.eye(3), np.array([1.5, 0.0, 0.0]))
    assert there.same_view(LEFT, far) == [], "too far from all"
    there._state.visits -= CONFIG.window
    assert there.beside(LEFT, frame) == 1, "the nearest, however new"
    assert there.beside(LEFT, far) is None and there.beside(RIGHT, frame) is None


def test_those_side_by_side_that_no_landmarks_link() -> None:
    """Each shares some with the one before it: those beside a third one are linked by that."""
    rng, sparse = np.random.default_rng(0), SparseMap(1.0)
    sparse.landmarks.new(200)
    sparse.points[:] = rng.uniform([-2, -2, 5], [2, 2, 6], (200, 3))
    for k, shift in enumerate((0.0, 0.1, 0.2, 0.3, 0.4, 12.0)):
        ids = np.arange(20 * k, 20 * k + 40)
        sparse.add(0, Tracks(ids, np.zeros((40, 2))), pose(np.eye(3), [shift, 0, 0]))
    sparse.add(0, no_tracks(), None)
    assert near(*[LEFT] * 7, sparse=sparse).unlinked() == [(0, 3), (1, 4)], "the last one is far away"
    assert near().unlinked() == []


def made(shifts: tuple[float, ...], seen: tuple[float, ...]) -> SparseMap:
    """Cameras beside each other that look at a wall 5 away; each sees the first part ``seen`` of 100 landmarks."""
    sparse = SparseMap(1.0)
    for shift, part in zip(shifts, seen, strict=True):
        ids = np.arange(round(100 * part))
        sparse.add(0, Tracks(ids, np.zeros((len(ids), 2))), pose(np.eye(3), [shift, 0, 0]))
    rng = np.random.default_rng(0)
    sparse.landmarks.new(100)
    sparse.points[:] = np.stack([rng.uniform(-2, 2, 100), rng.uniform(-2, 2, 100), np.full(100, 5.0)], axis=1)
    return sparse


def test_enough_parallax_but_not_too_much() -> None:
    sparse = made((0.0, 0.01, 0.4, 3.0, 0.15), (1.0,) * 5)
    assert depth_sources(sparse, 0, [1, 2, 3, 4], 4) == [2, 4, 3, 1]
    assert depth_sources(sparse, 0, [1, 2, 3, 4], 2) == [2, 4]
    assert depth_sources(sparse, 0, [4], 2) == [4] and depth_sources(sparse, 0, [], 2) == []


def test_overlap_counts() -> None:
    sparse = made((0.0, 0.35, 0.5), (1.0, 0.2, 1.0))
    assert depth_sources(sparse, 0, [1, 2], 1) == [2]


def test_without_landmarks_the_order_given_stays() -> None:
    sparse = made((0.0, 0.35, 0.35, 0.35), (1.0, 0.0, 1.0, 0.0))
    assert depth_sources(sparse, 0, [3, 1, 2], 3) == [2, 3, 1]
    sparse.points[:] = np.nan
    assert depth_sources(sparse, 0, [3, 1, 2], 2) == [3, 1]


def test_keyframes_that_see_something_else_at_one_place_are_strangers() -> None:
    """As where two things that look alike were taken for one: all that was matched fits."""
    found = strangers(wall([0, 1, 0, 1]))
    assert found == [(0, 1), (0, 3), (1, 2), (2, 3)]


@pytest.mark.parametrize(("rights", "shown"), [([0] * 5, 1.0), ([0] * 5, 0.3), ([0, AGAIN] * 2, 1.0)])
def test_of_one_thing_there_are_no_strangers(rights: list[int], shown: float) -> None:
    """Also where features are found anew in a few images only, or were never matched."""
    assert strangers(wall(rights, shown=shown)) == []


def test_what_is_hidden_is_not_missing() -> None:
    """By something closer."""
    assert strangers(wall([0, BEFORE] * 2)) == []


def test_a_surface_seen_more_from_the_side_does_not_look_alike() -> None:
    """Features there are others, as near as it may be."""
    assert strangers(wall([0, 1, 0, 1, 0], slants=[-20, 28, 0, 48, 0])) == [(1, 2), (1, 4)]
    assert strangers(wall([0, 1, 0, 1, 0], slants=[20, 68, 40, 88, 40])) == []


def test_what_is_blurred_is_not_compared_with_what_is_sharp() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 1), np.uint8).repeat(3, axis=2)
    sharp, blurred = noise, cv2.blur(noise, (9, 9))

    def taken(images: list[np.ndarray]) -> Reconstruction:
        state = wall([0, 1, 0, 1])
        for record, image in zip(state.records, images, strict=True):
            record.image = image
        return state

    assert strangers(taken([sharp, blurred] * 2)) == []
    assert strangers(taken([blurred] * 4)) == strangers(taken([sharp] * 4)) == strangers(wall([0, 1, 0, 1]))


def without_features(state: Reconstruction, *keyframes: int) -> Reconstruction:
    """They know the right side of the wall by corners only, which others need not find again."""
    for record in (state.records[index] for index in keyframes):
        left = record.feature_ids < PICTURE
        record.feature_ids = record.feature_ids[left]
        record.features = Features(record.features.pixels[left], record.features.descriptors[left])
    return state


def test_what_only_one_side_lacks_says_nothing() -> None:
    assert strangers(without_features(wall([1, 0, 1, 0]), 0, 2)) == []


def test_a_single_pair_is_no_evidence() -> None:
    assert strangers(without_features(wall([0, 1, 0, 1]), 0)) == [(1, 2), (2, 3)]
    assert strangers(without_features(wall([0, 1, 0, 1]), 0, 3)) == []
    assert strangers(Reconstruction(CONFIG)) == []
