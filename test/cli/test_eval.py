"""dust3r-eval compare, report and suite: output, exit codes, one-line errors."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pytest
from clusters import needs_ray

from dust3r_ros.cli import eval as command
from dust3r_ros.evaluation.protocols import reconstruction
from dust3r_ros.evaluation.report.metrics import TIMES
from dust3r_ros.evaluation.report.page import END, begin_of, tables_of
from dust3r_ros.evaluation.report.run_file import RunFile, about, read_run, write_run
from dust3r_ros.evaluation.suite import suite, worlds
from dust3r_ros.scenes.export import write_folder
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence

SMALL = ["--set", "working_size=160", "--set", "tracking_size=200", "--set", "keyframe_motion_young=0.04"]


def run(path: Path, factor: float = 1.0, scenes: int = 8) -> Path:
    names = {"dataset": "recorded", "protocol": "sequence", "system": "two_view", "unit": "m"}
    rows = [names | {"scene": f"s{k}", "ate": factor * (k + 1) / 100, "frames": 9, "note": ""} for k in range(scenes)]
    return write_run(path, RunFile(about(commit=path.stem, hardware={"cores": 2}), rows))


def called(*arguments: object) -> int:
    try:
        return command.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def test_what_got_worse_is_said_and_fails_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = run(tmp_path / "a.json"), run(tmp_path / "b.json", 1.3)
    assert called("compare", a, b) == 0
    shown = capsys.readouterr().out
    assert "WORSE" in shown and "ATE (lower is better)" in shown and "+30.0 %" in shown and "commit b" in shown
    assert called("compare", a, b, "--fail-on-worse", "--html", tmp_path / "page.html") == 1
    assert "What changed" in (tmp_path / "page.html").read_text()
    assert called("compare", b, a, "--fail-on-worse") == 0 and "BETTER" in capsys.readouterr().out
    assert called("compare", a, a, "--fail-on-worse") == 0
    assert "0 worse, 0 better, 1 compared" in capsys.readouterr().out


def test_other_scenes_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = run(tmp_path / "a.json"), run(tmp_path / "b.json", scenes=7)
    assert called("compare", a, b) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "recorded / s7 / sequence / two_view is missing in the second" in line
    assert called("compare", a, tmp_path / "none.json") == 2 and "none.json" in capsys.readouterr().err


def test_runs_become_one_page(tmp_path: Path) -> None:
    assert called("report", run(tmp_path / "a.json"), run(tmp_path / "b.json", 2.0), "--out", tmp_path / "p.html") == 0
    page = (tmp_path / "p.html").read_text()
    assert "0.0200" in page and "0.0100" not in page and "not run here" in page


def test_the_suite_maps_renders_compares_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")

    def small() -> RenderedSequence:
        return worlds.orbit(frames=10, width=200)

    monkeypatch.setattr(worlds, "WORLDS", {"rendered_orbit": small})
    monkeypatch.setattr(suite, "WORLDS", {"rendered_orbit": small})
    page = tmp_path / "results.md"
    page.write_text(f"mine\n{begin_of()}\nold\n{END}\nmine too\n")
    options = [*SMALL, "--out", tmp_path / "out", "--page", page]
    when = ["--date", "2001-02-03", "--commit", "c0ffee"]
    assert (
        called("suite", "--data", tmp_path / "gone", "--no-poses", "--no-protocols", "--max-frames", 8, *options, *when)
        == 0
    )
    said = capsys.readouterr()
    assert "no recorded scene is measured" in said.err and "gone" in said.err
    found = read_run(tmp_path / "out/run.json")
    assert [row["system"] for row in found.rows] == ["two_view", "opencv"] and found.rows[0]["frames"] == 8
    head = found.about
    assert (head["date"], head["commit"], head["configuration"]["working_size"]) == ("2001-02-03", "c0ffee", 160)
    text = page.read_text()
    assert text.startswith("mine\n") and text.endswith("mine too\n") and "| rendered_orbit | opencv |" in text
    assert "old" not in text.splitlines() and "c0ffee" in text
    assert "--max-frames 8 --set working_size=160" in text  # a part of it is not passed off as the whole
    shown = (tmp_path / "out/report.html").read_text()
    assert shown.count("data:image/jpeg") == 2 and str(tmp_path) not in shown
    json.loads((tmp_path / "out/run.json").read_text())


@needs_ray
@pytest.mark.parametrize("continued", [False, pytest.param(True, marks=pytest.mark.long)])
def test_on_a_cluster_the_suite_gives_the_same_table_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], continued: bool
) -> None:
    """What is continued needs a second cluster, which takes as long as the first."""
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")
    sequence = render_sequence("sweep", 6, 160, 120, 160.0, rate_hz=6.0, supersample=1)
    for name in ("walk", "broken"):
        write_folder(sequence, tmp_path / "data" / name)
    (tmp_path / "data/broken/intrinsics.json").write_text("{}")
    asked = ["suite", "--data", tmp_path / "data", "--no-worlds", "--no-protocols", "--no-poses", *SMALL]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert called(*asked, "--out", tmp_path / "alone") == 1
    alone = read_run(tmp_path / "alone/run.json")
    out = ["--out", tmp_path / "out"]
    assert called(*asked, *out, "--workers", 2) == 1
    said = capsys.readouterr()
    assert "0 of 4 tasks are finished already" in said.err
    assert "several at a time on 2 processes: times depend on the others" in said.out and "--workers 2" in said.out

    def figures(run: RunFile) -> list[dict[str, Any]]:
        other = TIMES | {"peak_memory_mb"}
        return [{name: value for name, value in row.items() if name not in other} for row in run.rows]

    found = read_run(tmp_path / "out/run.json")
    assert figures(found) == figures(alone) and found.about["hardware"]["shared"] == "2 processes"
    assert [("failed: " in row["note"], row["scene"], row["system"]) for row in found.rows] == [
        (scene == "broken", scene, system) for system in ("two_view", "opencv") for scene in ("broken", "walk")
    ]
    assert peer_times(found) == {"– / –"} and any("1" <= mark <= "9" for cell in peer_times(alone) for mark in cell)

    if continued:
        (tmp_path / "out/pictures/two_view/walk_map.png").unlink()
        assert called(*asked, *out, "--workers", 1, "--against", tmp_path / "alone/run.json") == 1
        said = capsys.readouterr()
        assert "1 of 4 tasks are finished already" in said.err, "failed is not finished"
        assert "walk, two_view: " in said.err and "walk, opencv: " not in said.err
        assert "scenes shared a machine with each other" in said.out
        assert figures(read_run(tmp_path / "out/run.json")) == figures(alone)
    assert called(*asked, *out, "--workers", 1, "--set", "seed=5", "--budget", 0) == 0
    late = read_run(tmp_path / "out/run.json")
    assert {row["note"] for row in late.rows} == {"not run: the budget of 0 s was used up"}, "another request"


def peer_times(run: RunFile) -> set[str]:
    """The column of seconds, ours beside the peer's."""
    table = next(table for table in tables_of(run) if table.title == "Beside peers")
    return {row[list(table.head).index("s")] for row in table.rows}


def test_what_the_cluster_lacks_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["suite", "--out", tmp_path / "out"]
    assert called(*asked, "--address", "here:1", "--workers", 2) == 2 and "--workers" in capsys.readouterr().err
    assert called(*asked, "--again") == 2 and "--again is given, but the suite runs without" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert called(*asked, "--workers", 2) == 2 and "install the extra 'fleet'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_backend_is_measured_on_every_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")
    pytest.importorskip("torch", reason="the network needs torch")
    from dust3r_ros.network import Dust3r, Dust3rConfig, save_checkpoint

    sizes = {"enc_embed_dim": 48, "enc_depth": 1, "enc_num_heads": 3, "img_size": (112, 112)}
    sizes |= {"dec_embed_dim": 48, "dec_depth": 1, "dec_num_heads": 3, "head_type": "linear"}
    save_checkpoint(Dust3r(Dust3rConfig(**sizes)), tmp_path / "net")  # type: ignore[arg-type]
    write_folder(render_sequence("sweep", 6, 240, 180, 240.0, rate_hz=6.0, supersample=1), tmp_path / "data/walk")
    where = ["backends", "--data", tmp_path / "data", "--no-worlds", "--out", tmp_path / "out"]
    assert called(*where) == 2
    assert "--checkpoint is not set" in capsys.readouterr().err
    page = tmp_path / "backends.md"
    options = ["--checkpoint", tmp_path / "net", "--page", page, "--set", "working_size=160", "--focal", 240]
    assert called(*where, "--only", "nothing", *options) == 2 and "no scene" in capsys.readouterr().err
    assert called(*where, "--set", "tracking_size=240", *options) == 0
    found = {row["system"]: row for row in read_run(tmp_path / "out/run.json").rows}
    assert list(found) == ["two_view", "dust3r", "both"]
    assert found["two_view"]["tracked"] == 100 == found["both"]["tracked"]
    assert found["two_view"]["pairs_per_second"] > 0 < found["both"]["pairs_per_second"]
    assert all(row["processor_seconds"] > 0 for row in found.values())  # which is more is chance for so small a network
    text = page.read_text()
    assert text.startswith(f"# Which backend\n\n{begin_of('make backends')}") and "Best: two_view" in text


@pytest.fixture(scope="module")
def tum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences in the layout of TUM RGB-D, which show the same."""
    root = tmp_path_factory.mktemp("tum")
    sequence = render_sequence("sweep", 8, 160, 120, rate_hz=6.0, supersample=1)
    for number in (1, 2):
        name = f"rgbd_dataset_freiburg{number}_x"
        write_folder(sequence, root / name)
        for file in (root / name / "depth").iterdir():
            cv2.imwrite(str(file), 5 * cv2.imread(str(file), cv2.IMREAD_UNCHANGED))  # TUM's 5000 per metre
    return root


@pytest.fixture
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clouds are compared by few of their points; how they are has tests of its own."""
    monkeypatch.setattr(reconstruction, "_POINTS", 2000)
    monkeypatch.setattr(reconstruction, "true_cloud", partial(reconstruction.true_cloud, most=2000))


@pytest.mark.usefixtures("few_points")
def test_a_protocol_on_a_data_set_is_one_command(tum: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")
    out = tmp_path / "new/run.json"
    options = ["--set", "working_size=160", "--set", "tracking_size=160", "--set", "keyframe_motion_young=0.04"]
    options += ["--out", out, "--commit", "c0ffee"]
    assert called("run", "tum", tum, "--only", "freiburg1", "--protocol", "localisation", "map", *options) == 0
    assert "has no 'train' image" in capsys.readouterr().err  # TUM RGB-D has no such parts; the rest goes on
    found = read_run(out)
    maps = {"trajectory", "focal", "map_depth", "map_cloud", "map_speed"}
    assert {row["protocol"] for row in found.rows} == {"localisation", *maps}
    assert ["train" in (row.get("note") or "") for row in found.rows] == [True] + 5 * [False]
    assert {row["scene"] for row in found.rows} == {"rgbd_dataset_freiburg1_x"} and found.about["commit"] == "c0ffee"
    assert called("run", "tum", tum, "--scenes", 1, "--protocol", "speed", "--size", 160, *options) == 0
    assert "| tum | rgbd_dataset_freiburg1_x | two_view |" in capsys.readouterr().out.replace("TUM RGB-D", "tum")
    assert called("report", out, "--out", tmp_path / "page.html") == 0


@pytest.mark.usefixtures("few_points")
def test_a_row_that_two_protocols_give_is_there_once(tum: Path, tmp_path: Path) -> None:
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")
    out, page = tmp_path / "run.json", tmp_path / "page.html"
    options = ["--only", "freiburg2", "--max-frames", 4, "--set", "working_size=160", "--set", "tracking_size=160"]
    protocols = ["--protocol", "trajectory", "map", "trajectory"]
    assert called("run", "TUM", tum, *protocols, *options, "--out", out, "--page", page) == 0
    rows = read_run(out).rows
    assert len(rows) == 5 and rows[0]["protocol"] == "trajectory" and rows[0]["frames"] == 4
    assert "rgbd_dataset_freiburg2_x" in page.read_text()


def test_weights_are_read_before_anything_is_measured(
    tum: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint is meant to be measured, with or without --backend."""
    pytest.importorskip("torch", reason="the network needs torch")
    out = tmp_path / "run.json"
    assert called("run", "tum", tum, "--checkpoint", tmp_path / "gone", "--out", out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "gone" in line and not out.exists()
    assert called("run", "tum", tum, "--only", "chair", "desk", "--protocol", "speed", "--out", out) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "has chair or desk in its name; there are rgbd_dataset_freiburg1_x, rgbd_dataset_freiburg2_x" in line


def test_the_bar_counts_the_images_that_are_read(
    tum: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    options = ["--protocol", "speed", "--scenes", 1, "--size", 96, "--out", tmp_path / "run.json"]
    assert called("run", "tum", tum, *options) == 0
    shown = capsys.readouterr().err
    assert "speed: " in shown and "image" in shown and "freiburg1_x, speed: measured" in shown
    assert called("run", "tum", tum, *options, "--quiet") == 0
    assert "image/s" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "tum", ".", "--out", "x.json"], "holds nothing of tum"),
        (["run", "tum", "gone", "--out", "x.json"], "'gone' is not a folder"),
        (["run", "tum", ".", "--protocol", "other", "--out", "x.json"], "protocol 'other' is unknown"),
        (["suite", "--no-worlds"], "there is no scene to measure"),
        (["suite", "--only", "nothing"], "there is no scene to measure"),
        (["suite", "--against", "gone.json"], "gone.json"),
        (["report", "--out", "x.html"], "RUN.json"),
        (["where", "nothing"], "'nothing' is unknown"),
    ],
)
def test_errors_end_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert called(*arguments) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
