"""Cross-view completion (CroCo, Weinzaepfel et al., NeurIPS 2022), the pretraining of encoder and decoder.

Most patches of view 1 are hidden; the network paints them from the rest and from view 2, which it can only do by
finding where both see the same. Encoder, ``decoder_embed``, ``mask_token``, ``dec_blocks`` and ``dec_norm`` are
those of ``Dust3r`` under the same names, so what is learned here starts the training on pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from dust3r_ros.network.config import PATCH
from dust3r_ros.network.model import Dust3r
from dust3r_ros.network.rope import Rope2D
from dust3r_ros.training.batches import PairBatch

MASKED = 0.9
"""Share of the patches of view 1 that are hidden."""


class CompletionTask(nn.Module):
    """Mean squared error of hidden patches, each normalised by its own mean and deviation (He et al. 2022)."""

    def __init__(self, model: Dust3r, masked: float = MASKED) -> None:
        super().__init__()
        self.model, self.masked = model, masked
        self.prediction_head = nn.Linear(model.config.dec_embed_dim, 3 * PATCH**2)
        unused = (model.dec_blocks2, model.downstream_head1, model.downstream_head2)
        for module in unused:
            module.requires_grad_(False)

    def forward(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Mean loss of the batch, twice; which view and which patches are hidden is drawn from torch's generator."""
        image, other = batch.image_1, batch.image_2
        if bool(torch.rand(()) < 0.5):
            image, other = other, image
        loss = self.losses(image, other, None).mean()
        return loss, loss.detach()

    def measure(self, batch: PairBatch) -> dict[str, Tensor]:
        """``loss`` (B,) of each pair, always with the same patches hidden."""
        return {"loss": self.losses(batch.image_1, batch.image_2, torch.Generator().manual_seed(0))}

    def losses(self, image: Tensor, other: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B,) mean error over the hidden patches of ``image``, which ``generator`` chooses."""
        patches = image.shape[2] // PATCH * (image.shape[3] // PATCH)
        order = torch.rand(image.shape[0], patches, generator=generator).argsort(dim=1).to(image.device)
        shown = order[:, : max(round(patches * (1 - self.masked)), 1)].sort(dim=1).values
        hidden = torch.ones_like(order, dtype=torch.bool).scatter(1, shown, False)
        error = (self.paint(image, other, shown).float() - patch_targets(image)).square().mean(dim=-1)  # (B, N)
        return torch.where(hidden, error, torch.zeros_like(error)).sum(dim=1) / hidden.sum(dim=1).clamp(min=1)

    def paint(self, image: Tensor, other: Tensor, shown: Tensor) -> Tensor:
        """(B, N, 3 · 16²) normalised patches of ``image``, of which only those at ``shown`` (B, n) are looked at."""
        model = self.model
        grid = (image.shape[2] // PATCH, image.shape[3] // PATCH)
        head_dim = model.config.dec_embed_dim // model.config.dec_num_heads
        known = self._encode_shown(image, grid, shown)
        context = model.encode(other)
        y = model.decoder_embed(context.features)
        known = model.decoder_embed(known)
        x = model.mask_token.to(known.dtype).expand(len(image), grid[0] * grid[1], -1)
        x = x.scatter(1, shown[..., None].expand(-1, -1, known.shape[-1]), known)
        rope_x = Rope2D.of_grid(*grid, head_dim, image.device)
        rope_y = Rope2D.of_grid(*context.grid, head_dim, image.device)
        for block in model.dec_blocks:
            x = model.run(block, x, y, rope_x, rope_y)
        return self.prediction_head(model.dec_norm(x))

    def _encode_shown(self, image: Tensor, grid: tuple[int, int], shown: Tensor) -> Tensor:
        """(B, n, C): the encoder's output when it is given these patches only, each at its own place."""
        model = self.model
        rope = Rope2D.of_grid(*grid, model.config.enc_embed_dim // model.config.enc_num_heads, image.device)
        rope = rope[shown]
        x = model.patches(image)
        x = x.gather(1, shown[..., None].expand(-1, -1, x.shape[-1]))
        for block in model.enc_blocks:
            x = model.run(block, x, rope)
        return model.enc_norm(x)

    def finish(self, network: Dust3r) -> Dust3r:
        """``network`` with its second decoder a copy of the first; its heads are as they were."""
        network.dec_blocks2.load_state_dict(network.dec_blocks.state_dict())
        return network


def patch_targets(image: Tensor) -> Tensor:
    """(B, N, 3 · 16²) patches of ``image`` (B, 3, H, W), each with mean 0 and deviation 1."""
    patches = unfold(image.float(), PATCH, stride=PATCH).transpose(1, 2)
    mean, variance = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()
