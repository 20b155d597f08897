"""Rotary position embedding in 2D (RoFormer, Su et al. 2021, applied to rows and columns)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BASE = 100.0


@dataclass(frozen=True, eq=False)
class Rope2D:
    """Rotations of every patch of a grid, for heads D wide: ``cos`` and ``sin``, (N, D), to be multiplied with a head
    and with the head whose pairs have changed places.

    The first half of a head turns with the patch's row (y), the second with its column (x); each half is D/4 first
    and D/4 second members of pairs.
    """

    cos: Tensor
    sin: Tensor

    @classmethod
    def of_grid(cls, rows: int, columns: int, head_dim: int, device: torch.device) -> Rope2D:
        """For a grid of N = rows x columns patches in reading order."""
        quarter = head_dim // 4
        frequency = BASE ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)  # (D/4,)
        y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
        position = torch.stack((y, x), dim=-1).reshape(-1, 2)  # (N, 2)
        angle = position[..., None] * frequency  # (N, 2, D/4)
        cos, sin = angle.cos(), angle.sin()
        return cls(torch.stack((cos, cos), dim=2).flatten(1), torch.stack((-sin, sin), dim=2).flatten(1))

    def __getitem__(self, patches: Tensor) -> Rope2D:
        """Those of some patches (B, n) of each image, for all heads alike."""
        return Rope2D(self.cos[patches][:, None], self.sin[patches][:, None])  # (B, 1, n, D)

    def rotate(self, heads: Tensor) -> Tensor:
        """``heads`` (B, heads, N, D) turned by their positions; same shape and type."""
        swapped = heads.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
        # In the type of the heads: what it rounds is no more than what they are rounded to anyway.
        return heads * self.cos.to(heads.dtype) + swapped * self.sin.to(heads.dtype)
