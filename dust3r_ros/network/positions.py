"""Where a patch lies in its image, as waves that are added to its features (Vaswani et al. 2017, in 2D).

RoPE tells tokens how far they are from each other and nothing else: in an image without texture all would stay
alike, and a network that begins with random weights has to find out from the picture's content where its edges are
before it can give pixels different rays. Published checkpoints know that from their pretraining and do without.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_SLOWEST, _FASTEST = 0.25, 8.0  # periods per half of the long side


def grid_waves(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """(N, width) float32 for N = rows x columns patches in reading order.

    Sines and cosines of both coordinates of the patch's middle, measured from the image's in halves of its long
    side: what counts for a ray is the angle to the axis, whatever the resolution.
    """
    return _waves(rows, columns, width).to(device)


@lru_cache(maxsize=32)
def _waves(rows: int, columns: int, width: int) -> Tensor:
    half = max(rows, columns) / 2
    y, x = ((torch.arange(count) + 0.5 - count / 2) / half for count in (rows, columns))
    count = width // 4
    exponent = torch.arange(count) / max(count - 1, 1)
    frequency = 2 * torch.pi * _SLOWEST * (_FASTEST / _SLOWEST) ** exponent  # (width / 4,)
    parts = []
    for angle in (y[:, None] * frequency, x[:, None] * frequency):
        parts.append(torch.cat((angle.sin(), angle.cos()), dim=-1))
    grid = torch.cat(
        (parts[0][:, None].expand(rows, columns, -1), parts[1][None].expand(rows, columns, -1)), dim=-1
    )  # (rows, columns, width)
    return grid.reshape(rows * columns, -1)
