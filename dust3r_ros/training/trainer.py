"""The training loop: stages of batches, evaluation on held-out pairs, states on disk, until done or stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch

from dust3r_ros.errors import CheckpointError, InputError, OutputError
from dust3r_ros.network.model import Dust3r
from dust3r_ros.training import run_folder as states
from dust3r_ros.training.batches import PairBatch, PairBatches, Sampling, collate, load
from dust3r_ros.training.learner import Learner, Step
from dust3r_ros.training.log import MetricLog, Pace, Progress, Rare
from dust3r_ros.training.processes import Processes
from dust3r_ros.training.recipe import Recipe, Stage
from dust3r_ros.training.run_folder import RunFolder
from dust3r_ros.training.sources import sized
from dust3r_ros.training.start import new_model, with_head
from dust3r_ros.training.tasks import AnyTask, Task
from dust3r_ros.training.views import BatchSource, Cropping, PairSource, ViewPair, crop_pair

_HELD_OUT_BATCH = 8
_SEED = 0x5EED  # of held-out pairs; not the run's, see HELD_OUT_SEED


class HeldOut:
    """A fixed set of pairs, cropped to one size. Each process evaluates its share."""

    def __init__(self, pairs: Sequence[ViewPair], processes: Processes) -> None:
        self.pairs, self._processes = list(pairs), processes

    def evaluate(self, task: Task, device: torch.device) -> dict[str, float]:
        """Mean over pairs of every figure of the task, ignoring pairs without it (NaN)."""
        own = self.pairs[self._processes.rank :: self._processes.world]
        sums: dict[str, list[float]] = {}
        names: list[str] = []
        with torch.inference_mode():
            for start in range(0, max(len(own), 1), _HELD_OUT_BATCH):
                # A process without a share still needs the names.
                batch = collate(own[start : start + _HELD_OUT_BATCH] or self.pairs[:1]).to(device)
                figures = task.measure(batch)
                names = list(figures)
                for name in names:
                    good = _finite(figures[name]) if own else []
                    total = sums.setdefault(name, [0.0, 0.0])
                    total[0], total[1] = total[0] + sum(good), total[1] + len(good)
        flat = self._processes.total([value for name in names for value in sums[name]], device)
        return {name: flat[2 * k] / flat[2 * k + 1] for k, name in enumerate(names) if flat[2 * k + 1]}


def _finite(values: torch.Tensor) -> list[float]:
    return [value for value in values.double().tolist() if math.isfinite(value)]


def gather(
    sources: Sequence[PairSource],
    chosen: Sequence[Sequence[int]],
    size: tuple[int, int],
    processes: Processes,
    stop: Callable[[], bool] = bool,
) -> HeldOut:
    """The pairs at the indices ``chosen`` of each source, at ``size`` (H, W), without augmentation.

    Unusable samples are left out. Raises ``InputError`` when none is left, and ``KeyboardInterrupt`` when ``stop()``
    is true, since this may take long.
    """
    pairs: list[ViewPair] = []
    reason = "no source has pairs to spare"
    for source, indices in zip(sized(sources, [size]), chosen, strict=True):
        for index in indices:
            if stop():
                raise KeyboardInterrupt
            rng = np.random.default_rng([_SEED, index])
            try:
                pairs.append(crop_pair(source.pair(index, rng), size, rng, Cropping()))
            except InputError as error:
                reason = str(error)
    if not pairs:
        raise InputError(f"no pairs to evaluate on: {reason}")
    return HeldOut(pairs, processes)


_ALL_LINES = 2000  # steps whose every loss is logged; later every tenth


@dataclass
class Setting:
    """Inputs of a run. ``start``: initial weights (None: random). ``pace``: None where steps are given.

    ``report``: called after each step with the progress and the results; ``warn``: shows one line to the user.
    ``began``: start of this sitting (``perf_counter``).
    """

    recipe: Recipe
    sampling: Sampling
    held_out: HeldOut
    folder: RunFolder
    processes: Processes
    device: torch.device
    task: str
    workers: int
    log: MetricLog | None
    start: Dust3r | None
    pace: Pace | None
    report: Callable[[Progress, Step | None], None]
    warn: Callable[[str], None]
    began: float


def stream(
    recipe: Recipe,
    stage: Stage,
    sampling: Sampling,
    device: torch.device,
    workers: int,
    processes: Processes,
    start: int = 0,
    number: int = 0,
    stop: Callable[[], bool] = bool,
) -> Generator[PairBatch, None, None]:
    """Batches of ``stage`` from ``number`` on; the stage begins after ``start`` pairs. Close it after use.

    They are made where the recipe's sources make them: in worker processes or on the device. ``stop``: as in ``load``.
    """
    pairs, source = stage.pairs // processes.world, sampling.sources[0]
    if isinstance(source, BatchSource):
        return source.batches(start, number, pairs, stage.sizes, recipe.cropping, workers)
    batches = PairBatches(
        sampling.of(sized(sampling.sources, stage.sizes)),
        start,
        pairs,
        stage.sizes,
        recipe.cropping,
        processes.rank,
        processes.world,
    )
    return load(batches, number, workers, device.type == "cuda", stop)


class Trainer:
    """One run. ``progress``: how far it is; ``figures`` is the last evaluation, ``first_figures`` the first.

    ``failure``: why training cannot go on; "" while it can.
    """

    def __init__(self, setting: Setting, progress: Progress) -> None:
        self.setting, self.progress = setting, progress
        self.figures: dict[str, float] = {}
        self.first_figures: dict[str, float] = {}
        self.failure = ""
        self._sitting = setting.began
        self._before = progress.seconds
        self._saved = perf_counter()
        self._evaluated = -1
        self._stop: Callable[[], bool] = bool
        self._rarely = Rare(setting.warn)
        self.learner = self._learner(setting.start)

    # Setting up

    def _learner(self, model: Dust3r | None, before: AnyTask | None = None) -> Learner:
        """The learner of this stage: from the weights ``model``, after the task ``before``."""
        recipe = self.setting.recipe
        config = recipe.architecture(self._stage)
        fitting = new_model(config, recipe.seed) if model is None else with_head(model, config, recipe.seed)
        return Learner(recipe, fitting, self.setting.device, self.setting.processes, self.setting.task, before)

    def resume(self, content: dict[str, Any]) -> None:
        """Continue from the result of ``state``. Raises ``CheckpointError`` when it is of another network."""
        self.progress = Progress(**content["progress"])
        self._before = self.progress.seconds
        self._evaluated = self.progress.step if self.progress.finished else -1
        self.figures, self.first_figures = content["figures"], content["first_figures"]
        self.learner = self._learner(None)
        try:
            self.learner.load(content["learner"])
        except (RuntimeError, KeyError, ValueError) as error:
            line = " ".join(str(error).split())[:150]
            raise CheckpointError(f"the state belongs to a network other than the recipe's: {line}") from error
        states.set_random_states(content["random"][self.setting.processes.rank])

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on. Collective: every process takes part."""
        return {
            "progress": self.progress.as_mapping(),
            "learner": self.learner.state(),
            "random": self.setting.processes.gathered(states.random_states()),
            "figures": self.figures,
            "first_figures": self.first_figures,
        }

    @property
    def _stage(self) -> Stage:
        stages = self.setting.recipe.stages
        return stages[min(self.progress.stage, len(stages) - 1)]

    # Running

    def run(self, stop: Callable[[], bool]) -> bool:
        """Train until the plan is done; returns whether it was. ``stop`` is called after each step.

        A loss that remains not finite ends it with a ``failure``; the weights are written then too. Raises
        ``TrainingError`` for a lost process, ``InputError`` for data that cannot be used, ``OutputError`` when the last
        state cannot be written.
        """
        self._stop = stop
        if self.progress.step == 0:
            self.evaluate()
            self.first_figures = dict(self.figures)
            self.save()
        finished = True
        while finished and not self.progress.finished:
            finished = self._run_stage()
            if finished:
                self._next_stage()
        self.evaluate()
        if not self.failure:
            self.save(last=True)
        elif self.setting.processes.first:  # no state: resumed from it, the run would fail again
            self.setting.folder.write_model(self.learner.result())
        return finished or self._time_over()

    def _run_stage(self) -> bool:
        """Make the steps of this stage; returns whether all were made."""
        setting, progress = self.setting, self.progress
        stream = self._stream()
        try:
            while not progress.stage_done:
                start = perf_counter()
                batch = next(stream)
                waited = perf_counter() - start
                due = setting.processes.first and perf_counter() - self._saved > setting.recipe.save_seconds
                rate = setting.recipe.rate(progress.stage, (progress.within + 1) / progress.plan[progress.stage])
                step = self.learner.step(batch, rate, (self._stop(), self._time_over(), due))
                progress.waiting += waited
                if self.learner.uncompiled:
                    setting.warn(f"the network is not compiled: {self.learner.uncompiled}")
                    self.learner.uncompiled = ""
                self._account(batch, step, rate, perf_counter() - start)
                if self.failure:
                    return False
                if step.asked[0] or step.asked[1]:
                    return progress.stage_done
                self._keep_up(step.asked[2], perf_counter() - start)
        finally:
            stream.close()
        return True

    def _stream(self) -> Generator[PairBatch, None, None]:
        setting, progress = self.setting, self.progress
        return stream(
            setting.recipe, self._stage, setting.sampling, setting.device, setting.workers, setting.processes,
            progress.stage_start, progress.within, self._stop,
        )  # fmt: skip

    def _account(self, batch: PairBatch, step: Step, rate: float, seconds: float) -> None:
        """Count, log and judge a step."""
        setting, progress = self.setting, self.progress
        progress.count(self._stage.pairs, step.good)
        progress.skipped += step.skipped
        progress.seconds = self._elapsed()
        for reason in batch.skipped:
            self._rarely(f"a sample is left out: {reason}")
        if not step.good:
            self._rarely(f"step {progress.step}: loss or gradient is not finite; the batch changes nothing")
        if setting.log is not None and (progress.step <= _ALL_LINES or progress.step % 10 == 0):
            setting.log.add("train", progress.step, self._row(batch, step, rate, seconds))
        setting.report(progress, step)
        if progress.bad_in_row >= setting.recipe.bad_steps:
            self.failure = (
                f"the last {progress.bad_in_row} batches (to step {progress.step}) gave no finite gradient, so the run "
                "ends; start a new one in another folder from its weights, with a lower rate or in float32: "
                f"--init {setting.folder.model} --set rate=… (or --set precision=float32)"
            )

    def _row(self, batch: PairBatch, step: Step, rate: float, seconds: float) -> dict[str, float]:
        progress = self.progress
        height, width = batch.image_1.shape[2:]
        return {
            "loss": step.loss, "regression": step.regression, "norm": step.norm, "rate": rate,
            "height": height, "width": width, "pairs": self._stage.pairs, "seconds": round(seconds, 4),
            "waiting": round(progress.waiting / max(progress.seconds, 1e-9), 4),
            "skipped": progress.skipped, "bad": progress.bad,
        }  # fmt: skip

    def _keep_up(self, save_due: bool, seconds: float) -> None:
        """Work between steps: a new plan, an evaluation, a state."""
        setting, progress = self.setting, self.progress
        replanned = False
        if setting.pace is not None:
            if setting.processes.first:
                replanned = setting.pace.update(progress, setting.recipe, self._elapsed(), seconds)
            progress.plan, replanned = setting.processes.broadcast((progress.plan, replanned))
        if progress.step % setting.recipe.evaluate_every == 0:
            self.evaluate()
        if replanned or save_due or progress.step % setting.recipe.save_every == 0:
            self.save()

    def _next_stage(self) -> None:
        progress, recipe = self.progress, self.setting.recipe
        before = self._stage
        progress.next_stage()
        if progress.finished:
            return
        after = self._stage
        if after.head != before.head or after.restart:
            done = self.learner.judge().cpu()
            self.learner = self._learner(done.finish(done.model), done)
        else:
            self.learner.task.model.config = recipe.architecture(after)
        self.save()

    # Results

    def evaluate(self) -> None:
        """Figures of the averaged weights on held-out pairs; logged and stored with the weights."""
        setting = self.setting
        if self._evaluated == self.progress.step:
            return
        self._evaluated = self.progress.step
        self.figures = setting.held_out.evaluate(self.learner.judge(), setting.device)
        if setting.log is not None:
            setting.log.add("held_out", self.progress.step, self.figures)
        setting.report(self.progress, None)

    def save(self, last: bool = False) -> None:
        """Write the state. A full disk loses this state, not the run, unless it is the ``last``."""
        setting = self.setting
        self.progress.seconds = self._elapsed()
        content = self.state()
        self._saved = perf_counter()
        if not setting.processes.first:
            return
        try:
            states.write_state(setting.folder.state, self.progress.step, content, setting.recipe.keep)
            if last:
                setting.folder.write_model(self.learner.result())
        except OutputError as error:
            if last:
                raise
            setting.warn(f"{error}; training continues from memory")

    def _elapsed(self) -> float:
        return self._before + perf_counter() - self._sitting

    def _time_over(self) -> bool:
        return self.setting.pace is not None and self.setting.pace.over(self._elapsed())
