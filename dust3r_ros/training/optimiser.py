"""AdamW (Loshchilov & Hutter 2019) with decay on matrices and filters only."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Of the parameters that shift or scale: norms, biases and the token of the pretraining are left alone by decay,
# which would pull a norm's scale to 0 and has no meaning for a bias.
_UNDECAYED = ("mask_token",)


def adamw(model: nn.Module, decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """The optimiser of every parameter of ``model`` that learns; its rate is set at every step."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, value in model.named_parameters():
        if value.requires_grad:
            matrix = value.ndim >= 2 and name.rpartition(".")[2] not in _UNDECAYED
            (decayed if matrix else plain).append(value)
    groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    used = [group for group in groups if group["params"]]
    return torch.optim.AdamW(used, lr=0.0, betas=betas, fused=True)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """One learning rate for all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def clip(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scale gradients so that their common norm is at most ``largest``; the norm before, which may be not finite."""
    return torch.nn.utils.clip_grad_norm_(list(parameters), largest)
