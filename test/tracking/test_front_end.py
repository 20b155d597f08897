"""Poses from a snapshot of a rendered world whose every point is known."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from sequences import walk
from snapshots import snapshot

from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.rigid import angle_deg, invert, transform
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.geometry.undistortion import Undistortion
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import look_at, render_path
from dust3r_ros.tracking.exchange import Renumbering
from dust3r_ros.tracking.following import RecentImages
from dust3r_ros.tracking.front_end import FrontEnd, Tracked
from dust3r_ros.types import Calibration

CONFIG = MapperConfig(tracking_size=240)


@pytest.fixture(scope="module")
def sequence():
    return walk("orbit", frames=60, rate_hz=30.0)


def error(found, w_T_c) -> float:
    return float(np.linalg.norm(found[:3, 3] - w_T_c[:3, 3]))


def track(front, sequence, first: int, last: int):
    """The images from ``first`` on; what is said of each."""
    said = []
    for index in range(first, last):
        said.append(front.track(int(sequence.stamps_ns[index]), sequence.images[index]))
        front.pick_up()
    return said


def test_before_the_first_snapshot_every_image_is_wanted(sequence):
    said = track(FrontEnd(CONFIG), sequence, 0, 3)
    assert all(tracked.wanted and tracked.w_T_c is None and tracked.followed is None for tracked in said)


def test_a_snapshot_of_an_older_image_is_caught_up_with(sequence):
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 10)
    front.take(snapshot(sequence, 2))
    said = track(front, sequence, 10, 30)
    depth = float(np.median(sequence.depths[10]))
    for index, tracked in enumerate(said, 10):
        assert tracked.w_T_c is not None, f"image {index} has no pose"
        assert error(tracked.w_T_c, sequence.w_T_c[index]) < 0.01 * depth
        assert np.all(np.linalg.eigvalsh(tracked.covariance) > 0)
        w_T_again = sequence.w_T_c[tracked.followed.keyframe] @ tracked.followed.k_T_c
        np.testing.assert_allclose(w_T_again, tracked.w_T_c, atol=1e-9)


def test_keyframes_are_wanted_as_the_view_changes_and_picked_up_when_they_come(sequence):
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 1)
    front.take(snapshot(sequence, 0))
    said = track(front, sequence, 1, 40)
    wanted = [index for index, tracked in enumerate(said, 1) if tracked.wanted]
    assert wanted and wanted[0] > 2 and wanted == list(range(wanted[0], 40))
    front.take(snapshot(sequence, wanted[0]))
    after = track(front, sequence, 40, 44)
    assert all(tracked.w_T_c is not None for tracked in after)
    assert all(tracked.followed.keyframe == wanted[0] for tracked in after)


def test_the_next_pose_has_a_correction(sequence):
    """The map is turned, moved and twice as large: so is the pose of the next image, without a jump in the images."""
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 1)
    front.take(snapshot(sequence, 0))
    track(front, sequence, 1, 5)
    turn = cv2.Rodrigues(np.array([0.0, 0.0, 0.7]))[0]
    moved = Similarity(2.0, turn, np.array([3.0, -1.0, 0.5]))
    plain = snapshot(sequence, 0)
    front.take(
        replace(plain, points=moved.apply(plain.points), w_T_c=moved.pose(plain.w_T_c), w_T_k=moved.pose(plain.w_T_k))
    )
    (tracked,) = track(front, sequence, 5, 6)
    expected = moved.pose(sequence.w_T_c[5])
    assert error(tracked.w_T_c, expected) < 0.02 * float(np.median(sequence.depths[5]))
    np.testing.assert_allclose(tracked.w_T_c[:3, :3], expected[:3, :3], atol=0.01)


def test_dark_images_are_lost_at_once_and_the_next_good_one_is_found(sequence):
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 1)
    front.take(snapshot(sequence, 0))
    track(front, sequence, 1, 4)
    dark = front.track(int(sequence.stamps_ns[4]), np.zeros_like(sequence.images[4]))
    assert dark.w_T_c is None and dark.wanted
    (tracked,) = track(front, sequence, 5, 6)
    assert error(tracked.w_T_c, sequence.w_T_c[5]) < 0.01 * float(np.median(sequence.depths[5]))
    for index in range(6, 16):
        front.track(int(sequence.stamps_ns[index]), np.zeros_like(sequence.images[4]))
    (lost,) = track(front, sequence, 16, 17)
    assert lost.w_T_c is None
    front.take(snapshot(sequence, 16))
    (tracked,) = track(front, sequence, 17, 18)
    assert error(tracked.w_T_c, sequence.w_T_c[17]) < 0.01 * float(np.median(sequence.depths[17]))


@pytest.fixture(scope="module")
def turning():
    """A camera that turns on the spot, by a twelfth of its view from image to image."""
    angle, at = 2.0 + np.radians(5.0) * np.arange(12), np.array([-1.6, -1.1, 1.3])
    ahead = np.stack([np.cos(angle), np.sin(angle), np.full(12, -0.1)], axis=1)
    poses = np.stack([look_at(at, at + direction) for direction in ahead])
    return render_path("turning", room(0), poses, width=240, height=176, rate_hz=30.0)


def test_a_camera_that_turns_fast_is_found_after_a_dark_image(turning):
    """And what it follows stays, when the back end, which took the image for a good one, says what that showed."""
    front, first = FrontEnd(CONFIG), snapshot(turning, 1)
    track(front, turning, 0, 2)
    front.take(first)
    said = track(front, turning, 2, 4)
    front.track(int(turning.stamps_ns[4]), np.zeros_like(turning.images[4]))
    front.hand_over(int(turning.stamps_ns[4]))
    said += track(front, turning, 5, 6)
    local = transform(invert(turning.w_T_c[4]), first.points)
    pixels = turning.focal * local[:, :2] / local[:, 2:]
    shown = np.all(np.abs(pixels) < [118.0, 86.0], axis=1) & (local[:, 2] > 0)
    parts = {"ids": first.ids[shown], "points": first.points[shown], "pixels": pixels[shown], "anchors": pixels[shown]}
    front.take(snapshot(turning, 4, **parts))
    said += track(front, turning, 6, 8)
    for index, tracked in zip((2, 3, 5, 6, 7), said, strict=True):
        assert tracked.w_T_c is not None, f"image {index} has no pose"
        assert error(tracked.w_T_c, turning.w_T_c[index]) < 0.01 * float(np.median(turning.depths[index]))


def test_a_camera_that_turns_to_new_ground_keeps_its_pose(turning):
    """The map knows what the first image shows; by the last, nearly nothing of that is in view. It is told no more."""
    front = FrontEnd(CONFIG)
    track(front, turning, 0, 1)
    front.take(snapshot(turning, 0))
    depth = float(np.median(turning.depths[0]))
    for index, tracked in enumerate(track(front, turning, 1, 12), 1):
        assert tracked.w_T_c is not None, f"image {index} has no pose"
        truth = turning.w_T_c[index]
        assert angle_deg(tracked.w_T_c[:3, :3].T @ truth[:3, :3]) < 1.0, f"image {index}"
        assert error(tracked.w_T_c, truth) < 0.05 * depth
        assert error(tracked.w_T_c, truth) < 0.005 * depth + 4.0 * np.sqrt(np.trace(tracked.covariance[:3, :3]))
        assert np.all(tracked.followed.ids >= 0), "the map knows no others"
    assert np.count_nonzero(tracked.ids >= 0) < 10 and tracked.wanted
    assert np.sqrt(np.trace(tracked.covariance[:3, :3])) > 0.002 * depth, "it may have moved meanwhile"


def test_a_camera_that_turns_away_from_what_the_map_knows_links_the_next_keyframe(turning):
    """It turns by 5 degrees from image to image, and by a tenth of the image in 7; once told, it knows enough again."""
    front = FrontEnd(CONFIG)
    track(front, turning, 0, 1)
    front.take(snapshot(turning, 0))
    links = [index for index, tracked in enumerate(track(front, turning, 1, 8), 1) if tracked.link]
    assert len(links) >= 2 and set(np.diff(links)) <= {1, 2}, links


def test_a_camera_that_walks_needs_no_links(sequence):
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 1)
    front.take(snapshot(sequence, 0))
    assert not any(tracked.link for tracked in track(front, sequence, 1, 12))


def test_corners_that_it_found_by_itself_go_on_as_landmarks(turning):
    """The map places those that are still in view when it says so, three images later, by its own ids."""
    front = FrontEnd(CONFIG)
    track(front, turning, 0, 1)
    front.take(snapshot(turning, 0))
    *_, told = track(front, turning, 1, 7)
    own = np.sort(told.ids[told.ids < 0])
    *_, last = track(front, turning, 7, 9)
    seen = np.isin(own, last.ids)
    assert np.count_nonzero(seen) > 20
    ids, known = 7000 + np.arange(len(own)), snapshot(turning, 6)
    local = np.array([told.pixels[told.ids == id_][0] for id_ in own]) / turning.focal
    column, row = np.round(local * turning.focal + [119.5, 87.5]).astype(int).T
    points = transform(
        turning.w_T_c[6], np.column_stack([local, np.ones(len(own))]) * turning.depths[6][row, column][:, None]
    )
    parts = {"ids": ids, "points": points, "pixels": local * turning.focal, "anchors": local * turning.focal}
    front.take(replace(known, **parts, named=Renumbering(own, ids)))
    (tracked,) = track(front, turning, 9, 10)
    assert np.isin(tracked.ids, ids[seen]).sum() > 0.5 * np.count_nonzero(seen), "it need not search for them"
    assert not np.isin(tracked.ids, own).any()
    assert angle_deg(tracked.w_T_c[:3, :3].T @ turning.w_T_c[9][:3, :3]) < 0.3


def test_what_is_followed_turns_with_a_corrected_map(turning):
    """The map is moved, turned and scaled while hardly one of its landmarks is in view."""
    moved = Similarity(2.0, Rotation.from_euler("z", 0.7).as_matrix(), np.array([3.0, -1.0, 0.5]))
    front = FrontEnd(CONFIG)
    track(front, turning, 0, 1)
    before = snapshot(turning, 0)
    front.take(before)
    track(front, turning, 1, 9)
    parts = {"w_T_c": moved.pose(before.w_T_c), "points": moved.apply(before.points), "unit": 2.0 * before.unit}
    front.take(replace(before, **parts, w_T_k=moved.pose(before.w_T_k), revision=1))
    for index, tracked in enumerate(track(front, turning, 9, 12), 9):
        assert tracked.w_T_c is not None, f"image {index} has no pose"
        truth = moved.pose(turning.w_T_c[index])
        assert angle_deg(tracked.w_T_c[:3, :3].T @ truth[:3, :3]) < 1.5
        assert error(tracked.w_T_c, truth) < 0.1 * 2.0 * float(np.median(turning.depths[0]))


@pytest.mark.parametrize("start", [58, 90, 115])
@pytest.mark.parametrize("dark", [0, 2])
def test_few_corners_that_stay_where_they_were_are_no_pose(start, dark):
    """The camera is suddenly elsewhere: some corners are found close by, in what looks alike, and fit the last pose."""
    sequence = walk("orbit", frames=120, rate_hz=30.0)
    far = 0
    for there in range(0, 120, 5):
        front = FrontEnd(CONFIG)
        track(front, sequence, start, start + 1)
        front.take(snapshot(sequence, start))
        assert track(front, sequence, start + 1, start + 2)[-1].w_T_c is not None
        for index in range(start + 2, start + 2 + dark):
            front.track(int(sequence.stamps_ns[index]), np.zeros_like(sequence.images[index]))
        found = front.track(int(sequence.stamps_ns[start + 2 + dark]), sequence.images[there]).w_T_c
        far += found is None
        assert found is None or error(found, sequence.w_T_c[there]) < 0.02, f"image {there}"
    assert far > 10, "most show hardly anything of what was followed"


def test_an_image_that_was_lost_is_found_in_the_snapshot_that_comes_after_it(sequence):
    front = FrontEnd(CONFIG)
    assert front.track_again().w_T_c is None, "there is none yet"
    track(front, sequence, 0, 6)
    front.take(snapshot(sequence, 2))
    again = front.track_again()
    assert error(again.w_T_c, sequence.w_T_c[5]) < 0.01 * float(np.median(sequence.depths[5]))
    assert again.followed.stamp_ns == sequence.stamps_ns[5]
    front.forget()
    assert front.track_again().w_T_c is None


def test_nothing_under_a_mask_counts_and_another_size_is_not_tracked(sequence):
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 1)
    front.take(snapshot(sequence, 0))
    everything = np.full(sequence.images[1].shape[:2], 255, np.uint8)
    assert front.track(int(sequence.stamps_ns[1]), sequence.images[1], everything).w_T_c is None
    assert front.track(int(sequence.stamps_ns[2]), sequence.images[2][:, :-8]).w_T_c is None
    assert front.track(int(sequence.stamps_ns[3]), sequence.images[3], everything[1:]).w_T_c is None


def test_a_mask_is_rectified_with_the_image(sequence):
    """What lies under it in the raw image of a lens that bends."""
    height, width = sequence.images[0].shape[:2]
    center = (width - 1) / 2, (height - 1) / 2
    raw = Calibration(width, height, 0.42 * width, 0.42 * width, *center, "equidistant", (0.0,) * 4)
    rectified, mask = Undistortion.of(raw, width, height), np.zeros((height, width), np.uint8)
    mask[:, : width // 6] = 255
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 1)
    front.take(snapshot(sequence, 0, rectified=raw))
    track(front, sequence, 1, 2)
    front.track(int(sequence.stamps_ns[2]), sequence.images[2], mask)
    covered = cv2.resize(rectified.mask(mask), front._newest[1].shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    assert np.all(front._newest[2][covered] > 0), "the front end leaves out what is under it"
    assert np.mean(front._newest[2] > 0) < np.mean(covered) + 0.25


def test_another_map_begins_without_what_was_followed(sequence):
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 1)
    front.take(snapshot(sequence, 0))
    track(front, sequence, 1, 3)
    front.take(snapshot(sequence, 2, epoch=1))
    (tracked,) = track(front, sequence, 3, 4)
    assert tracked.followed.epoch == 1
    front.forget()
    assert not front.knows_map
    assert track(front, sequence, 4, 5)[0].w_T_c is None


def test_another_map_may_be_of_images_of_another_size(sequence):
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 1)
    assert not front.track(int(sequence.stamps_ns[1]), sequence.images[1][:, :-8]).usable
    front.forget()
    assert front.track(int(sequence.stamps_ns[1]), sequence.images[1][:, :-8]).usable


def test_the_keyframe_of_a_camera_at_rest_stays(sequence):
    """However long it lasts: corners are realigned with it, or they drift."""
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 1)
    front.take(snapshot(sequence, 0))
    kept, step = front._keyframe, int(sequence.stamps_ns[1] - sequence.stamps_ns[0])
    assert kept is not None
    for k in range(1, 120):
        stamp = int(sequence.stamps_ns[0]) + k * step
        front.track(stamp, sequence.images[0])
        front.hand_over(stamp)
        if k % 10 == 0:
            front.take(replace(snapshot(sequence, 0), stamp_ns=stamp))
    assert front._keyframe is kept


def test_images_of_an_earlier_time_are_not_those_between_a_snapshot_and_now(sequence):
    """A bag that is played again: the same stamps, and of what they showed then nothing is left."""
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 40)
    front.forget()
    track(front, sequence, 0, 8)
    front.take(snapshot(sequence, 6))
    (tracked,) = track(front, sequence, 8, 9)
    assert error(tracked.w_T_c, sequence.w_T_c[8]) < 0.01 * float(np.median(sequence.depths[8]))


def test_a_snapshot_that_comes_late_is_caught_up_with_over_many_images(sequence):
    """Longer than all images are kept: the one that was handed over is there, and every third of the others."""
    front = FrontEnd(CONFIG)
    front.hand_over(int(sequence.stamps_ns[4]))
    track(front, sequence, 0, 50)
    front.take(snapshot(sequence, 4))
    (tracked,) = track(front, sequence, 50, 51)
    assert error(tracked.w_T_c, sequence.w_T_c[50]) < 0.02 * float(np.median(sequence.depths[50]))


def test_a_late_keyframe_says_how_far_corners_strayed(sequence):
    """Its image is one of very many that were handed over."""

    def seen(strayed: float) -> Tracked:
        front = FrontEnd(CONFIG)
        track(front, sequence, 0, 1)
        first = snapshot(sequence, 0)
        front.take(first)
        said = []
        for index in range(1, 50):
            said += track(front, sequence, index, index + 1)
            front.hand_over(int(sequence.stamps_ns[index]))
        tenth = said[9]
        points = first.points[np.searchsorted(first.ids, tenth.ids)]
        pixels, nowhere = tenth.pixels - [strayed, 0.0], np.full_like(tenth.pixels, np.nan)
        front.take(snapshot(sequence, 10, ids=tenth.ids, pixels=pixels, points=points, anchors=nowhere))
        return track(front, sequence, 50, 51)[0]

    before, after = seen(0.0), seen(0.5)
    _, at, there = np.intersect1d(before.ids, after.ids, return_indices=True)
    shift = np.median(before.pixels[at] - after.pixels[there], axis=0)
    assert len(at) > 50 and np.allclose(shift, [0.5, 0.0], atol=0.1)


def test_images_before_the_first_snapshot_get_their_poses_one_by_one(sequence):
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 46)
    assert front.look_back() == (None, False)
    front.take(snapshot(sequence, 40))
    track(front, sequence, 46, 50)
    found, more = [], True
    while more:
        pose, more = front.look_back()
        found.append(pose)
    assert [pose.stamp_ns for pose in found] == sequence.stamps_ns[:40].tolist()[::-1]
    depth = float(np.median(sequence.depths[40]))
    for index, pose in zip(range(39, -1, -1), found, strict=True):
        assert pose.keyframe == 40 and len(pose.ids) == len(pose.pixels) >= CONFIG.track_min_inliers
        assert error(sequence.w_T_c[40] @ pose.k_T_c, sequence.w_T_c[index]) < 0.02 * depth
    assert front.look_back() == (None, False)
    front.take(snapshot(sequence, 45))
    track(front, sequence, 50, 51)
    assert front.look_back() == (None, False), "only once"


def test_looking_back_ends_where_nothing_is_seen(sequence):
    front = FrontEnd(CONFIG)
    track(front, sequence, 0, 10)
    for index in range(10, 20):
        front.track(int(sequence.stamps_ns[index]), np.zeros_like(sequence.images[0]))
    track(front, sequence, 20, 30)
    front.take(snapshot(sequence, 25))
    track(front, sequence, 30, 31)
    found, more = [], True
    while more:
        pose, more = front.look_back()
        found.append(pose)
    assert [pose is not None for pose in found] == [True] * 5 + [False] * 4


def test_of_old_images_every_third_stays_when_that_is_enough():
    images = RecentImages(20)
    for stamp in range(50):
        images.hand_over(4)
        images.add(stamp, np.full((1, 1), stamp, np.uint8))
    assert [stamp for stamp, _ in images.until(12)] == list(range(13))[::-1]
    images.thin()
    kept = [stamp for stamp, _ in images.until(19)][::-1]
    assert kept == [0, 3, 4, 6, 9, 12, 15, 18]
    for stamp in range(50, 60):
        images.add(stamp, np.full((1, 1), stamp, np.uint8))
    assert 5 < len(images.until(29)) < 15 and images.at(4) is not None and images.at(5) is None
    assert len(images.since(-1)) < 30


def test_the_robot_tells_where_to_look_after_dark_images(sequence):
    """Longer dark than landmarks are looked for by themselves, and moved on meanwhile: a guess finds them."""
    guess = sequence.w_T_c[26].copy()
    guess[:3, 3] += 0.01 * float(np.median(sequence.depths[26]))
    found = []
    for told in (True, False):
        front = FrontEnd(CONFIG)
        track(front, sequence, 0, 1)
        front.take(snapshot(sequence, 0))
        track(front, sequence, 1, 6)
        for index in range(6, 26):
            front.expect(sequence.w_T_c[index] if told else None)
            assert front.track(int(sequence.stamps_ns[index]), np.zeros_like(sequence.images[0])).w_T_c is None
        front.expect(guess if told else None)
        found += track(front, sequence, 26, 27)
    assert error(found[0].w_T_c, sequence.w_T_c[26]) < 0.01 * float(np.median(sequence.depths[26]))
    assert found[1].w_T_c is None


def test_what_is_followed_stays_so_by_its_new_ids(sequence):
    """A snapshot says them; of landmarks that have none, and of all if it does not say them, nothing stays."""
    fronts = [FrontEnd(CONFIG) for _ in range(3)]
    plain, later = snapshot(sequence, 0), snapshot(sequence, 3)
    for front in fronts:
        track(front, sequence, 0, 1)
        front.take(plain)
        track(front, sequence, 1, 4)
        front.hand_over(int(sequence.stamps_ns[3]))
        front.take(later)
        track(front, sequence, 4, 5)
    old = fronts[0]._corners.ids
    former = np.union1d(np.concatenate([plain.ids, later.ids]), old)
    gone = old[::7]
    new = Renumbering(former, np.where(np.isin(former, gone), -1, 10**6 + np.arange(len(former))))
    told = replace(later, ids=new.of(later.ids), numbering=1, renumbering=new)
    told = replace(
        told, **{name: getattr(told, name)[told.ids >= 0] for name in ("ids", "pixels", "points", "anchors")}
    )
    fronts[1].take(told)
    fronts[2].take(replace(told, renumbering=None))
    assert np.array_equal(np.sort(fronts[1]._corners.ids), np.sort(new.of(old[~np.isin(old, gone)])))
    assert len(fronts[2]._corners) == 0
    handed = fronts[1]._handed[int(sequence.stamps_ns[3])]
    assert len(handed) and handed.ids.min() >= 10**6, "that of images that the back end has, too"
    before, after, anew = (track(front, sequence, 5, 12) for front in fronts)
    assert [tracked.followed.numbering for tracked in (before[0], after[0], anew[0])] == [0, 1, 1]
    assert after[0].ids.min() >= 10**6
    depth = float(np.median(sequence.depths[5]))
    for index, found in enumerate(zip(after, anew, strict=True), 5):
        for tracked in found:
            assert error(tracked.w_T_c, sequence.w_T_c[index]) < 0.01 * depth
    assert len(after[-1].ids) > 0.8 * len(before[-1].ids)
