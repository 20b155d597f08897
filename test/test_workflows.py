"""What continuous integration and pre-commit name is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def _commands(workflow: dict[str, Any]) -> list[str]:
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_names_targets_and_files_that_exist(name: str) -> None:
    text = "\n".join(_commands(WORKFLOWS[name]))
    made = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert made and made <= TARGETS
    files = {word for word in re.findall(r"(?<![\w/])(?:\.ci|docker|tools)/[\w./-]+", text)}
    assert files and {file for file in files if not (ROOT / file).is_file()} == set()
    for modules in re.findall(r"python3? -m (dust3r_ros[\w.]+)", text):
        assert (ROOT / f"{modules.replace('.', '/')}.py").is_file()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_job_has_a_limit_and_may_change_nothing(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    for job in WORKFLOWS[name]["jobs"].values():
        assert job["timeout-minutes"] <= 120 and re.search(r"\d", job["runs-on"])


def test_tests_run_on_every_python_that_is_supported() -> None:
    (low, high) = re.search(  # type: ignore[union-attr]
        r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ).groups()
    tested = WORKFLOWS["test.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert tested == [f"3.{minor}" for minor in range(int(low), int(high))]


def test_containers_are_those_of_the_image() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    jobs = WORKFLOWS["ros.yml"]["jobs"].values()
    containers = {job["container"] for job in jobs if "container" in job}
    assert len(containers) == 1 and all(f"ARG ROS_BASE={name}\n" in dockerfile for name in containers)


def test_hooks_of_pre_commit_call_what_make_env_installs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    local = [hook for repo in hooks if repo["repo"] == "local" for hook in repo["hooks"]]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    programs = {shlex.split(hook["entry"])[0].removeprefix(".venv/bin/") for hook in local} - {"python"}
    assert {"ruff", "mypy"} <= programs
    assert all(f'"{name}>=' in project for name in programs)
    assert all("rev" in repo for repo in hooks if repo["repo"] != "local")
