"""Nothing connects to another machine unless asked: every socket and name that Python processes of a run ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sequences import walk

from dust3r_ros.scenes.export import write_folder

ROOT = Path(__file__).resolve().parents[1]
# Read by each Python process at its start, children that were not forked too.
HOOK = """\
import os, socket, sys
def heard(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        where = getattr(arguments[0], "family", None), arguments[-1]
        if where[0] in (socket.AF_INET, socket.AF_INET6):
            written(event, where[1])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        written(event, arguments)
def written(event, where):
    with open(os.environ["HEARD"], "a") as log:
        log.write(f"{event} {where}\\n")
sys.addaudithook(heard)
open(os.environ["HEARD"], "a").write("python\\n")
"""


def heard(tmp_path: Path, *arguments: str) -> list[str]:
    """What a Python process with these arguments asked of the network."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(HOOK)
    paths = os.pathsep.join([str(tmp_path / "hook"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": paths, "HEARD": str(tmp_path / "heard.txt")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "heard.txt").read_text().splitlines()
    assert lines.count("python"), "the hook was not read"
    return [line for line in lines if line != "python"]


def test_the_hook_hears(tmp_path: Path) -> None:
    code = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9))"
    assert heard(tmp_path, "-c", code) == ["socket.connect ('192.0.2.1', 9)"]


@pytest.mark.parametrize("backend", ["two_view", pytest.param("both", marks=pytest.mark.long), "mono"])
def test_a_mapping_run_asks_nothing_of_the_network(backend: str, tmp_path: Path) -> None:
    if backend == "both":
        pytest.importorskip("torch", reason="the network needs torch (extra network)")
    write_folder(walk("orbit", 8), tmp_path / "walk")
    settings = ["working_size=160", "tracking_size=240", f"backend={backend}"]
    if backend == "mono":
        from depth_graphs import moge

        moge(tmp_path / "mini", focal=0.83)
    settings += ["checkpoint=mini"] if backend != "two_view" else []
    words = [word for setting in settings for word in ("--set", setting)]
    assert heard(tmp_path, "-m", "dust3r_ros.cli.map", "walk", "--out", "out", "--focal", "199.2", *words) == []


def test_importing_everything_asks_nothing_of_the_network(tmp_path: Path) -> None:
    code = """
import importlib, pkgutil, dust3r_ros
for found in pkgutil.walk_packages(dust3r_ros.__path__, "dust3r_ros."):
    try:
        importlib.import_module(found.name)
    except ImportError:
        pass  # of what this machine lacks
"""
    assert heard(tmp_path, "-c", code) == []
