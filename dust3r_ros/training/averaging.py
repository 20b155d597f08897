"""Exponential moving average of the weights, which is what is evaluated and kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """A float32 copy of every parameter that follows the model.

    The decay is ``decay`` in the long run and (1 + n) / (10 + n) at first, so that a short run does not
    carry its random start along.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._shadow = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model's weights by one step."""
        self.updates += 1
        keep = min(self.decay, self.updates / (9 + self.updates))
        values = [value.detach() for value in model.parameters()]  # in the order of the names
        torch._foreach_lerp_(list(self._shadow.values()), values, 1 - keep)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights by name; not copied."""
        return self._shadow

    def load(self, state: dict[str, Tensor], updates: int) -> None:
        """Go on from ``state``, of a model of the same shape."""
        for name, value in self._shadow.items():
            value.copy_(state[name])
        self.updates = updates

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Put the averaged weights into ``model``."""
        for name, value in model.named_parameters():
            value.copy_(self._shadow[name])
