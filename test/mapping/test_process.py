"""An object in a real process: calls, errors, what it tells, what happens when either end is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sums import Sums

from dust3r_ros.errors import BackendError, InputError
from dust3r_ros.mapping.process import NICENESS, RemoteObject


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
    barred = sums.call("fail", PermissionError(13, "Permission denied"))  # of a file, not of the way to the process
    assert [answer.result(30) for answer in answers] == [1.0 + 120_000.0 * k for k in range(1, 6)]
    with pytest.raises(InputError, match=r"^no good$"):
        wrong.result(30)
    with pytest.raises(PermissionError):
        barred.result(30)
    pid, niceness = sums.call("facts").result(30)
    assert pid == sums.pid != os.getpid() and niceness >= min(19, os.nice(0) + NICENESS)
    until(lambda: ("worked", 0) in reported)
    sums.stop()
    assert ended == []


def test_its_shared_memory_goes_with_it(made):
    """At once, and not when Python comes round to it: it is up to 128 MiB for each."""

    def files():
        return [name for fd in Path("/proc/self/fd").iterdir() if "memfd:dust3r_ros" in (name := os.path.realpath(fd))]

    before = len(files())
    sums = made[0]()
    assert len(files()) == before + 2
    sums.stop()
    assert len(files()) == before
    with pytest.raises(BackendError):
        sums.call("add", np.ones((300, 400))).result(30)


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


def test_an_answer_that_comes_after_all_calls_failed_does_not_hide_the_end(made):
    """A call finds the process dead while the thread that reads its last answers is busy."""
    make, _, ended = made
    sums = make()
    os.kill(sums.pid, signal.SIGSTOP)
    answer = sums.call("add", np.ones(3))
    sums._fail_all()
    os.kill(sums.pid, signal.SIGCONT)
    assert sums.call("add", np.ones(3)).result(30) == 6.0
    os.kill(sums.pid, signal.SIGKILL)
    until(lambda: ended)
    assert ended == ["signal 9"]
    with pytest.raises(BackendError, match="ended before"):
        answer.result(0)


def test_an_answer_that_cannot_be_read_ends_it_and_nothing_waits_for_it(made, capfd):
    make, _, ended = made
    with pytest.raises(BackendError, match="ended before"):
        make().call("unreadable").result(30)
    until(lambda: ended)
    assert ended == ["signal 9"] and "only here" in capfd.readouterr().err


def test_it_ends_with_the_process_that_made_it(made, tmp_path):
    """Even where that one is killed and can say nothing."""
    code = (
        "import time\nfrom sums import Sums\nfrom dust3r_ros.mapping.process import RemoteObject\n"
        "made = RemoteObject(Sums, (0.0,), lambda *_: None, print)\nprint(made.pid, flush=True)\ntime.sleep(100)\n"
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
