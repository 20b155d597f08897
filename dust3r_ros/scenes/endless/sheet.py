"""Pictures with their mip pyramids, side by side on one sheet, so that one remap serves all surfaces of a view.

A picture is ``SIDE`` texels square and repeats in both directions; every level carries a border of one
texel from its other side. Levels: Williams, "Pyramidal parametrics", 1983.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.scenes import raster
from dust3r_ros.types import Array32, Image

SIDE = 512
LEVELS = 7  # 512 down to 8 texels
_SIZES = [SIDE >> level for level in range(LEVELS)]
# Per level: x, y from the slot's corner to half a texel before its first one, and texels along a side. The first
# level lies on the left, the others in a column beside it.
LEVEL_TABLE = np.array(
    [
        [0.5] + [SIDE + 2.5] * (LEVELS - 1),
        [0.5] + [0.5 + sum(size + 2 for size in _SIZES[1:level]) for level in range(1, LEVELS)],
        _SIZES,
    ],
    np.float32,
)
SLOT = (516, SIDE + 2 + SIDE // 2 + 2)  # (height, width)
_ROW = 4  # slots side by side


def pyramid(picture: Array32) -> Image:
    """The slot (516, 772, 3) of a picture (512, 512, 3), RGB float32 in [0, 1]."""
    slot = np.zeros((*SLOT, 3), np.uint8)
    level = np.clip(picture, 0, 1)
    for number, size in enumerate(_SIZES):
        if number:
            level = raster.halve(level)
        padded = np.pad((255 * level + 0.5).astype(np.uint8), ((1, 1), (1, 1), (0, 0)), mode="wrap")
        top, left = int(LEVEL_TABLE[1, number]), int(LEVEL_TABLE[0, number])
        slot[top : top + size + 2, left : left + size + 2] = padded
    return slot


def lay_out(slots: Sequence[Image]) -> tuple[Image, Array32]:
    """The sheet of all slots, and where each begins: (x, y) (N, 2) float32."""
    rows = -(-len(slots) // _ROW)
    sheet = np.empty((rows * SLOT[0], min(_ROW, len(slots)) * SLOT[1], 3), np.uint8)
    corners = np.zeros((len(slots), 2), np.float32)
    sheet[-SLOT[0] :] = 0  # what no slot fills
    for number, slot in enumerate(slots):
        top, left = number // _ROW * SLOT[0], number % _ROW * SLOT[1]
        sheet[top : top + SLOT[0], left : left + SLOT[1]] = slot
        corners[number] = left, top
    return sheet, corners
