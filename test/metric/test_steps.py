"""Steps of cameras, in the map and by odometry."""

from __future__ import annotations

import numpy as np
from driving import way
from scipy.spatial.transform import Rotation

from dust3r_ros.metric.steps import steps, sums


def test_both_kinds_of_steps_have_the_map_s_axes() -> None:
    truth = way(np.random.default_rng(0), 30)
    o_T_w = np.eye(4)
    o_T_w[:3, :3] = Rotation.from_rotvec([0.1, 0.2, 1.0]).as_matrix()
    o_T_w[:3, 3] = [5.0, 6.0, 7.0]
    found = steps(truth, o_T_w @ truth)
    np.testing.assert_allclose(found.driven, found.mapped, atol=1e-9)
    assert len(found) == 29 and found.turned_deg < 1e-3
    assert not found.chained[0] and found.chained[1:].all()


def test_a_wrong_mounting_is_taken_out_of_curves() -> None:
    truth = way(np.random.default_rng(1), 80, turning=0.05)
    wrong = truth.copy()
    wrong[:, :3, :3] = truth[:, :3, :3] @ Rotation.from_rotvec([0.0, np.radians(20.0), 0.0]).as_matrix()
    found = steps(truth, wrong)
    assert 15.0 < found.turned_deg < 21.0
    assert np.linalg.norm(found.driven - found.mapped, axis=1).max() < 0.1 * 0.1


def test_a_roll_about_the_way_that_no_motion_shows_is_left_alone() -> None:
    truth = way(np.random.default_rng(2), 40, turning=0.0)
    rolled = truth.copy()
    rolled[:, :3, :3] = truth[:, :3, :3] @ Rotation.from_rotvec([0.0, 0.0, np.radians(20.0)]).as_matrix()
    found = steps(truth, rolled)
    assert found.turned_deg < 1e-3
    np.testing.assert_allclose(found.driven, found.mapped, atol=1e-9)


def test_fewer_steps_go_the_same_way() -> None:
    truth = way(np.random.default_rng(3), 101)
    given = steps(truth, truth)
    keep = np.ones(100, bool)
    keep[40] = False
    chosen = given.only(keep)
    assert len(chosen) == 99 and not chosen.chained[40] and chosen.chained[41]
    fewer = chosen.thinned(20)
    assert 19 <= len(fewer) <= 21
    np.testing.assert_allclose(fewer.mapped.sum(axis=0), chosen.mapped.sum(axis=0), atol=1e-12)
    assert np.count_nonzero(~fewer.chained) == 2, "the gap stays one"
    assert given.thinned(100) is given


def test_sums_over_neighbours() -> None:
    np.testing.assert_array_equal(sums(np.arange(7.0), 3), [3.0, 18.0])
    np.testing.assert_array_equal(sums(np.arange(2.0), 3), [1.0])
