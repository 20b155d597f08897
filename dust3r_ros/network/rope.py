"""Rotary position embedding in 2D (RoFormer, Su et al. 2021, applied to rows and columns)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BASE = 100.0


@dataclass(frozen=True, eq=False)
class Rope2D:
    """Rotations of every patch of a grid: ``cos`` and ``sin``, (N, 2, D/4) for heads D wide.

    The first half of a head turns with the patch's row (y), the second with its column (x).
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
        return cls(angle.cos(), angle.sin())

    def rotate(self, heads: Tensor) -> Tensor:
        """``heads`` (B, heads, N, D) turned by their positions; same shape and type."""
        a, b = heads.unflatten(-1, (2, 2, -1)).unbind(-2)  # each (B, heads, N, 2, D/4)
        turned = torch.stack((a * self.cos - b * self.sin, b * self.cos + a * self.sin), dim=-2)
        return turned.flatten(-3).to(heads.dtype)
