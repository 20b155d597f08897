"""The arrows between the parts of the package point one way, and heavy imports stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dust3r_ros"
MAX_LINES = 450

# From the leaves up. A part imports parts of its own layer and of those below.
LAYERS = (
    ("errors", "types", "config", "timing", "compiled", "geometry", "masks", "transform_buffer"),
    (
        "appearance",
        "features",
        "scale_space",
        "blobs",
        "descriptors",
        "network",
        "keyframes",
        "pair_graph",
        "tracking",
        "streams",
        "alignment",
        "backends",
        "junctions",
        "junction_links",
        "attitude",
        "camera_info",
        "companion_match",
        "companions",
        "occupancy",
    ),
    (
        "densifier",
        "left_out",
        "linker",
        "movers",
        "moving",
        "sight",
        "landmark_cloud",
        "landmark_saving",
        "live_map",
        "map_state",
        "pointmap_saving",
        "frame_log",
        "calibrator",
        "chores",
        "map_builder",
        "pointmap_builder",
        "pointmap_frames",
        "pointmap_keyframes",
        "atlas",
        "cameras",
        "search",
        "keyframe_book",
        "localising",
        "map_view",
        "rig",
        "neighbourhood",
        "newcomers",
        "outposts",
        "frame_finder",
        "metric",
        "mapping.depth_preview",
        "mapping.loop_closing",
        "mapping.reconstruction",
        "mapping.submap",
        "mapper",
    ),
    (
        "calibrations",
        "io",
        "keeper",
        "layouts",
        "mapping",
        "replay",
        "scenes",
        "session",
        "session_files",
        "stamp_order",
    ),
    ("evaluation", "training"),
    ("cli", "node"),
)
LAYER = {part: height for height, parts in enumerate(LAYERS) for part in parts}
# Neighbours that must not know each other all the same.
STRANGERS = (
    ("cli", "node"),
    ("node", "cli"),
    ("node", "evaluation"),
    ("node", "training"),
    ("network", "alignment"),
    ("network", "backends"),
    ("backends", "alignment"),
)
ROS = (
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "dust3r_ros.msg",
    "dust3r_ros.srv",
    "launch",
    "launch_ros",
    "message_filters",
    "rcl_interfaces",
    "rclpy",
    "sensor_msgs_py",
    "std_srvs",
    "tf2_ros",
    "tf_transformations",
)
TORCH_HOMES = ("network/", "training/", "backends/dust3r.py", "alignment/gradient")


class Import(NamedTuple):
    """``module`` is imported by the file at ``path`` (relative to the package) in line ``line``.

    ``at_start`` is false for an import inside a function or for the type checker only.
    """

    path: str
    line: int
    module: str
    at_start: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def _module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = {_module_of(path): path for path in SOURCES}


def _names(node: ast.Import | ast.ImportFrom, path: Path) -> Iterator[str]:
    """Modules a statement imports; ``from package import module`` names the module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = _module_of(path).split(".")
        package = package if path.name == "__init__.py" else package[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        yield inner if inner in MODULES or inner in ("dust3r_ros.msg", "dust3r_ros.srv") else base


def _is_for_type_checker(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _walk(node: ast.AST, path: Path, at_start: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            for name in _names(child, path):
                yield Import(path.relative_to(PACKAGE).as_posix(), child.lineno, name, at_start)
        later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or _is_for_type_checker(child)
        yield from _walk(child, path, at_start and not later)


IMPORTS = [found for path in SOURCES for found in _walk(ast.parse(path.read_text(encoding="utf-8")), path, True)]


def _part(module: str) -> str:
    """First name below the package: ``dust3r_ros.io.ply`` and ``io/ply.py`` are of the part ``io``, unless the
    layers name the module itself. A ``__main__`` is a command wherever it lies."""
    if module.endswith("__main__.py"):
        return "cli"
    names = module.removeprefix("dust3r_ros").strip("./").replace("/", ".").removesuffix(".py").split(".")
    return ".".join(names[:2]) if ".".join(names[:2]) in LAYER else names[0]


def _own() -> Iterator[tuple[Import, str, str]]:
    """Imports of the package's own parts by each other: the import, who, whom."""
    for found in IMPORTS:
        if found.module.startswith("dust3r_ros.") and found.path != "__init__.py":
            who, whom = _part(found.path), _part(found.module)
            if whom not in ("msg", "srv", who):
                yield found, who, whom


def test_the_walk_sees_imports_of_every_kind() -> None:
    """Guards the tests below against an empty walk."""
    assert any(found.module == "numpy" and found.at_start for found in IMPORTS)
    assert any(found.module == "torch" and not found.at_start for found in IMPORTS)
    assert {"mapper", "node", "cli", "io"} <= {who for _, who, _ in _own()}


def test_every_part_has_a_layer() -> None:
    parts = {_part(path.relative_to(PACKAGE).as_posix()) for path in SOURCES} - {"__init__"}
    assert parts - LAYER.keys() == set(), "say in LAYERS where the part stands"


def test_arrows_point_down() -> None:
    wrong = [str(found) for found, who, whom in _own() if LAYER[whom] > LAYER[who] or (who, whom) in STRANGERS]
    assert wrong == []


def test_no_import_cycle() -> None:
    """Modules that import each other when they start would work or not by who comes first."""
    graph = {module: set[str]() for module in MODULES}
    for found in IMPORTS:
        if found.at_start and found.module in MODULES:
            graph[_module_of(PACKAGE / found.path)].add(found.module)
    while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert sorted(graph) == []


def test_only_the_node_knows_ros() -> None:
    def is_ros(module: str) -> bool:
        return module.split(".")[0].endswith("_msgs") or any(f"{module}.".startswith(f"{name}.") for name in ROS)

    seen = [found for found in IMPORTS if is_ros(found.module)]
    assert any(found.module == "rclpy" for found in seen)
    assert [str(found) for found in seen if not found.path.startswith("node/")] == []


def test_only_the_mapper_knows_the_kinds_of_map() -> None:
    """All others see a ``Submap``."""
    kinds = ("dust3r_ros.map_builder", "dust3r_ros.pointmap_builder")
    assert {found.path for found in IMPORTS if found.module in kinds} == {"mapper.py"}


def test_torch_stays_in_its_homes() -> None:
    seen = [found for found in IMPORTS if found.module.split(".")[0] in ("torch", "torchvision", "timm", "safetensors")]
    assert any(found.path.startswith("network/") for found in seen)
    assert [str(found) for found in seen if not found.path.startswith(TORCH_HOMES)] == []


def test_modules_stay_small() -> None:
    lines = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


@pytest.mark.parametrize("module", ["dust3r_ros.mapper", "dust3r_ros.backends.two_view", "dust3r_ros.cli.map"])
def test_the_light_parts_start_light(module: str) -> None:
    """In a fresh interpreter, neither torch nor ROS is loaded."""
    code = f"import sys, {module}; print(sorted({{'torch', 'rclpy', 'std_msgs', 'matplotlib'}} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
