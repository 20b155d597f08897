"""Targets and comparisons: each figure is held against the right run of the right program, by scene and by kind."""

from __future__ import annotations

from dust3r_ros.evaluation.report.metrics import Table
from dust3r_ros.evaluation.report.peers import best_of, kind_target_table, method_tables, peer_table, target_table
from dust3r_ros.evaluation.report.published import COLMAP_METHODS
from dust3r_ros.evaluation.report.run_file import Row

DEFAULT, GLOBAL, QUICK, QUICK_GLOBAL = COLMAP_METHODS


def row(system: str = "two_view", scene: str = "a", **figures: object) -> Row:
    names = {"dataset": "recorded", "scene": scene, "protocol": "sequence", "system": system, "unit": "m", "frames": 10}
    return names | {"note": "", **figures}


OURS = row(
    ate=0.05, ate_percent=1.0, tracked=100.0, focal_error=-3.5, seconds=5.0, keyframes=20, depth_delta=95.0,
    covered=60.0, kinds=["loops", "wide steps"], processor_seconds=6.0,
)  # fmt: skip
POSES = row("two_view, poses only", tracked=100.0, seconds=2.0, processor_seconds=2.5, peak_memory_mb=100.0)
THEIRS = row(DEFAULT, ate=0.1, ate_percent=2.0, tracked=90.0, focal_error=1.0, seconds=40.0, processor_seconds=50.0)
OTHERS = row(GLOBAL, ate=0.04, ate_percent=0.8, tracked=100.0, focal_error=1.0, seconds=30.0)
QUICKEST = row(QUICK, ate=0.01, ate_percent=0.2, tracked=50.0, seconds=5.0)
LATE = row(QUICK_GLOBAL, note="failed: stopped after 9 s, in mapping")
ROWS = [OURS, POSES, THEIRS, OTHERS, QUICKEST, LATE]


def cells(table: Table, line: int = 0) -> dict[str, str]:
    return dict(zip(table.head, table.rows[line], strict=True))


def test_targets_are_met_missed_or_not_judged() -> None:
    found = list(cells(target_table(ROWS)).values())
    # ATE against the best that poses enough, time against the default, the last against the quickest that does
    assert found[:6] == ["a", "100 %", "**1.25 x**", "0.05 x", "0.05 x", "0.12 x"]
    assert found[6:] == ["**-3.5 %**", "95.0 %", "**60 %**", "**150 ms**", "0.07"]
    assert "0.050 m, target 0.06 m: met" in target_table(ROWS).notes[0]
    few = list(cells(target_table([OURS, POSES, THEIRS | {"tracked": 7.0}])).values())
    assert few[2] == few[3] == few[5] == few[-1] == "–"
    many = [OURS, POSES, row(DEFAULT, note="not run"), row(QUICK, tracked=95.0, seconds=20.0)]
    assert cells(target_table(many))["time, poses only: a tenth of pycolmap's"] == "0.10 x"


def test_of_a_kind_the_worst_counts_and_a_focal_may_be_less_sure_where_little_moves() -> None:
    little = row(scene="b", tracked=90.0, focal_error=9.0, kinds=["little motion"])
    table = kind_target_table([*ROWS, little, row(scene="c", tracked=100.0, kinds=["wide steps"])])
    found = {line[0]: dict(zip(table.head, line, strict=True)) for line in table.rows}
    assert list(found) == ["little motion", "wide steps", "loops"]
    assert found["wide steps"]["scenes"] == "2" and found["wide steps"]["poses: at least 95 %"] == "met (100 %)"
    assert found["little motion"]["poses: at least 95 %"] == "**missed by 1 of 1** (90 %)"
    assert found["little motion"]["focal: within 3 % (little motion 15 %)"] == "met (+9.0 %)"
    assert found["loops"]["focal: within 3 % (little motion 15 %)"] == "**missed by 1 of 1** (-3.5 %)"
    assert "median 9.0 %, target 5 %: missed; mean +9.0 %, target within 2 %: missed" in table.notes[-1]
    alone = kind_target_table([little])
    assert "not measured: time, dense: half of pycolmap's" in alone.notes and len(alone.head) == 4


def test_the_best_has_enough_poses_and_the_lowest_error_or_nearly() -> None:
    runs = {one["system"]: one for one in ROWS}
    assert best_of(runs, list(runs)) == [GLOBAL]
    near = runs | {"two_view": OURS | {"ate": 0.043}}
    assert best_of(near, list(near)) == ["two_view", GLOBAL]
    trajectory, focal, cost = method_tables(ROWS)
    assert trajectory.head[2:] == ["two_view, poses only", *COLMAP_METHODS] and len(trajectory.rows) == 2
    assert cells(trajectory)[GLOBAL] == "**0.80 (100 %, 100 %); 1**" and cells(trajectory)[QUICK].endswith("; 0")
    assert cells(trajectory)[QUICK_GLOBAL] == "– (0 %, 0 %); 0" and cells(focal)[QUICK_GLOBAL] == "– (–)"
    assert cells(cost)[DEFAULT] == "5.00 (–)" and cells(cost)["two_view, poses only"] == "0.25 (100)"
    assert method_tables([OURS, POSES]) == []


def test_peers_are_ratios_on_the_same_scene() -> None:
    table = peer_table([*ROWS, row("opencv", scene="b", ate=1.0)])
    found = {line[1]: line for line in table.rows}
    assert found[DEFAULT][:5] == ["a", DEFAULT, "1.00 / 2.00", "0.50", "100 / 90"]
    assert found[DEFAULT][7:] == ["0.12", "0.05", "0.05", "100 / –"] and found["opencv"][3] == "–"
    assert "1 of 5 pairs" in table.notes[0]
    assert peer_table([OURS]).notes == ["no peer was run"]
