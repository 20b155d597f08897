"""What JPEG leaves of images (ITU-T T.81, baseline, 4:2:0), without its bits: for many images at once on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_BLOCK = 8
# Steps of quantisation at quality 50, T.81 annex K.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *[(99,) * 8] * 4,
)  # fmt: skip
# Y, Cb, Cr of red, green, blue (JFIF).
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def compressed(images: Tensor, quality: Tensor) -> Tensor:
    """``images`` (N, 3, H, W), whole numbers 0 to 255, after JPEG of ``quality`` (N,) 1 to 99."""
    height, width = images.shape[2:]
    padded = F.pad(images, (0, -width % (2 * _BLOCK), 0, -height % (2 * _BLOCK)), mode="replicate")
    matrix = torch.tensor(_YCC, device=images.device)
    luma, blue, red = torch.einsum("kc,nchw->knhw", matrix, padded)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None]
    luma = _quantised(luma - 128, _steps(_LUMINANCE, scale)) + 128
    steps = _steps(_CHROMINANCE, scale)
    colours = torch.stack([_quantised(F.avg_pool2d(part[:, None], 2)[:, 0], steps) for part in (blue, red)], dim=1)
    colours = F.interpolate(colours, scale_factor=2, mode="bilinear", align_corners=False)
    back = torch.einsum("ck,nkhw->nchw", torch.linalg.inv(matrix), torch.cat((luma[:, None], colours), dim=1))
    return back[..., :height, :width].round().clip(0, 255)


def _steps(table: tuple[tuple[int, ...], ...], scale: Tensor) -> Tensor:
    base = torch.tensor(table, dtype=torch.float32, device=scale.device)
    return ((base * scale + 50) / 100).floor().clip(1, 255)


def _quantised(plane: Tensor, steps: Tensor) -> Tensor:
    """(N, H, W) with the cosines of every block of 8 x 8 rounded to ``steps`` (N, 8, 8)."""
    count, height, width = plane.shape
    k = torch.arange(_BLOCK, device=plane.device, dtype=torch.float32)
    cosines = torch.cos((2 * k + 1) * k[:, None] * (math.pi / (2 * _BLOCK))) / 2
    cosines[0] /= math.sqrt(2)
    blocks = plane.reshape(count, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).transpose(2, 3)
    found = cosines @ blocks @ cosines.T
    steps = steps[:, None, None]
    found = (found / steps).round() * steps
    return (cosines.T @ found @ cosines).transpose(2, 3).reshape(plane.shape)
