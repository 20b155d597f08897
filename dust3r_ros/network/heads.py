"""Heads: from a view's tokens to one 3D point and confidence per pixel.

Attribute names are those of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear, pixel_shuffle, relu

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
        features = self.head[:-1](self.scratch(levels))
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
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


class _Scratch(nn.Module):
    """Fuses four levels of 4, 2, 1 and 1/2 times (h, w), coarse to fine."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (
            nn.Conv2d(level, _FEATURES, 3, padding=1, bias=False) for level in _LEVELS
        )
        self.refinenet1, self.refinenet2, self.refinenet3, self.refinenet4 = (_Fusion() for _ in _LEVELS)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """-> (B, 256, 8 h, 8 w)."""
        first, second, third, fourth = levels
        skip = self.layer3_rn(third)
        # With an odd number of rows or columns the coarsest level is upsampled to one more.
        x = self.refinenet4(self.layer4_rn(fourth))[..., : skip.shape[-2], : skip.shape[-1]]
        x = self.refinenet3(x, skip)
        x = self.refinenet2(x, self.layer2_rn(second))
        return self.refinenet1(x, self.layer1_rn(first))


class _Fusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resConfUnit1 = _ResidualUnit()  # of refinenet4: in the checkpoints, but without a skip to work on
        self.resConfUnit2 = _ResidualUnit()
        self.out_conv = nn.Conv2d(_FEATURES, _FEATURES, 1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, 256, h, w) and a skip of that shape -> (B, 256, 2 h, 2 w)."""
        if skip is not None:
            x = self.resConfUnit1(skip).add_(x)
        # A 1 x 1 filter commutes with interpolation, whose weights sum to 1; before it, it has a quarter of the pixels.
        return interpolate(self.out_conv(self.resConfUnit2(x)), scale_factor=2.0, mode="bilinear", align_corners=True)


class _ResidualUnit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(_FEATURES, _FEATURES, 3, padding=1)
        self.conv2 = nn.Conv2d(_FEATURES, _FEATURES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # In place: a new map of this size costs a CPU more than the sum.
        return self.conv2(relu(self.conv1(relu(x)), inplace=True)).add_(x)


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, C) -> (B, C, rows, columns)."""
    return tokens.transpose(1, 2).unflatten(-1, grid)
