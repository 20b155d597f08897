"""What the gradient alignment computes on tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SHORTEST = 1e-12  # keeps the gradient of a length of 0 finite: it is 0


class Rows(torch.autograd.Function):
    """Rows (M, ...) of a tensor (K, ...): torch's fast way forward (indexing) and its fast way back (index_add)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = values.shape
        return values[index]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).index_add_(0, index, gradient), None


class Length(torch.autograd.Function):
    """Norms (M, P) of vectors (M, 3, P); torch's own is ten times slower over an axis that is not the last."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        x, y, z = vectors.unbind(dim=1)
        length = (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_()
        ctx.save_for_backward(vectors, length)
        return length

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        vectors, length = ctx.saved_tensors
        return vectors * (gradient / length.clamp(min=_SHORTEST))[:, None]


def signed_exp(values: Tensor) -> Tensor:
    """Inverse of sign(v) * log(1 + |v|), by element."""
    return torch.sign(values) * torch.expm1(torch.abs(values))


def matrices(quaternions: Tensor) -> Tensor:
    """(..., 3, 3) rotations of quaternions (..., 4), x, y, z, w, of any length."""
    x, y, z, w = torch.unbind(quaternions / quaternions.norm(dim=-1, keepdim=True), dim=-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)
