"""The files of the container images fit the package, as far as that can be told without building one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from launch_files import taken

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = re.sub(r"\\\n\s*", " ", (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8"))
INSTRUCTIONS = re.findall(r"^([A-Z]+) (.+)$", DOCKERFILE, re.MULTILINE)
COMPOSE = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8"))["services"]
    for path in sorted((ROOT / "docker").glob("compose*.yaml"))
}


def _stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Name -> what it stands on and its instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    steps: list[tuple[str, str]] = []
    for word, rest in INSTRUCTIONS:
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            steps = []
            found[name] = base, steps
        else:
            steps.append((word, rest))
    return found


STAGES = _stages()


def test_bases_are_pinned_to_a_release() -> None:
    images = re.findall(r"^ARG ROS_\w+=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(images) == 2 and all(re.fullmatch(r"ros:jazzy-ros-(base|core)-noble", image) for image in images)
    for base, _ in STAGES.values():
        assert base in STAGES or base in ("${ROS_BASE}", "${ROS_CORE}")


def test_no_image_runs_as_root_or_keeps_lists_of_packages() -> None:
    def user(stage: str) -> str:
        base, steps = STAGES[stage]
        own = [rest for word, rest in steps if word == "USER"]
        return own[-1] if own else user(base) if base in STAGES else "0"

    assert list(STAGES)[-1] == "cpu"
    for stage in ("node", "cuda", "tools", "cpu"):
        assert int(user(stage).partition(":")[0]) > 0, stage
    updates = [rest for word, rest in INSTRUCTIONS if word == "RUN" and "apt-get update" in rest]
    assert len(updates) == 3 and all(rest.endswith("rm -rf /var/lib/apt/lists/*") for rest in updates)
    assert all("--no-install-recommends" in rest for rest in updates[1:])


def test_torch_is_the_one_that_is_tested() -> None:
    (torch,) = re.findall(r'^ARG TORCH="(\S+)"$', DOCKERFILE, re.MULTILINE)
    assert f'"{torch}")' in (ROOT / "tools" / "environment.py").read_text(encoding="utf-8")


def test_all_that_is_built_and_installed_is_sent_to_the_build() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines and all((ROOT / path).exists() for path in kept)
    cmake = re.sub("#.*", "", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))
    named = {word for word in re.findall(r"[\w./-]+", cmake) if (ROOT / word).exists() and word[0] not in "./"} - {
        "test"
    }
    named |= {rest.split()[0] for word, rest in INSTRUCTIONS if word == "COPY" and "--from" not in rest} - {"."}
    assert {"config", "msg/CameraEstimate.msg", "scripts/dust3r_node", "docker/entrypoint.sh"} <= named
    for path in named:
        assert any(path == folder or path.startswith(f"{folder}/") for folder in kept), path


@pytest.mark.parametrize("name", COMPOSE)
def test_services_are_built_and_started_as_they_can_be(name: str) -> None:
    built = {service["image"] for service in COMPOSE[name].values() if service.get("build", {}).get("target") in STAGES}
    for service in COMPOSE[name].values():
        assert service["image"] in built
        assert not {"privileged"} & set(service)
        words = service["command"].split()
        if words[:3] == ["ros2", "launch", "dust3r_ros"]:
            arguments = dict(word.split(":=") for word in words[4:])
            assert set(arguments) <= taken(words[3])
            assert (ROOT / "config" / f"{arguments['config']}.yaml").is_file()
    camera, mapper = COMPOSE["compose.yaml"]["camera"], COMPOSE["compose.yaml"]["mapper"]
    config = (ROOT / "config" / "usb_camera.yaml").read_text(encoding="utf-8")
    topic = yaml.safe_load(config)["/**"]["ros__parameters"]["image_topic"]
    assert (
        "config:=usb_camera" in mapper["command"] and f"__ns:={topic.removesuffix('/image_raw')}" in camera["command"]
    )


@pytest.mark.parametrize("code", [0, 3])
def test_the_entrypoint_runs_a_command_with_the_package_sourced(code: int, tmp_path: Path) -> None:
    (tmp_path / "setup.bash").write_text("export SOURCED=yes\n", encoding="utf-8")
    done = subprocess.run(
        [ROOT / "docker" / "entrypoint.sh", "bash", "-c", f'echo "$SOURCED $0 $1"; exit {code}', "one word", "two"],
        env={"DUST3R_ROS_PREFIX": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (code, "yes one word two\n"), done.stderr
