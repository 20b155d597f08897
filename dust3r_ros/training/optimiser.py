"""What moves the weights: AdamW (Loshchilov & Hutter 2019), and Muon (Jordan et al. 2024) for the blocks' matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dust3r_ros.training.muon import Muon

# Of the parameters that shift or scale: norms, biases and the token of the pretraining are left alone by decay,
# which would pull a norm's scale to 0 and has no meaning for a bias.
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
        """Of all parts."""
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
        """Go on from ``state_dict``. Raises ``ValueError`` for that of other optimisers."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def make_optimiser(
    name: str, model: nn.Module, decay: float, betas: tuple[float, float], half: bool = False
) -> Optimiser:
    """The optimiser ``name``, one of ``recipe.OPTIMISERS``, of every parameter of ``model`` that learns.

    Decay is on matrices and filters only. ``half``: bfloat16 is fast on the device.
    """
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
    groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    used = [group for group in groups if group["params"]]
    parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(used, lr=0.0, betas=betas, fused=True)]
    if matrices:
        parts.append(Muon(matrices, 0.0, decay, _MOMENTUM, half))
    return Optimiser(parts)


def clip(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scale gradients so that their common norm is at most ``largest``; the norm before, which may be not finite."""
    return torch.nn.utils.clip_grad_norm_(list(parameters), largest)
