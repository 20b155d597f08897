"""Metrics: lines that survive crashes, warnings that do not flood; a timed run goes through its whole schedule."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_worlds import RECIPE

pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.training import log
from dust3r_ros.training.log import MetricLog, Pace, Progress, Rare, planned, read_metrics
from dust3r_ros.training.recipe import Recipe, from_mapping


def test_lines_after_the_state_are_made_again(tmp_path: Path) -> None:
    path, told = tmp_path / "metrics.jsonl", list[str]()
    first = MetricLog(path, -1, None, told.append)
    for step in range(5):
        first.add("train", step, {"loss": step / 3})
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 5, "lo')  # cut off by a crash
    resumed = MetricLog(path, 2, None, told.append)
    resumed.add("train", 3, {"loss": math.nan})
    resumed.add("held_out", 3, {"loss": 0.5})
    rows = read_metrics(path)
    assert [(row["kind"], row["step"]) for row in rows] == [("train", k) for k in range(4)] + [("held_out", 3)]
    assert rows[1]["loss"] == 1 / 3 and rows[3]["loss"] is None and told == []
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows


def test_a_full_disk_is_reported_once(tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    metrics = MetricLog.__new__(MetricLog)
    metrics._path, metrics._warn, metrics._failed, metrics._board = path, told.append, False, None
    for step in range(3):
        metrics.add("train", step, {"loss": 1.0})
    assert len(told) == 1 and "No space left" in told[0] and "training continues" in told[0]


class Board:
    """Stands in for TensorBoard's writer."""

    made: list[Any] = []  # noqa: RUF012

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.scalars = folder, purge_step, list[tuple[str, float, int]]()
        Board.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.scalars.append(("closed", 0.0, 0))


def test_tensorboard_gets_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Board  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    metrics = MetricLog(tmp_path / "metrics.jsonl", 7, tmp_path / "board", print)
    metrics.add("held_out", 8, {"loss": 0.5})
    metrics.close()
    assert Board.made[-1].purge_step == 8
    assert Board.made[-1].scalars == [("held_out/loss", 0.5, 8), ("closed", 0.0, 0)]


def test_without_tensorboard_there_are_lines_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    metrics = MetricLog(tmp_path / "metrics.jsonl", -1, tmp_path / "board", print)
    metrics.add("train", 1, {"loss": 1.0})
    metrics.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_rare_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(log, "monotonic", lambda: clock[0])
    rare = Rare(told.append, 10.0)
    for seconds in (0, 1, 2, 11, 12):
        clock[0] = float(seconds)
        rare(f"at {seconds}")
    assert told == ["at 0", "at 11 (and 2 more like it)"]


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


def test_the_first_steps_do_not_learn_at_full_rate() -> None:
    """Before its speed is known, a run of thousands of steps is at the begin of its warm-up."""
    recipe = from_mapping({**RECIPE, "stages": STAGES}, {}, "small")
    _, rates, _ = simulate(recipe, 300.0, lambda clock, stage: 0.05)
    assert len(rates) > 4000 and max(rates[:9]) < 0.1 * max(rates)


def test_a_plan_is_made_again_after_a_resume() -> None:
    recipe = from_mapping({**RECIPE, "stages": STAGES}, {}, "small")
    pace = Pace(1000.0, 0.0)
    progress = Progress([50, 100], step=100, stage=1, within=50)
    assert not any(pace.update(progress, recipe, 500.0, 10.0) for _ in range(2))
    assert pace.update(progress, recipe, 500.0, 10.0)
    assert progress.plan == [50, 100]  # 500 seconds are left, 10 each


def test_slow_steps_after_a_resume_do_not_end_a_run() -> None:
    """Those in which a GPU's blocks are compiled and its calls recorded: the plan was made of hundreds of others."""
    recipe = from_mapping({**RECIPE, "stages": STAGES}, {}, "small")
    pace, clock = Pace(1000.0, 0.0), 500.0
    progress = Progress([50, 10_000], step=5050, stage=1, within=5000)
    for number in range(100):
        took = 20.0 if number in (0, 2, 5) else 0.6 if number < 12 else 0.05
        clock += took
        progress.count(4, True)
        pace.update(progress, recipe, clock, took)
        assert not progress.stage_done
    assert progress.plan[1] == pytest.approx(5100 + (1000 - clock) / 0.05, rel=0.02)


def test_a_share_that_is_done_in_the_first_steps_after_a_resume_waits_for_warm_ones() -> None:
    recipe = from_mapping({**RECIPE, "stages": STAGES}, {}, "small")
    pace, progress = Pace(1000.0, 0.0), Progress([50, 100], step=109, stage=1, within=59)
    for renewed in (False, False, True):
        progress.count(4, True)
        assert pace.update(progress, recipe, 500.0, 10.0) == renewed


def test_over() -> None:
    assert not Pace(60, 10).over(49.9) and Pace(60, 10).over(50)
