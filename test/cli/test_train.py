"""dust3r-train as a user meets it: killed and resumed, with several processes, on a full disk, with wrong options."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

import train_small
from pages import commands, text_of
from small_worlds import RECIPE
from train_small import Training

from dust3r_ros.cli import gpu_day
from dust3r_ros.cli.train import _parser, main
from dust3r_ros.network import load_checkpoint
from dust3r_ros.training import session

Begin = Callable[..., Training]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return path


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Begins a training in a process of its own, which is gone after the test."""
    begun: list[Training] = []

    def one(*options: object, **more: Any) -> Training:
        begun.append(Training(*options, **more))
        return begun[-1]

    yield one
    for training in begun:
        training.kill()


class Here:
    """dust3r-train within this process: exit code, output, errors."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *options: object) -> tuple[int, str, str]:
        self._capsys.readouterr()
        try:
            code = main([str(option) for option in options])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *self._capsys.readouterr()


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setattr(session, "open_sources", train_small.sources)
    return Here(capsys)


def wait_for(what: Callable[[], bool], training: Training) -> None:
    limit = time.monotonic() + 120
    while not what():
        assert training.running(), training.end()
        assert time.monotonic() < limit
        time.sleep(0.005)


def curve(folder: Path) -> list[tuple[int, Any, Any, Any]]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"], row["norm"], row["rate"]) for row in rows if row["kind"] == "train"]


def steps(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count('"train"') if path.exists() else 0


def test_killed_and_resumed_the_curve_is_the_same_to_the_last_bit(recipe: Path, tmp_path: Path, begin: Begin) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = ("--config", recipe, "--steps", 30, "--workers", 1, "--quiet")
    first = begin(*options, "--out", whole)
    killed = begin(*options, "--out", broken)
    wait_for(lambda: steps(broken) >= 10, killed)
    killed.kill()
    assert steps(broken) < 30
    code, _, words = begin(*options, "--out", broken, "--resume").end()
    assert code == 0, words
    assert first.end()[0] == 0
    assert len(curve(whole)) == 30 and curve(broken) == curve(whole)
    one, other = (load_checkpoint(folder / "model").state_dict() for folder in (whole, broken))
    assert all((one[name] == other[name]).all() for name in one)
    assert json.loads((broken / "metrics.jsonl").read_text().splitlines()[-1])["kind"] == "held_out"


def test_what_a_run_leaves(recipe: Path, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    monkeypatch.setenv("BROKEN", "1,5")  # the first positions of the first room
    code, told, words = here("--config", recipe, "--out", out, "--workers", 0, "--seed", 7)
    assert code == 0, words
    assert "12 steps, 36 pairs" in told and "2 samples could not be used" in told and "room/" in words
    assert sorted(path.name for path in out.iterdir() if path.name != "tensorboard") == [
        "MODEL_CARD.md", "metrics.jsonl", "model", "picture.png", "run.json", "state",
    ]  # fmt: skip
    assert [path.name for path in sorted((out / "state").iterdir())] == ["step-000000008.pt", "step-000000012.pt"]
    card = (out / "MODEL_CARD.md").read_text()
    assert "| seed | 7 |" in card and "| samples left out | 2 |" in card and "--seed 7" in card and "endless" in card
    code, _, words = here("--config", recipe, "--out", out)
    assert code == 2 and "holds a run already" in words
    code, _, words = here("--out", out, "--resume", "--steps", 99)
    assert code == 2 and "started with steps null" in words
    code, _, words = here("--out", out, "--resume")
    assert code == 0 and steps(out) == 12


def test_asked_to_end_it_ends_and_goes_on_later(recipe: Path, tmp_path: Path, begin: Begin) -> None:
    out = tmp_path / "run"
    training = begin("--config", recipe, "--out", out, "--steps", 400, "--workers", 1)
    wait_for(lambda: steps(out) >= 3, training)
    training.send(signal.SIGTERM)
    code, _, words = training.end()
    assert code == 128 + signal.SIGTERM and "continue with --resume" in words
    stopped = steps(out)
    assert 3 <= stopped < 400 and load_checkpoint(out / "model")
    training = begin("--out", out, "--resume")
    wait_for(lambda: steps(out) > stopped, training)
    training.send(signal.SIGINT)
    assert training.end()[0] == 128 + signal.SIGINT


def together(begin: Begin, world: int, *arguments: object) -> list[Training]:
    """Processes as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [begin(*arguments, RANK=rank, LOCAL_RANK=rank, **place) for rank in range(world)]


def test_two_processes_learn_what_one_does(recipe: Path, tmp_path: Path, begin: Begin, here: Here) -> None:
    """Each makes half of every batch. The losses are means over valid pixels, of which these views have all."""
    options = ("--config", recipe, "--steps", 6, "--workers", 0, "--quiet", "--set", "precision=float32")
    trainings = together(begin, 2, *options, "--out", tmp_path / "two")
    assert here(*options, "--out", tmp_path / "one")[0] == 0
    for code, _, words in [training.end() for training in trainings]:
        assert code == 0, words
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(one) == len(two) == 6
    for (step, loss, norm, rate), other in zip(one, two, strict=True):
        assert other == (step, pytest.approx(loss, rel=1e-3), pytest.approx(norm, rel=1e-2), rate)
    code, _, words = here("--out", tmp_path / "two", "--resume")
    assert code == 2 and "started with world 2" in words


def test_a_killed_process_ends_the_others_with_a_sentence(recipe: Path, tmp_path: Path, begin: Begin) -> None:
    out = tmp_path / "run"
    first, second = together(begin, 2, "--config", recipe, "--out", out, "--steps", 4000, "--workers", 0, "--quiet")
    wait_for(lambda: steps(out) >= 3, first)
    second.kill()
    code, _, words = first.end(timeout=60)
    assert code == 1 and "another process of this training is gone" in words and "--resume" in words
    assert "Traceback" not in words


@pytest.mark.parametrize("world", [1, 2])
def test_asked_to_end_with_all_its_processes_it_goes_on_later(
    recipe: Path, tmp_path: Path, begin: Begin, world: int
) -> None:
    """As ``timeout``, systemd, Slurm and torchrun ask; the processes that make batches end at once."""
    out = tmp_path / "run"
    options = ("--config", recipe, "--out", out, "--steps", 4000, "--workers", 1, "--quiet")
    runs = together(begin, world, *options) if world > 1 else [begin(*options)]
    wait_for(lambda: steps(out) >= 3, runs[0])
    for run in runs:
        for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGTERM)
    time.sleep(0.1)  # batches that were made run out
    for run in runs:
        run.send(signal.SIGTERM)
    for run in runs:
        code, _, words = run.end(timeout=60)
        assert code == 128 + signal.SIGTERM and "continue with --resume" in words, words
    newest = max(path.name for path in (out / "state").glob("step-*.pt"))
    assert newest == f"step-{steps(out):09d}.pt" and load_checkpoint(out / "model")


@pytest.mark.parametrize("ended", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_ends_the_run_with_a_sentence(
    recipe: Path, tmp_path: Path, begin: Begin, ended: signal.Signals
) -> None:
    """Whatever the process that trains is doing then: it is told where the next batch is waited for."""
    out = tmp_path / "run"
    run = begin("--config", recipe, "--out", out, "--steps", 4000, "--workers", 2, "--quiet")
    wait_for(lambda: steps(out) >= 3, run)
    workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    assert workers
    os.kill(int(workers[0]), ended)
    code, _, words = run.end(timeout=60)
    assert code == 2, words
    assert "a process that makes batches was ended from outside" in words
    assert "Traceback" not in words and len(words.strip().splitlines()) == 1


def test_a_full_disk_never_leaves_half_a_state(recipe: Path, tmp_path: Path, begin: Begin) -> None:
    """No file may grow beyond 300 kB, as if the disk was full: states cannot be written, the first ones neither."""
    out = tmp_path / "run"
    training = begin("--config", recipe, "--out", out, "--workers", 0, "--quiet", largest=300_000)
    code, _, words = training.end()
    assert code == 1 and "cannot be written" in words.splitlines()[-1], words
    assert "training continues from memory" in words and "Traceback" not in words
    assert steps(out) == 12 and list((out / "state").iterdir()) == [] and not (out / "model").exists()


def test_minutes(recipe: Path, tmp_path: Path, here: Here) -> None:
    """The run ends by itself, and the same command with --resume has nothing left to do."""
    out = tmp_path / "run"
    options = ("--config", recipe, "--out", out, "--minutes", 0.03, "--workers", 0, "--quiet")
    code, _, words = here(*options)
    assert code == 0, words
    made = steps(out)
    assert made > 0 and load_checkpoint(out / "model")
    assert here(*options, "--resume")[0] == 0 and steps(out) <= made + 1


def test_where_tells_what_can_be_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["where"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "scannetpp" in names and len(names) >= 8
    assert main(["where", "scannetpp"]) == 0
    assert "nvs_sem_train" in capsys.readouterr().out
    assert main(["where", "nothing"]) == 2
    assert "scannetpp" in capsys.readouterr().err


def test_calls_in_the_docs_are_understood() -> None:
    calls = [words[: words.index("#")] if "#" in words else words for _, words in commands("dust3r-train")]
    assert len(calls) >= 5
    for words in calls:
        if words[0] != "where":
            assert _parser().parse_args(words).out
    text = text_of("docs/training.md")
    actions = [*_parser()._actions, *gpu_day.parser()._actions]
    known = {option for action in actions for option in action.option_strings}
    assert set(re.findall(r"(?<![\w-])--[a-z]+", text)) - {"--checkpoint", "--backend", "--no", "--nproc"} <= known


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--config", "huge"), "huge"),
        (("--minutes", "0"), "above 0"),
        (("--minutes", "nan"), "--minutes is nan; it must be above 0 and finite"),
        (("--steps", "5", "--minutes", "1"), "not allowed with"),
        (("--set", "pears=3"), "'pears' is not known"),
        (("--set", "rate=fast"), "'rate' is 'fast'"),
        (("--data", "unknown=nowhere"), "unknown"),
        (("--resume",), "no run to resume"),
        (("--init", "missing.pth"), "missing.pth"),
        (("--init", "a", "--encoder", "b"), "leave out --encoder"),
    ],
)
def test_wrong_options_are_reported_in_one_line(
    options: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, told = Here(capsys)("--out", tmp_path / "run", *options)
    assert code == 2 and words in told, told
    assert len(told.strip().splitlines()) == 1
