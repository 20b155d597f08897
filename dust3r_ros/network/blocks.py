"""Transformer blocks of encoder and decoders (CroCo v2, Weinzaepfel et al. 2023), and the position of a patch.

RoPE encodes only relative positions: in an image without texture all tokens would stay alike, and a network
with random initial weights would have to find the image's edges from its content before it could give pixels
different rays. Published checkpoints learnt this in pretraining and do without.

Attribute names are those of the published checkpoints. timm has an equivalent ``Mlp`` and ``PatchEmbed``; it
is not used because it would pull in torchvision and a hub client for a dozen lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from dust3r_ros.network.config import PATCH

BASE = 100.0


@dataclass(frozen=True, eq=False)
class Rope2D:
    """Rotations for every patch of a grid, for heads of width D: ``cos`` and ``sin``, (N, D), factors of a head and of
    the head with its pairs swapped.

    The first half of a head rotates with the patch's row (y), the second with its column (x); each half holds the
    D/4 first, then the D/4 second members of the pairs.
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
        """The rotations of some patches (B, n) of each image, the same for all heads."""
        return Rope2D(self.cos[patches][:, None], self.sin[patches][:, None])  # (B, 1, n, D)

    def rotate(self, heads: Tensor) -> Tensor:
        """``heads`` (B, heads, N, D) rotated by their positions; same shape and type."""
        y_1, y_2, x_1, x_2 = heads.chunk(4, dim=-1)
        swapped = torch.cat((y_2, y_1, x_2, x_1), dim=-1)
        # In the type of the heads: this rounds no more than they are rounded already.
        return torch.addcmul(heads * self.cos.to(heads.dtype), swapped, self.sin.to(heads.dtype))


_SLOWEST, _FASTEST = 0.25, 8.0  # periods per half of the long side


def grid_waves(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """(N, width) float32 for N = rows x columns patches in reading order.

    Sines and cosines of both coordinates of the patch centre, measured from the image centre in halves of the long
    side: a ray depends on the angle to the axis, whatever the resolution.
    """
    return _waves(rows, columns, width, device)


@lru_cache(maxsize=32)
def _waves(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
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
    return grid.reshape(rows * columns, -1).to(device)


EPS = 1e-6
"""Of every LayerNorm."""


def apply(module: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """``module(x)`` computed in the number format of the module's weights; the result has that of ``x``."""
    kind = module.weight.dtype
    return module(x) if kind == x.dtype else module(x.to(kind)).to(x.dtype)


class PatchEmbed(nn.Module):
    """Image to patch features: (B, 3, H, W) -> (B, N, C), N = H/16 · W/16 in reading order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH)

    def forward(self, image: Tensor) -> Tensor:
        return apply(self.proj, image).flatten(2).transpose(1, 2)


class Mlp(nn.Module):
    """(B, N, C) -> (B, N, C) through 4 C, exact (erf) GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x.to(self.fc1.weight.dtype))))


class Attention(nn.Module):
    """Self-attention with rotary positions: (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Rope2D) -> Tensor:
        x = x.to(self.qkv.weight.dtype)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, N, D)
        return self.proj(_attend(rope.rotate(q), rope.rotate(k), v))


class CrossAttention(nn.Module):
    """Tokens of one view read those of the other: (B, N, C), (B, M, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(width, width)
        self.projk = nn.Linear(width, width)
        self.projv = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor, rope_x: Rope2D, rope_y: Rope2D) -> Tensor:
        x, y = x.to(self.projq.weight.dtype), y.to(self.projk.weight.dtype)
        q = rope_x.rotate(self._split(self.projq(x)))
        k = rope_y.rotate(self._split(self.projk(y)))
        return self.proj(_attend(q, k, self._split(self.projv(y))))

    def logits(self, head: int, x: Tensor, y: Tensor, rope_x: Rope2D, rope_y: Rope2D) -> Tensor:
        """The softmax's input for one ``head`` in ``forward``: (B, N, C), (B, M, C) -> (B, N, M)."""
        wide = self.projq.out_features // self.heads
        own = slice(head * wide, (head + 1) * wide)
        q = linear(x, self.projq.weight[own], self.projq.bias[own])
        k = linear(y, self.projk.weight[own], self.projk.bias[own])
        q, k = rope_x.rotate(q[:, None])[:, 0], rope_y.rotate(k[:, None])[:, 0]
        return q @ k.transpose(1, 2) / wide**0.5

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, D)


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and MLP with residuals."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, rope: Rope2D) -> Tensor:
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention into the other view's tokens ``y``, MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.cross_attn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.norm3 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width)
        self.norm_y = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor, y: Tensor, rope_x: Rope2D, rope_y: Rope2D) -> Tensor:
        x = x + self.attn(self.norm1(x), rope_x)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(y), rope_x, rope_y)
        return x + self.mlp(self.norm3(x))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, heads, N, D), (B, heads, M, D) twice -> (B, N, heads · D)."""
    if q.device.type != "cpu":
        seen = scaled_dot_product_attention(q, k, v)
    elif q.requires_grad:
        # torch's fused kernel takes a third of a training step on a CPU, nearly all of it for the gradient.
        seen = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    elif q.dtype == torch.bfloat16:
        seen = _attend_in_parts(q, k, v)
    else:
        seen = scaled_dot_product_attention(q, k, v)
    return seen.transpose(1, 2).flatten(2)


_LOGITS = 1 << 20  # that stay in a processor's cache


def _attend_in_parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``scaled_dot_product_attention`` by products of matrices, a few heads at a time.

    In bfloat16 torch's fused kernel for the CPU is no faster than in float32: it does not use the processor's own
    products of that type.
    """
    heads, transposed = (q * q.shape[-1] ** -0.5).flatten(0, 1), k.flatten(0, 1).transpose(-2, -1)
    values, seen = v.flatten(0, 1), torch.empty_like(q).flatten(0, 1)
    count = max(_LOGITS // (q.shape[-2] * k.shape[-2]), 1)
    for start in range(0, len(heads), count):
        part = slice(start, start + count)
        torch.bmm((heads[part] @ transposed[part]).softmax(dim=-1), values[part], out=seen[part])
    return seen.view_as(q)
