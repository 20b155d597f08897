"""The unit of a map by odometry: right, honest about how right, and not to be had by slip, jumps and noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from driving import mapped, odometry, way
from scipy.signal import lfilter
from scipy.spatial.transform import Rotation

from dust3r_ros.world.odometry_scale import odometry_scale, steps, sums


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


SCALE = 2.3  # metres per unit


def error(found, scale: float = SCALE) -> float:
    assert found is not None
    return math.log(found.scale / scale)


@pytest.mark.parametrize(
    ("count", "step", "odometry_noise", "map_noise", "most"),
    [
        (120, 0.1, 0.02, 0.005, 0.01),
        (120, 0.1, 0.02, 0.03, 0.01),  # a third of a step: least squares would be 15 % off
        (200, 0.1, 0.2, 0.002, 0.03),  # the same the other way round
        (500, 0.02, 0.02, 0.02, 0.02),  # camera rate: the map's noise is as large as a step
        (600, 0.02, 0.02, 0.1, 0.15),  # five times a step
        (24, 0.1, 0.05, 0.005, 0.05),
    ],
)
def test_the_error_is_small_and_known(
    count: int, step: float, odometry_noise: float, map_noise: float, most: float
) -> None:
    errors, deviations = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = way(rng, count, step)
        found = odometry_scale(steps(mapped(truth, rng, SCALE, map_noise), odometry(truth, rng, odometry_noise)))
        errors.append(error(found))
        deviations.append(found.relative_std)
    off, std = np.array(errors), np.array(deviations)
    rms = float(np.sqrt(np.mean(off**2)))
    assert rms < most
    assert abs(off.mean()) < 0.6 * most, "no bias"
    assert np.mean(np.abs(off) < 3 * std) >= 0.95
    # Below 0.5 % nobody knows what an odometry's own metre is
    assert np.median(std) < max(5 * rms, 0.008), "and not far too careful"


def test_a_map_whose_unit_wavers_makes_less_sure() -> None:
    """Neighbouring steps are too long or too short together, by 8 %: there are few of them that tell anything new."""
    ratios = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = way(rng, 200)
        waver = lfilter([0.31], [1.0, -0.95], rng.normal(size=199 + 100))[100:] * 0.08
        poses = mapped(truth, rng, SCALE, 0.002)
        grown = np.diff(poses[:, :3, 3], axis=0) * np.exp(waver)[:, None]
        poses[:, :3, 3] = np.concatenate([[np.zeros(3)], np.cumsum(grown, axis=0)])
        found = odometry_scale(steps(poses, odometry(truth, rng)))
        ratios.append(error(found) / found.relative_std)
    assert np.mean(np.abs(ratios) < 3) >= 0.95
    assert np.sqrt(np.mean(np.square(ratios))) < 1.5


def test_exact_data_give_the_exact_scale() -> None:
    rng = np.random.default_rng(0)
    truth = way(rng)
    found = odometry_scale(steps(mapped(truth, rng, SCALE, 0.0), truth))
    assert found.scale == pytest.approx(SCALE, rel=1e-3) and found.doubt == ""
    assert 0.004 < found.relative_std < 0.01


def test_where_the_map_lies_does_not_matter() -> None:
    truth = way(np.random.default_rng(1))
    driven = odometry(truth, np.random.default_rng(2))
    turn = Rotation.from_rotvec([0.5, -1.0, 2.0]).as_matrix()
    plain, turned = (
        odometry_scale(steps(mapped(truth, np.random.default_rng(3), SCALE, turn=t), driven)) for t in (None, turn)
    )
    assert turned.scale == pytest.approx(plain.scale, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_slip_and_a_reset_of_the_odometry_are_left_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = way(rng, 200)
    start = int(rng.integers(10, 150))
    poses = mapped(truth, rng, SCALE)
    slipped = odometry_scale(steps(poses, odometry(truth, rng, slip=slice(start, start + 25))))
    assert abs(error(slipped)) < 0.01
    reset = odometry_scale(steps(poses, odometry(truth, rng, jump=100)))
    assert abs(error(reset)) < 0.01 and slipped.doubt == reset.doubt == ""


def test_a_frame_that_the_map_misplaced_does_little() -> None:
    rng = np.random.default_rng(5)
    truth = way(rng)
    poses = mapped(truth, rng, SCALE)
    poses[60, :3, 3] += 5.0
    assert abs(error(odometry_scale(steps(poses, odometry(truth, rng))))) < 0.01


def test_a_straight_way_is_enough() -> None:
    rng = np.random.default_rng(6)
    truth = way(rng, turning=0.0)
    assert abs(error(odometry_scale(steps(mapped(truth, rng, SCALE), odometry(truth, rng))))) < 0.01


def test_turning_on_the_spot_says_nothing() -> None:
    truth = np.tile(np.eye(4), (100, 1, 1))
    truth[:, :3, :3] = Rotation.from_rotvec(np.outer(np.arange(100) * 0.05, [0, 1, 0])).as_matrix()
    rng = np.random.default_rng(7)
    found = odometry_scale(steps(mapped(truth, rng, SCALE, 0.01), truth))
    assert found is None or found.relative_std > 0.2
    noisy = truth.copy()
    noisy[:, :3, 3] += 0.01 * rng.normal(size=(100, 3))
    found = odometry_scale(steps(mapped(truth, rng, SCALE, 0.01), noisy))
    assert found is None or found.relative_std > 0.2


def test_a_robot_that_stands_now_and_then() -> None:
    rng = np.random.default_rng(8)
    truth = np.repeat(way(rng, 60), np.where(np.arange(60) % 10 == 0, 20, 1), axis=0)
    assert abs(error(odometry_scale(steps(mapped(truth, rng, SCALE), odometry(truth, rng))))) < 0.01


def test_odometry_that_reports_nothing_is_no_evidence() -> None:
    rng = np.random.default_rng(9)
    truth = way(rng)
    still = np.tile(truth[0], (len(truth), 1, 1))
    assert odometry_scale(steps(mapped(truth, rng, SCALE), still)) is None
    assert odometry_scale(steps(mapped(truth[:5], rng, SCALE), truth[:5])) is None
    assert odometry_scale(steps(truth[:0], truth[:0])) is None


def test_odometry_of_somebody_else_is_no_evidence() -> None:
    """Where directions have nothing to do with each other, lengths say nothing."""
    rng = np.random.default_rng(10)
    truth = way(rng, 200)
    other = truth.copy()
    other[:, :3, 3] = np.cumsum(0.1 * rng.normal(size=(200, 3)), axis=0)
    found = odometry_scale(steps(mapped(truth, rng, SCALE), other))
    assert found is None or (found.relative_std > 0.5 and "directions" in found.doubt)


def test_a_wrong_mounting_is_found_and_said() -> None:
    rng = np.random.default_rng(11)
    truth = way(rng, 200)
    wrong = odometry(truth, rng)
    wrong[:, :3, :3] = wrong[:, :3, :3] @ Rotation.from_rotvec([0.0, np.radians(25.0), 0.0]).as_matrix()
    found = odometry_scale(steps(mapped(truth, rng, SCALE), wrong))
    assert abs(error(found)) < 0.02
    assert "rotated by 2" in found.doubt and "base to the camera" in found.doubt


def test_the_same_data_give_the_same_bits() -> None:
    rng = np.random.default_rng(12)
    truth = way(rng)
    given = steps(mapped(truth, rng, SCALE), odometry(truth, rng))
    assert odometry_scale(given) == odometry_scale(given)
