"""What a batch is asked for: pointmaps of a pair, or the completion of a masked view."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from dust3r_ros.network.heads import EVERY, Raster
from dust3r_ros.network.model import Dust3r
from dust3r_ros.training.batches import PairBatch
from dust3r_ros.training.completion import CompletionTask
from dust3r_ros.training.losses import confidence_loss
from dust3r_ros.training.matching import matches, watched
from dust3r_ros.training.measures import measured
from dust3r_ros.training.recipe import Recipe
from dust3r_ros.training.start import freeze_unused

TASKS = ("pairs", "completion")


class Task(Protocol):
    """A module around a ``Dust3r``. Its forward pass gives what is minimised, and what runs are compared by."""

    model: Dust3r

    def __call__(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Losses of the batch; scalars, the second without gradient."""

    def measure(self, batch: PairBatch) -> dict[str, Tensor]:
        """Figures (B,) of each pair of a batch that is not trained on."""

    def finish(self, network: Dust3r) -> Dust3r:
        """``network`` with what the task does not train filled in."""


class PairTask(nn.Module):
    """Pointmaps of both orders of each pair, every image encoded once.

    ``matching``: weight of ``matching_loss``. ``stride``: the regression is of every ``stride``-th pixel of both axes,
    others in every batch (drawn from torch's generator); neighbours teach the same, and cost a processor as much again.
    """

    def __init__(self, model: Dust3r, alpha: float, matching: float = 0.0, stride: int = 1) -> None:
        super().__init__()
        self.model, self.alpha, self.matching, self.stride = model, alpha, matching, stride
        freeze_unused(model)

    def forward(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        raster = EVERY
        if self.stride > 1:
            row, column = torch.randint(self.stride, (2,)).tolist()
            raster = Raster(row, column, self.stride)
        tokens = self.model.encode(torch.cat((batch.image_1, batch.image_2)))
        count = len(batch)
        with watched(self.model, self.matching > 0) as looks:
            forth, back = self.model.decode_both(tokens[:count], tokens[count:], raster)
        known = batch.thinned(raster)
        one = confidence_loss(forth, known.truth, self.alpha)
        other = confidence_loss(back, known.truth_swapped, self.alpha)
        total = (one.total + other.total) / 2
        if self.matching > 0:
            total = total + self.matching * looks.loss(*matches(batch))
        return total, (one.regression + other.regression) / 2

    def measure(self, batch: PairBatch) -> dict[str, Tensor]:
        """As ``measures.measured`` of the pairs in their first order; with a loss of matching, ``matched``, too: the
        share of patches for which the told heads look at the right patch of the other view, or at one beside it.
        """
        with watched(self.model, self.matching > 0) as looks:
            figures = measured(self.model(batch.image_1, batch.image_2), batch.truth, self.alpha)
        return {**figures, "matched": looks.right(*matches(batch))} if self.matching > 0 else figures

    def finish(self, network: Dust3r) -> Dust3r:
        """All of it is trained."""
        return network


def make_task(name: str, model: Dust3r, recipe: Recipe) -> PairTask | CompletionTask:
    """The task called ``name``, one of ``TASKS``."""
    if name == "completion":
        return CompletionTask(model)
    return PairTask(model, recipe.alpha, recipe.matching, recipe.stride)
