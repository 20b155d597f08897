"""Work in a child of this process: what it returns, and what is left when it dies."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from threads import unlimited

from dust3r_ros.geometry.processes import MOST_NICE, THREADS, Aside, each, memory_held, thread_pool, usable_cores

CODE = """
import numpy as np, scipy.linalg
from dust3r_ros.geometry.processes import _functions, use_one_blas_thread
print(max(count() for count in _functions("get_num_threads")))
use_one_blas_thread()
print(max(count() for count in _functions("get_num_threads")))
"""


def counts(environment):
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_blas_has_the_threads_of_the_environment_and_then_one():
    assert counts({**unlimited(), "OMP_NUM_THREADS": "2"}) == [2, 1]
    assert counts({**unlimited(), "OMP_NUM_THREADS": "1"}) == [1, 1]


@pytest.mark.parametrize("count", [0, 1, 5, 8 * THREADS + 1, 500])
def test_results_come_in_order(count: int) -> None:
    assert each(lambda item: item**2, list(range(count))) == [item**2 for item in range(count)]


@pytest.mark.parametrize(
    ("group", "granted", "cores"),
    [
        ("0::/\n", "100000 100000", 1),
        ("1:cpu:/\n0::/kubepods/pod7\n", "50000 100000", 1),
        ("0::/kubepods/pod7\n", "6400000 100000", None),
        ("0::/\n", "max 100000", None),
        ("1:cpu:/\n", None, None),
        (None, None, None),
    ],
)
def test_a_container_has_the_cores_that_it_is_granted(tmp_path: Path, group, granted, cores) -> None:
    if group is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(group)
    if granted is not None:
        place = tmp_path / "sys/fs/cgroup" / group.partition("0::/")[2].strip()
        place.mkdir(parents=True)
        (place / "cpu.max").write_text(granted)
    assert usable_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_memory_is_counted_now_and_at_most() -> None:
    size, before = 64 << 20, memory_held()
    with mmap.mmap(-1, size) as large:  # pages of its own, whatever the process has freed
        large.write(b"1" * size)
        held, most = memory_held(), memory_held("VmHWM")
    assert 0.9 * size < held - before < 1.5 * size and held <= most < 8 * held
    assert memory_held("nothing") >= most - size, "the most, where the system does not say"


def test_many_items_are_few_tasks_and_the_pool_stays() -> None:
    named = set(each(lambda _: threading.current_thread().name, list(range(200))))
    assert 1 <= len(named) <= THREADS and all(name.startswith("pool") for name in named)
    assert thread_pool() is thread_pool()


def test_the_first_error_in_order_is_raised() -> None:
    def refuse(item: int) -> int:
        if item % 30 == 17:
            raise ValueError(f"item {item}")
        return item

    for items in (list(range(20)), list(range(400))):
        with pytest.raises(ValueError, match=r"^item 17$"):
            each(refuse, items)


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


def test_a_child_that_fails_or_is_ended_gives_nothing_and_says_why(caplog):
    def fail():
        raise RuntimeError("on purpose")

    assert Aside(fail).result() is None
    assert "RuntimeError: on purpose" in caplog.text and "in fail" in caplog.text
    cancelled = Aside(lambda: time.sleep(100))
    cancelled.cancel()
    assert cancelled.done and cancelled.result() is None
    assert "ended" in caplog.text


def test_what_is_garbage_in_another_child_runs_on():
    """A map that was replaced may be collected there while its own child still runs here."""
    waited = Aside(lambda: time.sleep(100))
    assert Aside(lambda: waited.cancel() or "went on").result() == "went on"
    assert not waited.done
    waited.cancel()


def test_a_child_lets_others_go_first():
    assert Aside(lambda: os.nice(0), nice=5).result() == os.nice(0) + 5
    if hasattr(os, "SCHED_IDLE"):
        policies = [Aside(lambda: os.sched_getscheduler(0), nice).result() for nice in (5, MOST_NICE)]
        assert policies == [os.sched_getscheduler(0), os.SCHED_IDLE]
