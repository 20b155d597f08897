"""What README and docs say is so: parameters, links, commands, topics, services."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest
import yaml
from PIL import Image

from dust3r_ros.cli.map import _parser
from dust3r_ros.config import MapperConfig, NodeConfig, Row, rows
from dust3r_ros.io.encodings import SUPPORTED

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
ROWS = {row.name: row for row in (*rows(MapperConfig), *rows(NodeConfig))}
OUTSIDE = {"github.com", "arxiv.org", "creativecommons.org", "docs.ros.org", "ros.org", "www.apache.org"}
CODE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(program: str) -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every call of ``program`` in blocks and in lines of code."""
    for name in NAMES:
        text = text_of(name)
        blocks = [line for language, block in CODE.findall(text) if language == "bash" for line in block.splitlines()]
        inline = re.findall(r"`([^`\n]+)`", CODE.sub("", text))
        for line in (*blocks, *inline):
            words = shlex.split(line)
            if len(words) > 1 and words[0].removeprefix(".venv/bin/") == program:
                yield name, words[1:]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tool", ROOT / "tools" / "docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_of_parameters_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "tools/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run 'python tools/docs.py'"


def test_check_finds_an_old_table_and_changes_nothing(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "parameters.md"
    monkeypatch.setattr(tool, "PARAMETERS", page)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert tool.main() == 1 and not page.exists()
    page.write_text(tool.parameters_page().replace("0.045", "0.05"), encoding="utf-8")
    assert tool.main() == 1
    monkeypatch.setattr(sys, "argv", ["docs.py"])
    assert tool.main() == 0
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert tool.main() == 0


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_every_parameter_has_its_row(row: Row) -> None:
    lines = [line for line in text_of("docs/parameters.md").splitlines() if line.startswith(f"| `{row.name}` |")]
    assert len(lines) == 1
    _, kind, default, limits, live, description = (cell.strip() for cell in lines[0].strip("| ").split(" |", 5))
    assert (kind, description.rstrip(" |")) == (row.type.__name__, row.description)
    assert default == "empty" if row.default == "" else yaml.safe_load(default.strip("`")) == row.default
    assert live == ("yes" if row.live else "")
    if row.choices:
        assert re.findall(r"`(\w+)`", limits) == list(row.choices)
    elif row.low is not None:
        assert [float(number) for number in limits.split(" to ")] == pytest.approx([row.low, row.high])


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(name)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name} links to {target}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}, target


@pytest.mark.parametrize("name", NAMES)
def test_addresses_are_of_known_hosts(name: str) -> None:
    hosts = {urlsplit(address).hostname for address in re.findall(r"https?://[^\s)>\"'`]+", text_of(name))}
    assert hosts <= OUTSIDE


@pytest.mark.parametrize("name", NAMES)
def test_files_named_exist(name: str) -> None:
    kinds = {path.stem for folder in ("msg", "srv") for path in (ROOT / folder).iterdir()}
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._")
    for word in re.findall(r"`([\w./-]+)`", text_of(name)):
        if word.startswith("dust3r_ros/") and "." not in word:
            assert word.partition("/")[2] in kinds, f"{name} names the message {word}"
        elif re.match(rf"(?:{folders})/.", word) or word.endswith((".py", "/")):
            made = word in (".venv/", "demo_output/")  # by the two commands
            assert made or any((place / word).exists() for place in (ROOT, ROOT / "dust3r_ros")), f"{name} names {word}"


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_somebodys_machine(name: str) -> None:
    assert re.findall(r"(?<![\w~$.])/(?:home|root|Users|mnt)/[^\s`]*", text_of(name)) == []


def test_calls_of_dust3r_map_are_understood() -> None:
    calls = list(commands("dust3r-map"))
    assert len(calls) >= 5
    for name, words in calls:
        parsed = _parser().parse_args(words)
        assert parsed.input and parsed.out, f"{name}: {words}"
        for setting in parsed.set:
            row = ROWS[setting.partition("=")[0]]
            row.check(yaml.safe_load(setting.partition("=")[2]))


def test_options_of_dust3r_map_are_all_in_the_readme_and_no_others() -> None:
    known = {option for action in _parser()._actions for option in action.option_strings if option.startswith("--")}
    section = text_of("README.md").split("## Map your own recording")[1].split("### What comes out")[0]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", section)) == known - {"--help"}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = {target for name in NAMES for target in re.findall(r"`make ([a-z-]+)", text_of(name))}
    assert {"demo", "test"} <= named <= targets


def _literals(path: Path) -> dict[str, object]:
    """Constants at the top of a module, without importing what it needs."""
    found = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found


def test_launch_arguments_exist_and_are_all_described() -> None:
    launch = _literals(ROOT / "launch" / "dust3r.launch.py")
    known = {*launch["PARAMETERS"], *launch["ARGUMENTS"]}  # type: ignore[misc]
    used = {
        argument
        for name in NAMES
        for code in re.findall(r"`([^`]+)`", text_of(name).replace("```", "`"))
        if "topic:=" in code or re.match(r"\w+:=", code)
        for argument in re.findall(r"(?<![\w:/])([a-z_]+):=", re.sub(r"--ros-args.*", "", code))
    }
    assert "image_topic" in used and used <= known
    table = text_of("docs/ros.md").split("## Launch file")[1]
    described = {
        word
        for line in table.splitlines()
        if line.startswith("| `")
        for word in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert described == known


PUBLISHERS = (ROOT / "dust3r_ros/node/publishers.py").read_text(encoding="utf-8")
NODE = (ROOT / "dust3r_ros/node/node.py").read_text(encoding="utf-8")


def _rows_of(section: str) -> dict[str, list[str]]:
    """First cell to the other cells of the tables in a section of docs/ros.md."""
    body = re.split(r"^## ", text_of("docs/ros.md").split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line[:3] == "| `"]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_topics_are_those_the_node_publishes() -> None:
    published = dict(re.findall(r'make\(\w+, "([~/\w]+)", (\w+)\)', PUBLISHERS))
    types = dict((topic, kind) for kind, topic in re.findall(r'make\((\w+), "([~/\w]+)"', PUBLISHERS))
    packages = {kind: package for package, kinds in re.findall(r"from (\w+)\.msg import ([\w, ]+)", PUBLISHERS)
                for kind in kinds.split(", ")}  # fmt: skip
    table = {topic: cells for topic, cells in _rows_of("Output").items() if topic[0] in "~/"}
    assert len(published) >= 8 and set(table) == set(published)
    for topic, (kind, qos, _) in table.items():
        assert kind == f"`{packages[types[topic]]}/{types[topic]}`"
        assert qos == published[topic].lower()


def test_services_are_those_the_node_offers() -> None:
    offered = {service: kind for kind, service in re.findall(r'\((\w+), "(~/\w+)", self\._on_\w+\)', NODE)}
    table = {service: cells[0].strip("`").split("/")[1] for service, cells in _rows_of("Services").items()}
    assert len(offered) >= 4 and table == offered
    for name in NAMES:
        words = re.findall(r"(?<!\w)~/(\w+)", re.sub(r"~/ws\b", "", text_of(name)))
        assert {f"~/{word}" for word in words} <= {*offered, *_rows_of("Output")}, name


def test_interfaces_without_a_service_are_said_to_be_so() -> None:
    kinds = {path.stem for path in (ROOT / "srv").glob("*.srv")}
    unused = {kind for kind in kinds if kind not in NODE}
    sentence = re.search(r"The interfaces (.+?) are defined for later", text_of("docs/ros.md"))
    assert set(re.findall(r"`(\w+)`", sentence[1] if sentence else "")) == unused


def test_states_and_encodings_are_listed() -> None:
    states = re.findall(r"^string [A-Z]+=(\w+)$", text_of("msg/MappingStatus.msg"), re.MULTILINE)
    table = _rows_of("Output")
    assert states and set(states) <= set(table)
    listed = re.search(r"Encodings of raw images: (.+?)\. 16 bits", text_of("docs/ros.md"), re.DOTALL)
    assert listed is not None and tuple(re.findall(r"`(\w+)`", listed[1])) == SUPPORTED


def test_files_of_a_run_are_listed() -> None:
    results = (ROOT / "dust3r_ros/io/results.py").read_text(encoding="utf-8")
    written = set(re.findall(r'directory / "([\w.]+)"', results))
    section = text_of("README.md").split("### What comes out")[1].split("\n## ")[0]
    listed = {
        word
        for line in section.splitlines()
        if line[:3] == "| `"
        for word in re.findall(r"`([\w.]+)`", line.split("|")[1])
    }
    assert len(written) == 8 and listed == written


def test_pictures_are_small_and_shown_with_a_description() -> None:
    shown = {}
    for name in NAMES:
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text_of(name)):
            shown[((ROOT / name).parent / target).resolve()] = words
    pictures = set((ROOT / "docs" / "pictures").iterdir())
    assert pictures and pictures == set(shown)
    for path, words in shown.items():
        assert len(words) > 20 and path.stat().st_size < 400_000
        with Image.open(path) as picture:
            assert picture.format == "PNG" and 300 <= picture.width <= 1200
