"""An object in a real process: calls, errors, what it tells, what happens when either end is killed; its messages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe

import numpy as np
import pytest
from sums import Sums

from dust3r_ros.errors import BackendError, InputError
from dust3r_ros.mapping import process as module
from dust3r_ros.mapping.process import NICENESS, Channel, RemoteObject, shared_file


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # test/support is there
    objects, reported, ended = [], [], []

    def make(start=0.0):
        objects.append(RemoteObject(Sums, (start,), lambda *what: reported.append(what), ended.append))
        return objects[-1]

    yield make, reported, ended
    for each in objects:
        each.stop()


def until(check, seconds=30.0):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def test_calls_are_answered_in_order_and_errors_are_those_raised(made):
    make, reported, ended = made
    sums = make(1.0)
    answers = [sums.call("add", np.ones((300, 400))) for _ in range(5)]
    wrong = sums.call("fail", InputError("no good"))
    assert [answer.result(30) for answer in answers] == [1.0 + 120_000.0 * k for k in range(1, 6)]
    with pytest.raises(InputError, match=r"^no good$"):
        wrong.result(30)
    pid, niceness = sums.call("facts").result(30)
    assert pid == sums.pid != os.getpid() and niceness >= min(19, os.nice(0) + NICENESS)
    until(lambda: ("worked", 0) in reported)
    sums.stop()
    assert ended == []


def test_what_cannot_be_made_says_why(made):
    with pytest.raises(InputError, match="start is -1"):
        made[0](-1)


def test_a_process_that_is_killed_is_reported_and_nothing_waits_for_it(made):
    make, _, ended = made
    sums = make()
    os.kill(sums.pid, signal.SIGSTOP)
    answer = sums.call("add", np.ones(3))
    os.kill(sums.pid, signal.SIGKILL)
    with pytest.raises(BackendError, match="ended before"):
        answer.result(30)
    until(lambda: ended)
    assert ended == ["signal 9"]
    with pytest.raises(BackendError):
        sums.call("add", np.ones(3)).result(30)


def test_it_ends_with_the_process_that_made_it(made, tmp_path):
    """Even where that one is killed and can say nothing."""
    code = (
        "import time\nfrom sums import Sums\nfrom dust3r_ros.mapping.process import RemoteObject\n"
        "made = RemoteObject(Sums, (0.0,), print, print)\nprint(made.pid, flush=True)\ntime.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until(lambda: not os.path.exists(f"/proc/{pid}") or _is_zombie(pid))
    parent.stdout.close()


def _is_zombie(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] == "Z"


@pytest.fixture
def ends(monkeypatch):
    monkeypatch.setattr(module, "RING_BYTES", 2**16)
    ours, theirs = Pipe()
    files = shared_file(), shared_file()
    yield Channel(ours, *files), Channel(theirs, *files[::-1])
    for descriptor in files:
        os.close(descriptor)


def test_arrays_arrive_as_they_were_sent_round_and_round_the_ring(ends):
    generator = np.random.default_rng(0)
    for turn in range(200):
        sent = [generator.integers(0, 255, int(size), np.uint8) for size in generator.integers(1, 20000, 3)]
        ends[turn % 2].send({"turn": turn, "arrays": sent})
        got = ends[1 - turn % 2].receive()
        assert got["turn"] == turn
        for a, b in zip(sent, got["arrays"], strict=True):
            np.testing.assert_array_equal(a, b)
            assert b.flags.writeable


def test_messages_that_are_not_fetched_yet_are_not_written_over(ends):
    sent = [np.full(15_000, value, np.uint8) for value in range(8)]  # twice what there is room for
    for array in sent:
        ends[0].send(array)
    for array in sent:
        np.testing.assert_array_equal(ends[1].receive(), array)
    assert not ends[1].waits(0)


def test_an_array_that_is_larger_than_the_ring_goes_with_the_message(ends):
    sent = np.arange(20_000, dtype=np.float64).reshape(100, 200)
    ends[0].send((sent[:, :7], sent.T[:3], None, "text"))
    a, b, none, text = ends[1].receive()
    np.testing.assert_array_equal(a, sent[:, :7])
    np.testing.assert_array_equal(b, sent.T[:3])
    assert none is None and text == "text"


def test_the_end_of_the_other_end_is_reported(ends):
    ends[0].close()
    with pytest.raises((EOFError, OSError)):
        ends[1].receive()
