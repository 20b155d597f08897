"""A rendered walk through the mapper, once, and all rows that come of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")

from oracle import Oracle
from recorded import read, recorded
from sequences import SMALL, cut
from sequences import walk as walk_of

from dust3r_ros.errors import ConfigError
from dust3r_ros.evaluation.datasets import Recording
from dust3r_ros.evaluation.protocols.cost import run_speed
from dust3r_ros.evaluation.protocols.mapping import Mapped, map_recording
from dust3r_ros.evaluation.protocols.of_map import run_mapping, trajectory_row
from dust3r_ros.evaluation.protocols.reconstruction import map_cloud_row
from dust3r_ros.evaluation.report.metrics import FACTS, METRICS
from dust3r_ros.scenes.sequence import RenderedSequence


@pytest.fixture(scope="module")
def walk() -> RenderedSequence:
    return cut(walk_of("orbit"), 10)


@pytest.fixture(scope="module")
def rows(walk: RenderedSequence) -> dict[str, dict]:
    return {row["protocol"]: row for row in run_mapping([recorded(walk)], SMALL)}


def test_every_protocol_gives_its_row(rows: dict[str, dict]) -> None:
    assert list(rows) == ["trajectory", "focal", "map_depth", "map_cloud", "map_speed"]
    assert {name for row in rows.values() for name in row} - METRICS.keys() - FACTS == set()
    assert all(
        (row["scene"], row["dataset"], row["system"]) == ("orbit", "rendered", "two_view") for row in rows.values()
    )
    trajectory = rows["trajectory"]
    assert trajectory["frames"] == 10 and trajectory["tracked"] > 90
    assert trajectory["ate"] == pytest.approx(trajectory["ate_percent"] * trajectory["path"] / 100)
    assert trajectory["ate_percent"] < 5 and trajectory["rpe_deg"] < 2
    assert "ate_se3" not in trajectory  # the map has no scale
    focal = rows["focal"]
    assert focal["focal_error"] == pytest.approx(100 * (focal["focal"] / focal["true_focal"] - 1))
    assert abs(focal["focal_error"]) < 15 and focal["focal_error"] * focal["fov_error_deg"] <= 0
    assert rows["map_depth"]["depth_rel"] < 15 and rows["map_depth"]["depth_delta"] > 80
    assert 0 < rows["map_depth"]["density"] <= 100
    assert 0 < rows["map_cloud"]["accuracy_cm"] < 30 and rows["map_cloud"]["completeness_cm"] > 0
    speed = rows["map_speed"]
    assert speed["frames_per_second"] == pytest.approx(10 / speed["seconds"]) and speed["peak_memory_mb"] > 10
    assert speed["peak_device_mb"] is None


@pytest.fixture(scope="module")
def oracle_map(walk: RenderedSequence) -> Mapped:
    return map_recording(recorded(walk), SMALL, backend=Oracle(walk, 160, noise=0.002), known_focal=True)


def test_true_pointmaps_make_the_true_map(oracle_map: Mapped, walk: RenderedSequence) -> None:
    row = trajectory_row(oracle_map)
    assert row["system"] == "oracle" and row["tracked"] == 100.0 and row["ate_percent"] < 1.0
    cloud, refined = map_cloud_row(oracle_map), map_cloud_row(oracle_map, icp=True)
    assert cloud["accuracy_cm"] < 9 and refined["protocol"] == "map_cloud_icp"
    assert refined["accuracy_cm"] < 1.2 * cloud["accuracy_cm"]
    assert oracle_map.session.mapper.cameras["camera"].focal == pytest.approx(walk.focal)
    assert oracle_map.session.mapper.cameras["camera"].fixed


def test_depth_makes_the_map_metric_and_its_scale_is_judged(walk: RenderedSequence) -> None:
    mapped = map_recording(recorded(walk), SMALL, backend=Oracle(walk, 160, noise=0.002), with_depth=True)
    row = trajectory_row(mapped)
    assert abs(row["scale_error"]) < 3
    assert row["ate"] <= row["ate_se3"] + 1e-9 and row["ate_se3"] < 0.1


def broken(walk: RenderedSequence) -> Recording:
    whole = recorded(walk)
    views = list(whole.views)
    views[3] = replace(views[3], read_image=read(np.zeros((10, 10, 3), np.uint8)))
    return replace(whole, views=tuple(views))


def test_a_view_that_cannot_be_used_is_counted(walk: RenderedSequence) -> None:
    (row,) = run_mapping([broken(walk)], SMALL, protocols=["trajectory"], backend=Oracle(walk, 160))
    assert row["frames"] == 9 and row["note"].startswith("1 views refused (")


def test_what_cannot_be_judged_says_why(walk: RenderedSequence) -> None:
    oracle = Oracle(walk, 160)
    blind = recorded(walk, poses=False, depth=False)
    rows = {row["protocol"]: row for row in run_mapping([blind], SMALL, backend=oracle)}
    assert "0 true poses" in rows["trajectory"]["note"] and "focal_error" in rows["focal"]
    assert rows["map_depth"]["note"] and rows["map_cloud"]["note"]
    one = replace(blind, views=blind.views[:1])
    assert (
        "nothing of 'orbit' was mapped" in next(run_mapping([one], SMALL, protocols=["focal"], backend=oracle))["note"]
    )
    none = replace(blind, views=())
    assert [
        row["protocol"] for row in run_mapping([none], SMALL, backend=oracle) if "could be used" in row["note"]
    ] == list(rows)
    with pytest.raises(ConfigError, match="'magic'"):
        list(run_mapping([blind], SMALL, protocols=["magic"]))


def test_the_backend_has_a_speed(walk: RenderedSequence) -> None:
    oracle = Oracle(walk, 160)
    (row,) = run_speed([recorded(walk)], oracle, pairs=6, size=160)
    assert (row["pairs"], row["width"], row["height"]) == (6, 160, 112)
    assert row["pairs_per_second"] == pytest.approx(6 / row["seconds"])
    assert oracle.asked == [(0, 1), (0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)]
    short = recorded(walk)
    (refused,) = run_speed([replace(short, views=short.views[:1])], oracle, size=160)
    assert "a pair needs 2" in refused["note"]
