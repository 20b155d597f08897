"""Images that come faster than they are tracked: some are left out, evenly, and the others are in time."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from sensor_msgs.msg import Image

from dust3r_ros.node import watch
from dust3r_ros.node.conversions import Arrival


def played(monkeypatch, cameras, cost, seconds=6.0, slow=()):
    """Latencies (s) by time of arrival of what was tracked, and when some were left out, with a clock of its own.

    ``cameras``: images a second of each. ``cost``: seconds for an image, ``slow``: for those by number.
    """
    now, tracked, left = [0.0], {}, []
    monkeypatch.setattr(watch, "perf_counter", lambda: now[0])
    coming = deque(sorted((k / rate, name) for name, rate in cameras.items() for k in range(int(rate * seconds))))
    waiting = deque(maxlen=8)
    costs = dict(slow)

    def track(arrival):
        now[0] += costs.get(len(tracked), cost)
        tracked[arrival.at, arrival.camera] = now[0] - arrival.at

    pace = watch.Pace(track, lambda: left.append(now[0]))
    while coming or waiting:
        now[0] = max(now[0], 0.0 if waiting else coming[0][0])
        while coming and coming[0][0] <= now[0]:
            waiting.append(coming.popleft())
        at, name = waiting.popleft()
        pace(Arrival(name, 1 + round(1e9 * at), name, Image(), at=at))
    return tracked, left


@pytest.mark.parametrize(("rate", "cost"), [(60, 0.02), (30, 0.04)])
def test_of_too_many_images_as_many_as_can_be_are_tracked_in_time(monkeypatch, rate, cost):
    tracked, _ = played(monkeypatch, {"camera": rate}, cost)
    late = [latency for (at, _), latency in tracked.items() if at > 3.0]
    assert max(late) < 3 * cost, "else it would grow by all that is too much"
    assert len(late) == pytest.approx(3.0 * 0.8 / cost, rel=0.1)
    times = sorted(at for at, _ in tracked if at > 3.0)
    assert max(b - a for a, b in pairwise(times)) < 2.5 * cost / 0.8, "evenly"


def test_cameras_share_the_time(monkeypatch):
    tracked, left = played(monkeypatch, {"left": 30, "right": 30}, 0.025)
    counts = [sum(name == camera and at > 3.0 for at, name in tracked) for camera in ("left", "right")]
    assert min(counts) > 0.8 * max(counts) and left
    assert max(latency for (at, _), latency in tracked.items() if at > 3.0) < 0.1


@pytest.mark.parametrize("slow", [{40: 0.4}, {20: 0.2, 60: 0.2, 100: 0.3}])
def test_after_a_delay_all_are_tracked(monkeypatch, slow):
    tracked, left = played(monkeypatch, {"camera": 30}, 0.015, slow=slow)
    assert not left and len(tracked) > 170, "but for what the queue does not hold"


def test_once_there_is_time_all_are_tracked_again(monkeypatch):
    slow = {k: 0.05 for k in range(30, 90)}
    tracked, left = played(monkeypatch, {"camera": 30}, 0.01, seconds=12.0, slow=slow)
    assert left and max(left) < 7.0
    assert sum(at > 7.99 for at, _ in tracked) == 120


def test_a_burst_is_left_to_the_queue(monkeypatch):
    tracked, left = played(monkeypatch, {"camera": 200}, 0.02, seconds=0.3)
    assert not left and len(tracked) < 60
