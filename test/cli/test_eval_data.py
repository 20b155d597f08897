"""dust3r-eval run on every data set as it lies on disk: each protocol that its truth allows, by command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_trees import LAYOUTS, K_of

pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")

from dust3r_ros.cli import eval as command
from dust3r_ros.evaluation.datasets import DATASETS
from dust3r_ros.evaluation.protocols.of_map import MAP_PROTOCOLS
from dust3r_ros.evaluation.protocols.registry import JUDGED
from dust3r_ros.evaluation.report.run_file import read_run
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence

FRAMES = 12
NO_FILE_TELLS_K = {name for name, (_, focal) in LAYOUTS.items() if focal is not None}
SMALL = ["--size", "128", "--every", "6", "--set", "working_size=128", "--set", "tracking_size=160", "--quiet"]


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return render_sequence("orbit", FRAMES, 160, 120, rate_hz=6.0, laps=0.15, supersample=1, seed=3)


def called(*arguments: object) -> int:
    try:
        return command.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def judged(name: str) -> set[str]:
    """The protocols that rows name: a map is several of them."""
    found = set()
    for protocol in JUDGED[name]:
        given = "_rgbd" if protocol == "map_rgbd" else ""
        found |= {f"{one}{given}" for one in MAP_PROTOCOLS} if protocol.startswith("map") and protocol[3:] in (
            "", "_rgbd",
        ) else {protocol}  # fmt: skip
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_written_is_what_is_read(name: str, sequence: RenderedSequence, tmp_path: Path) -> None:
    LAYOUTS[name][0](sequence, tmp_path)
    recordings = list(DATASETS[name].open(tmp_path))
    views = sorted((view for recording in recordings for view in recording.views), key=lambda view: view.name)
    assert len(views) == FRAMES and any(view.image().shape == (120, 160, 3) for view in views)
    posed = [recording for recording in recordings if all(view.w_T_c is not None for view in recording.views)]
    assert bool(posed) == (name not in ("nyu", "kitti-depth"))
    if name not in NO_FILE_TELLS_K:
        np.testing.assert_allclose(views[0].K, K_of(sequence), atol=0.01)
    steps = np.array([invert(a) @ b for a in sequence.w_T_c for b in sequence.w_T_c])
    for recording in posed:
        first, second = (view.w_T_c for view in recording.views[:2])
        away = np.abs(steps - invert(first) @ second).max(axis=(1, 2))
        i, j = divmod(int(away.argmin()), FRAMES)
        assert away.min() < 1e-5 and j > i, recording.name
    for view in views:
        depth = view.depth()
        assert depth is None or 0.3 < np.median(depth[depth > 0]) < 6.0


@pytest.mark.long
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_protocol_of_a_data_set_runs_by_command(
    name: str, sequence: RenderedSequence, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out, page = tmp_path / "data", tmp_path / "run.json", tmp_path / "run.html"
    LAYOUTS[name][0](sequence, root)
    assert called("run", name, root, "--protocol", "all", *SMALL, "--out", out, "--page", page) == 0
    run = read_run(out)
    assert {row["protocol"] for row in run.rows} == judged(name)
    assert {row["dataset"] for row in run.rows} == {name} and {row["system"] for row in run.rows} == {"two_view"}
    for row in run.rows:
        if row["protocol"] == "monocular_depth":
            assert "has no depth for a single image" in row["note"]
        elif row["protocol"] in ("localisation", "trajectory", "multiview_pose_pnp", "speed"):
            assert not row.get("note"), row
    assert f"| {name} |" in capsys.readouterr().out and "not run here" in page.read_text()
    assert called("compare", out, out, "--fail-on-worse") == 0


def test_scenes_of_localisation_are_counted_not_their_recordings(sequence: RenderedSequence, tmp_path: Path) -> None:
    few = replace(
        sequence, **{field: getattr(sequence, field)[:6] for field in ("stamps_ns", "images", "depths", "w_T_c")}
    )
    for scene in ("chess", "fire"):
        LAYOUTS["7scenes"][0](few, tmp_path)
        (tmp_path / "room").rename(tmp_path / scene)
    out = tmp_path / "run.json"
    assert called("run", "7scenes", tmp_path, "--protocol", "localisation", "--scenes", 1, *SMALL, "--out", out) == 0
    (row,) = read_run(out).rows
    assert row["scene"] == "chess" and row["queries"] == 2 and not row.get("note")


@pytest.mark.long
@pytest.mark.parametrize("name", ["7scenes", "dtu", "nyu"])
def test_a_checkpoint_is_what_is_measured(name: str, sequence: RenderedSequence, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    from dust3r_ros.network import Dust3r, Dust3rConfig, save_checkpoint

    torch.manual_seed(0)
    config = Dust3rConfig(
        head_type="linear", enc_embed_dim=32, enc_depth=2, enc_num_heads=2,
        dec_embed_dim=24, dec_depth=2, dec_num_heads=2,
    )  # fmt: skip
    save_checkpoint(Dust3r(config).eval(), tmp_path / "net")
    LAYOUTS[name][0](sequence, tmp_path / "data")
    out = tmp_path / "run.json"
    weights = ["--checkpoint", tmp_path / "net", "--max-frames", 4]
    assert called("run", name, tmp_path / "data", "--protocol", "all", *SMALL, *weights, "--out", out) == 0
    run = json.loads(out.read_text())
    assert {row["system"] for row in run["rows"]} == {"dust3r"}
    assert {row["protocol"] for row in run["rows"]} == judged(name)
    depth = next(row for row in run["rows"] if row["protocol"] == "monocular_depth")
    assert depth["images"] > 0 and depth["rel"] > 0


# Files that may lack, for the data set has them for some of its scenes only.
OPTIONAL = {
    "depth.txt", "reconstruction.nvm", "00.txt", "000002.bin", "depth_map_0002.pfm", "ObsMask1_10.mat", "Plane1.mat",
    "stl001_total.ply",
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_broken_tree_is_refused_by_the_name_of_the_file(
    name: str, sequence: RenderedSequence, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file of each kind is gone, and each text holds something else."""
    few = replace(
        sequence, **{field: getattr(sequence, field)[:3] for field in ("stamps_ns", "images", "depths", "w_T_c")}
    )
    LAYOUTS[name][0](few, tmp_path)
    assert called("where", name, "--check", tmp_path) == 0
    kinds = {}
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        kinds[re.sub(r"\d+", "N", str(file.relative_to(tmp_path)))] = file
    for file in kinds.values():
        whole = file.read_bytes()
        changes = [lambda file=file: file.unlink()]
        if file.suffix in (".txt", ".csv", ".yaml", ".json", ".jgz", ".nvm", ".freiburg", ".mat", ".ply"):
            changes.append(lambda file=file: file.write_bytes(b"1 2 x\n"))
        for index, change in enumerate(changes):
            change()
            capsys.readouterr()
            code, gone = called("where", name, "--check", tmp_path), index == 0
            (line,) = capsys.readouterr().err.splitlines() or [""]
            file.write_bytes(whole)
            if gone and file.name in OPTIONAL:
                assert code == 0
                continue
            assert code == 2, f"{file} {'gone' if gone else 'broken'}"
            assert str(tmp_path) in line and f"'dust3r-eval where {name}' prints the expected directory layout" in line
            assert gone or file.name in line
            assert " at 0x" not in line and "Errno" not in line
