"""What README and docs say is so: tables, links, commands, files, pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest
import yaml
from launch_files import LAUNCH_FILES
from pages import CODE, NAMES, OUTSIDE, ROOT, ROWS, commands, text_of
from PIL import Image
from sequences import walk
from small_recordings import write_video

from dust3r_ros.cli.export import _parser as _export_parser
from dust3r_ros.cli.fleet import _parser as _fleet_parser
from dust3r_ros.cli.map import _parser
from dust3r_ros.config import Row
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.products.ply import read_ply
from scripts import script


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return script(ROOT / "tools" / "docs.py", "docs_tool")


def test_what_is_made_from_the_code_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "tools/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run 'python tools/docs.py'"


@pytest.mark.parametrize("name", ["docs/parameters.md", "config/dust3r.yaml", "config/sros2_policy.xml", "docs/ros.md"])
def test_check_finds_an_old_page_and_changes_nothing(
    name: str, tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for made in tool.pages():
        (tmp_path / made).parent.mkdir(exist_ok=True)
        (tmp_path / made).write_text(text_of(made), encoding="utf-8")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "launch_files", lambda: list(LAUNCH_FILES.values()))
    page = tmp_path / name
    old = page.read_text(encoding="utf-8").replace("image_transport", "image_transfer").replace("save_map", "keep_map")
    page.write_text(old, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert tool.main() == 1 and page.read_text(encoding="utf-8") == old
    monkeypatch.setattr(sys, "argv", ["docs.py"])
    assert tool.main() == 0
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert tool.main() == 0


def test_a_page_without_the_place_of_a_table_is_refused(tool: ModuleType) -> None:
    with pytest.raises(ValueError, match="services"):
        tool.ros_page(text_of("docs/ros.md").replace("tools/docs.py: services", ""))


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_every_parameter_has_its_row(row: Row) -> None:
    lines = [line for line in text_of("docs/parameters.md").splitlines() if line.startswith(f"| `{row.name}` |")]
    assert len(lines) == 1
    _, kind, default, limits, live, description = (cell.strip() for cell in lines[0].strip("| ").split(" |", 5))
    assert (kind, description.rstrip(" |")) == (
        "list of str" if row.type is tuple else row.type.__name__,
        row.description,
    )
    assert default == "empty" if row.default in ("", (), ("",)) else yaml.safe_load(default.strip("`")) == row.default
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
            assert made or any((place / word).exists() for place in (ROOT, ROOT / "dust3r_ros", ROOT / "launch")), (
                f"{name} names {word}"
            )


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_somebodys_machine(name: str) -> None:
    assert re.findall(r"(?<![\w~$.])/(?:home|root|Users|mnt)/[^\s`]*", text_of(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_lines_fit(name: str) -> None:
    """What programs wrote, tables, pictures and code aside."""
    prose = re.sub(
        r"<!--[^>]*begin.*?(<!--[^>]*end|\Z)|^ *```.*?^ *```", "", text_of(name), flags=re.DOTALL | re.MULTILINE
    )
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith(("|", "!["))] == []


def test_calls_of_dust3r_export_are_understood() -> None:
    calls = list(commands("dust3r-export"))
    assert len(calls) >= 3
    for name, words in calls:
        if words != ["--help"]:
            assert _export_parser().parse_args(words).map, f"{name}: {words}"


def test_calls_of_dust3r_map_are_understood() -> None:
    calls = list(commands("dust3r-map"))
    assert len(calls) >= 5
    for name, words in calls:
        parsed = _parser().parse_args(words)
        assert parsed.input and parsed.out, f"{name}: {words}"
        for setting in parsed.set:
            row = ROWS[setting.partition("=")[0]]
            row.check(yaml.safe_load(setting.partition("=")[2]))


def test_options_of_dust3r_map_are_all_listed_and_no_others() -> None:
    known = {option for action in _parser()._actions for option in action.option_strings if option.startswith("--")}
    section = text_of("docs/my-bag.md").split("## Options")[1].split("## What comes out")[0]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", section)) == known - {"--help"}


def test_calls_of_dust3r_fleet_are_understood() -> None:
    calls = list(commands("dust3r-fleet"))
    assert len(calls) >= 2
    for name, words in calls:
        parsed = _fleet_parser().parse_args(words)
        assert (parsed.recordings or parsed.list) and parsed.out, f"{name}: {words}"


def test_own_options_of_dust3r_fleet_are_all_listed_and_no_others() -> None:
    own, shared = (
        {option for action in parser._actions for option in action.option_strings}
        for parser in (_fleet_parser(), _parser())
    )
    table = text_of("docs/fleet.md").split("## Options")[1].split("\n\n")[1]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", table)) == own - (shared - {"--workers"}), (
        "of many recordings, or of one"
    )


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len(text_of("README.md").split()) < 1000


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = {target for name in NAMES for target in re.findall(r"`make ([a-z-]+)", text_of(name))}
    assert {"demo", "test"} <= named <= targets


def test_files_of_a_run_are_listed() -> None:
    results = (ROOT / "dust3r_ros/products/results.py").read_text(encoding="utf-8")
    written = set(re.findall(r'directory / "([\w.]+)"', results))
    section = text_of("docs/my-bag.md").split("## What comes out")[1].split("\n## ")[0]
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
            assert picture.format in ("PNG", "JPEG", "WEBP") and 300 <= picture.width <= 1200


def test_the_page_on_python_maps_a_recording(tmp_path: Path) -> None:
    """Its blocks, one after the other, as a user would type them."""
    write_video(tmp_path / "recording.mp4", walk("orbit").images, "mp4v", rate=8.0)
    code = "\n".join(block for language, block in CODE.findall(text_of("docs/python.md")) if language == "python")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    keyframes, posed = map(int, re.findall(r"(\d+) keyframes, (\d+) images with a pose", done.stdout)[0])
    assert keyframes >= 4 and posed == len(read_tum(tmp_path / "trajectory.txt")) == 24
    assert len(read_ply(tmp_path / "map.ply")) > 10_000
