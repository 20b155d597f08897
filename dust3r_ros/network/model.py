"""The DUSt3R network (Wang et al., CVPR 2024): two uncalibrated images to two pointmaps in one frame.

image 1 ─ encoder ─┐                ┌─ decoder 1 ─ head 1 → points and confidence of image 1
                       ├─ cross-attend ─┤
    image 2 ─ encoder ─┘                └─ decoder 2 ─ head 2 → the same for image 2, in the frame of camera 1

``encode`` runs once per image, ``decode`` once per batch of ordered pairs. The two images of a pair may
differ in size and aspect ratio. Reading order: blocks, heads, then this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dust3r_ros.errors import InputError
from dust3r_ros.network.blocks import EPS, DecoderBlock, EncoderBlock, PatchEmbed, Rope2D, apply, grid_waves
from dust3r_ros.network.config import GRID_POSITIONS, PATCH, Dust3rConfig
from dust3r_ros.network.heads import EVERY, Raster, make_head, points_and_confidence


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
        """Concatenate batches; raises ``InputError`` for none or for different grids."""
        grids = {batch.grid for batch in batches}
        if len(grids) != 1:
            raise InputError(f"tokens of grids {sorted(grids)} cannot be batched; they must share one grid")
        return cls(torch.cat([batch.features for batch in batches]), grids.pop())


@dataclass(frozen=True, eq=False)
class PairOutput:
    """A batch of decoded pairs, float32: points (B, H, W, 3) and confidence (B, H, W) >= 1 of both views.

    All points are in the frame of camera 1 of their pair (x right, y down, z forward), in one unit of
    length that is free per pair. The views may differ in size.
    """

    points_1: Tensor
    confidence_1: Tensor
    points_2: Tensor
    confidence_2: Tensor

    def __getitem__(self, items: slice) -> PairOutput:
        """Some pairs of the batch."""
        return PairOutput(
            self.points_1[items], self.confidence_1[items], self.points_2[items], self.confidence_2[items]
        )


class Dust3r(nn.Module):
    """Encoder, two decoders that attend to each other, two heads. Parameter names are the checkpoints'.

    ``checkpointing`` (off) trades time for memory in training: a block keeps only its input and is computed
    again for its gradient (Chen et al. 2016). The results are the same.
    """

    def __init__(self, config: Dust3rConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        enc, enc_heads = config.enc_embed_dim, config.enc_num_heads
        dec, dec_heads = config.dec_embed_dim, config.dec_num_heads
        self.patch_embed = PatchEmbed(enc)
        self.enc_blocks = nn.ModuleList(EncoderBlock(enc, enc_heads) for _ in range(config.enc_depth))
        self.enc_norm = nn.LayerNorm(enc, eps=EPS)
        self.decoder_embed = nn.Linear(enc, dec)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dec))  # from the pretraining; kept, not used
        self.dec_blocks = nn.ModuleList(DecoderBlock(dec, dec_heads) for _ in range(config.dec_depth))
        self.dec_blocks2 = nn.ModuleList(DecoderBlock(dec, dec_heads) for _ in range(config.dec_depth))
        self.dec_norm = nn.LayerNorm(dec, eps=EPS)
        self.downstream_head1 = make_head(config)
        self.downstream_head2 = make_head(config)

    def encode(self, image: Tensor) -> Tokens:
        """Tokens of normalised images, float (B, 3, H, W) in [-1, 1], H and W multiples of 16.

        Raises ``InputError`` for another shape.
        """
        if image.ndim != 4 or image.shape[1] != 3 or not _whole_patches(image.shape[2:]):
            raise InputError(
                f"image tensor of shape {tuple(image.shape)} cannot be encoded; "
                f"it must be (B, 3, H, W) with H and W multiples of {PATCH}"
            )
        return self.encode_patches(self.patches(image), (image.shape[2] // PATCH, image.shape[3] // PATCH))

    def encode_patches(self, x: Tensor, grid: tuple[int, int]) -> Tokens:
        """``encode`` from ``patches`` (B, N, C) on, N = rows x columns of ``grid``."""
        rope = Rope2D.of_grid(*grid, self.config.enc_embed_dim // self.config.enc_num_heads, x.device)
        for block in self.enc_blocks:
            x = self.run(block, x, rope)
        return Tokens(self.enc_norm(x), grid)

    def patches(self, image: Tensor) -> Tensor:
        """The input of the encoder's first block: (B, N, C) for images (B, 3, H, W)."""
        x = self.patch_embed(image)
        if self.config.pos_embed == GRID_POSITIONS:
            grid = (image.shape[2] // PATCH, image.shape[3] // PATCH)
            x = x + grid_waves(*grid, self.config.enc_embed_dim, x.device).to(x.dtype)
        return x

    def decode(self, tokens_1: Tokens, tokens_2: Tokens, raster: Raster = EVERY) -> PairOutput:
        """Pointmaps of the pairs (image i of ``tokens_1``, image i of ``tokens_2``), or of some of their pixels.

        Raises ``InputError`` if the batches differ in length.
        """
        if len(tokens_1) != len(tokens_2):
            raise InputError(
                f"{len(tokens_1)} first and {len(tokens_2)} second views cannot be paired; their numbers must be equal"
            )
        return self.decode_equal(tokens_1, tokens_2, raster)

    def decode_equal(self, tokens_1: Tokens, tokens_2: Tokens, raster: Raster = EVERY) -> PairOutput:
        """``decode`` for batches known to have equal length, so that a graph of any length can be traced."""
        layers_1, layers_2 = self._decoder(tokens_1, tokens_2)
        # Distances grow with exp(d): under autocast the heads stay in float32, and their last layer always does.
        with torch.autocast(tokens_1.features.device.type, enabled=False):
            raw_1 = self.downstream_head1([layer.float() for layer in layers_1], tokens_1.grid, raster)
            raw_2 = self.downstream_head2([layer.float() for layer in layers_2], tokens_2.grid, raster)
            bounded = self.training
            return PairOutput(*points_and_confidence(raw_1, bounded), *points_and_confidence(raw_2, bounded))

    def decode_both(self, tokens_1: Tokens, tokens_2: Tokens, raster: Raster = EVERY) -> tuple[PairOutput, PairOutput]:
        """Both directions, (1, 2) and (2, 1); one pass of the decoder when the views are of one size."""
        if tokens_1.grid != tokens_2.grid:
            return self.decode(tokens_1, tokens_2, raster), self.decode(tokens_2, tokens_1, raster)
        both = self.decode(Tokens.cat([tokens_1, tokens_2]), Tokens.cat([tokens_2, tokens_1]), raster)
        return both[: len(tokens_1)], both[len(tokens_1) :]

    def forward(self, image_1: Tensor, image_2: Tensor) -> PairOutput:
        """``decode`` of ``encode`` of both images, (B, 3, H, W) and (B, 3, H', W')."""
        return self.decode(self.encode(image_1), self.encode(image_2))

    def run(self, block: nn.Module, *inputs: Any) -> Tensor:
        """The output of ``block``; ``checkpointing`` drops its activations and recomputes them in the backward pass."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _decoder(self, tokens_1: Tokens, tokens_2: Tokens) -> tuple[list[Tensor], list[Tensor]]:
        """Per view [encoder output (B, N, C), layer 1 (B, N, D), …, layer L normed]."""
        x, y = tokens_1.features, tokens_2.features
        layers_1, layers_2 = [x], [y]
        head_dim = self.config.dec_embed_dim // self.config.dec_num_heads
        rope_x = Rope2D.of_grid(*tokens_1.grid, head_dim, x.device)
        rope_y = Rope2D.of_grid(*tokens_2.grid, head_dim, y.device)
        x, y = apply(self.decoder_embed, x), apply(self.decoder_embed, y)
        for block_1, block_2 in zip(self.dec_blocks, self.dec_blocks2, strict=True):
            # Both sides read the previous layer: neither sees what the other computes in this one.
            x, y = self.run(block_1, x, y, rope_x, rope_y), self.run(block_2, y, x, rope_y, rope_x)
            layers_1.append(x)
            layers_2.append(y)
        layers_1[-1], layers_2[-1] = self.dec_norm(x), self.dec_norm(y)
        return layers_1, layers_2


def _whole_patches(size: tuple[int, ...]) -> bool:
    return all(side > 0 and side % PATCH == 0 for side in size)
