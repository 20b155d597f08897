"""Every lack of a machine is one sentence that says what to do."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import preflight
import pytest


def _executable(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _python(folder: Path, name: str, version: list[int]) -> Path:
    """A command that tells what a Python of that version tells when probed."""
    facts = {"executable": str(folder / name), "version": version, "venv": False, "headers": False, "rclpy": False}
    return _executable(folder / name, f"echo '{json.dumps(facts)}'")


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the whole PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_this_interpreter_is_probed_right() -> None:
    python = preflight.probe(sys.executable)
    assert python.version == sys.version_info[:3]
    assert python.executable == os.path.realpath(sys.executable)
    assert python.supported and python.has_venv


def test_a_command_that_is_no_python_is_none(tmp_path: Path) -> None:
    assert preflight.probe(str(_executable(tmp_path / "python3", "echo no such version; exit 127"))) is None
    assert preflight.probe(str(tmp_path / "missing")) is None


def test_an_old_python_is_passed_over(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.sys, "executable", str(_python(bin_folder, "python3", [3, 9, 2])))
    with pytest.raises(preflight.Problem, match=r"no Python 3\.10 to 3\.13 found \(found: Python 3\.9\.2 .*install"):
        preflight.find_python("")
    _python(bin_folder, "python3.14", [3, 14, 0])
    _python(bin_folder, "python3.12", [3, 12, 4])
    assert preflight.find_python("").version == (3, 12, 4)


def test_ros_without_rclpy_says_what_to_source(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.sys, "executable", str(_python(bin_folder, "python3", [3, 12, 3])))
    with pytest.raises(preflight.Problem, match=r"ROS_DISTRO is 'jazzy'.*source /opt/ros/jazzy/setup\.bash.*unset ROS"):
        preflight.find_python("jazzy")


@pytest.mark.parametrize(
    ("environ", "ros"),
    [
        ({}, ""),
        ({"ROS_DISTRO": "jazzy", "ROS_VERSION": "2"}, "jazzy"),
        ({"ROS_DISTRO": "noetic", "ROS_VERSION": "1"}, ""),
    ],
)
def test_only_ros_2_counts_as_sourced(environ: dict[str, str], ros: str) -> None:
    assert preflight.sourced_ros(environ) == ros


def test_a_machine_without_wheels_needs_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.platform, "machine", lambda: "aarch64")
    with pytest.raises(preflight.Problem, match=r"no ROS wheels for Linux aarch64.*install ROS 2 Jazzy"):
        preflight.check_machine("")
    preflight.check_machine("jazzy")


def test_a_python_without_venv_or_headers(tmp_path: Path) -> None:
    facts = {"executable": "python3", "version": [3, 12, 4], "venv": False, "headers": True, "rclpy": False}
    with pytest.raises(preflight.Problem, match=r"without venv.*python3\.12-venv"):
        preflight.check_python(preflight.Python("python3", facts))
    with pytest.raises(preflight.Problem, match=r"without its C headers.*python3\.12-dev"):
        preflight.check_python(preflight.Python("python3", {**facts, "venv": True, "headers": False}))


def test_missing_build_tools_are_named_one_by_one(bin_folder: Path) -> None:
    with pytest.raises(preflight.Problem, match=r"no C compiler found \(cc, gcc, clang\)"):
        preflight.check_compilers()
    _executable(bin_folder / "cc", "")
    with pytest.raises(preflight.Problem, match=r"no C\+\+ compiler found \(c\+\+, g\+\+, clang\+\+\)"):
        preflight.check_compilers()
    _executable(bin_folder / "g++", "")
    with pytest.raises(preflight.Problem, match="no cmake found: install CMake"):
        preflight.check_compilers()
    _executable(bin_folder / "cmake", "echo cmake version 3.16.3")
    with pytest.raises(preflight.Problem, match=r"cmake is version 3\.16, 3\.19 or newer is needed"):
        preflight.check_compilers()
    _executable(bin_folder / "cmake", "echo cmake version 3.28.3")
    preflight.check_compilers()


def test_a_chosen_compiler_that_is_not_there(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _executable(bin_folder / "cc", "")
    monkeypatch.setenv("CC", "mycc -m64")
    with pytest.raises(preflight.Problem, match=r"no C compiler found \(\$CC is 'mycc'\)"):
        preflight.check_compilers()


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preflight.check_disk(str(tmp_path), "demo")
    usage = type("Usage", (), {"free": 0.3e9})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(preflight.Problem, match=r"0\.3 GB free.*make room and run again"):
        preflight.check_disk(str(tmp_path), "demo")


def test_make_without_python_says_so(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        ["make", "env", "PYTHON=no-such-python"], cwd=root, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert "no 'no-such-python' found: install Python 3.10 to 3.13" in done.stderr
