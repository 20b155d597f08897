"""Stage latencies, and the order of stamps."""

from __future__ import annotations

import time

import pytest

from dust3r_ros.timing import StampDoubts, Stamped, Stopwatch, no_timer

MS, DAY = 1_000_000, 86_400_000


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


def taken(doubts: StampDoubts, *images: tuple[int, float]) -> list[list[tuple[int, bool]]]:
    """What goes on of images (stamp in ms, arrival in s): their stamps in ms, and whether they are odd."""
    out = [doubts.image(Stamped("a", stamp * MS, "i", at)) for stamp, at in images]
    return [[(held.stamp_ns // MS, bool(held.odd)) for held in some] for some in out]


@pytest.mark.parametrize("wrong", [DAY, 5])
def test_one_wrong_stamp_is_odd_and_time_goes_on(wrong: int) -> None:
    out = taken(StampDoubts(), (1000, 0.0), (wrong, 0.03), (1066, 0.06), (1100, 0.1))
    assert out == [[(1000, False)], [], [(wrong, True), (1066, False)], [(1100, False)]]


def test_of_two_publishers_the_later_one_counts() -> None:
    images = [(1000 + 33 * k - late, 0.033 * k) for k in range(9) for late in (0, 300)]
    out = [item for some in taken(StampDoubts(), *images) for item in some]
    assert [stamp for stamp, odd in out if not odd] == [1000 + 33 * k for k in range(9)]
    assert sum(odd for _, odd in out) == 8, "the last one is still waited for"


@pytest.mark.parametrize("begin", [200, DAY])
def test_time_that_jumped_is_believed_after_three_images(begin: int) -> None:
    again = [(begin + 33 * k, 0.1 + 0.03 * k) for k in range(4)]
    out = taken(StampDoubts(), (1000, 0.0), *again)
    assert out[1:] == [[], [], [(begin + 33 * k, False) for k in range(3)], [(begin + 99, False)]]


def test_a_camera_that_was_unplugged_or_sends_no_stamps_is_not_doubted() -> None:
    out = taken(StampDoubts(), (1000, 0.0), (0, 0.03), (601_000, 600.0), (661_000, 610.0))
    assert out == [[(1000, False)], [(0, False)], [(601_000, False)], [(661_000, False)]]


def test_several_wrong_stamps_are_all_odd() -> None:
    out = taken(StampDoubts(), (1000, 0.0), (DAY, 0.03), (5, 0.06), (3 * DAY, 0.09), (1100, 0.12))
    assert out[1:] == [[], [(DAY, True)], [], [(5, True), (3 * DAY, True), (1100, False)]]


def test_an_image_every_20_s_may_be_played_at_any_speed() -> None:
    out = taken(StampDoubts(), *[(20_000 * k, 0.05 * k) for k in range(1, 9)])
    assert [item for some in out for item in some] == [(20_000 * k, False) for k in range(1, 9)]
    assert [len(some) for some in out] == [1, 0, 0, 3, 1, 1, 1, 1]
