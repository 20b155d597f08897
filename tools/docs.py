"""Makes what docs and config hold of the code: tables and config/dust3r.yaml; with --pictures, the pictures.

python tools/docs.py [--pictures] [--check]
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dust3r_ros.config import MapperConfig, NodeConfig, ParameterValue, Row, rows  # noqa: E402
from dust3r_ros.io.files import write_text  # noqa: E402
from dust3r_ros.node import interface  # noqa: E402

PARAMETERS, CONFIG, ROS = "docs/parameters.md", "config/dust3r.yaml", "docs/ros.md"

_PARAMETERS = """# Parameters

Made by `python tools/docs.py` from [the rows of the configuration](../dust3r_ros/config/__init__.py); do not edit it by
hand.

The node declares all of them as ROS parameters with type, range and description. `dust3r-map` takes those of the
mapper, from the same YAML file (`--config`) or one by one (`--set NAME=VALUE`).
[`config/dust3r.yaml`](../config/dust3r.yaml) holds every one with its default: copy it and change what differs on
your robot. A parameter that is *live* may be set while the node runs (`ros2 param set /dust3r map_period 2.0`); the
others are read-only once the node has started. A value of a wrong type or out of range is rejected with the reason: at
start the node then stays unconfigured, later the old value stays.

How the node starts is not in that file: `autostart` (bool, default `true`) configures and activates it at start,
`false` leaves that to a lifecycle manager.
"""

_CONFIG = """\
# Every parameter of dust3r_ros with its default. Copy this file, change what differs on your robot and give it
# to the launch file (config:=/path/to/robot.yaml) or to dust3r-map (--config). What is left out keeps its default.
# How the node starts is not set here: the launch file has the arguments autostart and use_sim_time.
# Made by tools/docs.py from dust3r_ros/config.
/**:
  ros__parameters:
"""


def parameters_page() -> str:
    """docs/parameters.md as it should be."""
    head = ("name", "type", "default", "range", "live", "description")
    parts = [_PARAMETERS]
    for title, config in (("Mapper: the same on a robot and offline", MapperConfig), ("Node", NodeConfig)):
        cells = (_parameter(row) for row in rows(config))
        parts += [f"## {title}\n", _table(head, cells)]
    return "\n".join(parts)


def config_file() -> str:
    """config/dust3r.yaml as it should be."""
    lines = []
    for title, config in (("The mapper: the same on a robot and offline", MapperConfig), ("The node", NodeConfig)):
        lines += ["", f"# {title}", ""] if lines else [f"# {title}", ""]
        for row in rows(config):
            limits = (f"one of: {', '.join(row.choices)}" if row.choices else _range(row)).replace("`", "")
            notes = "; ".join(note for note in (limits, "may be changed while the node runs" * row.live) if note)
            lines += [f"# {line}" for line in textwrap.wrap(f"{row.description}{f' ({notes})' if notes else ''}", 104)]
            lines.append(f"{row.name}: {_yaml(row.default)}")
    return _CONFIG + "".join(f"    {line}".rstrip() + "\n" for line in lines)


def ros_page(text: str) -> str:
    """docs/ros.md with its tables as they should be; raises ``ValueError`` when the page lacks the place of one."""
    for name, table in (
        ("inputs", _table(("topic", "type", "QoS", "when", "what"), _topics(interface.INPUTS.values()))),
        ("outputs", _table(("topic", "type", "QoS", "when", "what"), _topics(interface.OUTPUTS.values()))),
        ("services", _table(("service", "type", "does"), _services())),
        ("qualities", _table(("name", "QoS"), ((_quality(q), q.words) for q in interface.QUALITIES))),
        *((f"launch {path.name}", _launch_table(path)) for path in launch_files()),
    ):
        place = re.compile(rf"(<!-- made by tools/docs\.py: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = place.subn(lambda at, table=table: f"{at[1]}{table}{at[2]}", text)  # type: ignore[misc]
        if found != 1:
            raise ValueError(f"{ROS} must hold '<!-- made by tools/docs.py: {name} -->' once, not {found} times")
    return text


def launch_files() -> list[Path]:
    """The launch files, in order."""
    return sorted((ROOT / "launch").glob("*.launch.py"))


def constants(path: Path) -> dict[str, Any]:
    """The literal dictionaries and tuples at the top of a Python file, by name, without importing what it needs."""
    found = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, (ast.Dict, ast.Tuple)):
            assert isinstance(statement.targets[0], ast.Name)
            found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found


def _launch_table(path: Path) -> str:
    """Arguments of a launch file: those of its own, then those that are parameters of the same name."""
    found = constants(path)
    cells = [(f"`{name}`", _shown(default), text) for name, (default, text) in found["ARGUMENTS"].items()]
    same = ", ".join(f"`{name}`" for name in found.get("PARAMETERS", {}))
    if same:
        cells.append((same, "from `config`", "the [parameters](parameters.md) of these names; lists with commas"))
    return _table(("argument", "default", "meaning"), cells)


def _topics(topics: Iterable[interface.Topic]) -> Iterator[tuple[str, ...]]:
    for topic in topics:
        yield f"`{topic.name}`", f"`{topic.type}`", _quality(topic.quality), topic.when, topic.what


def _quality(quality: interface.Quality) -> str:
    return f"{quality.name} ({quality.follows})" if quality.follows else quality.name


def _services() -> Iterator[tuple[str, ...]]:
    for service in interface.SERVICES.values():
        yield f"`{service.name}`", f"`{service.type}`", service.does


def _parameter(row: Row) -> tuple[str, ...]:
    live = "yes" if row.live else ""
    return f"`{row.name}`", _kind(row), _shown(row.default), _range(row), live, row.description


def _table(head: Iterable[str], cells: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ("---",) * len(head), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _kind(row: Row) -> str:
    return "list of str" if row.type is tuple else row.type.__name__


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        value = ", ".join(value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`" if text else "empty"


def _yaml(value: ParameterValue) -> str:
    """A value as ROS parses it. An empty list would end the node there, so it is a list of an empty string."""
    if isinstance(value, tuple):
        return f"[{', '.join(_yaml(item) for item in value or ('',))}]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _range(row: Row) -> str:
    if row.choices:
        return ", ".join(f"`{choice}`" for choice in row.choices)
    return "" if row.low is None or row.high is None else f"{_number(row.low)} to {_number(row.high)}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:g}"


def pages() -> dict[str, Callable[[], str]]:
    """What is made, by path below the root, and how."""
    return {
        PARAMETERS: parameters_page,
        CONFIG: config_file,
        ROS: lambda: ros_page((ROOT / ROS).read_text(encoding="utf-8")),
    }


def main() -> int:
    """Exit code: 0 done or up to date, 1 with --check when something is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, say what is not up to date")
    parser.add_argument("--pictures", action="store_true", help="make the pictures too (some minutes)")
    arguments = parser.parse_args()
    stale = 0
    for name, make in pages().items():
        path, wanted = ROOT / name, make()
        same = path.is_file() and path.read_text(encoding="utf-8") == wanted
        stale += not same
        if arguments.check:
            print(f"{name} is {'' if same else 'not '}up to date")
        elif not same:
            write_text(path, wanted)
            print(f"written: {name}")
    if arguments.pictures and not arguments.check:
        sys.path.insert(0, str(Path(__file__).parent))
        from pictures import make_pictures

        make_pictures()
    return int(bool(stale) and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
