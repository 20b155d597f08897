"""Parameters: every row's limits, and what a file may say."""

from __future__ import annotations

import dataclasses
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dust3r_ros.config import (
    MapperConfig,
    NodeConfig,
    Row,
    as_mapping,
    from_mapping,
    load_yaml,
    rows,
    split,
)
from dust3r_ros.errors import ConfigError

ALL = [(config, row) for config in (MapperConfig, NodeConfig) for row in rows(config)]
NUMBERS = [(config, row) for config, row in ALL if row.low is not None]
by_name = pytest.mark.parametrize("config, row", ALL, ids=[row.name for _, row in ALL])
numbers = pytest.mark.parametrize("config, row", NUMBERS, ids=[row.name for _, row in NUMBERS])


@by_name
def test_a_row_is_complete_and_its_default_right(config: type, row: Row) -> None:
    assert row.check(row.default) == row.default
    assert row.description.endswith(".") and len(row.description) > 10
    assert (row.low is None) == (row.high is None)
    assert (row.low is not None) == (row.type in (int, float)), "every number has limits"
    assert getattr(config(), row.name) == row.default
    if row.choices:
        assert row.default in row.choices


@numbers
def test_limits_are_part_of_the_range_and_nothing_beyond(config: type, row: Row) -> None:
    for value in (row.low, row.high):
        made = from_mapping(config, {row.name: row.type(value)})
        assert getattr(made, row.name) == value and type(getattr(made, row.name)) is row.type
    step = 1 if row.type is int else 1e-3
    for value in (row.type(row.low - step), row.type(row.high + step)):
        with pytest.raises(ConfigError) as error:
            from_mapping(config, {row.name: value})
        text = str(error.value)
        assert row.name in text and repr(value) in text and f"{row.low:g}" in text and f"{row.high:g}" in text


@by_name
def test_wrong_types_are_refused(config: type, row: Row) -> None:
    wrong = [None, {}, object(), b"x"]
    if row.type is not str:
        wrong.append("1")
    if row.type is not bool:
        wrong.append(True)
    if row.type in (int, bool, str):
        wrong.append(1.5)
    if row.type in (bool, str):
        wrong.append(1)
    for value in wrong:
        with pytest.raises(ConfigError, match=row.name):
            from_mapping(config, {row.name: value})


@pytest.mark.parametrize("config, row", [pytest.param(c, r, id=r.name) for c, r in ALL if r.type is float])
def test_floats_take_whole_numbers_and_no_others(config: type, row: Row) -> None:
    whole = int(max(1, row.low))
    if row.low <= whole <= row.high:
        assert type(getattr(from_mapping(config, {row.name: whole}), row.name)) is float
    for value in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ConfigError, match=f"{row.name}.*finite"):
            from_mapping(config, {row.name: value})


@by_name
def test_a_configuration_that_is_made_is_a_valid_one(config: type, row: Row) -> None:
    """By its constructor as from a file."""
    for wrong in (None, *(() if row.low is None else (row.high * 2 + 1,)), *(["nonsense"] if row.choices else [])):
        with pytest.raises(ConfigError, match=row.name):
            config(**{row.name: wrong})
        with pytest.raises(ConfigError, match=row.name):
            dataclasses.replace(config(), **{row.name: wrong})


def test_numbers_of_numpy_are_numbers() -> None:
    made = MapperConfig(focal=np.float32(300), seed=np.int64(3))  # type: ignore[arg-type]
    assert type(made.focal) is float and type(made.seed) is int and (made.focal, made.seed) == (300.0, 3)


@pytest.mark.parametrize("config, row", [pytest.param(c, r, id=r.name) for c, r in ALL if r.choices])
def test_choices(config: type, row: Row) -> None:
    for choice in row.choices:
        assert getattr(from_mapping(config, {row.name: choice}), row.name) == choice
    with pytest.raises(ConfigError) as error:
        from_mapping(config, {row.name: "nonsense"})
    assert "nonsense" in str(error.value) and all(choice in str(error.value) for choice in row.choices)


def test_unknown_names_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'workingsize'.*working_size"):
        from_mapping(MapperConfig, {"workingsize": 3})


def test_no_name_has_two_meanings() -> None:
    names = [row.name for _, row in ALL]
    assert len(names) == len(set(names))


def test_there_and_back() -> None:
    values = {"working_size": 128, "focal": 321, "backend": "two_view"}
    made = from_mapping(MapperConfig, values)
    assert from_mapping(MapperConfig, as_mapping(made)) == made
    assert dataclasses.replace(MapperConfig(), working_size=128, focal=321.0) == made
    assert as_mapping(made)["focal"] == 321.0


def test_parting_a_file() -> None:
    mapper, node = split({"seed": 3, "map_frame": "odom", "what": 1})
    assert mapper == {"seed": 3, "what": 1} and node == {"map_frame": "odom"}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("seed: 4\nfocal: 500\n", {"seed": 4, "focal": 500}),
        ("/dust3r:\n  ros__parameters:\n    seed: 4\n", {"seed": 4}),
        ("/**:\n  ros__parameters: {focal: 1.5, map_frame: odom}\n", {"focal": 1.5, "map_frame": "odom"}),
        ("", {}),
        ("# nothing but a comment\n", {}),
        ("/dust3r:\n  ros__parameters:\n", {}),
    ],
)
def test_files(tmp_path: Path, text: str, expected: dict[str, object]) -> None:
    path = tmp_path / "mapper.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_yaml(path) == expected


@pytest.mark.parametrize(
    "node, seed",
    [("/dust3r", 1), ("/robot1/dust3r", 2), ("/robot2/dust3r", 3), ("/robot2/arm/dust3r", 4), ("/robot1/other", 0)],
)
def test_of_several_nodes_each_gets_its_own(tmp_path: Path, node: str, seed: int) -> None:
    sections = {
        "/**": "{seed: 0, map_frame: world}",
        "dust3r": "{seed: 1}",
        "/robot1/dust3r": "{seed: 2}",
        "/*/arm/dust3r": "{seed: 4}",
    }
    lines = [f"{name}:\n  ros__parameters: {values}\n" for name, values in sections.items()]
    path = tmp_path / "robot.yaml"
    path.write_text("".join(lines) + "robot2:\n  dust3r:\n    ros__parameters: {seed: 3}\n", encoding="utf-8")
    assert load_yaml(path, node) == {"seed": seed, "map_frame": "world"}


def test_parameters_of_other_nodes_only(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("/camera:\n  ros__parameters: {seed: 3}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"robot.yaml.*only parameters of /camera.*/dust3r"):
        load_yaml(path)


def test_aliases_without_end(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("a: &a\n  b: *a\n", encoding="utf-8")
    assert list(load_yaml(path)) == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [{f'*{a}, ' * 9}]}}\n" for a, b in pairwise("abcdefghi")),
        "[" * 3000, "- " * 3000, "seed: 2001-99-99", "seed: !!timestamp x", "seed: !!bool x", "seed: !!int ''",
        f"seed: {'9' * 5000}", "seed: 1\nseed: 2", "seed: 1\n---\nseed: 2", "x" * 100_001, "a: \0",
    ],
)  # fmt: skip
def test_what_takes_forever_or_loses_something_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "robot.yaml").write_text(text, encoding="utf-8")
    start = time.process_time()
    with pytest.raises(ConfigError, match=r"robot\.yaml"):
        load_yaml(tmp_path / "robot.yaml")
    assert time.process_time() - start < 1


_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from([*rows(MapperConfig), *rows(NodeConfig)]), _trees)
def test_any_value_is_right_or_refused_by_name(row: Row, value: object) -> None:
    config = MapperConfig if row.name in {known.name for known in rows(MapperConfig)} else NodeConfig
    try:
        found = getattr(from_mapping(config, {row.name: value}), row.name)
    except ConfigError as error:
        assert row.name in str(error)
    else:
        assert type(found) is row.type and (row.low is None or row.low <= found <= row.high)


def test_the_map_has_a_frame() -> None:
    assert from_mapping(NodeConfig, {"map_frame": "/world", "odom_frame": "/"}).map_frame == "world"
    with pytest.raises(ConfigError, match="'map_frame' is empty; it must name a frame"):
        from_mapping(NodeConfig, {"map_frame": "/"})


def test_paths_are_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MAPS", "/data/maps")
    node = from_mapping(NodeConfig, {"map_db": "~/x.db", "output_dir": "${MAPS}/new", "image_topic": "~/image"})
    assert (node.map_db, node.output_dir, node.image_topic) == (f"{tmp_path}/x.db", "/data/maps/new", "~/image")
    (tmp_path / "mapper.yaml").write_text("seed: 4\n", encoding="utf-8")
    assert load_yaml("$HOME/mapper.yaml") == {"seed": 4}


@pytest.mark.parametrize(
    "path, what", [("$NO_SUCH_FOLDER/x.db", r"\$NO_SUCH_FOLDER"), ("~nobody_here/x.db", "~nobody")]
)
def test_what_cannot_be_expanded_is_refused(path: str, what: str) -> None:
    with pytest.raises(ConfigError, match=f"map_db.*{what}"):
        from_mapping(NodeConfig, {"map_db": path})


@pytest.mark.parametrize(
    "content, what",
    [
        (b"seed: [1, 2", "not YAML"),
        (b"- 1\n- 2\n", "list"),
        (b"just words", "str"),
        (b"3: 4\n", "map names"),
        (b"\xff\xfe\x00\x01", "cannot be read|not YAML"),
        (b"a: !!python/object/apply:os.system ['true']\n", "not YAML"),
        (b"/dust3r:\n  ros__parameters: [1]\n", "list"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "mapper.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=what) as error:
        load_yaml(path)
    assert "mapper.yaml" in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_yaml(path)
