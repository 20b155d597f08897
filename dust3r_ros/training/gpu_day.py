"""Half an hour of a GPU into weights, with torch and little else: stages one after another, each reported and stored
when it ends; then training until the minutes are used, with the results packed for transfer after every leg.
"""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from dust3r_ros.errors import ConfigError, Dust3rRosError, InputError
from dust3r_ros.geometry.processes import usable_cores
from dust3r_ros.io.files import make_folder, write_text
from dust3r_ros.network.checkpoint import load_checkpoint, pick_device, shipped
from dust3r_ros.training.card import code_version, hardware
from dust3r_ros.training.log import read_metrics
from dust3r_ros.training.measuring import CHECKS, Choice, choose, inference
from dust3r_ros.training.recipe import Recipe, read_recipe
from dust3r_ros.training.run_folder import split_weights
from dust3r_ros.training.session import FinishedRunError, Options, Outcome, train

_CLOSING = 0.1  # of a leg, for evaluation, state and weights after training; measured after the first leg
_CLOSING_GPU = 15.0  # seconds at most on a GPU, where it took 3
_SAY = 15.0  # seconds between lines while it trains
_LEAST = 20.0  # seconds below which training does not start
_USUAL = 25.0  # minutes; a shorter day measures in a share of the time


@dataclass(frozen=True)
class Plan:
    """The request: ``minutes`` of all legs together, each of at most ``leg`` minutes. None: chosen."""

    minutes: float
    out: Path
    leg: float = 9.0
    device: str = "auto"
    config: str | None = None
    init: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in ("minutes", "leg"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"--{name} is {getattr(self, name)}; it must be above 0 and finite")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"--workers is {self.workers}; it must be at least 0")


def run(plan: Plan, stop: Callable[[], bool]) -> None:
    """Run one leg. Raises ``Dust3rRosError`` for what all stages need: folder, recipe, initial weights."""
    _Leg(plan, stop).run()


class _Leg:
    def __init__(self, plan: Plan, stop: Callable[[], bool]) -> None:
        self.plan, self._asked = plan, stop
        self._began = perf_counter()
        self.device = pick_device(plan.device)
        self._record = make_folder(plan.out) / "day.json"
        self._run = plan.out / "run"
        self.record = self._read()
        self._before = float(self.record["seconds"])

    # Files

    def _read(self) -> dict[str, Any]:
        begun = {
            "config": self.plan.config or "mini",
            "device": self.device.type, "seconds": 0.0, "legs": 0, "stages": {}, "done": False,
        }  # fmt: skip
        if not self._record.exists():
            return {
                **begun, "code": code_version(),
                "hardware": hardware(self.device, 1, torch.get_num_threads()), "cores": usable_cores(),
            }  # fmt: skip
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            wrong = next((name for name in ("config", "device") if record[name] != begun[name]), None)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"'{self._record}' is not the record of a day ({error}); give another folder") from error
        if wrong and (wrong == "device" or self.plan.config):
            raise ConfigError(
                f"the day in '{self.plan.out}' began with {wrong} {record[wrong]}; with {begun[wrong]} it would be "
                "another one (give another folder)"
            )
        return dict(record)

    def _write(self) -> None:
        self.record["seconds"] = self._before + self._used
        write_text(self._record, json.dumps(self.record, indent=1) + "\n")

    @property
    def _used(self) -> float:
        return perf_counter() - self._began

    @property
    def _left(self) -> float:
        """Seconds left of this leg."""
        return min(60 * self.plan.leg, 60 * self.plan.minutes - self._before) - self._used

    @property
    def _more(self) -> bool:
        """Whether another leg has time to train."""
        return 60 * self.plan.minutes - self.record["seconds"] > self._least + float(self.record.get("closing", 0.0))

    @property
    def _share(self) -> float:
        """Share of a usual day, 1 for longer ones."""
        return min(self.plan.minutes / _USUAL, 1.0)

    @property
    def _least(self) -> float:
        """Seconds below which training does not start in a day of this length."""
        return min(_LEAST, 0.2 * 60 * self.plan.minutes)

    def _over(self) -> bool:
        return self._asked() or self._left <= 0

    # The stages

    def run(self) -> None:
        self.record["legs"] += 1
        number = self.record["legs"]
        say(f"leg {number} on {self.record['hardware']['device']}: {self.record['seconds'] / 60:.1f} of "
            f"{self.plan.minutes:g} minutes are used")  # fmt: skip
        if self.record["done"]:
            say("the day is over already; give another folder for another one")
            return
        recipe = self._recipe()
        for name, check in CHECKS.items():
            self._stage(f"check {name}", lambda check=check: check(self.device))  # type: ignore[misc]
        workers = self.plan.workers
        choice = self._stage(
            "measure", lambda: choose(recipe, self.device, workers, self._over, self._share).as_mapping()
        )
        self._stage("inference", lambda: inference(recipe, self.device, self._over, self._share))
        if not self._over():
            self._train(recipe, Choice.of(choice, recipe, self.device, workers))
        self._write()
        say(f"{self.record['seconds'] / 60:.1f} of {self.plan.minutes:g} minutes are used; "
            + ("the day is over" if self.record["done"] else "the same command continues" if self._more else
               "too few to train; the same command with more --minutes continues"))  # fmt: skip

    def _stage(self, name: str, work: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """The result of ``work``, from now or an earlier leg; None if it failed, which is reported, or time is up."""
        known = self.record["stages"].get(name)
        if known is not None:
            return known.get("result")
        if self._over():
            return None
        start = perf_counter()
        try:
            entry: dict[str, Any] = {"result": dict(work())}
        except Exception as error:  # a failing stage must not stop the others
            entry = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
        entry["seconds"] = round(perf_counter() - start, 2)
        if self._asked() and "failed" in entry:
            return None  # an interrupted stage is tried again
        self.record["stages"][name] = entry
        self._write()
        say(f"{name}: {entry.get('failed') or _short(entry['result'])} ({entry['seconds']:.1f} s)")
        return entry.get("result")

    def _recipe(self) -> Recipe:
        recipe = read_recipe(self.record["config"], {"caster": "torch"})
        if "init" not in self.record:
            self.record["init"] = self.plan.init or _fitting(recipe)
            say(f"recipe {recipe.name}, from {self.record['init'] or 'random weights'}")
        # Smaller images first are for random weights: those that have learned would spend most of the day on them.
        return replace(recipe, stages=recipe.stages[-1:]) if self.record["init"] else recipe

    def _train(self, recipe: Recipe, choice: Choice) -> None:
        """Train until the leg or the day is over; then pack the results."""
        usual = 60 * _CLOSING * min(self.plan.leg, self.plan.minutes)
        closing = float(self.record.get("closing", min(usual, _CLOSING_GPU) if self.device.type == "cuda" else usual))
        trained = float(self.record.get("trained", 0.0))
        room = 60 * self.plan.minutes - self._before - self._used - closing
        resume = any((self._run / "state").glob("step-*.pt"))
        if room < self._least:
            self._finish(resume)
            return
        if not resume:
            self._prepare(recipe, choice, room)
        options = self._options(recipe, choice, (trained + room) / 60, resume)
        line, stopped = _Line(), [0.0]

        def ending() -> bool:
            if stopped[0] == 0.0 and (self._asked() or self._left <= closing):
                stopped[0] = perf_counter()
            return stopped[0] > 0.0

        try:
            outcome = train(options, ending, line.report, say)
        except KeyboardInterrupt:
            if stopped[0] == 0.0:
                raise
            say("ended before the first step; the next leg starts again")
            return
        except FinishedRunError:  # the leg before was ended when it had trained
            self._finish(True)
            return
        except Dust3rRosError as error:
            self.record["stages"]["train"] = {"failed": str(error)}
            self._write()
            raise
        self.record["trained"] = outcome.progress.seconds
        self._describe(outcome)
        self._finish(True, outcome.finished)
        if stopped[0]:
            self.record["closing"] = 1.3 * (perf_counter() - stopped[0]) + 2

    def _config(self, recipe: Recipe) -> Path:
        """The file of the recipe with the choices applied."""
        return self.plan.out / f"{recipe.name}.json"

    def _prepare(self, recipe: Recipe, choice: Choice, room: float) -> None:
        """Remove remains of a run and write the recipe for ``room`` seconds of training."""
        shutil.rmtree(self._run, ignore_errors=True)
        applied = choice.applied(recipe, bool(self.record["init"]), room)
        if self.record["init"]:
            applied["seed"] = _seed_of(self.record["init"])
        write_text(self._config(recipe), json.dumps(applied, indent=1) + "\n")

    def _options(self, recipe: Recipe, choice: Choice, minutes: float, resume: bool) -> Options:
        """Options for training up to ``minutes`` of all legs together."""
        return Options(
            out=self._run, config=str(self._config(recipe)), minutes=minutes, resume=resume,
            init=None if resume else self.record["init"] or None, device=str(self.device), workers=choice.workers,
            command=f"gpu-day --minutes {self.plan.minutes:g} --config {recipe.name}",
        )  # fmt: skip

    def _describe(self, outcome: Outcome) -> None:
        progress = outcome.progress
        peak = round(torch.cuda.max_memory_allocated() / 1e6) if self.device.type == "cuda" else None
        self.record["stages"]["train"] = {
            "seconds": round(progress.seconds, 1),
            "result": {
                "steps": progress.step, "pairs": progress.position, "stage": progress.stage + 1,
                "pairs_per_second": round(progress.position / max(progress.seconds, 1e-9), 1),
                "waiting": round(progress.waiting / max(progress.seconds, 1e-9), 4), "bad_batches": progress.bad,
                "peak_memory_mb": peak,
                "held_out_before": outcome.first_figures, "held_out": outcome.figures,
            },
        }  # fmt: skip

    def _finish(self, trained: bool, over: bool = True) -> None:
        """Weights in pieces, card and figures in ``back``."""
        self.record["done"] = trained and over
        self._write()
        if not trained or not (self._run / "model").is_dir():
            return
        back = make_folder(self.plan.out / "back")
        pieces = split_weights(self._run / "model", back)
        for name in ("MODEL_CARD.md", "picture.png"):
            if (self._run / name).exists():
                shutil.copyfile(self._run / name, back / name)
        curve = [row for row in read_metrics(self._run / "metrics.jsonl") if row["kind"] == "held_out"]
        write_text(back / "day.json", json.dumps({**self.record, "held_out": curve}, indent=1) + "\n")
        say(f"{pieces} pieces of weights in {back}; 'dust3r-weights join {back}' puts them together")


class _Line:
    """Progress lines during training."""

    def __init__(self) -> None:
        self._said, self._position = perf_counter(), -1

    def report(self, progress: Any, step: Any, figures: Mapping[str, float]) -> None:
        """After every step and evaluation."""
        now = perf_counter()
        if self._position < 0:
            self._position = progress.position
        if step is None:
            say(f"step {progress.step}: held out " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items()))
        elif now - self._said > _SAY:
            rate = (progress.position - self._position) / (now - self._said)
            say(f"step {progress.step} of {progress.total}, stage {progress.stage + 1}: loss {step.loss:.3f}, "
                f"regression {step.regression:.3f}, {rate:.0f} pairs/s, waiting "
                f"{100 * progress.waiting / max(progress.seconds, 1e-9):.0f} %")  # fmt: skip
            self._said, self._position = now, progress.position


def say(words: str) -> None:
    """Print one line."""
    print(words, flush=True)


def _fitting(recipe: Recipe) -> str:
    """Name of the shipped weights of the recipe's network; empty without any."""
    wanted = recipe.architecture(recipe.stages[0])
    sizes = [name for name in vars(wanted) if name.startswith(("enc_", "dec_", "pos_"))]
    for name, folder in shipped().items():
        have = load_checkpoint(folder).config
        if all(getattr(have, size) == getattr(wanted, size) for size in sizes):
            return name
    return ""


def _seed_of(checkpoint: str) -> int:
    """A seed that depends on weights alone: what they have learned from is not learned from again."""
    return zlib.crc32(b"".join(value.numpy().tobytes() for value in load_checkpoint(checkpoint).state_dict().values()))


def _short(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in result.items() if not isinstance(value, (dict, list)))
