"""Aligned keyframes refined by the reprojection of their features' landmarks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from synthetic import Scene, arc

from dust3r_ros.alignment.moments import retract
from dust3r_ros.alignment.online.keyframe_bundle import Posed, ReportedPoses, bundle
from dust3r_ros.features.features import Features
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import Array

FOCALS = {index: 100.0 + index for index in range(200)}


def map_of(count: int) -> np.ndarray:
    return retract(np.tile(np.eye(4), (count, 1, 1)), 0.3 * np.random.default_rng(0).standard_normal((count, 7)))


def test_only_what_moved_is_reported_and_versions_count() -> None:
    reported, w_S = ReportedPoses(), map_of(4)
    assert [(u.index, u.version) for u in reported.report(w_S, 0, FOCALS, {})] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert reported.report(w_S, 0, FOCALS, {}) == ()
    w_S = w_S.copy()
    w_S[2] = retract(w_S[2:3], np.array([[0, 0, 0, 0.01, 0, 0, 0]]))[0]
    (update,) = reported.report(w_S, 0, FOCALS, {})
    assert (update.index, update.version, update.focal) == (2, 2, 102.0)
    np.testing.assert_allclose(update.scale * update.w_T_c[:3, :3], w_S[2, :3, :3])
    np.testing.assert_allclose(update.w_T_c[:3, 3], w_S[2, :3, 3])


def test_small_steps_add_up() -> None:
    reported, w_S = ReportedPoses(), map_of(2)
    reported.report(w_S, 0, FOCALS, {})
    steps = []
    for _ in range(12):
        w_S = np.stack([w_S[0], retract(w_S[1:], np.array([[0, 0, 0, 0, 4e-4, 0, 0]]))[0]])
        steps.append(len(reported.report(w_S, 0, FOCALS, {})))
    assert sum(steps) == 4  # every third


def test_depth_is_reported_whether_moved_or_not_and_older_ones_are_not_looked_at() -> None:
    reported, w_S = ReportedPoses(), map_of(130)
    reported.report(w_S, 0, FOCALS, {})
    depth = (np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32))
    (update,) = reported.report(w_S, 120, FOCALS, {122: depth})
    assert update.index == 122 and update.version == 2 and update.depth is depth[0] and update.confidence is depth[1]
    moved = retract(w_S, np.full((130, 7), 0.1))
    assert [u.index for u in reported.report(moved, 125, FOCALS, {})] == [125, 126, 127, 128, 129]
    assert [u.index for u in reported.report(moved, 0, FOCALS, {})] == list(range(125))


EDGES = [*pairwise(range(6)), *((i, i + 2) for i in range(4))]


def off_by(pose: Array, rng: np.random.Generator) -> Array:
    """A pose as pointmaps have it: a degree and some centimetres off."""
    moved = pose.copy()
    moved[:3, :3] = moved[:3, :3] @ Rotation.from_rotvec(np.radians(0.6) * rng.standard_normal(3)).as_matrix()
    moved[:3, 3] += 0.02 * rng.standard_normal(3)
    return moved


def posed(
    scene: Scene, blind: int | None = None, *, seed: int = 1, lens: Lens | None = None, drift: float = 0.0
) -> list[Posed]:
    """Keyframes with 0.3 px of noise and descriptors of their own for each point; ``blind`` sees hardly anything.

    ``drift``: errors, pixels, that points near each other have in common.
    """
    rng = np.random.default_rng(seed)
    descriptors = rng.integers(0, 90, (len(scene.points), 128), dtype=np.uint8)
    result, first_id = [], 0
    for view, w_T_c in enumerate(scene.w_T_c):
        offsets = scene.seen(view)
        offsets = offsets if lens is None else lens.seen(offsets)
        waves = offsets @ rng.normal(0, 0.02, (2, 4)) + rng.uniform(0, 6, 4)
        offsets += drift * np.sin(waves) @ rng.standard_normal((4, 2)) / 1.4
        offsets += 0.3 * rng.standard_normal((len(scene.points), 2))
        keep = slice(0, 20 if view == blind else None)
        start = w_T_c if view == 0 else off_by(w_T_c, rng)
        features = Features(offsets[keep], descriptors[keep])
        own = Tracks(first_id + np.arange(len(features.pixels)), features.pixels)
        first_id += len(own.ids)
        result.append(Posed(0, start, features, own, no_tracks()))
    return result


def distance(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a[:3, 3] - b[:3, 3]))


def test_poses_and_focal_become_better() -> None:
    scene = arc(points=250)
    keyframes = posed(scene)
    found = bundle(keyframes, EDGES, [Intrinsics(306.0, 500.0, std=0.02)], 1.0)
    assert found is not None
    refined, focals = found.keyframes, found.intrinsics
    assert sorted(refined) == list(range(6))
    scale = distance(refined[5].w_T_c, refined[0].w_T_c) / distance(scene.w_T_c[5], scene.w_T_c[0])
    for view in range(1, 6):
        near = distance(refined[view].w_T_c, refined[0].w_T_c) / scale
        assert near == pytest.approx(distance(scene.w_T_c[view], scene.w_T_c[0]), rel=0.003)
    assert focals[0].focal == pytest.approx(300.0, rel=0.01) and focals[0].prior == 500.0
    assert 0 < focals[0].std < 0.03
    depth = (np.linalg.inv(scene.w_T_c[3]) @ np.append(scene.points.mean(axis=0), 1.0))[2]
    assert np.mean(refined[3].depths) / scale == pytest.approx(depth, rel=0.02)
    apart = np.linalg.norm(np.diff(found.positions.reshape(6, 250, 3), axis=0), axis=-1)
    assert np.nanmax(apart) == 0, "a corner is where its landmark is, by whatever keyframe it is named"
    start = scene.w_T_c[0, :3, 3]
    off = np.linalg.norm((found.positions[:250] - start) / scale - (scene.points - start), axis=1)
    assert np.isfinite(off).mean() > 0.9 and np.nanmedian(off) < 0.03


def test_errors_of_focals_are_as_large_as_their_deviations() -> None:
    """Networks that are off by 3 %; good and drifting features; lenses with and without distortion."""
    z, rng = [], np.random.default_rng(0)
    for case, (drift, radial, _) in enumerate(product((0.0, 1.0, 2.0), (0.0, 0.02, -0.03), range(4))):
        scene = arc(points=150, seed=case)
        keyframes = posed(scene, seed=case, lens=Lens(160.0, radial), drift=drift)
        start = 300.0 * np.exp(0.03 * rng.standard_normal())
        found = bundle(keyframes, EDGES, [Intrinsics(start, 320.0, std=0.03, lens=Lens(160.0))], 1.0)
        assert found is not None
        (focal,) = found.intrinsics
        assert focal.prior == 320.0 and focal.std < 0.03
        z.append(abs(np.log(focal.focal / 300.0)) / focal.std)
    assert 0.6 < np.mean(np.less(z, 1)) < 0.9 and np.mean(np.less(z, 2)) > 0.93 and max(z) < 4


@pytest.mark.parametrize("drifted", [0, 120])
def test_a_map_that_contradicts_what_keyframes_see_is_in_doubt(drifted: int) -> None:
    """Of what each keyframe follows, a fifth has drifted away, or nothing; no features tell."""
    rng, followed = np.random.default_rng(0), []
    for one in posed(arc(points=600)):
        pixels, nothing = one.corners.pixels.copy(), Features(np.zeros((0, 2)), np.zeros((0, 128), np.uint8))
        pixels[:drifted] += rng.normal(0, 15, (drifted, 2))
        tracks = Tracks(np.arange(600), pixels)
        first = not followed
        followed.append(replace(one, features=nothing, corners=one.corners.select(slice(600 * first)), followed=tracks))
    found = bundle(followed, [], [Intrinsics(306.0, 306.0, std=0.02)], 1.0)
    assert found is not None
    assert found.intrinsics[0].contradicted == pytest.approx(drifted / 600, abs=0.05)


def test_a_keyframe_without_landmarks_is_left_out() -> None:
    found = bundle(posed(arc(points=250), blind=4), EDGES, [Intrinsics(300.0, 300.0, fixed=True)], 1.0)
    assert found is not None and sorted(found.keyframes) == [0, 1, 2, 3, 5]


@pytest.mark.parametrize(("points", "blind", "certain"), [(400, None, True), (150, None, False), (400, 4, False)])
def test_a_map_of_plenty_of_landmarks_is_certain(points: int, blind: int | None, certain: bool) -> None:
    found = bundle(posed(arc(points=points), blind=blind), EDGES, [Intrinsics(306.0, 306.0, std=0.02)], 1.0)
    assert found is not None and found.certain == certain


def test_two_keyframes_do_not_tell_an_unknown_focal() -> None:
    found = bundle(posed(arc(views=2, points=400, degrees=10)), [(0, 1)], [Intrinsics(306.0, 306.0)], 1.0)
    assert found is None or not found.certain


def test_keyframes_that_share_landmarks_are_searched_for_more() -> None:
    """Only neighbours are paired, but each lacks a sixth of the points, which the next one shows again."""
    whole, shown = posed(arc(points=300)), [np.flatnonzero((np.arange(300) + view) % 6 > 0) for view in range(6)]
    keyframes = [
        replace(
            one,
            features=Features(one.features.pixels[some], one.features.descriptors[some]),
            corners=Tracks(250 * view + np.arange(250), one.corners.pixels[some]),
        )
        for view, (one, some) in enumerate(zip(whole, shown, strict=True))
    ]
    found = bundle(keyframes, list(pairwise(range(6))), [Intrinsics(306.0, 306.0, std=0.02)], 1.0)
    assert found is not None
    for view in range(4):
        _, mine, other = np.intersect1d(shown[view], shown[view + 2], return_indices=True)
        one, same = found.positions[250 * view + mine], found.positions[250 * (view + 2) + other]
        gone = ~np.isin(shown[view][mine], shown[view + 1])
        assert np.count_nonzero(gone) == 50 and np.mean(np.all(one[gone] == same[gone], axis=1)) > 0.9


def test_without_common_features_nothing_changes() -> None:
    assert bundle(posed(arc(points=250)), [], [Intrinsics(310.0, 310.0, std=0.1)], 1.0) is None


def test_followed_corners_do_where_features_do_not_match() -> None:
    scene = arc(points=250)
    plain = posed(scene)
    followed = [replace(one, followed=Tracks(plain[0].corners.ids, one.corners.pixels)) for one in plain[1:]]
    found = bundle([plain[0], *followed], [], [Intrinsics(306.0, 306.0, std=0.02)], 1.0)
    assert found is not None
    before = [distance(one.w_T_c, true) for one, true in zip(plain, scene.w_T_c, strict=True)]
    scale = distance(found.keyframes[5].w_T_c, found.keyframes[0].w_T_c) / distance(scene.w_T_c[5], scene.w_T_c[0])
    for view in range(1, 5):
        near = distance(found.keyframes[view].w_T_c, found.keyframes[0].w_T_c) / scale
        assert near == pytest.approx(distance(scene.w_T_c[view], scene.w_T_c[0]), rel=0.01)
    assert max(before) > 0.02
