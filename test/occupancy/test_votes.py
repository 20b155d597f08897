"""Votes are counted where they belong, taken out again, and never beyond the largest grid."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.occupancy import FREE, MAX_CELLS, OCCUPIED, UNKNOWN
from dust3r_ros.occupancy.plan import Plan
from dust3r_ros.occupancy.votes import Votes


def plan(row: int, column: int, rows: list[list[int]]) -> Plan:
    return Plan(row, column, np.array(rows, np.int8))


def test_the_votes_decide() -> None:
    votes = Votes()
    obstacle, through, nothing = plan(5, -3, [[1]]), plan(5, -3, [[-1]]), plan(5, -3, [[0]])
    expected = {(): None, ("o",): None, ("t",): FREE, ("o", "o"): OCCUPIED, ("o", "t"): None}
    expected |= {("o", "t", "t", "t"): FREE, ("o", "o", "t", "t", "t"): OCCUPIED, ("o",) * 2 + ("t",) * 5: FREE}
    for ballots, result in expected.items():
        votes = Votes()
        for ballot in (*ballots, "n"):
            votes.add({"o": obstacle, "t": through, "n": nothing}[ballot])
        grid = votes.grid(0.5)
        assert grid.data.tolist() == ([] if result is None else [[result]]), ballots
        if result is not None:
            assert grid.origin == (-1.5, 2.5, 0.0) and grid.resolution == 0.5


def test_plans_far_apart_share_one_grid_and_leave_no_trace() -> None:
    votes, kept = Votes(), []
    rng = np.random.default_rng(0)
    plans = [
        Plan(int(r), int(c), rng.integers(-1, 2, (9, 14)).astype(np.int8)) for r, c in rng.integers(-700, 700, (30, 2))
    ]
    truth = np.zeros((2, 1500, 1500), int)
    for item in plans:
        kept.append(votes.add(item))
        window = np.s_[item.row + 750 : item.row + 759, item.column + 750 : item.column + 764]
        truth[0][window] += item.cells > 0
        truth[1][window] += item.cells < 0
    grid = votes.grid(1.0)
    free = np.argwhere(0.41 * truth[1] > 0.85 * truth[0])
    x, y = (int(value) for value in grid.origin[:2])
    assert np.array_equal(np.argwhere(grid.data == FREE) + np.array([y + 750, x + 750]), free)
    assert not votes.truncated
    for part in kept:
        votes.remove(part)
    assert votes.grid(1.0).data.shape == (0, 0)


def test_it_stops_growing_and_says_so() -> None:
    votes = Votes()
    votes.add(plan(0, 0, [[-1]]))
    part = votes.add(plan(MAX_CELLS + 500, 3, [[-1]]))
    assert votes.truncated and part.cells.size == 0
    assert votes.wanted == (MAX_CELLS + 501, 4)
    votes.remove(part)
    long = votes.add(Plan(-2, 0, np.full((MAX_CELLS + 100, 1), -1, np.int8)))
    assert 0 < len(long.cells) <= MAX_CELLS
    grid = votes.grid(1.0)
    assert grid.data.shape[0] <= MAX_CELLS and (grid.data != UNKNOWN).all()
    votes.remove(long)
    assert votes.grid(1.0).data.shape == (1, 1)


@pytest.mark.parametrize("row", [-MAX_CELLS, -1, 0, 1, MAX_CELLS - 1, 3 * MAX_CELLS])
def test_any_place_can_be_the_first(row: int) -> None:
    votes = Votes()
    votes.add(plan(row, -row, [[-1, -1]]))
    assert votes.grid(1.0).origin == (-row, row, 0.0) and not votes.truncated
