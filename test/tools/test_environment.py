"""The environment is made once, again when its inputs change, and from nothing after an end by force.

Everything is real but the commands themselves (venv, pip, CMake); test_colcon.py runs those.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import environment
import preflight
import pytest
import runner


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout; no ROS, any machine."""
    for name in ("msg", "srv", "tools/ros_wheels/tf2_msgs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["numpy"]\n\n[tool.pytest]\n')
    for name in ("package.xml", "CMakeLists.txt", "msg/A.msg"):
        (tmp_path / name).write_text("one")
    for name, value in {
        "REPOSITORY": tmp_path,
        "VENV": tmp_path / ".venv",
        "STATE": tmp_path / ".venv" / "state.json",
        "BUILD": tmp_path / "build",
        "LOG": tmp_path / "build" / "log.txt",
        "WHEELS": tmp_path / "tools" / "ros_wheels",
    }.items():
        monkeypatch.setattr(environment, name, value)
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    for check in ("check_machine", "check_python", "check_compilers", "check_disk"):
        monkeypatch.setattr(preflight, check, lambda *arguments: None)
    return tmp_path


class Commands:
    """Stands in for the commands; ``seen`` names them in order. Some may fail, or end by force (``killing``)."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.failing: set[str] = set()
        self.killing: set[str] = set()

    def __call__(self, command: list[str], environ: dict[str, str]) -> tuple[int, list[str]]:
        name = self._name(command)
        self.seen.append(name)
        if name == "venv":
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir()
            python.touch()
        if name in self.killing:
            raise KeyboardInterrupt
        return (1, ["ERROR: no such package"]) if name in self.failing else (0, [])

    def _name(self, command: list[str]) -> str:
        if command[0] == "cmake":
            return "cmake"
        return next(word for word in ("venv", "--dry-run", "install", "check") if word in command)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    made = Commands()
    monkeypatch.setattr(runner.Runner, "call", lambda self, command, environ: made(command, environ))
    return made


@pytest.fixture
def make(commands: Commands) -> Callable[[str], list[str]]:
    """Makes a level if it is not there; the commands that took, each once."""

    def run(level: str) -> list[str]:
        start = len(commands.seen)
        wanted = environment.Environment(level)
        if not wanted.is_ready():
            lock = os.open(environment.REPOSITORY, os.O_RDONLY)
            try:
                wanted.make(lock)
            finally:
                os.close(lock)
        return list(dict.fromkeys(commands.seen[start:]))

    return run


Make = Callable[[str], list[str]]


def test_the_second_run_does_nothing(checkout: Path, make: Make) -> None:
    assert make("demo") == ["venv", "install", "check", "cmake"]
    assert make("demo") == []


def test_test_adds_to_demo_and_covers_it(checkout: Path, make: Make) -> None:
    make("demo")
    assert make("test") == ["--dry-run", "install", "check"]
    assert make("demo") == [] and make("test") == []


def test_only_what_changed_is_made_again(checkout: Path, make: Make) -> None:
    make("demo")
    (checkout / "msg" / "A.msg").write_text("two")
    assert make("demo") == ["cmake"]
    project = checkout / "pyproject.toml"
    project.write_text(project.read_text().replace("numpy", "scipy"))
    assert make("demo") == ["install", "check"]
    project.write_text(project.read_text() + "timeout = 3\n")
    assert make("demo") == []


def test_a_failure_leaves_what_was_there(checkout: Path, make: Make, commands: Commands) -> None:
    make("demo")
    commands.failing = {"--dry-run", "install"}
    with pytest.raises(preflight.Problem, match="pip failed: ERROR: no such package; its output is in"):
        make("test")
    assert make("demo") == []


def test_messages_that_failed_are_generated_again(checkout: Path, make: Make, commands: Commands) -> None:
    commands.failing = {"cmake"}
    with pytest.raises(preflight.Problem, match="CMake failed"):
        make("demo")
    commands.failing = set()
    assert make("demo") == ["cmake"]


@pytest.mark.parametrize("stage", ["venv", "install", "cmake"])
def test_after_an_end_by_force_it_starts_from_nothing(
    stage: str, checkout: Path, make: Make, commands: Commands
) -> None:
    commands.killing = {stage}
    with pytest.raises(KeyboardInterrupt):
        make("demo")
    commands.killing = set()
    (checkout / ".venv" / "half").touch()
    assert make("demo") == ["venv", "install", "check", "cmake"]
    assert not (checkout / ".venv" / "half").exists()


def test_a_damaged_state_file_starts_from_nothing(checkout: Path, make: Make) -> None:
    make("demo")
    (checkout / ".venv" / "state.json").write_text('{"venv": ')
    assert make("demo")[0] == "venv"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["OSError: [Errno 28] No space left on device"], "the disk is full"),
        (["WARNING: Retrying after connection broken by 'NewConnectionError'", "ERROR: No match"], "cannot be reached"),
        (["ERROR: first", "ERROR: No matching distribution found for numpy==9"], "No matching distribution found"),
        (["-- fine", "CMake Error at CMakeLists.txt:3", "no such package"], "CMakeLists.txt:3 no such package"),
        ([], "no output"),
    ],
)
def test_the_reason_of_a_failure(lines: list[str], said: str) -> None:
    assert said in runner.reason(lines)
