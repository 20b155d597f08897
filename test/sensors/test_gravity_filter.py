"""Up and turning from an IMU, where the truth is known."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.sensors.gravity_filter import GRAVITY, TurnMeter, UpFilter

STEP_NS = 10_000_000
REST = np.zeros(3)


def angle(a, b):
    return np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def fed(count, acceleration, rate, noise=0.3, seed=0):
    """A filter after ``count`` readings of functions of the time in seconds."""
    generator, up = np.random.default_rng(seed), UpFilter()
    for k in range(count):
        t = k * STEP_NS * 1e-9
        up.add(k * STEP_NS, acceleration(t) + noise * generator.normal(size=3), rate(t))
    return up


def test_at_rest_it_is_the_mean_acceleration():
    true = np.array([0.3, -0.5, 0.8]) / np.linalg.norm([0.3, -0.5, 0.8])
    up = fed(500, lambda t: GRAVITY * true, lambda t: REST)
    assert angle(up.at(499 * STEP_NS), true) < 0.7
    assert np.linalg.norm(up.at(0 + 30 * STEP_NS)) == pytest.approx(1.0)


def test_a_turning_and_shaken_imu_keeps_what_is_up():
    axis = np.array([1.0, 0.0, 0.0])

    def turn_of(t):
        return Rotation.from_rotvec(-1.0 * max(t - 1.0, 0.0) * axis)

    def acceleration(t):  # starts at rest, then a hard shake hides gravity
        return turn_of(t).apply([0, 0, GRAVITY]) + (8.0 * np.sin(20 * t) if t > 1 else 0.0) * np.array([0, 1.0, 0.3])

    up = fed(400, acceleration, lambda t: axis * (t > 1.0), noise=0.05)
    t = 3.99
    assert angle(up.at(399 * STEP_NS), turn_of(t).apply([0, 0, 1.0])) < 4.0
    assert angle(turn_of(t).apply([0, 0, 1.0]), [0, 0, 1.0]) > 90, "the gyroscope was needed"


def test_nothing_is_known_before_it_settled_far_away_or_from_nonsense():
    up = UpFilter()
    assert up.at(0) is None
    for k in range(10):
        up.add(k * STEP_NS, np.array([0, 0, GRAVITY]), REST)
    assert up.at(9 * STEP_NS) is None
    for k in range(100):
        up.add(k * STEP_NS, np.array([0, 0, np.nan]), REST)
        up.add(k * STEP_NS, np.array([0, 0, 3.0]), REST)
    assert up.at(99 * STEP_NS) is None
    for k in range(100, 200):
        up.add(k * STEP_NS, np.array([0, 0, GRAVITY]), REST)
    np.testing.assert_allclose(up.at(150 * STEP_NS), [0, 0, 1])
    assert up.at(199 * STEP_NS + 600_000_000) is None


def test_a_clock_that_jumps_back_starts_again():
    up = fed(300, lambda t: np.array([0, 0, GRAVITY]), lambda t: REST, noise=0)
    up.add(0, np.array([GRAVITY, 0, 0]), REST)
    assert up.at(299 * STEP_NS) is None
    for k in range(1, 30):
        up.add(k * STEP_NS, np.array([GRAVITY, 0, 0]), REST)
    np.testing.assert_allclose(up.at(29 * STEP_NS), [1, 0, 0], atol=1e-9)


def test_memory_is_bounded():
    up = fed(9000, lambda t: np.array([0, 0, GRAVITY]), lambda t: REST)
    assert len(up._stamps) == len(up._ups) <= 4000


def test_a_gyroscope_tells_how_far_it_turned():
    """At, between and a little after its messages; turning about axes that turn along."""
    meter, rate = TurnMeter(), np.array([0.3, -0.2, 1.0])
    assert meter.at(0) is None
    for stamp in range(0, 2_000_000_000, 5_000_000):
        meter.add(stamp, rate)
    for stamp in (0, 5_000_000, 1_234_567_890, 1_995_000_000, 2_050_000_000):
        expected = Rotation.from_rotvec(rate * stamp * 1e-9).as_matrix()
        np.testing.assert_allclose(meter.at(stamp).g_R_x, expected, atol=1e-9)
    assert meter.at(2_100_000_000) is None and meter.at(-1) is None
    i_R_c = Rotation.from_euler("xyz", [1.0, 2.0, 3.0]).as_matrix()
    np.testing.assert_allclose(meter.at(0).to(i_R_c).g_R_x, i_R_c)


def test_a_gyroscope_that_was_silent_or_jumped_back_begins_anew():
    meter, rate = TurnMeter(), np.array([0.0, 0.0, 1.0])
    spans = []
    for begin in (1_000_000_000, 3_000_000_000, 100_000_000):
        for stamp in range(begin, begin + 100_000_000, 10_000_000):
            meter.add(stamp, rate)
        meter.add(begin, rate)  # a little back: left out
        meter.add(begin + 95_000_000, np.array([np.nan, 0.0, 0.0]))
        spans.append(meter.at(begin + 50_000_000).span)
        assert meter.at(begin - 20_000_000) is None
    assert len(set(spans)) == 3
    for stamp in range(200_000_000, 60_000_000_000, 10_000_000):
        meter.add(stamp, rate)
    assert meter.at(59_900_000_000) is not None and meter.at(10_000_000_000) is None, "memory is bounded"


@pytest.mark.parametrize("value", [1e5, 1e200, -1.7e308, np.inf, np.nan])
def test_what_no_sensor_measures_changes_nothing(value):
    up, turns = fed(100, lambda t: np.array([0.0, 0.0, GRAVITY]), lambda t: REST), TurnMeter()
    turns.add(99 * STEP_NS, REST)
    before = up.at(99 * STEP_NS)
    odd = np.array([value, 0.0, 0.0])
    up.add(100 * STEP_NS, np.array([0.0, 0.0, GRAVITY]), odd)
    up.add(101 * STEP_NS, odd, REST)
    turns.add(100 * STEP_NS, odd)
    assert np.array_equal(up.at(101 * STEP_NS), before)
    assert np.isfinite(turns.at(101 * STEP_NS).g_R_x).all()


def test_as_much_up_as_down():
    up = UpFilter()
    for k in range(40):
        up.add(k * STEP_NS, np.array([0.0, 0.0, GRAVITY if k % 2 else -GRAVITY]), REST)
    found = up.at(39 * STEP_NS)
    assert found is None or np.isfinite(found).all()
