"""Runs within one process: stages, resuming, batches that are not finite, disks that are full."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_worlds import RECIPE, NoisyRoom

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from dust3r_ros.errors import CheckpointError, ConfigError, InputError, OutputError, TrainingError  # noqa: E402
from dust3r_ros.network import load_checkpoint  # noqa: E402
from dust3r_ros.training import run_folder as states  # noqa: E402
from dust3r_ros.training import session  # noqa: E402
from dust3r_ros.training.batches import PairBatch  # noqa: E402
from dust3r_ros.training.card import write_picture  # noqa: E402
from dust3r_ros.training.learner import Learner, Step  # noqa: E402
from dust3r_ros.training.log import read_metrics  # noqa: E402
from dust3r_ros.training.session import Options, Outcome, train  # noqa: E402

pytestmark = pytest.mark.usefixtures("undrawn")
STAGES = [
    {"sizes": [[32, 32]], "pairs": 2, "steps": 4, "rate": 1e-3},
    {"sizes": [[32, 48]], "pairs": 2, "steps": 4, "rate": 1e-3, "restart": False},
    {"sizes": [[48, 32]], "pairs": 2, "steps": 4, "rate": 1e-3},
]
STAGED = {**RECIPE, "stages": STAGES}


class Run:
    """Runs in one folder; ``until`` says at which step somebody asks for the end."""

    def __init__(self, folder: Path, recipe: dict[str, Any] = RECIPE) -> None:
        self.folder, self.warnings, self.step = folder / "run", list[str](), 0
        self.recipe = folder / "small.yaml"
        self.recipe.write_text(yaml.safe_dump(recipe), encoding="utf-8")

    def __call__(self, until: float = np.inf, source: NoisyRoom | None = None, **options: Any) -> Outcome:
        def report(progress: Any, step: Any, figures: Any) -> None:
            self.step = progress.step

        self.step = -2  # nobody asks before the first evaluation
        room = NoisyRoom() if source is None else source
        given = {"out": self.folder, "config": str(self.recipe), "device": "cpu", "sources": [room], **options}
        return train(Options(**given), lambda: self.step + 1 >= until, report, self.warnings.append)

    def losses(self) -> list[tuple[int, float, float]]:
        rows = read_metrics(self.folder / "metrics.jsonl")
        return [(row["step"], row["loss"], row["rate"]) for row in rows if row["kind"] == "train"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.mark.parametrize("task", ["pairs", "completion"])
def test_interrupted_in_every_stage_and_resumed_it_is_the_same_run(tmp_path: Path, task: str) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole, parts = Run(tmp_path / "whole", STAGED), Run(tmp_path / "parts", STAGED)
    done = whole(task=task)
    assert done.finished and done.progress.step == 12 and len(whole.losses()) == 12
    outcome = parts(until=3, task=task)
    assert not outcome.finished and outcome.progress.step == 3
    for until in (4, 7, 10):
        assert not parts(until=until, resume=True).finished
    assert parts(resume=True, task=task).finished
    assert parts.losses() == whole.losses()
    one, other = load_checkpoint(whole.folder / "model"), load_checkpoint(parts.folder / "model")
    assert one.config.img_size == (48, 32)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_dpt_head_after_a_linear_one(tmp_path: Path, narrow_dpt: None) -> None:
    network = {**RECIPE["network"], "dec_depth": 4}
    stages = [{**STAGES[0], "steps": 2}, {**STAGES[1], "restart": True, "steps": 1, "head": "dpt"}]
    run = Run(tmp_path, {**RECIPE, "network": network, "stages": stages, "held_out": 1})
    run(until=1)
    assert load_checkpoint(run.folder / "model").config.head_type == "linear"
    assert "linear head" in (run.folder / "MODEL_CARD.md").read_text()
    assert run(resume=True).finished and len(run.losses()) == 3
    assert load_checkpoint(run.folder / "model").config.head_type == "dpt"
    assert "dpt head" in (run.folder / "MODEL_CARD.md").read_text()


def test_the_head_that_completes_is_kept_where_the_schedule_begins_again(tmp_path: Path) -> None:
    run = Run(tmp_path, {**STAGED, "keep": 10})
    run(until=9, task="completion")
    first, again = (
        torch.load(run.folder / f"state/step-{step:09d}.pt")["learner"]["task"]["prediction_head.weight"]
        for step in (0, 8)
    )
    assert not torch.equal(first, again), "every stage would begin with this one"


def test_what_is_held_out_is_evaluated_from_the_start(run: Run) -> None:
    outcome = run()
    rows = [row for row in read_metrics(run.folder / "metrics.jsonl") if row["kind"] == "held_out"]
    assert [row["step"] for row in rows] == [0, 5, 10, 12]
    assert rows[0]["regression"] == outcome.first_figures["regression"]
    assert rows[-1]["regression"] == outcome.figures["regression"] < outcome.first_figures["regression"]


def spoil(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    """Batches whose number is ``bad`` hold a NaN."""
    step, count = Learner.step, [0]

    def spoiled(self: Learner, batch: PairBatch, rate: float, asks: Any = ()) -> Step:
        count[0] += 1
        if bad(count[0]):
            batch.image_1[0, 0, 0, 0] = float("nan")
        return step(self, batch, rate, asks)

    monkeypatch.setattr(Learner, "step", spoiled)


def test_a_bad_batch_is_left_out_and_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda number: number in (3, 5))
    outcome = run()
    assert outcome.finished and outcome.progress.bad == 2 and outcome.progress.step == 12
    assert [step for step, loss, _ in run.losses() if loss is None] == [3, 5]
    assert any("step 3: loss or gradient is not finite" in words for words in run.warnings)
    assert "| batches left out | 2 " in (run.folder / "MODEL_CARD.md").read_text()
    assert all(torch.isfinite(value).all() for value in load_checkpoint(run.folder / "model").state_dict().values())


def test_that_a_network_is_not_compiled_is_always_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also soon after a warning of another kind."""
    spoil(monkeypatch, lambda number: number == 3)
    step = Learner.step

    def uncompiled(self: Learner, *given: Any) -> Step:
        self.uncompiled = "no triton" if self.average.updates == 4 else ""
        return step(self, *given)

    monkeypatch.setattr(Learner, "step", uncompiled)
    run()
    assert "the network is not compiled: no triton" in run.warnings


def test_nothing_but_bad_batches_end_the_run(
    run: Run, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are left, and the advice works."""
    spoil(monkeypatch, lambda number: number > 5)
    words = r"the last 3 batches \(to step 8\) gave no finite gradient.*lower rate.*--init (\S+) --set rate=… "
    with pytest.raises(TrainingError, match=words) as failed:
        run(changes={"bad_steps": 3})
    assert f"| ended early | {failed.value} |" in (run.folder / "MODEL_CARD.md").read_text()
    monkeypatch.undo()
    monkeypatch.setattr(session, "write_picture", lambda *_: None)
    weights = re.search(words, str(failed.value))
    assert weights is not None
    assert Run(tmp_path_factory.mktemp("next"))(init=weights[1], changes={"rate": 1e-4}, steps=1).finished
    assert states.read_state(run.folder / "state")[0]["progress"]["step"] == 6, "that of the stage before"


def test_broken_samples_are_counted_and_told(run: Run) -> None:
    outcome = run(source=NoisyRoom(broken=frozenset(range(5))))
    assert outcome.progress.skipped == 5
    assert "room/" in run.warnings[0] and len(run.warnings) < 5


def test_a_disk_that_is_full_for_a_while_costs_a_state(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = states.write_state, list[int]()

    def full(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
        calls.append(step)
        if step in (4, 8):
            raise OutputError("no space is left on the device")
        return write(folder, step, state, keep)

    monkeypatch.setattr(states, "write_state", full)
    assert run().finished and {4, 8} < set(calls)
    assert [words for words in run.warnings if "no space" in words and "continues from memory" in words]
    assert states.states(run.folder / "state")[-1].name == "step-000000012.pt"


def test_a_run_that_began_and_left_no_state_may_begin_again(run: Run) -> None:
    run(steps=2)
    for path in (run.folder / "state").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="without --resume"):
        run(resume=True)
    assert run(steps=3).progress.step == 3 and len(run.losses()) == 3


def test_start_from_weights(run: Run, tmp_path: Path) -> None:
    run(steps=3, changes={"ema": 0.0})
    (tmp_path / "second").mkdir()
    second = Run(tmp_path / "second")
    outcome = second(steps=1, init=str(run.folder / "model"))
    first = [row for row in read_metrics(run.folder / "metrics.jsonl") if row["kind"] == "held_out"]
    assert outcome.first_figures["regression"] == pytest.approx(first[-1]["regression"], rel=1e-5)
    assert f"| start | {run.folder / 'model'} |" in (second.folder / "MODEL_CARD.md").read_text()
    (tmp_path / "third").mkdir()
    with pytest.raises(CheckpointError, match="dec_depth 2; the recipe has 4"):
        Run(tmp_path / "third", {**RECIPE, "network": {**RECIPE["network"], "dec_depth": 4}})(
            init=str(run.folder / "model")
        )


def test_a_resumed_run_is_the_same_run(run: Run) -> None:
    run(until=2)
    for options, words in (
        ({"changes": {"ema": 0.5}}, "recipe"),
        ({"task": "completion"}, 'task "pairs"'),
        ({"steps": 4}, "steps null"),
        ({"data": ("a=b",)}, "data"),
    ):
        with pytest.raises(ConfigError, match=f"was started with {words}"):
            run(resume=True, **options)
    assert run(resume=True, changes={"ema": 0.999}, task="pairs").finished


def test_a_resumed_run_has_the_same_data(run: Run) -> None:
    run(until=2, source=NoisyRoom("rooms", 20))
    words = r"started with rooms \(20 pairs\), evaluated on rooms \(20 pairs\); the data are now rooms \(30 pairs\)"
    with pytest.raises(ConfigError, match=rf"{words}.*--init {run.folder}/model"):
        run(resume=True, source=NoisyRoom("rooms", 30))
    assert run(resume=True, source=NoisyRoom("rooms", 20)).finished


def test_a_set_of_one_scene_is_reported(run: Run) -> None:
    scene = NoisyRoom("scene", 20)
    scene.groups = lambda: np.array([0, 20])
    run(source=scene, steps=1)
    assert "'scene' has one scene only" in run.warnings[0]


def test_more_minutes_are_remembered_and_of_no_use_to_a_finished_run(run: Run) -> None:
    def minutes() -> float:
        return json.loads((run.folder / "run.json").read_text())["minutes"]

    run(until=2, minutes=60.0)
    run(until=3, resume=True, minutes=120.0)
    run(until=4, resume=True)
    assert minutes() == 120
    content = states.read_state(run.folder / "state")[0]
    content["progress"]["stage"] = len(content["progress"]["plan"])
    states.write_state(run.folder / "state", content["progress"]["step"], content, 2)
    assert run(resume=True, minutes=120.0).finished
    with pytest.raises(ConfigError, match=rf"finished, so --minutes 180 adds nothing.*--init {run.folder}/model"):
        run(resume=True, minutes=180.0)
    assert minutes() == 120


def test_training_takes_the_threads_that_batches_leave(run: Run) -> None:
    """And as many when it goes on with other workers, since sums depend on it."""
    before, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    try:
        torch.set_num_threads(cores)
        run(until=2, workers=1)
        first = torch.get_num_threads()
        assert first == max(cores - 1, 1)
        torch.set_num_threads(cores)
        run(until=4, workers=0, resume=True)
        assert torch.get_num_threads() == first
        run(until=5, workers=0, resume=True, threads=cores)
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)


def test_two_runs_in_one_folder_are_kept_apart(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from dust3r_ros.training import run_folder

    monkeypatch.setattr(run_folder, "_WAIT", 0.0)
    lock = run_folder.RunFolder(run.folder).lock()
    with pytest.raises(OutputError, match="another process"):
        run()
    lock.release()
    assert run(steps=1).finished


def test_a_state_of_another_network_is_refused(run: Run) -> None:
    run(until=2)
    path = states.states(run.folder / "state")[-1]
    content = torch.load(path)
    content["learner"]["task"].pop("model.enc_norm.weight")
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="state belongs to a network other"):
        run(resume=True)


def test_without_matplotlib_there_is_no_picture_but_all_else(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "write_picture", write_picture)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.backends.backend_agg", None)
    assert run(steps=1).finished
    assert "extra 'train'" in run.warnings[-1] and not (run.folder / "picture.png").exists()
    assert (run.folder / "MODEL_CARD.md").exists() and load_checkpoint(run.folder / "model")
