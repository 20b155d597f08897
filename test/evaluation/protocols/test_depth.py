"""Depth of pairs on a rendered room, with a backend that knows the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Oracle
from recorded import recorded

from dust3r_ros.backends.depth_graph import DepthGraph
from dust3r_ros.backends.mono import MonoBackend
from dust3r_ros.backends.two_view import TwoViewBackend
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.errors import depth_errors
from dust3r_ros.evaluation.protocols.depth import run_monocular_depth, run_multi_view_depth
from dust3r_ros.evaluation.protocols.rows import depth_columns
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence

SIZE = 96


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return render_sequence("orbit", 8, 128, 96, laps=0.3, supersample=1)


def test_inliers_by_hand() -> None:
    """Off by 2 %, -2 %, 10 %, 0: Rel (2 + 2 + 10 + 0) / 4 = 3.5 %; 1 / 0.98 = 1.0204, so three are within 1.03."""
    truth = np.array([[1.0, 2.0, 4.0, 5.0]])
    errors = depth_errors(truth, truth * [1.02, 0.98, 1.1, 1.0], factor=1.03)
    assert errors.rel == pytest.approx(3.5) and errors.delta == 75.0
    with pytest.raises(InputError, match="above 1"):
        depth_errors(truth, truth, factor=1.0)


def test_columns_by_hand() -> None:
    """One image is right on 1 of its 2 true pixels, one has no estimate: means over the one, density (1/2 + 0) / 2."""
    truth = np.array([[2.0, 4.0]], np.float32)
    pairs = [(truth, np.array([[2.0, 0.0]], np.float32)), (truth, np.zeros_like(truth))]
    columns = depth_columns(pairs, median_aligned=False)
    assert columns == {"images": 1, "rel": 0.0, "delta": 100.0, "tau": 100.0, "density": 25.0}
    with pytest.raises(GeometryError, match="none of 1 images"):
        depth_columns(pairs[1:], median_aligned=True)


def test_a_depth_that_is_infinite_is_none() -> None:
    """Infinite is how some sets write "none": that image has no truth, the other is right on 1 of 2 pixels."""
    truth = np.array([[2.0, 4.0]], np.float32)
    pairs = [(np.full_like(truth, np.inf), truth), (truth, np.array([[2.0, np.inf]], np.float32))]
    columns = depth_columns(pairs, median_aligned=False)
    assert columns == {"images": 1, "rel": 0.0, "delta": 100.0, "tau": 100.0, "density": 50.0}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10.0))
def test_the_median_forgets_the_scale_and_images_have_no_order(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    pairs = [tuple(rng.uniform(1, 3, (2, 6, 7))) for _ in range(3)]
    columns = depth_columns(pairs, median_aligned=True)
    scaled = depth_columns([(t, scale * d) for t, d in pairs[::-1]], median_aligned=True)
    assert scaled["rel"] == pytest.approx(columns["rel"]) and scaled["delta"] >= scaled["tau"]


def test_one_image_tells_its_depth_but_for_the_scale(sequence: RenderedSequence) -> None:
    (row,) = run_monocular_depth([recorded(sequence)], Oracle(sequence, SIZE, noise=0.0), every=4, size=SIZE)
    assert (row["protocol"], row["images"]) == ("monocular_depth", 2)
    assert row["rel"] < 2.0 and row["delta"] > 99 and row["density"] > 85
    (noisy,) = run_monocular_depth([recorded(sequence)], Oracle(sequence, SIZE, noise=0.05), every=4, size=SIZE)
    assert noisy["rel"] > row["rel"] + 3


def test_true_depth_beyond_the_limit_does_not_count(sequence: RenderedSequence) -> None:
    oracle = Oracle(sequence, SIZE)
    (near,) = run_monocular_depth([recorded(sequence)], oracle, every=4, size=SIZE, max_depth=2.0)
    (row,) = run_monocular_depth([recorded(sequence)], oracle, every=4, size=SIZE)
    assert near["rel"] != row["rel"]
    (none,) = run_monocular_depth([recorded(sequence)], oracle, every=4, size=SIZE, max_depth=0.01)
    assert "none of 2 images" in none["note"]


@pytest.mark.parametrize("known_poses", [False, True])
def test_views_together_tell_depth_and_with_poses_its_scale(sequence: RenderedSequence, known_poses: bool) -> None:
    (row,) = run_multi_view_depth(
        [recorded(sequence)], Oracle(sequence, SIZE, noise=0.002), sources=2, step=2, every=4, size=SIZE,
        known_poses=known_poses,
    )  # fmt: skip
    assert row["protocol"] == "multi_view_depth" + known_poses * "_poses"
    assert (row["images"], row["sources"]) == (2, 2)
    assert row["rel"] < 3 and row["delta"] > 97 and row["tau"] > 70


def test_two_views_of_geometry_give_depth_from_poses() -> None:
    small_steps = render_sequence("sweep", 3, 240, 180, rate_hz=4.0, supersample=1)
    (row,) = run_multi_view_depth(
        [recorded(small_steps)], TwoViewBackend(), sources=2, step=1, size=240, known_poses=True, known_focals=True
    )
    assert row["system"] == "two_view" and row["rel"] < 10 and row["delta"] > 85


def test_a_network_of_single_images_is_judged_alone(sequence: RenderedSequence, tmp_path: Path) -> None:
    """The networks read depth off the blue: MoGe-2 gives it up to scale, Depth Anything less."""
    import depth_graphs  # skips the test without onnx

    foggy = recorded(replace(sequence, images=depth_graphs.blue(sequence.images, sequence.depths)))
    graph = depth_graphs.moge(tmp_path / "moge.onnx", focal=sequence.focal / sequence.width)
    (row,) = run_monocular_depth([foggy], MonoBackend(DepthGraph(str(graph), "cpu")), every=4, size=128)
    assert (row["system"], row["images"]) == ("mono", 2)
    assert row["rel"] < 3 and row["delta"] > 98 and row["density"] > 95
    graph = depth_graphs.depth_anything(tmp_path / "anything.onnx")
    (row,) = run_monocular_depth([foggy], MonoBackend(DepthGraph(str(graph), "cpu")), every=4, size=128)
    assert "up to scale and shift" in row["note"]


def test_what_cannot_be_judged_says_why(sequence: RenderedSequence) -> None:
    oracle = Oracle(sequence, SIZE)
    (blind,) = run_monocular_depth([recorded(sequence, depth=False)], oracle, size=SIZE)
    assert "no true depth" in blind["note"]
    (one,) = run_monocular_depth([recorded(sequence)], TwoViewBackend(), every=4, size=SIZE)
    assert "has no depth for a single image" in one["note"]
    (lost,) = run_multi_view_depth([recorded(sequence, poses=False)], oracle, size=SIZE, known_poses=True)
    assert "no true pose" in lost["note"]
