"""What is known of a topic from when its messages came."""

import pytest

from dust3r_ros.node.topic_health import SILENT_S, TopicMonitor


def fed(times):
    monitor = TopicMonitor("/camera/image_raw", "image", "camera")
    return monitor, [monitor.heard(time) for time in times]


def test_nothing_came_yet():
    health = TopicMonitor("/t", "image", "c").health(100.0)
    assert (health.topic, health.kind, health.camera) == ("/t", "image", "c")
    assert (health.count, health.rate_hz, health.silent_s, health.silent) == (0, 0.0, None, True)


def test_the_rate_is_that_of_the_newest():
    monitor, _ = fed([k * 1.0 for k in range(50)] + [49.0 + 0.1 * k for k in range(1, 31)])
    health = monitor.health(52.05)
    assert health.rate_hz == pytest.approx(10.0)
    assert (health.count, health.silent) == (80, False)
    assert health.silent_s == pytest.approx(0.05)


def test_unplugged_and_back():
    monitor, silences = fed([0.0, 0.1])
    assert silences == [None, None]
    health = monitor.health(0.1 + SILENT_S + 1)
    assert health.silent and health.rate_hz == 0.0
    assert monitor.heard(10.0) == pytest.approx(9.9)
    assert monitor.heard(10.1) is None
    health = monitor.health(10.1)
    assert (health.returns, health.count) == (1, 4)
    assert health.rate_hz == pytest.approx(10.0), "the silence is not counted in"


def test_messages_at_the_same_moment_have_no_rate():
    monitor, _ = fed([1.0, 1.0])
    assert monitor.health(1.0).rate_hz == 0.0


def test_what_was_refused():
    monitor, _ = fed([0.0])
    monitor.refuse("empty")
    monitor.refuse("too large")
    assert (monitor.health(0.0).bad, monitor.health(0.0).reason) == (2, "too large")
