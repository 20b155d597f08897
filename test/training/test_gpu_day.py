"""A day on a GPU, rehearsed on the processor, where nothing but torch, NumPy, SciPy and safetensors is installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_worlds import RECIPE

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from dust3r_ros.cli import gpu_day  # noqa: E402
from dust3r_ros.network.checkpoint import load_checkpoint  # noqa: E402
from dust3r_ros.training import gpu_day as day  # noqa: E402
from dust3r_ros.training import session  # noqa: E402
from dust3r_ros.training.log import Progress  # noqa: E402
from dust3r_ros.training.run_folder import join_weights  # noqa: E402
from dust3r_ros.training.session import Options, Outcome  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
# What a machine with CUDA has: torch with what it needs itself, and the other three.
_THERE = (
    "torch", "torchgen", "functorch", "numpy", "numpy.libs", "scipy", "scipy.libs", "safetensors", "filelock", "fsspec",
    "jinja2", "markupsafe", "mpmath", "networkx", "sympy", "typing_extensions.py",
)  # fmt: skip
# One stage, two layers: a day that fits into half a minute on two cores.
_SMALL = {
    **RECIPE, "name": "small", "stages": [{"sizes": [[32, 32]], "pairs": 8, "steps": 100, "rate": 2e-3}],
    "held_out": 4, "worlds_at_once": 2, "per_world": 32, "matching": 0.5, "optimiser": "muon", "ema": 0.9,
}  # fmt: skip


def options(tmp_path: Path, *more: str) -> list[str]:
    """Of a day in ``tmp_path``."""
    (tmp_path / "small.json").write_text(json.dumps(_SMALL))
    return [
        "--device", "cpu", "--out", str(tmp_path / "day"), "--config", str(tmp_path / "small.json"),
        "--workers", "0", *more,
    ]  # fmt: skip


def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a ``python -S`` that finds nothing but ``_THERE`` and this package."""
    home = tmp_path / "bare"
    home.mkdir()
    packages = Path(torch.__file__).resolve().parents[1]
    for name in _THERE:
        if (packages / name).exists():
            (home / name).symlink_to(packages / name)
    return {**os.environ, "PYTHONPATH": f"{home}:{ROOT}", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, undrawn: None, quick_worlds: None) -> None:
    """Without checks, measuring, pictures and materials, which have tests of their own."""
    monkeypatch.setattr(day, "CHECKS", {})
    monkeypatch.setattr(day, "inference", lambda *_: {})
    monkeypatch.setattr(day, "choose", lambda recipe, device, workers, *_: day.Choice.of(None, recipe, device, 0))


def two_steps(given: Options, *rest: Any) -> Outcome:
    """``train``, but so long."""
    return session.train(replace(given, minutes=None, steps=2), *rest)


def told(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "day.json").read_text()))


def test_a_bare_environment_has_all_it_takes(tmp_path: Path) -> None:
    code = """
        import importlib
        for name in ("cv2", "PIL", "yaml", "tqdm", "matplotlib"):
            try:
                importlib.import_module(name)
            except ImportError:
                continue
            raise SystemExit(f"{name} is there")
        from dust3r_ros.cli import gpu_day
        from dust3r_ros.training import gpu_day as day, measuring, session
        print(sorted(day.CHECKS))
    """
    line = [sys.executable, "-S", "-c", textwrap.dedent(code)]
    ran = subprocess.run(line, cwd=tmp_path, env=bare(tmp_path), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "['batches', 'caster', 'losses', 'network']"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_minute_in_a_bare_environment(tmp_path: Path) -> None:
    environment, start = bare(tmp_path), [sys.executable, "-S"]
    for minutes in ("0.4", "0.8", "1.6", "6"):  # more on a machine that is busy with others
        line = [*start, "-m", "dust3r_ros.cli.gpu_day", *options(tmp_path, "--minutes", minutes)]
        ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        if (found := told(tmp_path / "day"))["done"]:
            break
        assert "more --minutes" in ran.stdout or "the same command continues" in ran.stdout
    assert found["done"], ran.stdout
    assert {name: entry.get("failed") for name, entry in found["stages"].items() if "failed" in entry} == {}
    assert list(found["stages"])[:4] == ["check caster", "check batches", "check network", "check losses"]
    trained = found["stages"]["train"]["result"]
    assert trained["held_out"]["regression"] < trained["held_out_before"]["regression"]
    network = load_checkpoint(join_weights(tmp_path / "day" / "back", tmp_path / "joined"))
    assert network.config.enc_depth == 2
    assert sum(path.stat().st_size for path in (tmp_path / "day" / "back").iterdir()) < 64e6


def test_what_has_to_travel_is_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 64e6


def test_legs_go_on_where_the_last_was_ended(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for steps in (3, 5):

        def end(line: object, progress: Progress, step: object, figures: object, steps: int = steps) -> None:
            if step is not None and progress.step == steps - 1:  # noticed in the next one
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(day._Line, "report", end)
        assert gpu_day.main(options(tmp_path, "--minutes", "60", "--leg", "50")) == 128 + signal.SIGTERM
        assert told(tmp_path / "day")["stages"]["train"]["result"]["steps"] == steps
        join_weights(tmp_path / "day" / "back", tmp_path / f"joined{steps}")
    assert told(tmp_path / "day")["legs"] == 2 and not told(tmp_path / "day")["done"]
    assert "the same command continues" in capsys.readouterr().out


def test_a_day_that_continues_another_sees_other_worlds_at_full_size(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one seed for all days, each would learn again from the worlds of the first, and from small images."""
    monkeypatch.setattr(day, "train", two_steps)
    last = _SMALL["stages"][0]
    monkeypatch.setitem(_SMALL, "stages", [{**last, "sizes": [[16, 16]]}, {**last, "restart": False}])
    seeds, stages, start = [], [], []
    for number in range(3):
        assert gpu_day.main([*options(tmp_path, "--minutes", "20"), *start]) == 0
        applied = json.loads((tmp_path / "day" / "small.json").read_text())
        seeds.append(applied["seed"])
        stages.append([stage["sizes"] for stage in applied["stages"]])
        joined = join_weights(tmp_path / "day" / "back", tmp_path / f"joined{number}")
        start = ["--init", str(joined)]
        shutil.rmtree(tmp_path / "day")
    assert len(set(seeds)) == 3 and seeds[0] == _SMALL.get("seed", 0)
    assert stages == [[[[16, 16]], [[32, 32]]], [[[32, 32]]], [[[32, 32]]]]


def test_a_stage_that_fails_costs_only_itself(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(device: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(day, "CHECKS", {"caster": broken})
    monkeypatch.setattr(day, "train", two_steps)
    for words in ("check caster: RuntimeError: CUDA error: an illegal memory access", "the day is over already"):
        assert gpu_day.main(options(tmp_path, "--minutes", "20")) == 0
        assert words in capsys.readouterr().out
        found = told(tmp_path / "day")
        assert "failed" in found["stages"]["check caster"] and found["done"]
        assert found["stages"]["train"]["result"]["steps"] == 2


def test_a_day_that_was_ended_after_training_is_packed_by_the_next_leg(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(day, "train", two_steps)
        assert gpu_day.main(options(tmp_path, "--minutes", "20")) == 0
    shutil.rmtree(tmp_path / "day" / "back")
    record = tmp_path / "day" / "day.json"
    record.write_text(json.dumps({**told(tmp_path / "day"), "done": False}))
    assert gpu_day.main(options(tmp_path, "--minutes", "20")) == 0
    assert told(tmp_path / "day")["done"] and join_weights(tmp_path / "day" / "back", tmp_path / "joined")


def test_a_leg_without_time_for_a_step_is_gone_on_with(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it is needed for what comes after training."""
    monkeypatch.setattr(day, "_CLOSING", 1.0)
    assert gpu_day.main(options(tmp_path, "--minutes", "20", "--leg", "2")) == 0
    found = told(tmp_path / "day")
    assert found["legs"] == 1 and not found["done"] and "train" not in found["stages"]
    out = capsys.readouterr().out
    assert "ended before the first step" in out and "the same command continues" in out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--minutes", "5"), "is not the record of a day"),
        (("--minutes", "0"), "--minutes is 0"),
        (("--minutes", "5", "--leg", "-1"), "--leg is -1"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "day.json").write_text("[1")
    assert gpu_day.main(options(tmp_path, *more)) == 2
    assert words in capsys.readouterr().err
