"""Protocols by name: every one runs on a rendered recording, and says its own name in its rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")

from oracle import Oracle
from recorded import RecordedSequence, recorded

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.evaluation.protocols import localisation, relative_pose
from dust3r_ros.evaluation.protocols.registry import PROTOCOLS, protocol_named
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence

# On images of 512 pixels, as these protocols run by default, the rendered view itself is as large
SIZE = 512


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return render_sequence("orbit", 4, SIZE, 384, laps=0.06, supersample=1)


@pytest.fixture(scope="module")
def scene(sequence: RenderedSequence) -> list[RecordedSequence]:
    """A database of three views, and one query."""
    whole = recorded(sequence)
    return [
        replace(whole, name="room", scene="room", split="train", views=(*whole.views[:2], whole.views[3])),
        replace(whole, name="query", scene="room", split="test", views=whole.views[2:3]),
    ]


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if PROTOCOLS[name].of_pairs is not None])
def test_protocols_of_pairs_run(name: str, sequence: RenderedSequence, scene: list[RecordedSequence]) -> None:
    oracle = Oracle(sequence, SIZE, noise=0.002)
    recordings = scene if name.startswith("localisation") else scene[:1]
    (row,) = PROTOCOLS[name].run(recordings, MapperConfig(), oracle)
    assert row["protocol"] == ("reconstruction" if name == "dtu" else name) and row["system"] == "oracle"
    if name.startswith("multi_view_depth"):
        assert "true depth" in row["note"]  # no other view is five frames away
    elif name == "dtu":
        assert "no measured points" in row["note"]
    else:
        assert "note" not in row


def test_protocols_of_maps_run(sequence: RenderedSequence, scene: list[RecordedSequence]) -> None:
    config = MapperConfig(working_size=160, tracking_size=240)
    names = [name for name in PROTOCOLS if PROTOCOLS[name].of_map is not None]
    assert names == [
        "map",
        "map_rgbd",
        "trajectory",
        "focal",
        "map_depth",
        "map_cloud",
        "map_speed",
        "localisation_in_map",
    ]
    for name in ("trajectory", "localisation_in_map"):
        rows = list(PROTOCOLS[name].run(scene, config, Oracle(sequence, 160)))
        assert {row["protocol"] for row in rows} == {name}
    rows = list(PROTOCOLS["map"].run(scene[:1], config, Oracle(sequence, 160)))
    assert [row["protocol"] for row in rows] == names[2:-1]
    rows = list(PROTOCOLS["map_rgbd"].run(scene[:1], config, Oracle(sequence, 160)))
    assert [row["protocol"] for row in rows] == [f"{name}_rgbd" for name in names[2:-1]]


def test_a_protocol_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'magic' is not known; map, .*monocular_depth"):
        protocol_named("magic")
    assert protocol_named("speed").name == "speed"
    assert {relative_pose.PROTOCOL.format(method) for method in relative_pose.METHODS} <= PROTOCOLS.keys()
    assert {localisation.PROTOCOL, localisation.IN_MAP} <= PROTOCOLS.keys()
