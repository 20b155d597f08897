"""One writer at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dust3r_ros.errors import OutputError
from dust3r_ros.io.files import FileLock

HOLD = """
import sys
from pathlib import Path
from dust3r_ros.io.files import FileLock
lock = FileLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "map.db"
    lock = FileLock(path)
    with pytest.raises(OutputError, match=r"map\.db' is being written by another"):
        FileLock(path)
    lock.release()
    assert os.listdir(tmp_path) == []
    FileLock(path).release()


def test_it_lets_go_where_its_folder_is_no_more(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    lock = FileLock(tmp_path / "maps/map.db")
    (tmp_path / "maps").rename(tmp_path / "moved")
    (tmp_path / "maps").write_text("")
    lock.release()
    FileLock(tmp_path / "moved/map.db").release()


def test_links_to_one_file_are_one_lock(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for name in ("a.db", "b.db"):
        (tmp_path / name).symlink_to("disk/map.db")
    lock = FileLock(tmp_path / "a.db")
    for other in ("b.db", "disk/map.db"):
        with pytest.raises(OutputError, match=r"disk/map\.db' is being written by another"):
            FileLock(tmp_path / other)
    lock.release()


def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "map.db"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    with pytest.raises(OutputError, match="another process"):
        FileLock(path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    FileLock(path).release()
    assert os.listdir(tmp_path) == []


def test_a_fork_that_outlives_it_holds_nothing(tmp_path: Path) -> None:
    """As a process beside the mapper's that is to be killed, too, a moment later."""
    path = tmp_path / "map.db"
    hold = HOLD.replace("import sys", "import os, sys, time").replace("print(", "os.fork() or time.sleep(60)\nprint(")
    process = subprocess.Popen([sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("the fork is found in /proc")
    (child,) = map(int, children.read_text().split())
    try:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        os.kill(child, 0)  # it is there
        FileLock(path).release()
    finally:
        os.kill(child, signal.SIGKILL)


def test_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        FileLock(tmp_path / "nowhere" / "map.db")
