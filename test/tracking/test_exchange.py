"""Which images wait for a back end that is slower than the camera; new ids of landmarks."""

import numpy as np

from dust3r_ros.tracking import Tracks
from dust3r_ros.tracking.exchange import Outbox, Renumbering, no_landmarks, no_names, with_landmarks


def drained(box):
    found = []
    while (entry := box.take()) is not None:
        found.append(entry[0])
    return found


def test_corners_of_a_front_end_become_landmarks_once():
    landmarks = iter(range(100, 200))

    def make(count: int) -> np.ndarray:
        return np.array([next(landmarks) for _ in range(count)], np.int64)

    ids, named = with_landmarks(np.array([5, -1, -3, 8]), no_names(), make)
    assert ids.tolist() == [5, 100, 101, 8]
    ids, named = with_landmarks(np.array([-4, -1, 8, -3, 2]), named, make)
    assert ids.tolist() == [102, 100, 8, 101, 2]
    assert named.of(np.array([-1, -2, -3, -4])).tolist() == [100, -1, 101, 102]
    ids, named = with_landmarks(np.array([-4, -9, 3]), named, no_landmarks)
    assert ids.tolist() == [102, -1, 3], "where there are to be no more of them"
    assert named.former.tolist() == [-4]
    assert with_landmarks(np.array([6, 7]), named, make)[1].former.tolist() == []


def test_images_without_a_pose_push_the_oldest_out():
    box = Outbox(3)
    gone = [entry for item in range(5) for entry in box.offer(item, False)]
    assert gone == [(0, False), (1, False)]
    assert len(box) == 3 and drained(box) == [2, 3, 4] and box.take() is None


def test_of_images_with_a_pose_the_newest_waits():
    box = Outbox(3)
    gone = [entry for item in range(5) for entry in box.offer(item, True)]
    assert gone == [(0, True), (1, True), (2, True), (3, True)]
    assert drained(box) == [4]


def test_links_wait_with_the_newest_but_not_many():
    box = Outbox(3, links=lambda item: item % 2 == 0)
    gone = [entry for item in range(13) for entry in box.offer(item, True)]
    assert gone == [(1, True), (3, True), (5, True), (7, True), (0, True), (9, True), (2, True), (11, True)]
    assert drained(box) == [4, 6, 8, 10, 12]
    assert not box.waits(None)
    box.offer(2, True)
    box.offer(4, False)
    assert box.waits(None) and not box.waits("another camera")


def test_heavy_images_are_few_but_one_may_always_wait():
    box = Outbox(10, lambda item: item)
    assert box.offer(50, False) == []
    assert box.offer(6, False) == [(50, False)]
    assert box.offer(4, False) == []
    assert box.clear() == 2 and not box


def test_one_may_be_withdrawn():
    box = Outbox(3)
    items = [object() for _ in range(3)]
    for item in items:
        box.offer(item, False)
    assert box.withdraw(items[1]) and not box.withdraw(items[1])
    assert drained(box) == [items[0], items[2]]


def test_all_are_kept_where_none_may_be_left_out():
    box = Outbox(100, thin=False)
    assert [entry for item in range(20) for entry in box.offer(item, item % 2 == 0)] == []
    assert drained(box) == list(range(20))


def test_one_camera_does_not_push_out_another():
    box = Outbox(1, camera=lambda item: item[0])
    gone = [entry for item in ("a0", "b0", "a1", "b1") for entry in box.offer(item, False)]
    assert gone == [("a0", False), ("b0", False)]
    assert drained(box) == ["a1", "b1"]


def test_cameras_take_turns_whatever_the_age_of_their_images():
    box = Outbox(1, camera=lambda item: item[0])
    taken = []
    for number in range(4):  # the second camera, without poses, always has newer images waiting
        box.offer(f"a{number}", True)
        box.offer(f"b{number}", False)
        taken.append(box.take()[0][0])
    assert taken == ["a", "b", "a", "b"]


def test_landmarks_by_their_new_ids():
    new = Renumbering(np.array([2, 5, 8]), np.array([0, 1, 2]))
    assert new.of(np.array([9, 8, 2, 3, 0])).tolist() == [-1, 2, 0, -1, -1]
    assert new.of(np.array([[2, 5], [5, 6]])).tolist() == [[0, 1], [1, -1]]
    some = new.only(np.array([8, 7, 2]))
    assert some.of(np.array([2, 5, 8])).tolist() == [0, -1, 2]
    tracks = Tracks(np.array([5, 4, 2]), np.arange(6.0).reshape(3, 2)).renumbered(new)
    assert tracks.ids.tolist() == [1, 0] and tracks.pixels.tolist() == [[0.0, 1.0], [4.0, 5.0]]
    nothing = Renumbering(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert nothing.of(np.array([3, 4])).tolist() == [-1, -1] and nothing.of(np.zeros(0, np.int64)).tolist() == []
