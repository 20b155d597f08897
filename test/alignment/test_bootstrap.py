"""The first poses and the first focal from landmarks alone."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import Scene, arc, turning

from dust3r_ros.alignment.bootstrap import FOCAL_STARTS, Options, PairFromLandmarks, bootstrap, pair_from_pointmaps
from dust3r_ros.alignment.sparse_map import Focal, SparseMap
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, angle_deg, invert, transform
from dust3r_ros.geometry.similarity import weighted_similarity
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import PairPrediction

WIDTH, HEIGHT = 400, 300


def unposed(scene: Scene, noise: float = 0.3, seed: int = 0, wrong: float = 0.0) -> SparseMap:
    """What the views see within their images; nobody has a pose. A part ``wrong`` of the sights is anywhere."""
    rng = np.random.default_rng(seed)
    sparse = SparseMap(1.0)
    sparse.focals.append(Focal(float(WIDTH), float(WIDTH)))
    ids = sparse.new_ids(len(scene.points))
    for view in range(len(scene.w_T_c)):
        offsets = scene.seen(view) + noise * rng.standard_normal((len(ids), 2))
        swapped = rng.random(len(ids)) < wrong
        offsets[swapped] = rng.uniform([-WIDTH / 2, -HEIGHT / 2], [WIDTH / 2, HEIGHT / 2], (swapped.sum(), 2))
        inside = np.all(np.abs(offsets) < [WIDTH / 2, HEIGHT / 2], axis=1)
        sparse.add(0, Tracks(ids[inside], offsets[inside]), None)
    return sparse


def starts() -> list[float]:
    return [factor * WIDTH for factor in FOCAL_STARTS]


@pytest.mark.parametrize("focal", [230.0, 330.0, 620.0])
def test_finds_the_focal_among_its_starts(focal: float) -> None:
    scene = arc(views=6, points=150, focal=focal, degrees=45.0)
    sparse = unposed(scene)
    found = bootstrap(sparse, range(6), 0, starts(), Options())
    assert found and [s.score for s in found] == sorted(s.score for s in found)
    assert sparse.focals[0].value == pytest.approx(focal, rel=0.03)
    assert sparse.focals[0].value == found[0].focal
    poses = np.stack([view.w_T_c for view in sparse.views])
    similarity = weighted_similarity(poses[:, :3, 3], scene.w_T_c[:, :3, 3])
    np.testing.assert_allclose(similarity.apply(poses[:, :3, 3]), scene.w_T_c[:, :3, 3], atol=0.05)
    for found_pose, true in zip(poses, scene.w_T_c, strict=True):
        relative = (invert(poses[0]) @ found_pose)[:3, :3].T @ (invert(scene.w_T_c[0]) @ true)[:3, :3]
        assert angle_deg(relative) < 1.0


def test_the_frame_and_the_unit_of_a_new_map() -> None:
    sparse = unposed(arc(points=150))
    assert bootstrap(sparse, range(6), 0, starts(), Options())
    np.testing.assert_allclose(sparse.views[0].w_T_c, BODY_T_OPTICAL, atol=1e-9)
    assert sparse.median_depth(0) == pytest.approx(1.0)


def test_wrong_matches_do_no_harm() -> None:
    sparse = unposed(arc(points=200, focal=330.0), wrong=0.1)
    assert bootstrap(sparse, range(6), 0, starts(), Options())
    assert sparse.focals[0].value == pytest.approx(330.0, rel=0.03)


def test_a_known_focal_is_one_start() -> None:
    sparse = unposed(arc(points=150, focal=330.0))
    sparse.focals[0] = Focal(330.0, 330.0, 0.0, fixed=True)
    assert bootstrap(sparse, range(6), 0, [330.0], Options())
    assert sparse.focals[0].value == 330.0


def unchanged(sparse: SparseMap, scene_views: int, focal: float = WIDTH) -> None:
    assert all(view.w_T_c is None for view in sparse.views) and len(sparse.views) == scene_views
    assert not sparse.positioned.any()
    assert all(len(view.pruned.ids) == 0 for view in sparse.views)
    assert sparse.focals[0].value == focal


def test_turning_on_the_spot_makes_no_map() -> None:
    sparse = unposed(turning())
    before = [view.seen.pixels.copy() for view in sparse.views]
    assert bootstrap(sparse, range(5), 0, starts(), Options()) == []
    unchanged(sparse, 5)
    for view, pixels in zip(sparse.views, before, strict=True):
        np.testing.assert_array_equal(view.seen.pixels, pixels)


@pytest.mark.parametrize("points", [0, 5, 12])
def test_too_few_landmarks_make_no_map(points: int) -> None:
    sparse = unposed(arc(points=points))
    assert bootstrap(sparse, range(6), 0, starts(), Options()) == []
    unchanged(sparse, 6)


def test_random_matches_make_no_map() -> None:
    sparse = unposed(arc(views=4, points=60), wrong=1.0)
    assert bootstrap(sparse, range(4), 0, starts(), Options()) == []
    unchanged(sparse, 4)


def test_one_view_makes_no_map() -> None:
    sparse = unposed(arc(views=1))
    assert bootstrap(sparse, [0], 0, starts(), Options()) == []


def test_a_good_map_is_not_replaced() -> None:
    """Trying other focals on a map that explains all leaves it, to the bit."""
    sparse = unposed(arc(points=150, focal=330.0))
    bootstrap(sparse, range(6), 0, starts(), Options())
    points, focal = sparse.points.copy(), sparse.focals[0].value
    assert bootstrap(sparse, range(6), 0, [0.4 * focal, 1.8 * focal], Options()) == []
    np.testing.assert_array_equal(sparse.points, points)
    assert sparse.focals[0].value == focal


def test_a_bad_map_is_replaced() -> None:
    sparse = unposed(arc(points=150, focal=330.0))
    sparse.focals[0].fixed = True
    assert bootstrap(sparse, range(6), 0, [800.0], Options()), "explains badly, but more than nothing"
    before = sparse.misfit()
    sparse.focals[0].fixed = False
    assert bootstrap(sparse, range(6), 0, starts(), Options())
    assert sparse.misfit() < 0.5 * before
    assert sparse.focals[0].value == pytest.approx(330.0, rel=0.03)


def test_the_first_pair_has_parallax() -> None:
    scene = arc(views=4, points=150, focal=330.0)
    scene.w_T_c[1] = scene.w_T_c[0]
    sparse = unposed(scene)
    first, second, first_T_second = PairFromLandmarks()(sparse, range(4), 330.0)
    assert {first, second} != {0, 1}
    true = invert(scene.w_T_c[first]) @ scene.w_T_c[second]
    assert angle_deg(first_T_second[:3, :3].T @ true[:3, :3]) < 1.5
    direction = true[:3, 3] / np.linalg.norm(true[:3, 3])
    assert direction @ first_T_second[:3, 3] > 0.99
    with pytest.raises(GeometryError, match="parallax"):
        PairFromLandmarks()(sparse, [0, 1], 330.0)


def test_the_first_pair_of_pointmaps() -> None:
    """The surer one of the pairs, posed up to its own unit."""
    scene, shape = arc(views=3, points=1), (30, 40)
    rng = np.random.default_rng(0)
    predictions = []
    for first, second, strength in ((0, 1, 0.2), (1, 2, 3.0)):
        second_points = unproject(rng.uniform(3, 5, shape), 33.0)
        first_T_second = invert(scene.w_T_c[first]) @ scene.w_T_c[second]
        predictions.append(
            PairPrediction(
                first,
                second,
                (0.7 * unproject(rng.uniform(3, 5, shape), 33.0)).astype(np.float32),
                np.full(shape, 1 + strength, np.float32),
                (0.7 * transform(first_T_second, second_points)).astype(np.float32),
                np.full(shape, 1 + strength, np.float32),
            )
        )
    first, second, first_T_second = pair_from_pointmaps(predictions, 33.0, 0)
    assert (first, second) == (1, 2)
    expected = invert(scene.w_T_c[1]) @ scene.w_T_c[2]
    expected[:3, 3] *= 0.7
    np.testing.assert_allclose(first_T_second, expected, atol=1e-3)
