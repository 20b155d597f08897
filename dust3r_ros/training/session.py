"""A run from its options to its folder: the work of ``dust3r-train``, for use by other programs too."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from dust3r_ros.errors import BackendError, ConfigError, Dust3rRosError, TrainingError
from dust3r_ros.geometry.processes import usable_cores
from dust3r_ros.io.files import write_text
from dust3r_ros.network.checkpoint import load_checkpoint, pick_device
from dust3r_ros.network.model import Dust3r
from dust3r_ros.training import run_folder as states
from dust3r_ros.training.batches import Sampling
from dust3r_ros.training.card import card, code_version, hardware, write_picture
from dust3r_ros.training.learner import precision
from dust3r_ros.training.log import MetricLog, Pace, Progress, planned, read_metrics
from dust3r_ros.training.processes import Processes, joined
from dust3r_ros.training.recipe import Recipe, from_mapping, read_recipe
from dust3r_ros.training.run_folder import RunFolder
from dust3r_ros.training.sources import Split, open_sources, split
from dust3r_ros.training.start import new_model, start_encoder, with_head
from dust3r_ros.training.tasks import TASKS
from dust3r_ros.training.trainer import Setting, Trainer, gather
from dust3r_ros.training.views import BatchSource, PairSource

_RESERVE = 0.04  # of a run's time, for the work after training
_LEAST_RESERVE = 4.0  # seconds at least, but at most
_MOST_RESERVE = 0.2  # of the time


@dataclass(frozen=True)
class Options:
    """The user's options. ``steps`` or ``minutes`` (of all sittings together) replace the recipe's steps; None: as in
    the recipe or the resumed run. ``init``: a checkpoint to start from; ``encoder``: weights of a vision transformer
    for the encoder. ``changes``: of the recipe. ``cache``: folder for listings and overlaps of ``data``; ``sources``
    replace ``data`` (tests, programs).
    """

    out: Path
    config: str | None = None
    minutes: float | None = None
    steps: int | None = None
    resume: bool = False
    data: tuple[str, ...] = ()
    cache: Path | None = None
    task: str | None = None
    init: str | None = None
    encoder: str | None = None
    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    command: str = "dust3r-train"
    sources: Sequence[PairSource] | None = None

    def __post_init__(self) -> None:
        if self.minutes is not None and self.steps is not None:
            raise ConfigError("--minutes and --steps both set the length; give one of them")
        for name, value in (("minutes", self.minutes), ("steps", self.steps)):
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"--{name} is {value}; it must be above 0 and finite")
        if self.task is not None and self.task not in TASKS:
            raise ConfigError(f"--task is '{self.task}'; it must be one of {', '.join(TASKS)}")
        if self.init and self.encoder:
            raise ConfigError("--init includes an encoder; leave out --encoder")
        if self.resume and (self.init or self.encoder):
            raise ConfigError("--resume continues with the run's weights; leave out --init and --encoder")


class FinishedRunError(ConfigError):
    """A run whose plan is done was given more minutes."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: whether the plan is done, its progress, figures on held-out pairs before and now."""

    finished: bool
    progress: Progress
    first_figures: dict[str, float]
    figures: dict[str, float]


Send = Callable[[Progress, Any, dict[str, float]], None]


def train(options: Options, stop: Callable[[], bool], report: Send, warn: Callable[[str], None]) -> Outcome:
    """Train by ``options`` until done or ``stop()``.

    ``report`` is called after each step (progress, ``Step``, figures) and each evaluation (None for the step) in the
    first process only. Raises what ``Trainer.run`` raises, ``ConfigError`` and ``InputError`` for the options,
    ``OutputError`` for the folder.
    """
    device = pick_device(options.device)
    with joined(device.type == "cuda") as processes:
        folder = RunFolder(options.out)
        lock = folder.lock() if processes.first else None
        try:
            return _Run(options, folder, processes, processes.device(device), warn).train(stop, report)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                "the GPU has too little memory; fewer pairs per step (--set pairs=…) or checkpointing=true need less"
            ) from error
        finally:
            if lock is not None:
                lock.release()


class _Run:
    def __init__(
        self,
        options: Options,
        folder: RunFolder,
        processes: Processes,
        device: torch.device,
        warn: Callable[[str], None],
    ) -> None:
        self.began = perf_counter()
        self.options, self.folder, self.processes, self.device = options, folder, processes, device
        self.warn = warn if processes.first else _nothing
        self.about = self._about()
        self.recipe: Recipe = from_mapping(self.about["recipe"], {}, self.about["config"])
        for stage in self.recipe.stages:
            if stage.pairs % processes.world:
                raise ConfigError(
                    f"{stage.pairs} pairs per step cannot be shared by {processes.world} processes (--set pairs=…)"
                )
        self.split = self._split()
        self.about["contents"] = self._contents()

    def _about(self) -> dict[str, Any]:
        """How this run was started."""
        options, world = self.options, self.processes.world
        given = {
            "config": options.config, "data": list(options.data) or None, "steps": options.steps, "task": options.task,
        }  # fmt: skip
        if options.resume:
            about = self.folder.read()
            recipe = from_mapping(about["recipe"], {}, about["config"])
            self._share_processor(recipe, about["hardware"]["threads"])
            self.folder.same(about, {**given, "world": world, "rendered_on": self._rendered_on(recipe)})
            if options.changes:
                changed = from_mapping(about["recipe"], options.changes, about["config"])
                self.folder.same({"recipe": recipe.as_mapping()}, {"recipe": changed.as_mapping()})
            return {**about, "minutes": about["minutes"] if options.minutes is None else options.minutes}
        recipe = read_recipe(options.config or "tiny", options.changes)
        self._share_processor(recipe)
        return {
            **given,
            "config": options.config or "tiny",
            "data": list(options.data),
            "task": options.task or "pairs",
            "minutes": options.minutes,
            "world": world,
            "rendered_on": self._rendered_on(recipe),
            "start": options.init or (f"encoder of {options.encoder}" if options.encoder else ""),
            "code": code_version(),
            "command": options.command,
            "hardware": {
                **hardware(self.device, world, torch.get_num_threads()),
                "precision": precision(recipe, self.device),
            },
            "recipe": json.loads(json.dumps(recipe.as_mapping())),
        }

    def _workers(self, recipe: Recipe) -> int:
        """Number of processes that make batches."""
        return recipe.workers if self.options.workers is None else self.options.workers

    def _share_processor(self, recipe: Recipe, before: int | None = None) -> None:
        """Set the threads of training: the requested number; else ``before``, since sums depend on it; else those left
        by the processes that make batches. A step waits for all its threads, so one that shares its core slows it down.
        """
        threads = self.options.threads or before
        if threads is None and self.device.type == "cpu":
            left = usable_cores() - self._workers(recipe)
            threads = max(min(left, torch.get_num_threads()), 1)
        if threads is not None:
            torch.set_num_threads(threads)

    def _rendered_on(self, recipe: Recipe) -> str | None:
        """The device that renders worlds, if not NumPy: kinds of devices round differently."""
        return self.device.type if recipe.caster == "torch" else None

    def _split(self) -> Split:
        sources, world = self.options.sources, self.processes.world
        if sources is None:
            sources = open_sources(
                self.about["data"], self.recipe, world, self.options.cache, str(self.device), self.processes.rank
            )
        if self.device.type == "cpu" and any(isinstance(source, BatchSource) for source in sources):
            self.warn("worlds are rendered by torch on the processor, where caster=numpy is faster")
        parts = split(sources, self.recipe.held_out)
        for name in parts.mixed:
            self.warn(f"'{name}' has one scene only: held-out figures are of images whose neighbours are trained on")
        return parts

    def _contents(self) -> list[str]:
        """What the data sets hold. Raises ``ConfigError`` when a resumed run was started with something else."""
        now = self.split.contents()
        before = self.about.get("contents", now)  # missing in a new run, and in those of earlier versions
        for was, found in zip_longest(before, now, fillvalue="nothing"):
            if was != found:
                raise ConfigError(
                    f"the run in '{self.folder.path}' was started with {was}; the data are now {found}; put back what "
                    f"was there, or start a new run in another folder (--init {self.folder.model})"
                )
        return now

    def train(self, stop: Callable[[], bool], report: Send) -> Outcome:
        recipe, resume, minutes = self.recipe, self.options.resume, self.about["minutes"]
        content = self._content() if resume else None
        start = None if resume else self._start()
        size = recipe.stages[-1].sizes[0]
        held_out = gather(self.split.held_out, self.split.chosen, size, self.processes, stop)
        self._prepare()
        log = self._log(content) if self.processes.first else None
        setting = Setting(
            recipe=recipe,
            sampling=Sampling(self.split.train, recipe.epoch, recipe.seed, self.split.excluded),
            held_out=held_out,
            folder=self.folder,
            processes=self.processes,
            device=self.device,
            task=self.about["task"],
            workers=self._workers(recipe),
            log=log,
            start=start,
            pace=None if minutes is None else _pace(60.0 * minutes),
            report=lambda progress, step: report(progress, step, trainer.figures) if self.processes.first else None,
            warn=self.warn,
            began=self.began,
        )
        trainer = Trainer(setting, Progress(planned(recipe, self.about["steps"], minutes is not None)))
        if content is not None:
            trainer.resume(content)
            del content
        try:
            finished = trainer.run(stop)
        finally:
            if log is not None:
                log.close()
        if self.processes.first:
            self._describe(trainer, held_out.pairs)
        if trainer.failure:
            raise TrainingError(trainer.failure)
        return Outcome(finished, trainer.progress, trainer.first_figures, trainer.figures)

    def _content(self) -> dict[str, Any]:
        """The state to resume from; damaged newer ones are reported. Raises ``FinishedRunError`` for one that has
        nothing to do in additional minutes.
        """
        content, wrong = states.read_state(self.folder.state)
        for words in wrong:
            self.warn(f"{words}; the previous one is used")
        before, minutes = self.folder.read()["minutes"] or 0.0, self.options.minutes
        if minutes is not None and minutes > before and Progress(**content["progress"]).finished:
            raise FinishedRunError(
                f"the run in '{self.folder.path}' is finished, so --minutes {minutes:g} adds nothing to it; start a "
                f"new run from its weights in another folder (--init {self.folder.model})"
            )
        return content

    def _prepare(self) -> None:
        """Record how the run was started; begin the folder of a new one and seed its random numbers."""
        if self.options.resume:
            if self.processes.first:
                self.folder.record(self.about)  # it may have other minutes now
            return
        if self.processes.first:
            self.folder.begin(self.about)
        states.seed_everything(self.recipe.seed, self.processes.rank)

    def _log(self, content: Mapping[str, Any] | None) -> MetricLog:
        """The metrics log, which keeps earlier lines up to the step of ``content``."""
        step = content["progress"]["step"] if content else -1
        return MetricLog(self.folder.metrics, step, self.folder.tensorboard, self.warn)

    def _start(self) -> Dust3r | None:
        """The user's initial weights."""
        options, first = self.options, self.recipe.architecture(self.recipe.stages[0])
        if options.init:
            return with_head(load_checkpoint(options.init), first, self.recipe.seed)
        if options.encoder:
            model = new_model(first, self.recipe.seed)
            start_encoder(model, options.encoder)
            return model
        return None

    def _describe(self, trainer: Trainer, pairs: Sequence[Any]) -> None:
        """Write card and picture; failures are only reported, since the weights are already written."""
        network = trainer.learner.result()
        words = card(
            self.recipe, self.about, trainer.progress, self.split.train, trainer.first_figures, trainer.figures,
            network, trainer.failure,
        )  # fmt: skip
        write_text(self.folder.card, words)
        try:
            write_picture(self.folder.picture, read_metrics(self.folder.metrics), network, pairs)
        except BackendError as error:
            self.warn(str(error))
        except Dust3rRosError as error:
            self.warn(f"no picture: {error}")


def _pace(seconds: float) -> Pace:
    """The pace of a timed run."""
    return Pace(seconds, max(_RESERVE * seconds, min(_LEAST_RESERVE, _MOST_RESERVE * seconds)))


def _nothing(words: str) -> None:
    """Ignore the message: only the first process speaks."""
