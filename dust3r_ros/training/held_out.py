"""Evaluation of a network on held-out pairs, always the same ones at one size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from dust3r_ros.errors import InputError
from dust3r_ros.training.batches import collate
from dust3r_ros.training.processes import Processes
from dust3r_ros.training.sources import sized
from dust3r_ros.training.tasks import Task
from dust3r_ros.training.views import Cropping, PairSource, ViewPair, crop_pair

_BATCH = 8
_SEED = 0x5EED  # seed of held-out pairs; not the run's, so that runs of all seeds can be compared


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
            for start in range(0, max(len(own), 1), _BATCH):
                # A process without a share still needs the names.
                batch = collate(own[start : start + _BATCH] or self.pairs[:1]).to(device)
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
