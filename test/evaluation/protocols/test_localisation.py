"""Visual localisation in a rendered room: against images with a backend that knows the truth, and in a map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("evo", reason="evo (extra eval) takes maps to the truth")

from oracle import Nonsense, Oracle
from recorded import read, recorded, split

from dust3r_ros.backends.two_view import TwoViewBackend
from dust3r_ros.config import MapperConfig
from dust3r_ros.evaluation.protocols.localisation import Retrieval, run_localisation, run_localisation_in_map
from dust3r_ros.evaluation.protocols.recordings import select
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import RenderedSequence, render_path, render_sequence, walk

SIZE = 160


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return render_sequence("orbit", 10, 160, 128, laps=0.3, supersample=1)


@pytest.mark.parametrize("by", ["matches", "pointmaps"])
@pytest.mark.parametrize("known_focals", [False, True])
def test_true_pointmaps_find_every_query(sequence: RenderedSequence, by: str, known_focals: bool) -> None:
    oracle = Oracle(sequence, SIZE, noise=0.003)
    (row,) = run_localisation(
        [split(recorded(sequence), 5)], oracle, by=by, retrieved=2, size=SIZE, known_focals=known_focals
    )
    assert row["protocol"] == ("localisation" if by == "matches" else "localisation_pointmaps")
    assert (row["scene"], row["queries"], row["found"], row["retrieved"]) == ("orbit", 2, 100.0, 2)
    assert row["position_cm"] < 10 and row["rotation_deg"] < 2
    assert row["recall_500cm_10deg"] == 100.0


def test_the_unit_of_a_database_without_depth_comes_from_its_poses(sequence: RenderedSequence) -> None:
    oracle = Oracle(sequence, SIZE, noise=0.003)
    database, queries = split(recorded(sequence, depth=False), 5)
    (row,) = run_localisation([(database, queries)], oracle, by="pointmaps", retrieved=2, size=SIZE)
    assert row["found"] == 100.0 and row["position_cm"] < 15 and row["rotation_deg"] < 2


def test_useless_pointmaps_find_nothing_and_that_counts(sequence: RenderedSequence) -> None:
    (row,) = run_localisation(
        [split(recorded(sequence), 5)], Nonsense(sequence, SIZE), by="pointmaps", retrieved=2, size=SIZE
    )
    assert row["queries"] == 2
    assert row["recall_25cm_2deg"] == 0.0
    assert row["position_cm"] is None or row["position_cm"] > 50


def test_geometry_alone_localises_too() -> None:
    recording = recorded(render_sequence("orbit", 5, 320, 240, laps=0.1, supersample=1))
    scene = select(recording, [0, 1, 3, 4]), select(recording, [2])
    (row,) = run_localisation([scene], TwoViewBackend(), by="matches", retrieved=2, size=320)
    assert row["system"] == "two_view" and row["found"] == 100.0
    assert row["position_cm"] < 15 and row["rotation_deg"] < 3


@pytest.mark.parametrize(
    ("known_focals", "by", "depth", "most_cm", "most_deg"),
    [(True, "pointmaps", True, 1, 0.5), (True, "matches", False, 5, 0.5), (False, "matches", True, 5, 5)],
)
def test_a_principal_point_off_the_centre_is_taken_into_account(
    known_focals: bool, by: str, depth: bool, most_cm: float, most_deg: float
) -> None:
    """Images without their 32 leftmost columns see it 16 pixels off: 3 degrees, which a query of unknown K is off."""
    whole = recorded(render_sequence("orbit", 3, 320, 240, laps=0.05, supersample=1))
    off = np.array([[0, 0, 32], [0, 0, 0], [0, 0, 0]])
    cut = [
        replace(
            view,
            read_image=read(view.image()[:, 32:]),
            read_depth=read(view.depth()[:, 32:]) if depth else None,
            K=view.K - off,
        )
        for view in whole.views
    ]
    recording = replace(whole, views=tuple(cut))
    scene = select(recording, [0, 2]), select(recording, [1])
    (row,) = run_localisation([scene], TwoViewBackend(), by=by, retrieved=2, size=320, known_focals=known_focals)
    assert row["found"] == 100.0 and row["position_cm"] < most_cm and row["rotation_deg"] < most_deg


def test_a_straight_walk_places_its_map_by_orientations_too() -> None:
    """Centres on one line say nothing of the rotation about it."""
    poses = walk("sweep", 10, rate_hz=8.0)
    begin, end = poses[[0, -1], :3, 3]
    poses[:, :3, 3] = begin + np.linspace(0, 1, len(poses))[:, None] * (end - begin)
    straight = render_path("straight", room(0), poses, width=240, height=180, rate_hz=8.0, supersample=1)
    recording, still = recorded(straight), [replace(view, w_T_c=poses[0]) for view in recorded(straight).views]
    scene = select(recording, [i for i in range(10) if i != 5]), select(recording, [5])
    config = MapperConfig(working_size=160, tracking_size=240)
    (row, none) = run_localisation_in_map(
        [scene, (replace(scene[0], views=still), scene[1])], config, backend=Oracle(straight, 160, noise=0.003)
    )
    assert row["found"] == 100.0 and row["position_cm"] < 5 and row["rotation_deg"] < 0.5
    assert "'straight' stands still" in none["note"]


def test_queries_are_found_in_a_map() -> None:
    walk = render_sequence("orbit", 14, 240, 180, rate_hz=8.0, supersample=1)
    recording = recorded(walk)
    scene = select(recording, [i for i in range(14) if i != 7]), select(recording, [7])
    config = MapperConfig(working_size=160, tracking_size=240)
    (row,) = run_localisation_in_map([scene], config, backend=Oracle(walk, 160, noise=0.003), known_focal=True)
    assert (row["protocol"], row["system"], row["queries"]) == ("localisation_in_map", "oracle", 1)
    assert row["found"] == 100.0 and row["position_cm"] < 15 and row["rotation_deg"] < 3
    assert row["keyframes"] >= 3


def test_an_image_looks_most_like_itself(sequence: RenderedSequence) -> None:
    retrieval = Retrieval(list(sequence.images))
    assert [retrieval.best(image, 1) for image in sequence.images] == [[i] for i in range(len(sequence))]
    assert len(retrieval.best(sequence.images[0], 99)) == len(sequence)
    for index in (0, 5):
        near = retrieval.neighbours(index, 2)
        assert index not in near and abs(near[0] - index) <= 2


def test_what_cannot_be_judged_says_why(sequence: RenderedSequence) -> None:
    oracle = Oracle(sequence, SIZE)
    database, queries = split(recorded(sequence), 5)
    blind = replace(queries, views=[replace(view, w_T_c=None) for view in queries.views])
    homeless = replace(database, views=[replace(view, w_T_c=None) for view in database.views])
    rows = list(run_localisation([(database, blind), (homeless, queries)], oracle, size=SIZE))
    assert "no view of 'orbit' has a true pose" in rows[0]["note"]
    assert "to localise against" in rows[1]["note"]
    for parts, missing in (((select(database, []), queries), "train"), ((database, select(queries, [])), "test")):
        lacking, whole = run_localisation([parts, (database, queries)], oracle, retrieved=1, size=SIZE)
        assert f"scene 'orbit' of rendered has no '{missing}' image" in lacking["note"] and "note" not in whole
        (unmapped,) = run_localisation_in_map([parts], MapperConfig())
        assert f"has no '{missing}' image" in unmapped["note"]
    (wrong,) = run_localisation([(database, queries)], oracle, by="magic", size=SIZE)
    assert "magic" in wrong["note"]
    (unmapped,) = run_localisation_in_map(
        [(select(database, [0]), queries)], MapperConfig(working_size=160, dense=False)
    )
    assert "needed" in unmapped["note"] or "mapped" in unmapped["note"]
    assert np.isfinite(rows[0].get("position_cm", 0.0))
