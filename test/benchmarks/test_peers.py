"""benchmarks/peers.py: cases are the images they name, a run goes on where it was broken off, the page has it all."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from dust3r_ros.evaluation.report.run_file import RunFile, about, read_run, write_run
from dust3r_ros.evaluation.scene import image_files, kinds_of, read_scene
from dust3r_ros.scenes.export import write_folder
from dust3r_ros.scenes.sequence import render_sequence
from scripts import script

pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")

HARDWARE = {"cores": 2, "processor": "X", "others_cores": 0.5}


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    return script(Path(__file__).resolve().parents[2] / "benchmarks/peers.py", "peers_benchmark")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_folder(render_sequence("sweep", 9, 160, 120, rate_hz=8.0, supersample=1), folder / "walk")
    return folder


def test_a_case_is_the_images_it_names_with_their_poses(peers: ModuleType, data: Path, tmp_path: Path) -> None:
    case = peers.Case("walk", first=1, step=2, count=3, variant="half the size")
    path = peers.folder_of("walk, half", case, data, tmp_path)
    whole, part = read_scene(data / "walk"), read_scene(path)
    assert path.name == "walk_half" and kinds_of(path) == ["half the size"] and part.metric
    assert [pose.stamp_ns for pose in part.truth] == [pose.stamp_ns for pose in whole.truth][1:7:2]
    assert (part.width, part.height, part.focal) == (80, 60, whole.focal / 2)
    first = next(iter(image_files(path).values()))
    source = cv2.imread(str(data / "walk/rgb/000001.png"))
    expected = cv2.resize(source, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(cv2.imread(str(first)), expected)
    assert peers.folder_of("walk, half", case, data / "gone", tmp_path) == path  # what is there is not made again


def test_every_case_names_a_scene_and_few_enough_images(peers: ModuleType) -> None:
    for case in peers.CASES.values():
        assert not case.variant or case.variant in peers.VARIANTS
        assert "_" in case.scene and (case.scene.startswith("rendered") == (case.scene in peers.RENDERED))


def test_what_is_measured_is_kept_and_the_rest_is_measured(
    peers: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(plan: object, say: object) -> list[dict[str, object]]:
        (path,), asked = plan.scenes, plan.systems  # type: ignore[attr-defined]
        seen.append(path.name)
        same = {"dataset": "recorded", "scene": path.name, "protocol": "sequence", "frames": 9, "note": ""}
        same |= {"tracked": 100.0, "ate": 0.1, "ate_percent": 1.0, "focal_error": -2.0, "processor_seconds": 3.0}
        theirs = ("pycolmap incremental, exhaustive", "pycolmap global, exhaustive")
        if asked == ("two_view, poses only",):
            return [same | {"system": asked[0], "kinds": ["loops"], "focal_error": 1.25}]
        assert asked == ("two_view, poses only", "pycolmap")
        rows = [same | {"system": name, "kinds": ["loops"]} for name in (asked[0], *theirs)]
        return [*rows[:2], rows[2] | {"tracked": 0.0, "ate": None, "note": "failed: no luck, in mapping"}]

    seen: list[str] = []
    monkeypatch.setattr(peers, "measured", measured)
    monkeypatch.setattr(peers, "colmap_python", lambda path: (None, "no comparison: it is gone"))
    monkeypatch.setattr(peers, "CASES", {"a": peers.Case("walk"), "b": peers.Case("walk", step=2)})
    page = tmp_path / "docs/peers.md"
    page.parent.mkdir()
    page.write_text(f"# Peers\n\n{peers.BEGIN}\nstale\n{peers.END}\n")
    (page.parent / "pictures").mkdir()
    command = ["peers.py", "--data", str(data), "--out", str(tmp_path / "out"), "--page", str(page)]
    monkeypatch.setattr("sys.argv", [*command, "--cases", "a"])
    assert peers.main() == 0 and seen == ["a"]
    monkeypatch.setattr("sys.argv", command)
    assert peers.main() == 0 and seen == ["a", "b"]
    assert len(read_run(tmp_path / "out/run.json").rows) == 6
    text = page.read_text()
    assert "stale" not in text and "Trajectory by kind" in text and "failed: no luck, in mapping" in text
    assert (page.parent / "pictures/peers.png").stat().st_size > 5000
    assert "no comparison: it is gone" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*command, "--cases", "b", "--ours"])
    assert peers.main() == 0 and seen == ["a", "b", "b"]
    errors = [row["focal_error"] for row in read_run(tmp_path / "out/run.json").rows]
    assert sorted(errors) == [-2.0] * 5 + [1.25], "theirs are kept"
    monkeypatch.setattr("sys.argv", [*command, "--cases", "c"])
    assert peers.main() == 1 and "there is no case 'c'" in capsys.readouterr().err


def test_a_row_that_is_missing_is_drawn_as_nothing(peers: ModuleType, tmp_path: Path) -> None:
    names = {"dataset": "recorded", "scene": "a", "protocol": "sequence"}
    rows = [names | {"system": "two_view, poses only", "kinds": ["loops"]}]
    rows.append(names | {"system": "pycolmap global, sequential", "note": "failed: x"})
    run = RunFile(about(hardware=HARDWARE), rows)
    peers.plot(run.rows, tmp_path / "p.png")
    assert cv2.imread(str(tmp_path / "p.png")) is not None
    assert "failed: x" in peers.text_of(read_run(write_run(tmp_path / "run.json", run)))
    assert json.loads((tmp_path / "run.json").read_text())["about"]["hardware"] == HARDWARE
