"""The default backend is the one that measurements choose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.report.compare import (
    BETTER,
    FEW,
    SAME,
    UNLIKE,
    WORSE,
    against_default,
    backend_tables,
    best,
    compare,
    text,
)
from dust3r_ros.evaluation.report.metrics import METRICS
from dust3r_ros.evaluation.report.run_file import Row, RunFile

RATIOS = ("ate", "rpe", "depth_rel", "accuracy", "completeness", "seconds")
POINTS = ("tracked", "depth_delta", "density")
SCENES = 11


def run(rng: np.random.Generator, scenes: int = SCENES, noise: float = 0.0, base: RunFile | None = None) -> RunFile:
    """Rows of errors that differ by orders of magnitude; with ``base`` its own, times noise of a factor."""
    rows: list[Row] = []
    for index in range(scenes):
        row: Row = {"dataset": "recorded", "scene": f"scene {index}", "protocol": "sequence", "system": "two_view"}
        row |= {"data": f"{index:x}", "frames": 50}
        old = base.rows[index] if base else None
        for name in RATIOS:
            row[name] = float((old[name] if old else 10 ** rng.uniform(-3, 1)) * np.exp(noise * rng.normal()))
        for name in POINTS:
            row[name] = float((old[name] if old else rng.uniform(60, 95)) + 3 * noise * rng.normal())
        rows.append(row)
    return RunFile({"hardware": {"cores": 2, "others_cores": 0.0}}, rows)


def changed(old: RunFile, name: str, change: Callable[[int, float], float | None]) -> RunFile:
    """A run in which one figure differs."""
    return RunFile(old.about, [row | {name: change(index, row[name])} for index, row in enumerate(old.rows)])


@pytest.mark.parametrize("scenes", [1, 5, 6, 11])
def test_a_run_is_no_better_and_no_worse_than_itself(scenes: int) -> None:
    a = run(np.random.default_rng(3), scenes)
    found = compare(a, a)
    assert len(found.changes) == len(RATIOS) + len(POINTS) and {change.verdict for change in found.changes} == {SAME}
    assert not found.is_worse and all(change.mean == 0 for change in found.changes)


@pytest.mark.parametrize(
    ("name", "factor", "verdict"),
    [("ate", 1.5, WORSE), ("ate", 0.6, BETTER), ("tracked", 0.9, WORSE), ("density", 1.1, BETTER)],
)
def test_a_clear_shift_is_found_on_its_metric_and_its_side_only(name: str, factor: float, verdict: str) -> None:
    rng = np.random.default_rng(5)
    a = run(rng)
    b = changed(run(rng, noise=0.02, base=a), name, lambda index, value: factor * value)
    found = {change.metric.name: change for change in compare(a, b).changes}
    assert found.pop(name).verdict == verdict
    assert {change.verdict for change in found.values()} == {SAME}


def test_the_same_shift_everywhere_is_found() -> None:
    a = run(np.random.default_rng(6), 6)
    found = compare(a, changed(a, "ate", lambda index, value: 1.1 * value))
    assert [change.metric.name for change in found.worse] == ["ate"] and found.is_worse
    assert found.worse[0].low == pytest.approx(np.log(1.1)) == found.worse[0].high


def test_a_change_too_small_to_matter_is_none() -> None:
    a = run(np.random.default_rng(6))
    assert not compare(a, changed(a, "ate", lambda index, value: 1.005 * value)).worse


@pytest.mark.parametrize("scenes", [6, 11])
def test_noise_alone_is_hardly_ever_found(scenes: int) -> None:
    """All metrics together, in at most 5 % of the trials: 300 of them, and a bound of two deviations of their count."""
    trials, wrong = 300, 0
    for seed in range(trials):
        rng = np.random.default_rng([scenes, seed])
        a = run(rng, scenes)
        found = compare(a, run(rng, scenes, noise=0.3, base=a), resamples=1000)
        wrong += bool(found.better or found.worse)
    assert wrong <= 0.05 * trials


def test_a_shift_beyond_noise_is_mostly_found() -> None:
    """The test above is not passed by finding nothing."""
    right = 0
    for seed in range(50):
        rng = np.random.default_rng([1, seed])
        a = run(rng)
        b = changed(run(rng, noise=0.3, base=a), "ate", lambda index, value: 1.8 * value)
        right += "ate" in [change.metric.name for change in compare(a, b, resamples=1000).worse]
    assert right >= 45


def test_one_wild_scene_is_not_beyond_noise() -> None:
    a = run(np.random.default_rng(8))
    found = compare(a, changed(a, "ate", lambda index, value: 9 * value if index == 4 else value))
    (change,) = [change for change in found.changes if change.metric.name == "ate"]
    assert change.verdict == SAME and change.extreme[0] == "scene 4"


def test_few_scenes_are_reported_but_not_judged() -> None:
    a = run(np.random.default_rng(2), 5)
    found = compare(a, changed(a, "ate", lambda index, value: 3 * value))
    assert [change.verdict for change in found.changes if change.metric.name == "ate"] == [FEW]
    assert "too few scenes to judge: ATE (two_view: 5)" in text(found, a.about, a.about)


def test_the_sign_of_a_focal_error_is_its_side() -> None:
    assert METRICS["focal_error"].change(-3.0, 3.0) == 0 and METRICS["focal_error"].change(-3.0, 1.0) == -2


def test_a_figure_that_is_gone_is_worse() -> None:
    a = run(np.random.default_rng(1))
    b = changed(a, "ate", lambda index, value: None if index == 2 else value)
    found = compare(a, b)
    assert found.gone == ("recorded / scene 2, sequence, two_view: ate",) and found.is_worse and not found.worse
    assert compare(b, a).new == found.gone and not compare(b, a).is_worse


def test_the_result_is_that_of_the_seed() -> None:
    rng = np.random.default_rng(9)
    a = run(rng)
    b = run(rng, noise=0.2, base=a)
    assert compare(a, b, seed=4) == compare(a, b, seed=4)
    assert compare(a, b, seed=4).changes[0].low != compare(a, b, seed=5).changes[0].low


def test_runs_of_other_data_or_protocols_are_refused() -> None:
    a = run(np.random.default_rng(0))
    with pytest.raises(InputError, match=r"scene 10 .*missing in the second \(1 in all\)"):
        compare(a, RunFile(a.about, a.rows[:-1]))
    with pytest.raises(InputError, match="missing in the second"):
        compare(a, RunFile(a.about, [row | {"protocol": "other"} for row in a.rows]))
    with pytest.raises(InputError, match=r"scene 3 .* data '3' in the first and 'x'"):
        other = [row | ({"data": "x"} if row["scene"] == "scene 3" else {}) for row in a.rows]
        compare(a, RunFile(a.about, other))
    with pytest.raises(InputError, match="frames 50 in the first and 40"):
        compare(a, RunFile(a.about, [row | {"frames": 40} for row in a.rows]))


def test_times_of_busy_or_other_machines_are_remarked() -> None:
    a = run(np.random.default_rng(0))
    b = RunFile({"hardware": {"cores": 8, "others_cores": 1.5}}, a.rows)
    remarks = " ".join(compare(a, b).remarks)
    assert "cores 2 and 8" in remarks and "0.0 and 1.5 cores busy" in remarks
    assert compare(a, a).remarks == ()


def test_times_of_a_busy_machine_are_not_judged() -> None:
    a = run(np.random.default_rng(0))
    slow = changed(changed(a, "seconds", lambda index, value: 2 * value), "ate", lambda index, value: 2 * value)
    assert {change.metric.name for change in compare(a, slow).worse} == {"seconds", "ate"}
    busy = RunFile({"hardware": {"cores": 2, "others_cores": 1.5}}, slow.rows)
    found = compare(a, busy)
    assert {change.metric.name for change in found.worse} == {"ate"}
    assert [c.verdict for c in found.changes if c.metric.name == "seconds"] == [UNLIKE]


_PAGE = Path(__file__).resolve().parents[3] / "docs" / "backends.md"


def row(system: str, scene: int, **figures: object) -> Row:
    names = {"dataset": "recorded", "scene": f"s{scene}", "protocol": "sequence", "system": system, "unit": "m"}
    usual = {"tracked": 100.0, "ate_percent": 0.5 + scene / 10, "focal_error": 1.0, "depth_rel": 5.0 + scene}
    usual |= {"depth_delta": 90.0, "density": 70.0 + scene, "seconds": 9.0, "frames": 9, "note": ""}
    return names | usual | figures


def rows(system: str, **factors: float) -> list[Row]:
    """Seven scenes, figures times a factor that differs a little between scenes."""
    found = []
    for scene in range(7):
        plain = row(system, scene)
        changed = {name: plain[name] * factor * (1 + 0.01 * (scene % 3)) for name, factor in factors.items()}
        found.append(plain | changed)
    return found


def chosen(both: list[Row], network: list[Row] | None = None) -> str:
    mine = rows("two_view")
    found = {"both": against_default([*mine, *both], "both")}
    if network is not None:
        found["dust3r"] = against_default([*mine, *network], "dust3r")
    return best(found)


def test_a_backend_that_gains_and_loses_nothing_is_chosen() -> None:
    assert chosen(rows("both", depth_rel=0.8)) == "both"
    assert chosen(rows("both")) == "two_view"
    assert chosen(rows("both", depth_rel=0.8, ate_percent=1.3)) == "two_view"
    assert chosen(rows("both", seconds=5.0, depth_rel=0.8)) == "both"  # time is shown, and does not decide
    more = rows("dust3r", depth_rel=0.7, ate_percent=0.7)
    assert chosen(rows("both", depth_rel=0.8), more) == "dust3r"


def test_one_lucky_scene_is_not_enough() -> None:
    lucky = rows("both")
    lucky[3] = row("both", 3, depth_rel=1.0)
    assert chosen(lucky) == "two_view"


def test_a_backend_that_gives_no_figure_somewhere_is_not_chosen() -> None:
    broken = rows("both", depth_rel=0.8)
    broken[2] = {key: value for key, value in broken[2].items() if key != "ate_percent"}
    found = against_default([*rows("two_view"), *broken], "both")
    assert found.gone == ("recorded / s2, sequence, both: ate_percent",) and best({"both": found}) == "two_view"
    choice, _ = backend_tables([*rows("two_view"), *broken])
    assert choice.notes == ["both gives none where two_view does: ATE of path on 1 scenes", "Best: two_view"]


def test_the_tables_stand_together_and_end_with_the_choice() -> None:
    mine = [*rows("both", depth_rel=0.8), *rows("two_view"), row("opencv", 0)]
    choice, scenes = backend_tables(mine)
    assert [cells[:2] for cells in scenes.rows[:4]] == [
        ["s0", "two_view"], ["s0", "both"], ["s1", "two_view"], ["s1", "both"],
    ]  # fmt: skip
    assert len(scenes.rows) == 14 and choice.notes[-1] == "Best: both"
    assert any("depth Rel" in cells[0] and cells[1] == "both" and cells[-1] == "better" for cells in choice.rows)
    assert "from two_view to each other backend" in choice.lead


def test_the_default_is_what_the_page_says() -> None:
    assert f"- Best: {MapperConfig().backend}\n" in _PAGE.read_text(encoding="utf-8")
