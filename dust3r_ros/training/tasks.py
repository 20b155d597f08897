"""Training tasks: pointmaps of a pair, completion of a masked view, supervision of cross-attention.

Completion: most patches of view 1 are hidden; the network predicts them from the rest and from view 2, which takes
correspondences between the views. Encoder, ``decoder_embed``, ``mask_token``, ``dec_blocks`` and ``dec_norm`` are
those of ``Dust3r`` under the same names, so this is a pretraining for pairs.

Matching: depth and cameras are known, so the patches of the other view that show the same as a patch are known. A
cross-attention head that reads those patches carries the correspondence to the decoder. From the regression alone a
network learns this after millions of pairs, with supervision after thousands. The network and its output are
unchanged: the loss reads queries and keys that exist anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, unfold

from dust3r_ros.network.blocks import CrossAttention, Rope2D
from dust3r_ros.network.config import PATCH
from dust3r_ros.network.heads import EVERY, Raster
from dust3r_ros.network.model import Dust3r
from dust3r_ros.training.batches import PairBatch
from dust3r_ros.training.losses import confidence_loss, measured
from dust3r_ros.training.recipe import Recipe
from dust3r_ros.training.start import freeze_unused

MASKED = 0.9
"""Share of the patches of view 1 that are hidden."""


class CompletionTask(nn.Module):
    """Mean squared error of hidden patches, each normalised by its own mean and deviation (He et al. 2022)."""

    def __init__(self, model: Dust3r) -> None:
        super().__init__()
        self.model = model
        self.prediction_head = nn.Linear(model.config.dec_embed_dim, 3 * PATCH**2)
        unused = (model.dec_blocks2, model.downstream_head1, model.downstream_head2)
        for module in unused:
            module.requires_grad_(False)

    def forward(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Mean loss of the batch, twice; the hidden view and patches are drawn from torch's generator."""
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
        shown = order[:, : max(round(patches * (1 - MASKED)), 1)].sort(dim=1).values
        hidden = torch.ones_like(order, dtype=torch.bool).scatter(1, shown, False)
        error = (self.paint(image, other, shown).float() - patch_targets(image)).square().mean(dim=-1)  # (B, N)
        return torch.where(hidden, error, torch.zeros_like(error)).sum(dim=1) / hidden.sum(dim=1).clamp(min=1)

    def paint(self, image: Tensor, other: Tensor, shown: Tensor) -> Tensor:
        """(B, N, 3 · 16²) normalised patches of ``image``, predicted from those at ``shown`` (B, n)."""
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
        """(B, n, C): the encoder's output for these patches only, each at its own position."""
        model = self.model
        rope = Rope2D.of_grid(*grid, model.config.enc_embed_dim // model.config.enc_num_heads, image.device)
        rope = rope[shown]
        x = model.patches(image)
        x = x.gather(1, shown[..., None].expand(-1, -1, x.shape[-1]))
        for block in model.enc_blocks:
            x = model.run(block, x, rope)
        return model.enc_norm(x)

    def follow(self, before: nn.Module) -> None:
        """Take over the prediction head, which is no part of the network."""
        assert isinstance(before, CompletionTask)
        self.prediction_head.load_state_dict(before.prediction_head.state_dict())

    def finish(self, network: Dust3r) -> Dust3r:
        """``network`` with its second decoder a copy of the first; its heads are unchanged."""
        network.dec_blocks2.load_state_dict(network.dec_blocks.state_dict())
        return network


def patch_targets(image: Tensor) -> Tensor:
    """(B, N, 3 · 16²) patches of ``image`` (B, 3, H, W), each with mean 0 and deviation 1."""
    patches = unfold(image.float(), PATCH, stride=PATCH).transpose(1, 2)
    mean, variance = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


HEAD = 0
"""The head of a cross-attention that is supervised; the others are free."""

_STRIDE = 4  # pixels: sixteen of each patch are projected into the other view
_LEAST = 0.25  # share of a patch's pixels that the other view must see
_SAME = 0.05  # of the depth: a point this far behind the other view's surface is hidden from it


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches of one view's patches: ``share`` (B, N, M) of each patch that lies in each patch of the other view, rows
    summing to 1 where ``known`` (B, N), else 0. ``columns``: columns of the other view's patch grid.
    """

    share: Tensor
    known: Tensor
    columns: int

    def near(self, chosen: Tensor) -> Tensor:
        """(B, N): whether ``chosen`` (B, N), patches of the other view, are the best ones or adjacent to them."""
        best = self.share.argmax(dim=-1)
        rows = (chosen // self.columns - best // self.columns).abs()
        return (rows <= 1) & ((chosen % self.columns - best % self.columns).abs() <= 1)


def matches(batch: PairBatch) -> tuple[Matches, Matches]:
    """Matches of the patches of view 1 in view 2, and vice versa."""
    # Called within the forward pass: pixels must not be rounded to the network's precision.
    with torch.autocast(batch.points_1.device.type, enabled=False):
        forth = _matches(batch.points_1, batch.valid_1, batch.inverse, batch.points_2, batch.valid_2, batch.K_2)
        back = _matches(batch.points_2, batch.valid_2, batch.first_T_second, batch.points_1, batch.valid_1, batch.K_1)
    return forth, back


def matching_loss(logits: Tensor, wanted: Matches) -> Tensor:
    """Cross-entropy between attention with ``logits`` (B, N, M) and the true shares, in nats above its minimum; mean
    over the known patches of the batch, a scalar.
    """
    return _excess(logits, wanted).sum() / wanted.known.sum().clamp(min=1)


def _excess(logits: Tensor, wanted: Matches) -> Tensor:
    """(B, N) cross-entropy of each patch, 0 where nothing is known."""
    entropy = -torch.special.xlogy(wanted.share, wanted.share).sum(dim=-1)
    cross = -(wanted.share * log_softmax(logits.float(), dim=-1)).sum(dim=-1)
    return torch.where(wanted.known, cross - entropy, torch.zeros_like(cross))


_Call = tuple[CrossAttention, tuple[Tensor, Tensor, Rope2D, Rope2D]]


class AttentionInputs:
    """Inputs of the supervised cross-attentions of a network while it decoded pairs, in the order (1, 2) and maybe in
    the other one after it or with it: inputs of every call, decoder of first views and of second views.
    """

    def __init__(self, blocks: int) -> None:
        self._supervised = blocks  # of each decoder
        self.first: list[_Call] = []
        self.second: list[_Call] = []

    def loss(self, forth: Matches, back: Matches) -> Tensor:
        """Mean ``matching_loss`` of all calls; ``forth`` and ``back`` as ``matches`` gives them."""
        losses = [matching_loss(logits, wanted) for logits, wanted in self._logits(forth, back)]
        return torch.stack(losses).mean()

    def losses(self, forth: Matches, back: Matches) -> Tensor:
        """(B,) the same of each pair alone."""
        losses = []
        for logits, wanted in self._logits(forth, back):
            losses.append(_excess(logits, wanted).sum(dim=-1) / wanted.known.sum(dim=-1).clamp(min=1))
        return torch.stack(losses).mean(dim=0)

    def right(self, forth: Matches, back: Matches) -> Tensor:
        """(B,) share of known patches whose most attended patch is the true one or adjacent, mean of all calls; NaN
        where nothing is known.
        """
        shares = []
        for logits, wanted in self._logits(forth, back):
            near = wanted.near(logits.argmax(dim=-1)) & wanted.known
            shares.append(near.sum(dim=-1) / wanted.known.sum(dim=-1))
        return torch.stack(shares).mean(dim=0)

    def _logits(self, forth: Matches, back: Matches) -> Iterator[tuple[Tensor, Matches]]:
        count = len(forth.known)
        for calls, one, other in ((self.first, forth, back), (self.second, back, forth)):
            for number, (attention, inputs) in enumerate(calls):
                logits = attention.logits(HEAD, *inputs)
                if len(logits) == 2 * count:  # both orders in one pass
                    yield logits[:count], one
                    yield logits[count:], other
                else:
                    yield logits, one if number < self._supervised else other


@contextmanager
def watched(model: Dust3r, active: bool = True) -> Iterator[AttentionInputs]:
    """Records the inputs of ``model``'s supervised cross-attentions in its block; nothing unless ``active``."""
    attention = AttentionInputs(supervised(model))
    handles = []
    for blocks, calls in ((model.dec_blocks, attention.first), (model.dec_blocks2, attention.second)):
        for block in list(blocks)[: supervised(model)] if active else ():
            # Only inputs are kept: with checkpointing, anything computed here would be computed twice.
            cross: Any = block.cross_attn
            handles.append(cross.register_forward_pre_hook(_keeper(calls)))
    try:
        yield attention
    finally:
        for handle in handles:
            handle.remove()


def supervised(model: Dust3r) -> int:
    """Number of supervised blocks in each decoder: the first half, so that the others can use the result."""
    return max(len(model.dec_blocks) // 2, 1)


def _keeper(calls: list[_Call]) -> Any:
    return lambda module, inputs: calls.append((module, inputs))


def _matches(
    points: Tensor, valid: Tensor, other_T_own: Tensor, points_other: Tensor, valid_other: Tensor, K_other: Tensor
) -> Matches:
    """``points`` (B, H, W, 3) of one view projected into the other."""
    count, height, width = valid.shape
    rows, columns = height // PATCH, width // PATCH
    height_other, width_other = valid_other.shape[1:]
    columns_other = width_other // PATCH
    total = height_other // PATCH * columns_other
    start = _STRIDE // 2
    points, valid = points[:, start::_STRIDE, start::_STRIDE], valid[:, start::_STRIDE, start::_STRIDE]
    there = torch.einsum("bij,bhwj->bhwi", other_T_own[:, :3, :3], points) + other_T_own[:, None, None, :3, 3]
    depth = there[..., 2]
    ahead = valid & (depth > 1e-6)
    pixel = torch.einsum("bij,bhwj->bhwi", K_other, there / torch.where(ahead, depth, 1.0)[..., None])
    u, v = (torch.where(ahead, pixel[..., k], -1.0).round() for k in (0, 1))
    inside = ahead & (u >= 0) & (v >= 0) & (u < width_other) & (v < height_other)
    u, v = (torch.where(inside, x, 0.0).long() for x in (u, v))
    flat = (v * width_other + u).flatten(1)
    seen = points_other[..., 2].flatten(1).gather(1, flat).view_as(depth)
    known = valid_other.flatten(1).gather(1, flat).view_as(inside)
    seen_there = inside & known & ((depth - seen).abs() < _SAME * seen)
    patch = torch.arange(rows, device=depth.device)[:, None] * columns + torch.arange(columns, device=depth.device)
    per_side = PATCH // _STRIDE
    own = patch.repeat_interleave(per_side, 0).repeat_interleave(per_side, 1).flatten()  # of each projected pixel
    cell = own * total + (v // PATCH * columns_other + u // PATCH).flatten(1)
    share = torch.zeros(count, rows * columns * total, device=depth.device)
    share.scatter_add_(1, cell, seen_there.flatten(1).float())
    share = share.view(count, rows * columns, total)
    sums = share.sum(dim=-1)
    enough = sums >= _LEAST * per_side**2
    share = torch.where(enough[..., None], share / sums.clamp(min=1)[..., None], torch.zeros_like(share))
    return Matches(share, enough, columns_other)


TASKS = ("pairs", "completion")


class Task(Protocol):
    """A module around a ``Dust3r``. Its forward pass gives the loss to minimise and a figure to compare runs."""

    model: Dust3r

    def __call__(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Losses of the batch; scalars, the second without gradient."""

    def measure(self, batch: PairBatch) -> dict[str, Tensor]:
        """Figures (B,) of each pair of an evaluation batch."""

    def follow(self, before: nn.Module) -> None:
        """Take over from the task of the stage before what is no part of the network."""

    def finish(self, network: Dust3r) -> Dust3r:
        """``network`` with the parts that the task does not train filled in."""


class PairTask(nn.Module):
    """Pointmaps of both orders of each pair, every image encoded once.

    ``matching``: weight of ``matching_loss``. ``stride``: the regression uses every ``stride``-th pixel along both
    axes, from an offset drawn per batch (torch's generator); neighbouring pixels teach the same and cost a processor
    time.
    """

    def __init__(self, model: Dust3r, alpha: float, matching: float = 0.0, stride: int = 1) -> None:
        super().__init__()
        self.model, self.alpha, self.matching, self.stride = model, alpha, matching, stride
        freeze_unused(model)

    def raster(self) -> Raster:
        """The pixels of a batch's regression, drawn from torch's generator."""
        if self.stride == 1:
            return EVERY
        row, column = torch.randint(self.stride, (2,)).tolist()
        return Raster(row, column, self.stride)

    def forward(self, batch: PairBatch, raster: Raster | None = None) -> tuple[Tensor, Tensor]:
        raster = self.raster() if raster is None else raster
        tokens = self.model.encode(torch.cat((batch.image_1, batch.image_2)))
        count = len(batch)
        with watched(self.model, self.matching > 0) as attention:
            forth, back = self.model.decode_both(tokens[:count], tokens[count:], raster)
        known = batch.thinned(raster)
        one = confidence_loss(forth, known.truth, self.alpha)
        other = confidence_loss(back, known.truth_swapped, self.alpha)
        total = (one.total + other.total) / 2
        if self.matching > 0:
            total = total + self.matching * attention.loss(*matches(batch))
        return total, (one.regression + other.regression) / 2

    def measure(self, batch: PairBatch) -> dict[str, Tensor]:
        """As ``losses.measured`` for the pairs in their first order; with a matching loss, that is added to ``loss`` as
        in training, and there is ``matched``: the share of patches for which the supervised heads attend to the right
        patch of the other view or an adjacent one.
        """
        with watched(self.model, self.matching > 0) as attention:
            figures = measured(self.model(batch.image_1, batch.image_2), batch.truth, self.alpha)
        if self.matching == 0:
            return figures
        wanted = matches(batch)
        loss = figures["loss"] + self.matching * attention.losses(*wanted)
        return {**figures, "loss": loss, "matched": attention.right(*wanted)}

    def follow(self, before: nn.Module) -> None:
        """Nothing to take over: all is in the network."""

    def finish(self, network: Dust3r) -> Dust3r:
        """Unchanged: all of it is trained."""
        return network


AnyTask = PairTask | CompletionTask


def make_task(name: str, model: Dust3r, recipe: Recipe) -> AnyTask:
    """The task called ``name``, one of ``TASKS``."""
    if name == "completion":
        return CompletionTask(model)
    return PairTask(model, recipe.alpha, recipe.matching, recipe.stride)
