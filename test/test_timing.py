"""Stage latencies."""

from __future__ import annotations

import time

import pytest

from dust3r_ros.timing import Stopwatch, no_timer


def test_stages_are_counted_and_measured() -> None:
    watch = Stopwatch()
    assert watch.summary() == {}
    for pause in (0.0, 0.0, 0.02):
        with watch("track"):
            time.sleep(pause)
    with watch("fuse"):
        pass
    summary = watch.summary()
    assert set(summary) == {"track", "fuse"}
    track = summary["track"]
    assert track["count"] == 3 and track["max_ms"] >= 20.0
    assert 0 <= track["p50_ms"] <= track["p95_ms"] <= track["max_ms"]
    assert track["max_ms"] <= 1e3 * watch.total("track") + 1e-3 and watch.total("never") == 0


def test_a_failed_stage_counts_too_and_the_error_passes() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError, match="broken"), watch("align"):
        raise ValueError("broken")
    assert watch.summary()["align"]["count"] == 1


def test_memory_does_not_grow_for_ever() -> None:
    watch = Stopwatch(keep=10)
    for _ in range(200):
        with watch("track"):
            pass
    assert watch.summary()["track"]["count"] <= 10


def test_stages_within_stages() -> None:
    watch = Stopwatch()
    with watch("outer"), watch("inner"):
        time.sleep(0.005)
    summary = watch.summary()
    assert summary["outer"]["max_ms"] >= summary["inner"]["max_ms"] >= 5.0


def test_no_timer_lets_all_pass() -> None:
    with pytest.raises(KeyError), no_timer("track"):
        raise KeyError("through")
