"""Reconstruction of a rendered room, with a backend that knows the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oracle import Oracle
from recorded import read, recorded
from scipy.io import savemat

from dust3r_ros.backends.two_view import TwoViewBackend
from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Recording as DatasetRecording
from dust3r_ros.evaluation.protocols.clouds import ObservedVolume
from dust3r_ros.evaluation.protocols.depth import run_multi_view_depth
from dust3r_ros.evaluation.protocols.reconstruction import (
    Reference,
    read_reference,
    reference_of,
    run_reconstruction,
    true_cloud,
)
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.products.ply import write_ply
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence

SIZE = 96


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return render_sequence("orbit", 6, 128, 96, laps=0.3, supersample=1)


def test_true_points_lie_where_their_depth_says(sequence: RenderedSequence) -> None:
    """In the camera of a view its own points have the depth of its pixels, and the room is 6.4 x 5.4 x 2.7 m."""
    recording = recorded(sequence)
    points = true_cloud(recording.views[:1], most=10**6)
    local = transform(invert(sequence.w_T_c[0]), points)
    assert np.allclose(np.sort(local[:, 2]), np.sort(sequence.depths[0].ravel()), atol=1e-5)
    room = true_cloud(recording.views)
    assert np.all(np.abs(room[:, :2]).max(axis=0) <= [3.21, 2.71]) and room[:, 2].min() > -0.01
    assert room[:, 2].max() < 2.71
    assert 1000 <= len(true_cloud(recording.views, most=1000)) < 1100
    with pytest.raises(InputError, match="true points need"):
        true_cloud(recorded(sequence, depth=False).views)


@pytest.mark.parametrize("known_poses", [False, True])
def test_true_pointmaps_make_the_true_cloud(sequence: RenderedSequence, known_poses: bool) -> None:
    def of(noise: float, icp: bool = False) -> dict:
        (row,) = run_reconstruction(
            [recorded(sequence)],
            Oracle(sequence, SIZE, noise=noise),
            views=4,
            size=SIZE,
            known_poses=known_poses,
            icp=icp,
        )
        return row

    row, noisy, refined = of(0.001), of(0.05), of(0.001, icp=True)
    assert row["protocol"] == "reconstruction" + known_poses * "_poses"
    assert refined["protocol"] == row["protocol"] + "_icp"
    assert row["views"] == 4 and row["tracked"] == 100 and row["accuracy_cm"] < 4 and row["completeness_cm"] < 6
    assert row["overall_cm"] == pytest.approx((row["accuracy_cm"] + row["completeness_cm"]) / 2)
    assert noisy["overall_cm"] > row["overall_cm"]
    assert refined["overall_cm"] < 1.1 * row["overall_cm"]


def test_a_principal_point_off_the_centre_costs_nothing_where_it_is_known() -> None:
    """Images without their 16 leftmost columns see it 8 pixels off: 2.3 degrees."""
    whole = recorded(render_sequence("sweep", 3, 240, 180, rate_hz=4.0, supersample=1))
    cut = [
        replace(view, read_image=read(view.image()[:, 16:]), read_depth=read(view.depth()[:, 16:]), K=view.K - off)
        for off in [np.array([[0, 0, 16], [0, 0, 0], [0, 0, 0]])] for view in whole.views
    ]  # fmt: skip
    known = {"size": 240, "known_poses": True, "known_focals": True}
    cases = [whole, replace(whole, views=tuple(cut))]
    clouds = list(run_reconstruction(cases, TwoViewBackend(), views=3, **known))
    assert clouds[1]["accuracy_median_cm"] < 1.1 * clouds[0]["accuracy_median_cm"]
    depths = list(run_multi_view_depth(cases, TwoViewBackend(), sources=2, step=1, **known))
    assert depths[1]["rel"] < 1.1 * depths[0]["rel"] and depths[1]["tau"] > depths[0]["tau"] - 2


def test_a_measured_reference_is_judged_in_millimetres(sequence: RenderedSequence) -> None:
    """The room is the object: half of it is observed, and the floor is below the plane."""
    points = 1000.0 * true_cloud(recorded(sequence).views, most=20_000)
    half = ObservedVolume(np.ones((40, 60, 40), bool), np.array([0.0, -3000, -100]), 100.0)
    reference = Reference(points, half, np.array([0.0, 0, 1, -300.0]))
    oracle = Oracle(sequence, SIZE, noise=0.0005)
    for icp in (False, True):
        (row,) = run_reconstruction(
            [recorded(sequence)], oracle, views=4, size=SIZE, known_poses=True, icp=icp, reference=lambda _: reference
        )
        assert "note" not in row
        assert 0 < row["accuracy_mm"] < 20 and 0 < row["completeness_mm"] < 20
        assert row["overall_mm"] == pytest.approx((row["accuracy_mm"] + row["completeness_mm"]) / 2)


def test_what_cannot_be_judged_says_why(sequence: RenderedSequence) -> None:
    oracle = Oracle(sequence, SIZE)
    cases = [recorded(sequence, poses=False), recorded(sequence, depth=False), recorded(sequence, metric=False)]
    rows = list(run_reconstruction(cases, oracle, views=3, size=SIZE))
    assert "0 views with a true pose" in rows[0]["note"]
    assert "true points need" in rows[1]["note"]
    assert "not in metres" in rows[2]["note"]


def test_files_of_dtu_are_read_and_broken_ones_named(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(0, 50, (30, 3)).astype(np.float32)
    write_ply(tmp_path / "stl.ply", Cloud(points, np.zeros((30, 3), np.uint8), np.ones(30, np.float32)))
    seen = np.zeros((4, 5, 6), np.uint8)
    seen[1, 2, 3] = 1
    savemat(tmp_path / "mask.mat", {"ObsMask": seen, "BB": [[10.0, 20, 30], [14, 25, 36]], "Res": [[2.0]]})
    savemat(tmp_path / "plane.mat", {"P": [[0.0], [0], [1], [-5]]})
    reference = read_reference(tmp_path / "stl.ply", tmp_path / "mask.mat", tmp_path / "plane.mat")
    assert np.allclose(reference.points, points)
    assert reference.observed is not None and reference.plane is not None
    assert reference.observed.contains(np.array([[12.0, 24, 36], [12, 24, 34]])).tolist() == [True, False]
    assert reference.plane.tolist() == [0, 0, 1, -5]
    assert read_reference(tmp_path / "stl.ply").observed is None
    (tmp_path / "torn.mat").write_bytes(b"no matlab")
    with pytest.raises(InputError, match=r"torn\.mat"):
        read_reference(tmp_path / "stl.ply", tmp_path / "torn.mat")
    with pytest.raises(InputError, match=r"plane\.mat' has no ObsMask, BB, Res"):
        read_reference(tmp_path / "stl.ply", tmp_path / "plane.mat")
    savemat(tmp_path / "short.mat", {"P": [1.0, 2, 3]})
    with pytest.raises(InputError, match=r"short\.mat' holds a plane of 3"):
        read_reference(tmp_path / "stl.ply", None, tmp_path / "short.mat")
    truth = {"points": tmp_path / "stl.ply", "plane": tmp_path / "plane.mat"}
    named = reference_of(DatasetRecording("scan1", "dtu", (), truth=truth))
    assert np.array_equal(named.points, reference.points) and named.observed is None and named.plane is not None
    with pytest.raises(InputError, match="'scan1' has no measured points"):
        reference_of(DatasetRecording("scan1", "dtu", ()))
    with pytest.raises(InputError, match=r"gone\.ply"):
        read_reference(tmp_path / "gone.ply")
