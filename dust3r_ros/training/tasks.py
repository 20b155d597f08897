"""What a batch is asked for: pointmaps of a pair, or the completion of a masked view."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from dust3r_ros.network.model import Dust3r
from dust3r_ros.training.batches import PairBatch
from dust3r_ros.training.completion import CompletionTask
from dust3r_ros.training.losses import confidence_loss
from dust3r_ros.training.measures import measured
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
    """Pointmaps of both orders of each pair, every image encoded once."""

    def __init__(self, model: Dust3r, alpha: float) -> None:
        super().__init__()
        self.model, self.alpha = model, alpha
        freeze_unused(model)

    def forward(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        tokens = self.model.encode(torch.cat((batch.image_1, batch.image_2)))
        count = len(batch)
        forth, back = self.model.decode_both(tokens[:count], tokens[count:])
        one = confidence_loss(forth, batch.truth, self.alpha)
        other = confidence_loss(back, batch.truth_swapped, self.alpha)
        return (one.total + other.total) / 2, (one.regression + other.regression) / 2

    def measure(self, batch: PairBatch) -> dict[str, Tensor]:
        """As ``measures.measured`` of the pairs in their first order."""
        return measured(self.model(batch.image_1, batch.image_2), batch.truth, self.alpha)

    def finish(self, network: Dust3r) -> Dust3r:
        """All of it is trained."""
        return network


def make_task(name: str, model: Dust3r, alpha: float) -> PairTask | CompletionTask:
    """The task called ``name``, one of ``TASKS``."""
    return CompletionTask(model) if name == "completion" else PairTask(model, alpha)
