"""Muon: steps that turn the matrices of a network as a whole (Jordan et al. 2024), many matrices at once.

torch has one of its own, which goes from matrix to matrix and multiplies in bfloat16 whatever the machine: thousands of
small operations a step on a GPU, and minutes on a processor that only emulates bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1 (Jordan 2024)
_RMS = 0.2  # of a step, as large as AdamW's (Liu et al. 2025, "Muon is scalable for LLM training")
_SMALLEST = 1e-7


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal; decay as AdamW has it. Every parameter is a matrix.

    ``half``: matrices are multiplied in bfloat16, which is enough for what is made of them.
    """

    def __init__(
        self, matrices: Sequence[nn.Parameter], lr: float, weight_decay: float, momentum: float, half: bool
    ) -> None:
        super().__init__(list(matrices), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._type = torch.bfloat16 if half else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; matrices without a gradient stay."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for value in group["params"]:
                if value.grad is not None:
                    alike.setdefault(value.shape, []).append(value)
            for shape, values in alike.items():
                update = orthogonal(self._momentum(values, group["momentum"]).to(self._type)).to(values[0].dtype)
                torch._foreach_mul_(values, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(values, list(update), alpha=-group["lr"] * _RMS * max(shape) ** 0.5)

    def _momentum(self, values: Sequence[Tensor], momentum: float) -> Tensor:
        """(N, rows, columns): where matrices of one shape are moving, as seen from where they will be."""
        gradients: list[Any] = [value.grad for value in values]
        for value in values:
            if "momentum_buffer" not in self.state[value]:
                self.state[value]["momentum_buffer"] = torch.zeros_like(value)
        kept: list[Any] = [self.state[value]["momentum_buffer"] for value in values]
        torch._foreach_lerp_(kept, gradients, 1 - momentum)
        return torch.stack(torch._foreach_lerp(gradients, kept, momentum))


def orthogonal(matrices: Tensor) -> Tensor:
    """(N, rows, columns) with the singular vectors of ``matrices`` and singular values near 1 (Newton-Schulz)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_SMALLEST)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return x.transpose(1, 2) if tall else x
