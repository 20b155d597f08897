"""What the manifests say agrees with what is there."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

import dust3r_ros
from dust3r_ros.node.interface import INPUTS, OUTPUTS, SERVICES

ROOT = Path(__file__).resolve().parents[1]
# ROS and Python packages that go by another name in package.xml.
ROSDEP = {
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "hypothesis": "python3-hypothesis",
    "pytest": "python3-pytest",
    "scipy": "python3-scipy",
    "tqdm": "python3-tqdm",
    "yaml": "python3-yaml",
}
# Named in package.xml although nothing imports or launches them, and why.
NEEDED = {
    "ament_cmake_pytest": "CMakeLists.txt",
    "python3-pytest-timeout": "timeout in pyproject.toml",
    "ros2launch": "ros2 launch",
    "rosbag2": "ros2 bag in launch files",
    "rosbag2_storage_mcap": "bags of ros2 bag record -s mcap",
    "rosidl_default_runtime": "generated messages",
}
# Parts of ROS that are taken where they are there, in place of ours for machines without ROS.
PREFERRED = {"cv_bridge", "sensor_msgs_py", "tf2_ros_py", "tf_transformations"}
# Viewers that launch files start when asked for: package.xml must not put them on a robot without a screen.
VIEWERS = {"foxglove_bridge", "rviz2"}
# Names on the index of those that differ from the name imported.
DISTRIBUTION = {
    "PIL": "pillow",
    "backports": "backports.zstd",
    "cv2": "opencv-python-headless",
    "xdist": "pytest-xdist",
    "yaml": "pyyaml",
}
# Not needed by the node (test_bare.py), and by pip only, or of the extras.
OPTIONAL = {
    "backports", "evo", "fsspec", "h5py", "matplotlib", "onnx", "onnxruntime", "onnxscript", "plyfile", "ray",
    "rosbags", "safetensors", "timm", "torch", "trimesh", "viser",
}  # fmt: skip


@lru_cache
def _imports(folder: str) -> frozenset[str]:
    """Top-level names imported below ``folder`` that belong neither to Python nor to this package."""
    names: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return frozenset(names - set(sys.stdlib_module_names) - {"dust3r_ros"})


@pytest.fixture(scope="module")
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


@pytest.fixture(scope="module")
def project() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def _tags(manifest: ElementTree.Element, *names: str) -> list[str]:
    return [element.text or "" for element in manifest if element.tag in names]


def test_package_xml_is_of_format_3_and_complete(manifest: ElementTree.Element) -> None:
    assert manifest.tag == "package" and manifest.get("format") == "3"
    for name in ("name", "version", "description", "maintainer", "license"):
        assert all(text.strip() for text in _tags(manifest, name)) and _tags(manifest, name)
    assert _tags(manifest, "license") == ["Apache-2.0"]
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    urls = {element.get("type"): element.text for element in manifest.iter("url")}
    assert set(urls) == {"website", "repository", "bugtracker"} and len(set(_tags(manifest, "author"))) == 1
    assert all(address.startswith("https://github.com/dust3r-ros/dust3r_ros") for address in urls.values())
    assert "rosidl_interface_packages" in _tags(manifest, "member_of_group")
    assert manifest.findtext("export/build_type") == "ament_cmake"


def test_no_dependency_is_named_twice(manifest: ElementTree.Element) -> None:
    names = _tags(manifest, "depend", "exec_depend")
    assert len(names) == len(set(names))


def test_every_dependency_has_a_debian_package(manifest: ElementTree.Element) -> None:
    """A key that means pip keeps a package from being built as a binary."""
    names = _tags(manifest, "depend", "exec_depend", "test_depend")
    assert [name for name in names if name.endswith("-pip")] == []


def test_catkin_pkg_accepts_package_xml() -> None:
    package_format = pytest.importorskip("catkin_pkg.package", reason="needs catkin_pkg")
    package = package_format.parse_package(str(ROOT / "package.xml"))
    package.validate()
    assert package.name == "dust3r_ros"


@pytest.mark.parametrize("folder", ["dust3r_ros", "launch"])
def test_what_is_imported_is_in_package_xml(folder: str, manifest: ElementTree.Element) -> None:
    declared = set(_tags(manifest, "depend", "exec_depend"))
    imported = _imports(folder)
    assert imported, f"no imports found below {folder}"
    assert {ROSDEP.get(name, name) for name in imported - OPTIONAL} - declared == set()


def _started() -> set[str]:
    """Packages whose executables or files launch files name."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "launch").glob("*.py"))
    return set(
        re.findall(r"(?:package=|FindPackage(?:Share|Prefix)\(|get_package_share_directory\()[\"'](\w+)[\"']", text)
    )


def test_launch_files_start_only_packages_of_package_xml(manifest: ElementTree.Element) -> None:
    declared = {*_tags(manifest, "depend", "exec_depend"), *_tags(manifest, "name")}
    assert "dust3r_ros" in _started() and _started() - declared == VIEWERS


def test_messages_and_services_are_of_packages_of_package_xml(manifest: ElementTree.Element) -> None:
    packages = {row.type.partition("/")[0] for rows in (INPUTS, OUTPUTS, SERVICES) for row in rows.values()}
    assert packages - {"dust3r_ros"} <= set(_tags(manifest, "depend", "exec_depend"))


@pytest.mark.parametrize("kinds", [("depend", "exec_depend"), ("test_depend",)], ids=["run", "test"])
def test_every_package_in_package_xml_is_used(kinds: tuple[str, ...], manifest: ElementTree.Element) -> None:
    names = {name for folder in ("dust3r_ros", "launch", "test") for name in _imports(folder)}
    if "test_depend" not in kinds:
        names -= _imports("test") - _imports("dust3r_ros") - _imports("launch")
        names |= _started() | {
            row.type.partition("/")[0] for rows in (INPUTS, OUTPUTS, SERVICES) for row in rows.values()
        }
    used = {ROSDEP.get(name, name) for name in names}
    declared = set(_tags(manifest, *kinds))
    assert declared - used - set(NEEDED) - PREFERRED == set()
    assert set(NEEDED) & used == set()


def test_reasons_are_given_only_for_packages_of_package_xml(manifest: ElementTree.Element) -> None:
    assert set(NEEDED) <= set(_tags(manifest, "depend", "exec_depend", "test_depend"))


def test_interfaces_depend_on_what_package_xml_and_cmake_name(manifest: ElementTree.Element) -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    files = [path.relative_to(ROOT).as_posix() for kind in ("msg", "srv") for path in (ROOT / kind).iterdir()]
    assert sorted(re.findall(r'"((?:msg|srv)/\w+\.(?:msg|srv))"', cmake)) == sorted(files)
    used = set()
    for file in files:
        used |= set(re.findall(r"^(\w+)/\w+", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE))
    assert used <= set(_tags(manifest, "depend"))
    assert used == set(re.search(r"DEPENDENCIES ([\w ]+)", cmake)[1].split())  # type: ignore[index]


def test_what_is_imported_is_in_pyproject(project: str, manifest: ElementTree.Element) -> None:
    declared = {name.lower() for name in re.findall(r'"([A-Za-z0-9_.-]+)(?:\[\w+\])?(?:[<>=]|")', project)}
    from_ros = set(_tags(manifest, "depend", "exec_depend", "test_depend"))
    from_here = {path.stem for folder in ("test", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py")}
    outside = (_imports("dust3r_ros") | _imports("test")) - from_ros - from_here
    assert "numpy" in outside
    assert {DISTRIBUTION.get(name, name) for name in outside} - declared == set()


def test_one_version_everywhere(manifest: ElementTree.Element, project: str) -> None:
    version = dust3r_ros.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert _tags(manifest, "version") == [version]
    assert 'dynamic = ["version"]' in project and "dust3r_ros.__version__" in project
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None and newest[1] == version


def _commands() -> Iterator[tuple[str, str, str]]:
    """Name, module and function of every command: of pip (pyproject) and of CMake (scripts)."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.split("[project.scripts]")[1].split("\n[")[0]
    yield from re.findall(r'^([\w-]+) = "([\w.]+):(\w+)"', section, re.MULTILINE)
    for path in sorted((ROOT / "scripts").iterdir()):
        if path.is_file():
            found = re.search(r"^from (dust3r_ros[\w.]*) import (\w+)$", path.read_text(), re.MULTILINE)
            assert found is not None, f"{path} imports no function of the package"
            yield path.name, found[1], found[2]


COMMANDS = sorted(set(_commands()))


def test_pip_and_cmake_install_the_same_commands() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    scripts = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file()}
    assert {name for name, _, _ in COMMANDS} == scripts == set(re.findall(r"scripts/([\w-]+)", cmake))


@pytest.mark.parametrize(("name", "module", "function"), COMMANDS)
def test_commands_lead_to_a_function(name: str, module: str, function: str) -> None:
    if ".node." in module and importlib.util.find_spec("rclpy") is None:
        pytest.skip("needs ROS 2 (rclpy)")
    code = f"import {module}; assert callable({module}.{function})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"{name}: {done.stderr}"


def test_the_package_exports_the_mapper_and_is_light_without_it() -> None:
    code = (
        "import sys, dust3r_ros; assert not {'numpy', 'cv2', 'scipy', 'torch', 'rclpy'} & sys.modules.keys()\n"
        "from dust3r_ros import Mapper, MapperConfig; assert Mapper(MapperConfig()).counts.keyframes == 0\n"
        "assert not {'torch', 'rclpy'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="'dust3r_ros' has no attribute 'Mappers'"):
        dust3r_ros.Mappers  # noqa: B018


def test_scripts_can_be_executed() -> None:
    for path in (ROOT / "scripts").iterdir():
        if path.is_file():
            assert path.stat().st_mode & 0o111, f"{path} is not executable"
            assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n")


def test_no_file_names_a_path_of_this_machine() -> None:
    folders = (
        "benchmarks",
        "config",
        "docker",
        "docs",
        "dust3r_ros",
        "foxglove",
        "launch",
        "msg",
        "rviz",
        "scripts",
        "srv",
        "test",
        "tools",
    )
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    files = [path for path in [*files, *ROOT.glob("*")] if path.is_file()]
    assert len(files) > 50
    named = [path for path in files if str(ROOT).encode() in path.read_bytes()]
    assert [str(path.relative_to(ROOT)) for path in named] == []
