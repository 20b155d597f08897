"""Protocols by name: every one runs on a rendered recording, and says its own name in its rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")

from oracle import Oracle
from recorded import recorded

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.evaluation.datasets import DATASETS, Recording
from dust3r_ros.evaluation.protocols import localisation, relative_pose
from dust3r_ros.evaluation.protocols.reconstruction import true_cloud
from dust3r_ros.evaluation.protocols.registry import JUDGED, PROTOCOLS, Asked, protocol_named
from dust3r_ros.products.ply import write_ply
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence

# On images of 512 pixels, as these protocols run by default, the rendered view itself is as large
SIZE = 512


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return render_sequence("orbit", 4, SIZE, 384, laps=0.06, supersample=1)


@pytest.fixture(scope="module")
def scene(sequence: RenderedSequence) -> list[Recording]:
    """A database of three views, and one query."""
    whole = recorded(sequence)
    return [
        replace(whole, name="room", scene="room", split="train", views=(*whole.views[:2], whole.views[3])),
        replace(whole, name="query", scene="room", split="test", views=whole.views[2:3]),
    ]


MAPS = ["map", "map_rgbd", "trajectory", "focal", "map_depth", "map_cloud", "map_speed", "localisation_in_map"]


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name not in MAPS])
def test_protocols_of_pairs_run(name: str, sequence: RenderedSequence, scene: list[Recording]) -> None:
    oracle = Oracle(sequence, SIZE, noise=0.002)
    recordings = scene if name.startswith("localisation") else scene[:1]
    (row,) = PROTOCOLS[name].run(Asked(recordings, MapperConfig(), oracle))
    assert row["protocol"] == name and row["system"] == "oracle"
    if name.startswith("multi_view_depth"):
        assert "true depth" in row["note"]  # no other view is five frames away
    else:
        assert "note" not in row


def test_protocols_of_maps_run(sequence: RenderedSequence, scene: list[Recording]) -> None:
    config, parts = MapperConfig(working_size=160, tracking_size=240), MAPS[2:-1]

    def rows(name: str, recordings: list[Recording]) -> list[dict[str, object]]:
        return list(PROTOCOLS[name].run(Asked(recordings, config, Oracle(sequence, 160), max_frames=4)))

    for name in ("trajectory", "localisation_in_map"):
        assert {row["protocol"] for row in rows(name, scene)} == {name}
    assert [row["protocol"] for row in rows("map", scene[:1])] == parts
    assert [row["protocol"] for row in rows("map_rgbd", scene[:1])] == [f"{name}_rgbd" for name in parts]


def test_a_scene_without_queries_is_a_row_and_scenes_are_counted(
    sequence: RenderedSequence, scene: list[Recording]
) -> None:
    """Two recordings of the room make one scene of localisation; for other protocols each counts."""
    parts = [replace(scene[0], scene="hall"), *scene, *(replace(part, scene="attic") for part in scene)]
    asked = Asked(parts, MapperConfig(), Oracle(sequence, SIZE, noise=0.002), scenes=1)
    lacking, whole = PROTOCOLS["localisation"].run(asked)
    assert "'hall' of rendered has no 'test'" in lacking["note"]
    assert whole["scene"] == "room" and "note" not in whole
    assert len(list(PROTOCOLS["speed"].run(asked))) == 1


def test_measured_points_are_the_truth_where_there_are_some(
    sequence: RenderedSequence, scene: list[Recording], tmp_path: Path
) -> None:
    """DTU's protocol in millimetres, by the same name."""
    points = (1000 * true_cloud(scene[0].views)).astype(np.float32)
    write_ply(tmp_path / "points.ply", Cloud(points, np.zeros(points.shape, np.uint8), points[:, 0] * 0))
    for files, known in (({"points": tmp_path / "points.ply"}, True), ({}, False)):
        asked = Asked([replace(scene[0], truth=files)], MapperConfig(), Oracle(sequence, 256, noise=0.0), size=256)
        (row,) = PROTOCOLS["reconstruction_poses"].run(asked)
        assert row["protocol"] == "reconstruction_poses" and ("overall_mm" in row) == known == ("overall_cm" not in row)
        assert row["overall_mm" if known else "overall_cm"] < (20 if known else 2)


def test_every_data_set_is_judged_by_what_there_is() -> None:
    assert JUDGED.keys() == DATASETS.keys()
    for names in JUDGED.values():
        assert "speed" in names and len(names) == len(set(names)) and set(names) <= PROTOCOLS.keys()


def test_a_protocol_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'magic' is unknown; known are map, .*monocular_depth"):
        protocol_named("magic")
    assert protocol_named("speed").name == "speed"
    assert {relative_pose.PROTOCOL.format(method) for method in relative_pose.METHODS} <= PROTOCOLS.keys()
    assert {localisation.PROTOCOL, localisation.IN_MAP} <= PROTOCOLS.keys()
