"""Processes end, whatever happens in them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from dust3r_ros.evaluation.suite.peers import finish


def test_success_says_nothing_and_failure_its_last_line() -> None:
    assert finish([sys.executable, "-c", "print('x' * 100000)"], 30) == ""
    said = finish([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"], 30)
    assert said == "why"
    assert finish([sys.executable, "-c", "import sys; sys.exit(3)"], 30) == "exit code 3"
    assert "signal 9" in finish([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], 30)


def test_the_end_of_the_time_ends_children_too(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid}; wait"
    assert finish(["sh", "-c", script], 1.0) == "stopped after 1 s"
    child = int(pid.read_text())
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.02)
    os.kill(child, 9)
    raise AssertionError("the child is still there")
