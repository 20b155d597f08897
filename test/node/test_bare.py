"""The node on a machine with what it needs and nothing else: no Pillow, tqdm, matplotlib, rosbags or torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from blocked import OPTIONAL, python_path

from dust3r_ros.scenes.sequence import RenderedSequence


def test_it_maps_and_leaves_all_its_files(
    start_node: Callable[..., object], sequence: RenderedSequence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blocked").mkdir()
    monkeypatch.setenv("PYTHONPATH", python_path(tmp_path / "blocked", OPTIONAL))
    bench = start_node(output_dir=str(tmp_path / "out"))
    bench.play(sequence, last=14)
    bench.status(lambda s: s.waiting == 0 and s.keyframes > 3 and s.state == "tracking", "there is a map")
    assert bench.node.stop() == 0, bench.node.log
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "trajectory.txt", "keyframes.txt", "map.ply", "cameras.yaml", "map.db", "summary.json", "preview.png",
        "report.html",
    }  # fmt: skip


def test_the_packages_are_really_not_there(
    start_node: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's backend, which needs torch, says so and does not configure."""
    (tmp_path / "blocked").mkdir()
    monkeypatch.setenv("PYTHONPATH", python_path(tmp_path / "blocked", OPTIONAL))
    bench = start_node(backend="dust3r", checkpoint="mini")
    bench.node.wait_for_log("pip install 'dust3r_ros[network]'")
