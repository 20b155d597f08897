"""What the encoder keeps of images: features and the grid of patches they stand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dust3r_ros.errors import InputError
from dust3r_ros.network.config import PATCH


@dataclass(frozen=True, eq=False)
class Tokens:
    """Encoded images of one size: ``features`` (B, N, C), ``grid`` (rows, columns), N = rows · columns."""

    features: Tensor
    grid: tuple[int, int]

    def __len__(self) -> int:
        return self.features.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int]) -> Tokens:
        """Some images of the batch; a single index gives a batch of one."""
        if isinstance(index, int):
            index = [index]
        return Tokens(self.features[index], self.grid)

    @classmethod
    def cat(cls, batches: Sequence[Tokens]) -> Tokens:
        """One batch of several; raises ``InputError`` for none or different grids."""
        grids = {batch.grid for batch in batches}
        if len(grids) != 1:
            raise InputError(f"tokens of grids {sorted(grids)} make no batch; they must be of one grid")
        return cls(torch.cat([batch.features for batch in batches]), grids.pop())

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images, pixels."""
        return self.grid[0] * PATCH, self.grid[1] * PATCH
