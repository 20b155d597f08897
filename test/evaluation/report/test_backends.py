"""The default backend is the one that measurements choose."""

from __future__ import annotations

from pathlib import Path

from dust3r_ros.config import MapperConfig
from dust3r_ros.evaluation.report.backends import against_default, backend_tables, best
from dust3r_ros.evaluation.report.run_file import Row

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
