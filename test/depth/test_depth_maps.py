"""Depth of keyframes gathered from pairs. What one keyframe's depth says about another's pixels."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from sequences import walk

from dust3r_ros.depth import depth_maps
from dust3r_ros.depth.depth_maps import DepthMaps, DepthShot, seen_from
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.types import PairPrediction

SHAPE, FOCAL = (12, 16), 14.0
SECOND_T_FIRST = pose(np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]), [0.2, 0.1, 4.0])  # looks from the side


def pair(first: int, second: int, unit: float = 1.0, seed: int = 0) -> tuple[PairPrediction, np.ndarray, np.ndarray]:
    """A pair whose unit is ``1 / unit`` map units, and the true depth of both views."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(2, 4, (2, *SHAPE))
    points_b = transform(invert(SECOND_T_FIRST), unproject(b, FOCAL))
    confidences = rng.uniform(1.5, 5, (2, *SHAPE)).astype(np.float32)
    prediction = PairPrediction(
        first,
        second,
        (unit * unproject(a, FOCAL)).astype(np.float32),
        confidences[0],
        (unit * points_b).astype(np.float32),
        confidences[1],
    )
    return prediction, a, b


def test_both_views_of_a_pair_get_depth() -> None:
    maps = DepthMaps()
    prediction, a, b = pair(3, 5, unit=7.0)
    assert maps[3].shown is None and maps[5].shown is None
    maps.absorb(prediction, SECOND_T_FIRST, 1 / 7.0)
    np.testing.assert_allclose(maps[3].shown[0], a, rtol=1e-5)
    np.testing.assert_allclose(maps[5].shown[0], b, rtol=1e-4)  # z of its own camera, not of the first
    np.testing.assert_allclose(maps[5].shown[1], prediction.confidence_second, rtol=1e-5)
    assert maps[4].shown is None


def test_the_last_word_of_a_pair_counts_once() -> None:
    maps = DepthMaps()
    old, _, _ = pair(0, 1, seed=1)
    new, a, _ = pair(0, 1, seed=2)
    maps.absorb(old, SECOND_T_FIRST, 1.0)
    assert maps[0].shown
    maps.absorb(new, SECOND_T_FIRST, 1.0)
    np.testing.assert_allclose(maps[0].shown[0], a, rtol=1e-5)


def test_several_pairs_agree_and_outvote_a_wrong_one() -> None:
    maps = DepthMaps()
    for other in (1, 2, 3):
        prediction, a, _ = pair(0, other, seed=4)
        maps.absorb(prediction, SECOND_T_FIRST, 1.0)
    wrong, _, _ = pair(0, 4, seed=4)
    maps.absorb(wrong, SECOND_T_FIRST, 3.0)
    np.testing.assert_allclose(maps[0].shown[0], a, rtol=0.01)


def test_growing_surroundings() -> None:
    maps = DepthMaps()
    prediction, a, b = pair(0, 1)
    maps.absorb(prediction, SECOND_T_FIRST, 1.0)
    before, sure = maps[0].shown
    maps.rescale(0, 2.5)
    np.testing.assert_allclose(maps[0].shown[0], 2.5 * before, rtol=1e-5)
    np.testing.assert_allclose(maps[1].shown[0], b, rtol=1e-4)
    np.testing.assert_array_equal(maps[0].shown[1], sure)
    maps[0].freeze()
    maps.rescale(0, 2.0)
    np.testing.assert_allclose(maps[0].shown[0], 5.0 * a, rtol=1e-5)
    maps.rescale(9, 2.0)
    assert maps[9].shown is None


def test_frozen_depth_stays_and_cleared_depth_is_gone() -> None:
    maps = DepthMaps()
    prediction, a, _ = pair(0, 1)
    maps.absorb(prediction, SECOND_T_FIRST, 1.0)
    maps[0].freeze()
    np.testing.assert_allclose(maps[0].shown[0], a, rtol=1e-5)
    maps.clear(0)
    assert maps[0].shown is None
    maps[8].freeze()
    maps.clear(8)
    assert maps[8].shown is None


def test_a_later_pair_adds_to_frozen_depth() -> None:
    """A loop closed with an old keyframe does not throw away what its other pairs knew."""
    maps = DepthMaps()
    for other in (1, 2):
        prediction, a, _ = pair(0, other, seed=4)
        maps.absorb(prediction, SECOND_T_FIRST, 1.0)
    maps[0].freeze()
    late, _, _ = pair(0, 9, seed=4)
    blind = PairPrediction(
        0, 9, late.points_first, np.ones(SHAPE, np.float32), late.points_second, np.ones(SHAPE, np.float32)
    )
    maps.absorb(blind, SECOND_T_FIRST, 1.0)
    np.testing.assert_allclose(maps[0].shown[0], a, rtol=1e-5)


def test_points_behind_the_second_camera_are_no_depth() -> None:
    maps = DepthMaps()
    prediction, _, _ = pair(0, 1)
    maps.absorb(prediction, SECOND_T_FIRST @ pose(np.diag([1.0, -1, -1]), [0, 0, 0]), 1.0)
    depth, confidence = maps[1].shown
    assert (depth >= 0).all() and (confidence[depth == 0] == 1).all()


def test_an_unknown_unit_gives_no_depth() -> None:
    maps = DepthMaps()
    prediction, _, _ = pair(0, 1)
    maps.absorb(prediction, SECOND_T_FIRST, float("nan"))
    for index in (0, 1):
        known = maps[index].shown
        assert known is None or (np.isfinite(known[0]).all() and (known[0] == 0).all() and (known[1] == 1).all())


@pytest.mark.parametrize("index", [0, 1])
def test_pixels_of_confidence_one_have_no_depth(index: int) -> None:
    maps = DepthMaps()
    prediction, _, _ = pair(0, 1)
    prediction.confidence_first[:5] = prediction.confidence_second[:5] = 1.0
    maps.absorb(prediction, SECOND_T_FIRST, 1.0)
    depth, confidence = maps[index].shown
    assert (depth[:5] == 0).all() and (confidence[:5] == 1).all() and (depth[5:] > 0).all()


def test_the_depth_of_another_map_in_units_of_this_one() -> None:
    maps, other = DepthMaps(), DepthMaps()
    maps.absorb(pair(0, 1)[0], SECOND_T_FIRST, 1.0)
    other.absorb(pair(0, 1, seed=1)[0], SECOND_T_FIRST, 1.0)
    own, theirs = maps[0].shown, other[1].shown
    assert own is not None and theirs is not None
    maps.take_over(other, 2, 3.0)
    np.testing.assert_allclose(maps[3].shown[0], 3.0 * theirs[0], rtol=1e-6)  # type: ignore[index]
    np.testing.assert_array_equal(maps[3].shown[1], theirs[1])  # type: ignore[index]
    np.testing.assert_array_equal(maps[0].shown[0], own[0])  # type: ignore[index]


def test_another_unit_for_everything_that_is_kept() -> None:
    maps, same = DepthMaps(), DepthMaps()
    for kept in (maps, same):
        kept.absorb(pair(0, 1)[0], SECOND_T_FIRST, 1.0)
        kept.absorb(pair(2, 3)[0], SECOND_T_FIRST, 1.0)
        kept[2].freeze()
        assert kept[0].shown
    maps.rescale_all(2.5)
    for kept, unit in ((maps, 2.5), (same, 1.0)):
        kept.absorb(pair(0, 4)[0], SECOND_T_FIRST, unit)
    for index in range(4):
        np.testing.assert_allclose(maps[index].shown[0], 2.5 * same[index].shown[0], rtol=1e-5)
        np.testing.assert_allclose(maps[index].shown[1], same[index].shown[1], rtol=1e-5)


def test_what_is_read_does_not_depend_on_when_it_was_read_before() -> None:
    """Not even in the last digit: somebody looks at a live map at moments of his own."""
    looked, alone = DepthMaps(), DepthMaps()
    for maps in (looked, alone):
        for other, factor in ((1, 1.37), (2, 0.91), (3, 1.003)):
            maps.absorb(pair(0, other, seed=other)[0], SECOND_T_FIRST, 1.0)
            maps[0].receive({other + 10: received(pair(0, other, seed=other + 10)[1], 2.0)})
            if maps is looked:
                assert maps[0].shown and maps[0].own
            maps.rescale(0, factor)
        maps.rescale_all(2.2)
        if maps is looked:
            assert maps[0].shown
        maps[0].freeze()
        maps.rescale(0, 0.7)
        maps.absorb(pair(0, 4, seed=4)[0], SECOND_T_FIRST, 1.0)
    for kind in ("shown", "own", "whole"):
        for a, b in zip(getattr(looked[0], kind), getattr(alone[0], kind), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_change_of_unit_is_distinguished_from_a_change_of_depth() -> None:
    maps, other = DepthMaps(), DepthMaps()
    assert maps[0].pixels is None and maps[0].growth == 1.0
    maps.absorb(pair(0, 1)[0], SECOND_T_FIRST, 1.0)
    before = maps[0].pixels
    assert maps[0].shown
    maps.rescale(0, 2.0)
    maps.rescale_all(1.5)
    maps[0].freeze()
    assert maps[0].pixels is before and maps[0].growth == 3.0
    other.take_over(maps, 4, 0.5)
    assert other[4].pixels is before and other[4].growth == 1.5
    maps.absorb(pair(0, 2)[0], SECOND_T_FIRST, 1.0)
    assert maps[0].pixels is not before and maps[0].growth == 1.0
    for change in (lambda: maps[0].leave_out(np.ones(maps[0].shown[0].shape, bool)), lambda: maps.clear(0)):
        before = maps[0].pixels
        change()
        assert maps[0].pixels is not before


def test_depth_of_another_session_is_one_estimate() -> None:
    maps, again = DepthMaps(), DepthMaps()
    maps.absorb(pair(0, 1)[0], SECOND_T_FIRST, 1.0)
    maps[0].freeze()
    again[0].restore(*maps[0].shown)  # type: ignore[misc]
    assert again[0].pixels is None
    for kept in (maps, again):
        kept.absorb(pair(0, 2)[0], SECOND_T_FIRST, 1.0)
    np.testing.assert_array_equal(again[0].shown[0], maps[0].shown[0])  # type: ignore[index]


def test_depth_ends_at_the_outlines_of_the_image_shown_until_it_is_frozen() -> None:
    """Depth of a dark thing that runs over its outline, beside a bright sky."""
    height, width, edge = 96, 128, 64
    image = np.full((height, width, 3), 220, np.uint8)
    image[:, :edge] = 60
    confidence = np.ones((2, height, width), np.float32)
    confidence[:, :, : edge + 4] = 3
    points = unproject(np.full((height, width), 2.0), 100.0).astype(np.float32)
    prediction = PairPrediction(0, 1, points, confidence[0], points, confidence[1])
    plain, cut = DepthMaps(), DepthMaps()
    for maps in (plain, cut):
        if maps is cut:
            maps[0].show(image)
        maps.absorb(prediction, np.eye(4), 1.0)
        maps[0].freeze()
        maps[1].freeze()
    assert (plain[0].shown[1][:, edge : edge + 4] > 1).all(), "no image, no outlines"
    assert (cut[0].shown[1][:, edge:] == 1).all() and (cut[0].shown[0][:, edge:] == 0).all()
    assert (cut[0].shown[1][:, : edge - 2] > 1).all()
    np.testing.assert_array_equal(cut[1].shown[1], plain[1].shown[1])


def shown(depth: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The depth (H, W) that a keyframe shows of a single estimate."""
    maps = DepthMaps()
    maps[0].show(image)
    maps[0].put(1, depth.astype(np.float32), np.where(depth > 0, 5, 1).astype(np.float32))
    found = maps[0].shown
    assert found is not None
    return np.where(found[1] > 1, found[0], 0)


def test_surfaces_do_not_wear_their_background_as_a_rim() -> None:
    """Things of a room whose depth runs over their outlines by a pixel, as that of flow does."""
    sequence = walk("orbit")
    rims, bare, lost = [], [], []
    for image, depth in zip(sequence.images[::8], sequence.depths[::8], strict=True):
        nearest = cv2.erode(depth, np.ones((3, 3), np.uint8))
        rim = nearest * 1.1 < depth
        clear = cv2.dilate(rim.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
        left = shown(np.where(rim, nearest, depth), image)
        rims.append((left > 0)[rim])
        bare.append((np.abs(left - nearest) < 0.02 * nearest)[rim])
        lost.append((left == 0)[clear])
    assert np.concatenate(rims).size > 2000
    assert np.concatenate(bare).mean() < 0.6
    assert np.concatenate(lost).mean() < 0.003


def test_thin_things_stay_whole() -> None:
    """The two pixels of a pole that looks nearly like the wall behind it."""
    rng = np.random.default_rng(0)
    image = rng.integers(90, 130, (60, 80, 3)).astype(np.uint8)
    depth = np.full((60, 80), 4.0)
    depth[:, 40:42], image[:, 40:42] = 2.0, image[:, 43:45]
    left = shown(depth, image)
    assert (left[3:-3, 40:42] > 0).mean() > 0.98 and np.abs(left[3:-3, 40:42] - 2).max() < 0.2


def received(depth: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    return depth.astype(np.float32), np.where(depth > 0, confidence, 1).astype(np.float32)


def test_depth_of_others_closes_gaps_and_is_received_once() -> None:
    maps = DepthMaps()
    prediction, a, _ = pair(0, 1)
    unsure = prediction.confidence_first.copy()
    unsure[:, 8:] = 1
    maps.absorb(replace(prediction, confidence_first=unsure), SECOND_T_FIRST, 1.0)
    assert (maps[0].shown[1][:, 11:] == 1).all()
    before = maps[0].pixels
    maps[0].receive({4: received(a, 2.0)})
    assert maps[0].pixels is not before and maps[0].received_from == {4}
    np.testing.assert_allclose(maps[0].shown[0], a, rtol=1e-4)
    once = maps[0].shown[1]
    maps[0].receive({4: received(2 * a, 50.0)})
    np.testing.assert_array_equal(maps[0].shown[1], once)
    maps[0].receive({5: received(a, 2.0)})
    assert maps[0].received_from == {4, 5} and (maps[0].shown[1][:, 11:] > once[:, 11:]).all()
    np.testing.assert_array_equal(maps[0].own[1][:, 8:], 1)


def test_received_depth_grows_with_its_keyframe_and_goes_with_it() -> None:
    maps = DepthMaps()
    prediction, a, _ = pair(0, 1)
    maps.absorb(prediction, SECOND_T_FIRST, 1.0)
    maps[0].receive({4: received(a, 9.0)})
    maps.rescale(0, 3.0)
    np.testing.assert_allclose(maps[0].shown[0], 3 * a, rtol=1e-4)
    maps[0].freeze()
    np.testing.assert_allclose(maps[0].own[0], 3 * a, rtol=1e-4)
    maps.clear(0)
    assert maps[0].shown is None and maps[0].own is None and not maps[0].received_from


def test_a_preview_goes_with_the_map_and_gives_way_to_a_pair() -> None:
    maps = DepthMaps()
    depth, confidence = np.full(SHAPE, 2.0, np.float32), np.full(SHAPE, 3.0, np.float32)
    maps[5].preview(depth, confidence)
    maps[5].leave_out(np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) == 0)
    maps.rescale_all(0.5)
    shown = maps[5].shown
    assert shown is not None and shown[0][0, 0] == 0 and (shown[0].ravel()[1:] == 1.0).all()
    assert maps[5].own is None and not maps[5].estimated
    other = DepthMaps()
    other.take_over(maps, 10, 3.0)
    assert (other[15].whole[0] == 3.0).all()
    maps[5].freeze()
    assert not maps[5].estimated
    prediction, _, b = pair(3, 5)
    maps.absorb(prediction, SECOND_T_FIRST, 1.0)
    np.testing.assert_allclose(maps[5].whole[0], b, rtol=1e-4)
    maps[4].preview(depth, confidence)
    maps.clear(4)
    assert maps[4].shown is None


def shot(sequence: RenderedSequence, frame: int, confidence: float = 3.0) -> DepthShot:
    """A frame with its true depth."""
    depth = sequence.depths[frame].astype(np.float32)
    sure = np.where(depth > 0, confidence, 1).astype(np.float32)
    return DepthShot(sequence.images[frame], depth, sure, sequence.w_T_c[frame], sequence.focal)


def test_true_depth_is_true_from_elsewhere() -> None:
    sequence = walk("orbit")
    a, b = shot(sequence, 0), shot(sequence, 4)
    depth, confidence = seen_from(a, b)
    known = depth > 0
    assert known.mean() > 0.4 and ((confidence > 1) == known).all()
    off = np.abs(depth / b.depth - 1)[known]
    assert np.median(off) < 0.01 and np.mean(off < 0.05) > 0.95
    assert depth.dtype == confidence.dtype == np.float32
    assert confidence.max() <= 2.0, "half of what the other knows is passed on"


def test_what_is_hidden_is_not_seen_through_what_has_no_depth() -> None:
    """A far wall that is known, and before it, in the other keyframe, a board whose depth is not."""
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(100, 180, (30, 40, 3)).astype(np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
    far, sure = np.full((120, 160), 5, np.float32), np.full((120, 160), 3, np.float32)
    a = DepthShot(wall, far, sure, np.eye(4), 150.0)
    board = wall.copy()
    board[40:80, 60:100] = (20, 20, 20)
    b = replace(a, image=board, depth=0 * far, confidence=sure / 3)
    depth, _ = seen_from(a, b)
    assert (depth[42:78, 62:98] == 0).all()
    outside = np.ones_like(depth, bool)
    outside[36:84, 56:104] = False
    assert (depth[outside] == 5).all()


def test_a_thing_in_the_colours_of_the_wall_behind_is_not_the_wall() -> None:
    """Its pixels have the wall's colours here and there, by chance."""
    rng = np.random.default_rng(1)
    wall, thing = (
        cv2.resize(rng.integers(60, 200, (40, 54, 3)).astype(np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
        for _ in range(2)
    )
    far, sure = np.full((120, 160), 5, np.float32), np.full((120, 160), 3, np.float32)
    a = DepthShot(wall, far, sure, np.eye(4), 150.0)
    image = wall.copy()
    image[30:90, 50:110] = thing[30:90, 50:110]
    depth, _ = seen_from(a, replace(a, image=image, depth=0 * far, confidence=sure / 3))
    assert (depth[34:86, 54:106] > 0).mean() < 0.05
    assert (depth[:24] == 5).all() and (depth[96:] == 5).all()


def test_the_nearer_surface_wins_and_nothing_shines_through_its_gaps() -> None:
    """A near board whose points lie far apart when the camera goes towards it, before a far wall."""
    image = np.full((120, 160, 3), 128, np.uint8)
    depth = np.full((120, 160), 10, np.float32)
    depth[30:90, 40:120] = 1.0
    a = DepthShot(image, depth, np.full_like(depth, 3), np.eye(4), 150.0)
    nearer = np.eye(4)
    nearer[2, 3] = 0.4
    found, confidence = seen_from(a, replace(a, w_T_c=nearer))
    middle = found[25:95, 35:125]
    assert (middle[middle > 0] < 1).all() and (middle > 0).mean() > 0.3
    assert confidence[25:95, 35:125].max() <= 2.0
    back = nearer.copy()
    back[2, 3] = -1.0
    further, less = seen_from(a, replace(a, w_T_c=back))
    np.testing.assert_allclose(further[further > 0][:10], 11, rtol=1e-5)
    assert less.max() <= 2.0


def test_cameras_that_look_away_share_nothing() -> None:
    sequence = walk("orbit")
    a = shot(sequence, 0)
    turned = a.w_T_c @ np.diag([-1.0, 1, -1, 1])
    for depth, confidence in (seen_from(a, replace(a, w_T_c=turned)), seen_from(replace(a, depth=0 * a.depth), a)):
        assert (depth == 0).all() and (confidence == 1).all()


def test_a_compiler_changes_nothing_in_shared_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for pixels whose texture is as different as it may be: sums of whole numbers do not round."""
    assert depth_maps.LIBRARY is not None
    sequence, rng = walk("orbit"), np.random.default_rng(0)
    pairs = [(shot(sequence, a), shot(sequence, b)) for a, b in ((0, 1), (1, 0), (0, 3))]
    for a, _ in pairs:
        a.depth[rng.random(a.depth.shape) < 0.2], a.confidence[rng.random(a.depth.shape) < 0.2] = 0, 1
    compiled = [seen_from(a, b) for a, b in pairs]
    monkeypatch.setattr(depth_maps, "LIBRARY", None)
    for (a, b), found in zip(pairs, compiled, strict=True):
        plain = seen_from(a, b)
        assert 0.1 < (plain[0] > 0).mean() < 1
        assert all(np.mean(one != other) < 1e-3 for one, other in zip(found, plain, strict=True))
