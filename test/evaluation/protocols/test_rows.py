"""Rows are what JSON has, and a report knows every figure in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from oracle import Oracle
from recorded import recorded

from dust3r_ros.errors import BackendError, GeometryError
from dust3r_ros.evaluation.protocols.depth import run_monocular_depth, run_multi_view_depth
from dust3r_ros.evaluation.protocols.localisation import run_localisation
from dust3r_ros.evaluation.protocols.reconstruction import run_reconstruction
from dust3r_ros.evaluation.protocols.recordings import split
from dust3r_ros.evaluation.protocols.relative_pose import run_relative_pose
from dust3r_ros.evaluation.protocols.rows import guarded, row
from dust3r_ros.evaluation.protocols.speed import run_speed
from dust3r_ros.evaluation.report.metrics import FACTS, METRICS
from dust3r_ros.evaluation.report.run_file import RunFile, write_run
from dust3r_ros.scenes.sequence import render_sequence


def test_numbers_become_plain_and_what_is_not_finite_is_none(tmp_path: Path) -> None:
    recording = recorded(render_sequence("orbit", 1, 32, 32, supersample=1))
    made = row(
        recording, "p", "s", a=np.float32(0.5), b=np.int64(3), c=float("inf"), d=np.nan, e=None, f=np.bool_(True)
    )
    assert made == {
        "dataset": "rendered", "scene": "orbit", "protocol": "p", "system": "s",
        "a": 0.5, "b": 3, "c": None, "d": None, "e": None, "f": True,
    }  # fmt: skip
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_a_scene_that_cannot_be_measured_is_a_note_and_a_backend_that_cannot_run_is_an_error() -> None:
    recording = recorded(render_sequence("orbit", 1, 32, 32, supersample=1))

    def fails(error: Exception) -> dict:
        def measure() -> dict:
            raise error

        return guarded(recording, "p", "s", measure)

    assert fails(GeometryError("too few"))["note"] == "too few"
    with pytest.raises(BackendError):
        fails(BackendError("no memory"))


def test_a_report_knows_every_figure(tmp_path: Path) -> None:
    sequence = render_sequence("orbit", 6, 128, 96, laps=0.2, supersample=1)
    recording, oracle = recorded(sequence), Oracle(sequence, 96)
    rows = [
        *run_relative_pose([recording], oracle, method="pnp", views=3, size=96),
        *run_relative_pose([recording], oracle, method="alignment", views=3, size=96),
        *run_localisation([split(recording, 3)], oracle, by="pointmaps", retrieved=1, size=96),
        *run_monocular_depth([recording], oracle, every=5, size=96),
        *run_multi_view_depth([recording], oracle, sources=2, step=1, size=96),
        *run_multi_view_depth([recording], oracle, sources=2, step=1, size=96, known_poses=True),
        *run_reconstruction([recording], oracle, views=3, size=96),
        *run_speed([recording], oracle, pairs=2, size=96),
    ]
    assert len(rows) == 8 and not any("note" in made for made in rows)
    assert {name for made in rows for name in made} - METRICS.keys() - FACTS == set()
    assert len(RunFile({}, rows).by_key()) == len(rows)  # no two rows have one name
    write_run(tmp_path / "run.json", RunFile({}, rows))
