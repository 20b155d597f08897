"""Rows are what JSON has, and a report knows every figure in them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Oracle
from recorded import recorded, split

from dust3r_ros.errors import BackendError, GeometryError, InputError
from dust3r_ros.evaluation.protocols.cost import run_speed
from dust3r_ros.evaluation.protocols.depth import run_monocular_depth, run_multi_view_depth
from dust3r_ros.evaluation.protocols.localisation import run_localisation
from dust3r_ros.evaluation.protocols.reconstruction import run_reconstruction
from dust3r_ros.evaluation.protocols.relative_pose import run_relative_pose
from dust3r_ros.evaluation.protocols.rows import guarded, relative_focal_errors, row, view_angle_errors
from dust3r_ros.evaluation.report.metrics import FACTS, METRICS
from dust3r_ros.evaluation.report.run_file import RunFile, write_run
from dust3r_ros.scenes.sequence import render_sequence


def test_by_hand() -> None:
    """Width 200: focal 100 sees 2 atan(1) = 90 degrees, focal 100 sqrt(3) sees 2 atan(1 / sqrt 3) = 60 degrees."""
    true, found = [100.0, 100 * math.sqrt(3), 100.0], [100 * math.sqrt(3), 100.0, 100.0]
    assert relative_focal_errors(true, found) == pytest.approx([73.2051, -42.2650, 0.0], abs=1e-3)
    assert view_angle_errors(true, found, 200) == pytest.approx([-30.0, 30.0, 0.0])


def test_the_true_focal_has_exactly_no_error() -> None:
    f = np.random.default_rng(0).uniform(100, 2000, 20)
    assert not relative_focal_errors(f, f).any() and not view_angle_errors(f, f, 640).any()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100.0))
def test_resized_images_have_the_same_errors(seed: int, scale: float) -> None:
    true, found = np.random.default_rng(seed).uniform(200, 900, (2, 5))
    assert relative_focal_errors(scale * true, scale * found) == pytest.approx(relative_focal_errors(true, found))
    wide = view_angle_errors(scale * true, scale * found, scale * 640)
    assert wide == pytest.approx(view_angle_errors(true, found, 640), abs=1e-9)
    assert np.all(np.sign(wide) == -np.sign(relative_focal_errors(true, found)))  # longer sees less
    assert view_angle_errors(found, true, 640) == pytest.approx(-view_angle_errors(true, found, 640))


def test_errors_grow_with_the_factor() -> None:
    factors = np.array([1.0, 1.01, 1.1, 2.0])
    true = np.full(4, 500.0)
    assert np.all(np.diff(relative_focal_errors(true, factors * true)) > 0)
    assert np.all(np.diff(np.abs(view_angle_errors(true, factors * true, 640))) > 0)


@pytest.mark.parametrize("bad", [0.0, -3.0, math.nan, math.inf])
def test_a_focal_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="found focal"):
        relative_focal_errors([500.0], [bad])
    with pytest.raises(InputError, match="true focal"):
        view_angle_errors([bad], [500.0], 640)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="shapes"):
        relative_focal_errors([500.0], [500.0, 400.0])
    with pytest.raises(InputError, match="N at least 1"):
        relative_focal_errors([], [])
    with pytest.raises(InputError, match="image size"):
        view_angle_errors([500.0], [500.0], 0)


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
