"""Which adjustment of the whole map is next, and what becomes of one that was begun."""

import pytest

from dust3r_ros.mapping.adjustment import AdjustmentQueue, WholeMap


def test_an_adjustment_that_does_not_fit_any_more_is_begun_again():
    waiting = AdjustmentQueue(wanted={"calibration"})
    waiting.begin(lambda kind: WholeMap(kind, None, False, False), True, False)  # type: ignore[arg-type]
    assert waiting.running and waiting.ready and not waiting.wanted
    waiting.cancel()
    assert not waiting.running and waiting.wanted == {"calibration"} and waiting.count == 1
    assert waiting.take() is None


def test_a_loop_does_not_take_the_place_of_a_calibration():
    waiting, begun = AdjustmentQueue(wanted={"loop", "calibration"}), []
    for _ in range(2):
        waiting.begin(lambda kind: begun.append(kind) or WholeMap(kind, None, False, False), True, False)  # type: ignore[arg-type]
        waiting.take()
    assert begun == ["calibration", "loop"] and not waiting.wanted


def test_what_may_wait_for_rest_does():
    waiting = AdjustmentQueue(wanted={"loop"}, at_rest={"calibration"})
    assert waiting.count == 2
    begun = []
    while waiting.wanted or waiting.at_rest:
        begun.append(waiting.begin(lambda kind: WholeMap(kind, None, False, False), True, False))  # type: ignore[arg-type]
        waiting.take()
    assert begun == ["loop", "calibration"] and waiting.count == 0


@pytest.mark.parametrize(
    ("kind", "sure", "guessing", "urgent"),
    [
        ("start", True, False, True),  # with a focal that is given there are no poses before it, either
        ("calibration", False, True, True),
        ("calibration", False, False, False),
        ("calibration", True, False, False),
    ],
)
def test_what_poses_wait_for_is_not_put_behind_other_work(monkeypatch, kind, sure, guessing, urgent):
    nice = []
    monkeypatch.setattr("dust3r_ros.mapping.adjustment.Aside", lambda work, by: nice.append(by))
    AdjustmentQueue(beside=True, wanted={kind}).begin(lambda kind: None, sure, guessing)  # type: ignore[arg-type, return-value]
    assert (nice == [0]) == urgent
