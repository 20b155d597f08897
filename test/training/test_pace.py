"""A run that is given a time goes through all its stages and its whole schedule within it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from small_worlds import RECIPE

pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.training.log import Progress, planned
from dust3r_ros.training.pace import Pace
from dust3r_ros.training.recipe import Recipe, from_mapping

STAGES = [
    {"sizes": [[32, 32]], "pairs": 4, "steps": 10, "share": 0.3, "rate": 1e-3},
    {"sizes": [[64, 64]], "pairs": 4, "steps": 90, "share": 0.7, "rate": 1e-3, "restart": False},
]


def simulate(
    recipe: Recipe, seconds: float, cost: Callable[[float, int], float]
) -> tuple[float, list[float], list[float]]:
    """A run whose steps take ``cost(clock, stage)``: when it ends, the rates, when each stage ended."""
    pace, progress = Pace(seconds, 5.0), Progress(planned(recipe, timed=True))
    clock, rates, ends = 0.0, [], []
    while not progress.finished and not pace.over(clock):
        took = cost(clock, progress.stage)
        clock += took
        rates.append(recipe.rate(progress.stage, (progress.within + 1) / progress.plan[progress.stage]))
        progress.count(4, True)
        pace.update(progress, recipe, clock, took)
        if progress.stage_done:
            progress.next_stage()
            ends.append(clock)
    return clock, rates, ends


@pytest.mark.parametrize(
    ("cost", "name"),
    [
        (lambda clock, stage: (0.05, 0.4)[stage], "steady"),
        (lambda clock, stage: (0.05, 0.4)[stage] * (2 if 100 < clock < 200 else 1), "busy for a while"),
        (lambda clock, stage: (2.0, 9.0)[stage], "slow"),
    ],
)
def test_the_schedule_fits_the_time(cost: Callable[[float, int], float], name: str) -> None:
    recipe = from_mapping({**RECIPE, "stages": STAGES}, {}, "small")
    end, rates, ends = simulate(recipe, 300.0, cost)
    assert 250 <= end <= 300, name
    assert ends[0] == pytest.approx(0.3 * 295, rel=0.15)
    assert rates[-1] < 0.12 * max(rates), "the rate must have come down by the end"


def test_a_plan_is_made_again_after_a_resume() -> None:
    recipe = from_mapping({**RECIPE, "stages": STAGES}, {}, "small")
    pace = Pace(1000.0, 0.0)
    progress = Progress([50, 100], step=100, stage=1, within=50)
    assert not any(pace.update(progress, recipe, 500.0, 10.0) for _ in range(2))
    assert pace.update(progress, recipe, 500.0, 10.0)
    assert progress.plan == [50, 100]  # 500 seconds are left, 10 each


def test_over() -> None:
    assert not Pace(60, 10).over(49.9) and Pace(60, 10).over(50)
