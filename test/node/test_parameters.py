"""Nodes of one process that are told to write the same files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import OutputError
from dust3r_ros.node.main import part
from dust3r_ros.node.parameters import WRITTEN, own_files


def test_each_gets_a_folder_of_its_namespace(tmp_path: Path) -> None:
    config = NodeConfig(output_dir=f"{tmp_path}/out", map_db=f"{tmp_path}/map.db", manifest=f"{tmp_path}/m.jsonl")
    own = own_files(config, ["output_dir", "map_db"], "/robot1/arm")
    assert (own.output_dir, own.map_db) == (f"{tmp_path}/out/robot1/arm", f"{tmp_path}/robot1/arm/map.db")
    assert own.manifest == config.manifest and Path(own.output_dir).is_dir() and Path(own.map_db).parent.is_dir()
    assert own_files(config, [], "/robot1") == config


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="out"):
        own_files(NodeConfig(output_dir=f"{tmp_path}/out"), ["output_dir"], "/robot1")


def test_only_what_is_the_same_is_parted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = [
        {"output_dir": "out", "map_db": "a.db"},
        {"output_dir": f"{tmp_path}/out/", "map_db": "b.db"},
        {"output_dir": "other"},
    ]
    nodes = [
        SimpleNamespace(parameters={**dict.fromkeys(WRITTEN, ""), **values}, apart=frozenset()) for values in given
    ]
    part(nodes)  # type: ignore[arg-type]
    assert [set(node.apart) for node in nodes] == [{"output_dir"}, {"output_dir"}, set()]
