"""Tables and pages: figures stand where they belong, nothing can break the page, nothing of others is overwritten."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dust3r_ros.errors import OutputError
from dust3r_ros.evaluation.report.compare import compare
from dust3r_ros.evaluation.report.metrics import Table
from dust3r_ros.evaluation.report.page import END, begin_of, html, into_page, markdown
from dust3r_ros.evaluation.report.published import beside_published, published, scene_table
from dust3r_ros.evaluation.report.run_file import Row, RunFile, about


def row(system: str = "two_view", scene: str = "a", **figures: object) -> Row:
    names = {"dataset": "recorded", "scene": scene, "protocol": "sequence", "system": system, "unit": "m", "frames": 9}
    return names | {"note": "", **figures}


OURS = row(ate=0.05, ate_percent=1.0, tracked=100.0, focal_error=-3.5, seconds=4.0, depth_delta=95.0, density=60.0)
POSES = row("two_view, poses only", seconds=2.0)
THEIRS = row("pycolmap incremental, exhaustive", ate=0.1, ate_percent=2.0, tracked=90.0, focal_error=1.0, seconds=40.0)
RUN = RunFile(about(commit="abc<b>", date="2001-02-03", hardware={"cores": 2}, seconds=61.0), [OURS, POSES, THEIRS])


def cells(table: Table, line: int = 0) -> dict[str, str]:
    return dict(zip(table.head, table.rows[line], strict=True))


def test_an_ate_without_scale_is_not_shown_in_metres_and_failures_are_reported() -> None:
    table = scene_table(
        [row(ate=3.0, unit="", ate_percent=0.5), row(scene="b") | {"frames": None, "note": "failed: x"}]
    )
    assert table.rows[0][4] == "no scale" and table.rows[1][2] == "–" and table.notes == ["b, two_view: failed: x"]


def test_the_published_figures_are_those_of_the_literature() -> None:
    found = {(f.title, f.scene, f.who, f.metric): f.value for f in published()}
    assert found["Visual localisation, 7-Scenes", "stairs", "dust3r", "rotation_deg"] == 2.84
    assert found["Monocular depth, NYUv2", "mean", "dust3r", "delta"] == 94.09
    assert found["Multi-view stereo, DTU", "mean", "dust3r", "overall_mm"] == 1.741
    anchors = {f.who: f.value for f in published() if f.protocol == "trajectory"}
    assert anchors == {"MASt3R-SLAM": 0.06, "VGGT-SLAM": 0.041, "SLAM3R": None, "CUT3R": 0.113, "DROID-SLAM": 0.158}
    assert all(figure.source for figure in published())


def test_official_weights_are_not_run_here_until_a_run_fills_them() -> None:
    def line(rows: list[Row], data: str, scene: str = "mean") -> str:
        lines = [cells(t, i) for t in beside_published(rows) for i, r in enumerate(t.rows) if r[:2] == [data, scene]]
        own = "dust3r, the weights given, here"
        return lines[0].get(own) or lines[0]["dust3r, official weights, here"]

    assert all(r[5] == "not run here" for table in beside_published([]) for r in table.rows)
    depth = {"dataset": "nyu", "protocol": "monocular_depth", "system": "dust3r"}
    rows: list[Row] = [
        depth | {"scene": "x", "rel": 6.0, "delta": 90.0},
        depth | {"scene": "y", "rel": 8.0, "delta": 92.0},
    ]
    assert line(rows, "NYUv2") == "7.00 / 91.00 (2 scenes)"
    assert line([*rows, depth | {"scene": "mean", "rel": 5.0}], "NYUv2") == "5.00 / 91.00 (2 scenes)"
    assert line([depth | {"scene": "mean", "rel": 5.0, "delta": 91.0}], "NYUv2") == "5.00 / 91.00"
    assert line(rows, "BONN") == "not run here"
    place = {"dataset": "7scenes", "protocol": "localisation", "system": "dust3r", "rotation_deg": 1.0}
    parts: list[Row] = [place | {"scene": f"chess/seq-0{k}", "position_cm": float(k)} for k in (3, 5)]
    assert line(parts, "7-Scenes", "chess") == "4.0 / 1.00" and line(parts, "7-Scenes", "fire") == "not run here"
    slam = {"dataset": "tum", "protocol": "trajectory", "system": "dust3r"}
    walks: list[Row] = [slam | {"scene": "rgbd_dataset_freiburg1_desk", "ate": 0.1}]
    walks.append(slam | {"scene": "rgbd_dataset_freiburg2_xyz", "ate": 9.0})
    assert line(walks, "TUM RGB-D fr1, uncalibrated", "freiburg1 mean") == "0.1000 (1 of 9 scenes)"


def test_a_mean_is_over_images_that_were_not_for_training() -> None:
    def shown(*rows: Row) -> str:
        (table,) = (table for table in beside_published(rows) if "monocular" in table.title)
        return next(cells(table, i)["two_view, here"] for i, line in enumerate(table.rows) if line[0] == "NYUv2")

    depth = {"dataset": "nyu", "protocol": "monocular_depth", "system": "two_view", "delta": 90.0}
    rows: list[Row] = [
        depth | {"scene": "test/bath", "split": "test", "rel": 4.0, "images": 30},
        depth | {"scene": "test/den", "split": "test", "rel": 8.0, "images": 10},
        depth | {"scene": "train/bath", "split": "train", "rel": 1.0, "images": 90},
    ]
    assert shown(*rows) == "5.00 / 90.00 (2 scenes)"


def test_a_mean_over_a_part_of_the_scenes_says_so() -> None:
    """Scenes that failed count, and so do those of the published mean, where their number is known."""

    def shown(rows: list[Row], data: str) -> str:
        lines = [(t, i) for t in beside_published(rows) for i, line in enumerate(t.rows) if line[0].endswith(data)]
        return cells(*lines[0])["two_view, here"]

    stereo = {"dataset": "dtu", "protocol": "reconstruction", "system": "two_view"}
    figures = {"accuracy_mm": 1.2, "completeness_mm": 0.4, "overall_mm": 0.8}
    scans: list[Row] = [stereo | {"scene": f"scan{k}"} | figures for k in range(22)]
    assert shown(scans[:1], "DTU") == "1.200 / 0.400 / 0.800 (1 of 22 scenes)"
    assert shown(scans, "DTU") == "1.200 / 0.400 / 0.800"
    failed: list[Row] = [row("two_view", f"scan{k}") | stereo | {"note": "no pair is informative"} for k in (90, 91)]
    assert shown([*scans, *failed], "DTU") == "1.200 / 0.400 / 0.800 (22 of 24 scenes)"
    assert shown(failed, "DTU") == "– / – / – (0 of 22 scenes)"
    poses = {"dataset": "co3d", "protocol": "multiview_pose_pnp", "system": "two_view"}
    found: Row = poses | {"scene": "apple/1", "rra_15": 99.0, "rta_15": 98.0, "maa_30": 97.0}
    assert shown([found], "PnP") == "99.0 / 98.0 / 97.0 (1 scene)"
    assert shown([found, poses | {"scene": "apple/2", "note": "failed"}], "PnP").endswith("(1 of 2 scenes)")
    place = {"dataset": "7scenes", "protocol": "localisation", "system": "two_view", "scene": "chess/seq-03"}
    parts: list[Row] = [place | {"position_cm": 3.0, "rotation_deg": 1.0}, place | {"scene": "chess/seq-05"}]
    assert shown(parts, "7-Scenes") == "3.0 / 1.00 (1 of 2 parts)"


def test_a_part_of_a_published_scene_stands_beside_it_marked() -> None:
    def shown(*rows: Row) -> tuple[str, list[str]]:
        (table,) = (table for table in beside_published(rows) if "localisation" in table.title)
        line = next(i for i, line in enumerate(table.rows) if line[:2] == ["7-Scenes", "redkitchen"])
        return cells(table, line)["two_view, here"], [note for note in table.notes if "Subset" in note]

    part: Row = {
        "dataset": "recorded", "scene": "7scenes_redkitchen", "protocol": "localisation", "system": "two_view",
        "of": "7scenes/redkitchen", "subset": "50 frames", "position_cm": 7.0, "rotation_deg": 1.5,
    }  # fmt: skip
    assert shown(part) == ("7.0 / 1.50 (subset)", ["Subset: redkitchen here is 50 frames"])
    whole = part | {"dataset": "7scenes", "scene": "redkitchen", "of": "", "subset": "", "position_cm": 5.0}
    assert shown(part, whole)[0] == "5.0 / 1.50"
    depth = part | {"of": "tum/fr3_x", "protocol": "monocular_depth", "rel": 1.0, "delta": 99.0}
    for table in beside_published([depth]):
        assert not any("two_view" in name for name in table.head)  # a scene is no mean over a data set
    page = markdown(RunFile(RUN.about, [part]), "make eval")
    assert "a subset of 7scenes/redkitchen, 50 frames" in page and "| recorded | 7scenes_redkitchen |" in page


def test_the_page_is_whole_and_nothing_in_it_is_markup(tmp_path: Path) -> None:
    Image.fromarray(np.full((30, 2000, 3), 99, np.uint8)).save(tmp_path / "p.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    run = RunFile(RUN.about, [*RUN.rows, row(scene="<script>x")])
    page = html(run, {"walk <1>": tmp_path / "p.png", "lost": tmp_path / "broken.png"}, compare(run, run))
    assert "<script" not in page and "abc&lt;b&gt;" in page and "&lt;script&gt;x" in page
    assert page.count("data:image/jpeg;base64,") == 1 and "'broken.png' cannot be shown" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<b>-3.5 %</b>" in page and "not run here" in page and "What changed" in page


def test_markdown_tables_have_as_many_cells_as_heads() -> None:
    text = markdown(RunFile(RUN.about, [row(scene="a|b", note="two\nlines")]), "make eval")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines and "a\\|b" in text
    block: list[int] = []
    for before, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        if line.startswith("|"):
            count = len(re.findall(r"(?<!\\)\|", line))
            block = [*block, count] if before.startswith("|") else [count]
            assert len(set(block)) == 1, line
    assert "official weights: not run here; give them with --checkpoint PATH" in text
    assert "commit abc<b>, date 2001-02-03" in markdown(RUN, "make eval")


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    into_page(page, "one")
    page.write_text("before\n" + page.read_text() + "after\n")
    into_page(page, "two")
    text = page.read_text()
    assert text.startswith("before\n# Results") and text.endswith("after\n") and "two" in text and "one" not in text
    page.write_text("my own words")
    with pytest.raises(OutputError, match=re.escape(begin_of())) as error:
        into_page(page, "x")
    assert END in str(error.value) and page.read_text() == "my own words"


def test_what_is_published_can_be_found_by_the_names_of_our_rows() -> None:
    """Data sets and protocols are called as the readers and the runners call them."""
    from dust3r_ros.evaluation.datasets import DATASETS
    from dust3r_ros.evaluation.protocols import depth, localisation, reconstruction, relative_pose

    poses = {relative_pose.PROTOCOL.format(method) for method in relative_pose.METHODS}
    runners = {localisation.PROTOCOL, depth.MONOCULAR, reconstruction.PROTOCOL, "trajectory", *poses}
    assert {figure.protocol for figure in published()} == runners
    assert {figure.dataset for figure in published()} <= DATASETS.keys()
