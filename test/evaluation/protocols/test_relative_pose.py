"""Multi-view relative pose on a rendered room, with a backend that knows the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracle import Nonsense, Oracle
from recorded import recorded

from dust3r_ros.errors import ConfigError
from dust3r_ros.evaluation.protocols.relative_pose import run_relative_pose
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence

SIZE = 96


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return render_sequence("orbit", 8, 128, 96, laps=0.3, supersample=1)


@pytest.mark.parametrize("method", ["pnp", "alignment"])
@pytest.mark.parametrize("known_focals", [False, True])
def test_true_pointmaps_give_true_poses(sequence: RenderedSequence, method: str, known_focals: bool) -> None:
    oracle = Oracle(sequence, SIZE, noise=0.002)
    (row,) = run_relative_pose(
        [recorded(sequence)], oracle, method=method, views=5, size=SIZE, known_focals=known_focals
    )
    assert row["protocol"] == f"multiview_pose_{method}" and row["system"] == "oracle" and "note" not in row
    assert (row["views"], row["pairs"], row["pairs_without_pose"]) == (5, 10, 0)
    assert row["rra_15"] == row["rta_15"] == row["rta_15_signed"] == 100.0
    assert row["maa_30"] > 90
    assert set(oracle.asked) == {(i, j) for i in range(5) for j in range(5) if i != j}


def test_useless_pointmaps_do_not_pass(sequence: RenderedSequence) -> None:
    (row,) = run_relative_pose([recorded(sequence)], Nonsense(sequence, SIZE), method="pnp", views=5, size=SIZE)
    assert row["maa_30"] < 20
    assert row["pairs"] == 10  # what failed counts


def test_draws_are_those_of_the_seed(sequence: RenderedSequence) -> None:
    def of(seed: int, draws: int = 1) -> tuple[list[int], dict]:
        oracle = Oracle(sequence, SIZE)
        (row,) = run_relative_pose(
            [recorded(sequence)], oracle, method="pnp", views=3, draws=draws, size=SIZE, seed=seed
        )
        row.pop("seconds")
        return list(oracle._frames.values()), row

    assert of(0) == of(0)
    assert len({tuple(of(seed)[0]) for seed in range(4)}) > 1
    assert of(0, draws=3)[1]["pairs"] == 9


def test_what_cannot_be_judged_says_why(sequence: RenderedSequence) -> None:
    oracle = Oracle(sequence, SIZE)
    still = recorded(sequence)
    still = replace(still, views=tuple(replace(view, w_T_c=np.eye(4)) for view in still.views))
    rows = list(run_relative_pose([recorded(sequence, poses=False), still], oracle, views=3, size=SIZE))
    assert "0 views with a true pose" in rows[0]["note"] and "rra_15" not in rows[0]
    assert "at one place" in rows[1]["note"]
    with pytest.raises(ConfigError, match="magic"):
        list(run_relative_pose([], oracle, method="magic"))
