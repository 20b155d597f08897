"""colcon builds a workspace that holds a copy of this checkout, and what it installs runs from elsewhere.

Stands on a sourced ROS 2, or on the ROS wheels of the environment the tests run in. Generating and compiling the
messages takes nine tenths of the time, and making that environment has done just that: only the long form does it
again, the other one takes the messages that are there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from dust3r_ros.node.tools.domains import free_domain

ROOT = Path(__file__).resolve().parents[1]
BUILT = (".git", ".venv", "build", "install", "log", "demo_output", "results", "__pycache__", ".*_cache", "*.egg-info")
SHARED_FOLDERS = ("launch", "config", "foxglove", "rviz")


def _missing() -> str:
    """Why nothing can be built here, or an empty string."""
    for command in ("cmake", "c++", "bash"):
        if not shutil.which(command):
            return f"{command} is not installed"
    if not shutil.which("colcon", path=_path()):
        return "colcon is not installed (colcon-common-extensions)"
    prefixes = [sys.prefix, *os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
    if not any((Path(prefix) / "share" / "ament_cmake").is_dir() for prefix in prefixes):
        return "neither a sourced ROS 2 nor its wheels with ament_cmake"
    return ""


def _path() -> str:
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])


pytestmark = [pytest.mark.skipif(bool(_missing()), reason=_missing()), pytest.mark.timeout(900)]


def _underlay() -> dict[str, str]:
    """Environment variables of a shell in which nothing of this checkout is known yet."""
    environ = {**os.environ, "PATH": _path(), "MAKEFLAGS": f"-j{os.cpu_count() or 1}"}
    # The checkout's own path, and the note of the wheels that the library path is set, end here.
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH") if not _on_ros() else ():
        environ.pop(name, None)
    environ.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    if not _on_ros():
        environ |= {"AMENT_PREFIX_PATH": sys.prefix, "CMAKE_PREFIX_PATH": sys.prefix}
    environ["ROS_DOMAIN_ID"] = str(free_domain())
    environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return environ


def _on_ros() -> bool:
    return bool(os.environ.get("ROS_DISTRO"))


def _cmake_arguments() -> list[str]:
    arguments = ["-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={sys.executable}"]
    if not _on_ros():
        fix = ROOT / "tools" / "ros_wheels" / "existing_includes.cmake"
        arguments.append(f"-DCMAKE_PROJECT_dust3r_ros_INCLUDE={fix}")
    return arguments


# In place of find_package(rosidl_default_generators): all that remains is the place of Python packages and its hook.
NO_MESSAGES = """
find_package(rosidl_default_generators CONFIG REQUIRED)
macro(rosidl_generate_interfaces)
  _ament_cmake_python_register_environment_hook()
endmacro()
"""


@pytest.fixture(scope="module", params=["modules", pytest.param("messages too", marks=pytest.mark.long)])
def workspace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built colcon workspace."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(ROOT, folder / "src" / "dust3r_ros", ignore=shutil.ignore_patterns(*BUILT))
    arguments = _cmake_arguments()
    if request.param == "modules":
        (folder / "Findrosidl_default_generators.cmake").write_text(NO_MESSAGES)
        arguments.append(f"-DCMAKE_MODULE_PATH={folder}")
    done = subprocess.run(
        ["colcon", "build", "--event-handlers", "console_cohesion+", "--cmake-args", *arguments],
        cwd=folder,
        env=_underlay(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return folder


@pytest.fixture
def prefix(workspace: Path) -> Path:
    return workspace / "install" / "dust3r_ros"


@pytest.fixture
def sourced(workspace: Path) -> dict[str, str]:
    """The environment variables after sourcing the workspace."""
    done = subprocess.run(
        ["bash", "-c", ". install/local_setup.bash && env -0"],
        cwd=workspace,
        env=_underlay(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(item.split("=", 1) for item in done.stdout.split("\0") if "=" in item)


def _installed_package(prefix: Path) -> Path:
    (found,) = prefix.glob("**/dust3r_ros/mapping/mapper.py")
    return found.parents[1]


def _modules(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.py")}


def test_every_module_is_installed(workspace: Path, prefix: Path) -> None:
    installed = _modules(_installed_package(prefix))
    source = _modules(workspace / "src" / "dust3r_ros" / "dust3r_ros")
    assert {name: installed.get(name) for name in source} == source
    extra = {name for name in installed.keys() - source.keys() if not name.startswith(("msg/", "srv/"))}
    assert extra == set()


@pytest.mark.parametrize("workspace", [pytest.param("messages too", marks=pytest.mark.long)], indirect=True)
def test_every_message_and_service_is_installed(prefix: Path) -> None:
    modules = _modules(_installed_package(prefix))
    for kind in ("msg", "srv"):
        names = {path.stem for path in (ROOT / kind).iterdir()}
        assert names, f"no {kind} in the checkout"
        for name in names:
            assert (prefix / "share" / "dust3r_ros" / kind / f"{name}.{kind}").is_file()
            assert f" {name}  # noqa" in modules[f"{kind}/__init__.py"].decode()


def test_launch_config_and_rviz_are_installed(prefix: Path) -> None:
    share = prefix / "share" / "dust3r_ros"
    source = {path.relative_to(ROOT) for folder in SHARED_FOLDERS for path in (ROOT / folder).rglob("*.*")}
    names = {path.as_posix() for path in source if "__pycache__" not in path.parts}
    assert {"launch/dust3r.launch.py", "config/dust3r.yaml", "foxglove/dust3r.json", "rviz/dust3r.rviz"} <= names
    assert {name for name in names if not (share / name).is_file()} == set()


def test_the_offline_command_is_on_the_path(sourced: Mapping[str, str], prefix: Path, tmp_path: Path) -> None:
    for name in ("dust3r-map", "dust3r-eval", "dust3r-export"):
        command = shutil.which(name, path=sourced["PATH"])
        assert command is not None and Path(command).is_relative_to(prefix)
        done = subprocess.run(
            [command, "--help"], cwd=tmp_path, env=sourced, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0 and "usage" in done.stdout.lower(), done.stderr


@pytest.fixture
def node(sourced: Mapping[str, str], prefix: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The installed node, started from an empty folder; its log is node.log there."""
    executable = prefix / "lib" / "dust3r_ros" / "dust3r_node"
    with (tmp_path / "node.log").open("wb") as log:
        process = subprocess.Popen([executable], cwd=tmp_path, env=sourced, stdout=log, stderr=subprocess.STDOUT)
    yield process
    if process.poll() is None:
        process.kill()
        process.wait()


# Asks the node over DDS for its lifecycle state and prints it; says whose code it would run itself.
ASK = """
import rclpy, dust3r_ros.node.node
from dust3r_ros.msg import MappingStatus
from lifecycle_msgs.srv import GetState
rclpy.init()
asking = rclpy.create_node("asking")
client = asking.create_client(GetState, "/dust3r/get_state")
assert client.wait_for_service(timeout_sec=30.0), "no service /dust3r/get_state"
answer = client.call_async(GetState.Request())
rclpy.spin_until_future_complete(asking, answer, timeout_sec=10.0)
print(dust3r_ros.node.node.__file__)
print(answer.result().current_state.label)
"""


def test_the_installed_node_starts_from_another_folder(
    node: subprocess.Popen[bytes], sourced: Mapping[str, str], prefix: Path, tmp_path: Path
) -> None:
    deadline = time.monotonic() + 40
    file = label = ""
    while label not in ("active", "unconfigured") and time.monotonic() < deadline:
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            cwd=tmp_path,
            env=sourced,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{done.stderr}\n{(tmp_path / 'node.log').read_text()}"
        file, label = done.stdout.splitlines()
    assert Path(file).is_relative_to(prefix)
    assert label in ("active", "unconfigured")
    node.send_signal(signal.SIGINT)
    assert node.wait(timeout=30) == 0, (tmp_path / "node.log").read_text()
