"""Heads: from a view's tokens to one 3D point and confidence per pixel.

Attribute names are those of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear, pad, pixel_shuffle, relu

from dust3r_ros.network.config import PATCH, Dust3rConfig

CHANNELS = 4
"""Outputs of a head per pixel: x, y, z and c."""

_FEATURES = 256
_LEVELS = (96, 192, 384, 768)


@dataclass(frozen=True)
class Raster:
    """Which pixels a head computes: every ``stride``-th along both axes, from (``row``, ``column``) on. The stride
    divides the patch size; row and column are below it.
    """

    row: int = 0
    column: int = 0
    stride: int = 1

    def of(self, images: Tensor) -> Tensor:
        """Select these pixels from (..., H, W)."""
        return images if self.stride == 1 else images[..., self.row :: self.stride, self.column :: self.stride]


EVERY = Raster()


def make_head(config: Dust3rConfig) -> nn.Module:
    """The head that the configuration names."""
    return DptHead(config) if config.head_type == "dpt" else LinearHead(config)


_LINEAR_FROM = 15.0  # three million units, far more than networks of use predict


def points_and_confidence(raw: Tensor, bounded: bool = False) -> tuple[Tensor, Tensor]:
    """(B, 4, H, W) -> points (B, H, W, 3) and confidence (B, H, W) >= 1.

    Points keep their direction; their distance d becomes exp(d) - 1. Confidence is 1 + exp(c). ``bounded``, for
    training: from 15 on, both grow along exp's tangent. One step too long may lead there, and a loss that is not finite
    has no gradient that leads back.
    """
    xyz, c = raw[:, :3], raw[:, 3]
    distance = (xyz * xyz).sum(dim=1, keepdim=True).sqrt()
    far, sure = (distance.expm1(), c.exp()) if not bounded else (_tamed(distance, torch.expm1), _tamed(c, torch.exp))
    points = xyz / distance.clamp(min=1e-8) * far
    return points.permute(0, 2, 3, 1).contiguous(), 1.0 + sure


def _tamed(x: Tensor, grow: Callable[[Tensor], Tensor]) -> Tensor:
    return grow(x.clamp(max=_LINEAR_FROM)) + math.exp(_LINEAR_FROM) * (x - _LINEAR_FROM).clamp(min=0)


class LinearHead(nn.Module):
    """Each token of the decoder's output becomes its own 16 x 16 patch of pixels."""

    def __init__(self, config: Dust3rConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.dec_embed_dim, CHANNELS * PATCH**2)

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, int], raster: Raster = EVERY) -> Tensor:
        """``layers``: (B, N, C) each, encoder output first -> (B, 4, H, W), or fewer pixels."""
        if raster.stride == 1:
            return pixel_shuffle(_as_map(self.proj(layers[-1]), grid), PATCH)
        # A pixel of a patch is a row of the matrix: the others are not computed.
        weight = raster.of(self.proj.weight.T.unflatten(-1, (CHANNELS, PATCH, PATCH))).flatten(1).T
        bias = raster.of(self.proj.bias.unflatten(0, (CHANNELS, PATCH, PATCH))).flatten()
        return pixel_shuffle(_as_map(linear(layers[-1], weight, bias), grid), PATCH // raster.stride)


class DptHead(nn.Module):
    """Dense prediction transformer (Ranftl et al., ICCV 2021) on four of the layers."""

    def __init__(self, config: Dust3rConfig) -> None:
        super().__init__()
        depth = config.dec_depth
        self.hooks = (0, depth // 2, depth * 3 // 4, depth)
        self.dpt = _Dpt((config.enc_embed_dim, *(config.dec_embed_dim,) * 3))

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, int], raster: Raster = EVERY) -> Tensor:
        """``layers``: (B, N, C) each, encoder output first -> (B, 4, H, W), or fewer pixels."""
        maps = [_as_map(layers[hook], grid) for hook in self.hooks]
        if maps[0].device.type == "cpu" and not torch.is_grad_enabled():
            # Image by image: the widest maps of a single one exceed a CPU's caches already.
            images = zip(*(level.split(1) for level in maps), strict=True)
            return torch.cat([raster.of(self.dpt(image)) for image in images])
        return raster.of(self.dpt(maps))


class _Dpt(nn.Module):
    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        reduce = [nn.Conv2d(width, level, 1) for width, level in zip(widths, _LEVELS, strict=True)]
        self.act_postprocess = nn.ModuleList(
            [
                nn.Sequential(reduce[0], nn.ConvTranspose2d(_LEVELS[0], _LEVELS[0], 4, stride=4)),
                nn.Sequential(reduce[1], nn.ConvTranspose2d(_LEVELS[1], _LEVELS[1], 2, stride=2)),
                nn.Sequential(reduce[2]),
                nn.Sequential(reduce[3], nn.Conv2d(_LEVELS[3], _LEVELS[3], 3, stride=2, padding=1)),
            ]
        )
        self.scratch = _Scratch()
        self.head = nn.Sequential(
            nn.Conv2d(_FEATURES, 128, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(128, CHANNELS, 1),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps (B, C, h, w) -> (B, 4, 16 h, 16 w), computed in the number format of the weights."""
        kind = self.scratch.layer1_rn.weight.dtype
        levels = [process(x.to(kind)) for process, x in zip(self.act_postprocess, maps, strict=True)]
        fused, last = self.scratch(levels), self.head[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        if _pays_in_strips(fused):
            return self._by_strips(fused, last)
        features = self.head[:-1](_doubled(fused))
        if features.dtype == last.weight.dtype:
            return last(features)
        if torch.compiler.is_compiling():
            # Sums that share what they read: compiled, one pass over the features, and no wider copy of them.
            wide, weights = features.to(last.weight.dtype), last.weight[:, :, 0, 0]
            sums = [(wide * weight[:, None, None]).sum(dim=1) for weight in weights]
            return torch.stack(sums, dim=1) + last.bias[:, None, None]
        # Row by row of patches: all of the features in the wider format would be the largest tensor of the network.
        rows = [last(part.to(last.weight.dtype)) for part in features.split(PATCH, dim=2)]
        return torch.cat(rows, dim=2)

    def _by_strips(self, fused: Tensor, last: nn.Conv2d) -> Tensor:
        """The head's last layers: (1, 256, 4 h, 4 w) -> (1, 4, 16 h, 16 w)."""
        half = torch.cat(list(_filtered_double(fused, self.head[0]))).permute(2, 0, 1)[None]
        wide = (relu(strip, inplace=True).to(last.weight.dtype) for strip in _filtered_double(half, self.head[2]))
        return torch.cat([linear(part, last.weight.flatten(1), last.bias) for part in wide]).permute(2, 0, 1)[None]


class _Scratch(nn.Module):
    """Fuses four levels of 4, 2, 1 and 1/2 times (h, w), coarse to fine."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (
            nn.Conv2d(level, _FEATURES, 3, padding=1, bias=False) for level in _LEVELS
        )
        self.refinenet1, self.refinenet2, self.refinenet3, self.refinenet4 = (_Fusion() for _ in _LEVELS)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """-> (B, 256, 4 h, 4 w)."""
        first, second, third, fourth = levels
        skip = self.layer3_rn(third)
        # With an odd number of rows or columns the coarsest level is upsampled to one more.
        x = _doubled(self.refinenet4(self.layer4_rn(fourth)))[..., : skip.shape[-2], : skip.shape[-1]]
        x = _doubled(self.refinenet3(x, skip))
        x = _doubled(self.refinenet2(x, self.layer2_rn(second)))
        return self.refinenet1(x, self.layer1_rn(first))


class _Fusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resConfUnit1 = _ResidualUnit()  # of refinenet4: in the checkpoints, but without a skip to work on
        self.resConfUnit2 = _ResidualUnit()
        self.out_conv = nn.Conv2d(_FEATURES, _FEATURES, 1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, 256, h, w) and a skip of that shape -> the same shape, to be doubled."""
        if skip is not None:
            x = self.resConfUnit1(skip).add_(x)
        # A 1 x 1 filter commutes with interpolation, whose weights sum to 1; before it, it has a quarter of the pixels.
        return self.out_conv(self.resConfUnit2(x))


class _ResidualUnit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(_FEATURES, _FEATURES, 3, padding=1)
        self.conv2 = nn.Conv2d(_FEATURES, _FEATURES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # In place: a new map of this size costs a CPU more than the sum.
        return self.conv2(relu(self.conv1(relu(x)), inplace=True)).add_(x)


def _doubled(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 2 h, 2 w)."""
    return interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


def _pays_in_strips(x: Tensor) -> bool:
    """Whether ``_filtered_double`` is used: where inference is reduced for a CPU, which computes image by image."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and len(x) == 1 and not torch.compiler.is_compiling()


def _filtered_double(x: Tensor, conv: Any) -> Iterator[Tensor]:
    """``conv(_doubled(x))`` of ``x`` (1, C, h, w), ``conv`` 3 x 3: strips of rows (16, 2 w, channels).

    Each of the filter's nine taps commutes with interpolation, so their products take a quarter of the pixels. The
    results are interpolated, shifted and added by matrices, first along columns, then along rows.
    """
    width, pixels = x.shape[3], x[0].permute(1, 2, 0)
    taps = [conv.weight[:, :, row].permute(1, 2, 0).flatten(1).contiguous() for row in range(3)]  # (C, 3 channels)
    across = [(left, right, side.mT.flatten(1)) for left, right, side in _doubling(width, 2 * PATCH, x.dtype)]
    for first, last, down in _doubling(x.shape[2], PATCH, x.dtype):
        part = pixels[first:last].flatten(0, 1)
        products = x.new_empty(3, len(part), taps[0].shape[1])
        for tap, place in zip(taps, products, strict=True):
            torch.mm(part, tap, out=place)
        sums = (down.flatten(1) @ products.view(down[0].numel(), -1)).view(len(down), width, 3, -1)
        strip = [side @ sums[:, left:right].flatten(1, 2) for left, right, side in across]
        yield torch.cat(strip, dim=1).add_(conv.bias)


@lru_cache(maxsize=64)
def _doubling(count: int, step: int, kind: torch.dtype) -> list[tuple[int, int, Tensor]]:
    """For each ``step`` places of a line of ``count`` that is doubled: the first and last places that they take, and
    the weights (step, 3, last - first) of what the taps before, at and after them gave there.
    """
    line = interpolate(torch.eye(count)[None], scale_factor=2.0, mode="linear", align_corners=True)[0].T
    large = torch.where(line >= 0.5, line, 0.0).to(kind).float()
    line = torch.where((line > 0) & (line < 0.5), 1 - large.sum(dim=1, keepdim=True), large)  # their sum stays 1
    taps = pad(line, (0, 0, 1, 1)).unfold(0, 2 * count, 1).permute(2, 0, 1)  # (2 count, 3, count)
    parts = []
    for part in taps.split(step):
        used = part.any(dim=0).any(dim=0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1
        parts.append((first, last, part[..., first:last].to(kind)))
    return parts


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, C) -> (B, C, rows, columns)."""
    return tokens.transpose(1, 2).unflatten(-1, grid)
