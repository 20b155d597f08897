"""Work in a child of this process: what it returns, and what is left when it dies."""

import os
import time

import numpy as np

from dust3r_ros.alignment.aside import MOST_NICE, Aside


def test_the_result_comes_and_this_process_stays_as_it_is():
    here = [1]

    def work():
        here.append(2)
        return np.arange(1_000_000), os.getpid()

    aside = Aside(work)
    found, pid = aside.result()
    assert aside.done and pid != os.getpid()
    np.testing.assert_array_equal(found, np.arange(1_000_000))
    assert here == [1]


def test_it_is_not_waited_for_unless_asked():
    aside = Aside(lambda: time.sleep(0.3))
    assert not aside.done
    end = time.monotonic() + 30
    while not aside.done:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert aside.result() is None


def test_a_child_that_fails_or_is_ended_gives_nothing():
    def fail():
        raise RuntimeError("on purpose")

    assert Aside(fail).result() is None
    cancelled = Aside(lambda: time.sleep(100))
    cancelled.cancel()
    assert cancelled.done and cancelled.result() is None


def test_a_child_lets_others_go_first():
    assert Aside(lambda: os.nice(0), nice=5).result() == os.nice(0) + 5
    if hasattr(os, "SCHED_IDLE"):
        policies = [Aside(lambda: os.sched_getscheduler(0), nice).result() for nice in (5, MOST_NICE)]
        assert policies == [os.sched_getscheduler(0), os.SCHED_IDLE]
