"""Optimisation: AdamW, Muon for the blocks' matrices, the learning rate over a run, the average of the weights.

torch's own Muon handles matrices one by one and multiplies in bfloat16 on any machine: thousands of small operations a
step on a GPU, and minutes on a processor that emulates bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """A float32 copy of every parameter that follows the model.

    The decay is ``decay`` in the long run and (1 + n) / (10 + n) at first, so that a short run forgets its
    random start.
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
        """Continue from ``state`` of a model of the same shape."""
        for name, value in self._shadow.items():
            value.copy_(state[name])
        self.updates = updates

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Put the averaged weights into ``model``."""
        for name, value in model.named_parameters():
            value.copy_(self._shadow[name])


def rate(done: float, peak: float, warmup: float, final: float = 0.01) -> float:
    """Learning rate of the step that completes the share ``done``, in (0, 1], of a schedule.

    It rises over the first ``warmup`` (a share too) to ``peak`` and falls to ``final * peak`` at the end. It depends on
    nothing else, so a resumed run gets the same rates.
    """
    if done < warmup:
        return peak * done / warmup
    falling = min((done - warmup) / max(1.0 - warmup, 1e-9), 1.0)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * falling)) / 2)


_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1 (Jordan 2024)
_RMS = 0.2  # scale of a step, to match AdamW's (Liu et al. 2025, "Muon is scalable for LLM training")
_SMALLEST = 1e-7


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal; decay as in AdamW. Every parameter is a matrix.

    ``half``: multiply in bfloat16, which is accurate enough here.
    """

    def __init__(
        self, matrices: Sequence[nn.Parameter], lr: float, weight_decay: float, momentum: float, half: bool
    ) -> None:
        super().__init__(list(matrices), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._type = torch.bfloat16 if half else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; matrices without a gradient are unchanged."""
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
        """(N, rows, columns): Nesterov momentum of matrices of one shape."""
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


# Norms, biases and the token of the pretraining are not decayed: decay would pull a norm's scale to 0 and has no
# meaning for a bias.
_UNDECAYED = ("mask_token",)
_BLOCKS = ("enc_blocks.", "dec_blocks.", "dec_blocks2.")
_MOMENTUM = 0.95


class Optimiser:
    """One or two optimisers of torch as one. Their rate is set at every step, the same for all: Muon's steps are scaled
    to the size of AdamW's (Liu et al. 2025).
    """

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def set_rate(self, rate: float) -> None:
        """One learning rate for all parameters."""
        for group in self.param_groups:
            group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move the weights along their gradients."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """State of every part; tensors are not copied."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Continue from ``state_dict``. Raises ``ValueError`` for the state of other optimisers."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def make_optimiser(
    name: str, model: nn.Module, decay: float, betas: tuple[float, float], half: bool = False
) -> Optimiser:
    """The optimiser ``name``, one of ``recipe.OPTIMISERS``, of every trainable parameter of ``model``.

    Only matrices and filters are decayed. ``half``: bfloat16 is fast on the device.
    """
    matrices, decayed, plain = _kinds(name, model)
    groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    used = [group for group in groups if group["params"]]
    parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(used, lr=0.0, betas=betas, fused=True)]
    if matrices:
        parts.append(Muon(matrices, 0.0, decay, _MOMENTUM, half))
    return Optimiser(parts)


def _kinds(name: str, model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters of ``model``: matrices for Muon, others with decay, others without."""
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for path, value in model.named_parameters():
        if not value.requires_grad:
            continue
        if value.ndim < 2 or path.rpartition(".")[2] in _UNDECAYED:
            plain.append(value)
        elif name == "muon" and value.ndim == 2 and any(block in path for block in _BLOCKS):
            matrices.append(value)
        else:
            decayed.append(value)
    return matrices, decayed, plain


def clip(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scale gradients so that their common norm is at most ``largest``; returns the norm before, which may not be
    finite.
    """
    return torch.nn.utils.clip_grad_norm_(list(parameters), largest)
