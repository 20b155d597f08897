"""The losses of DUSt3R (Wang et al., CVPR 2024, eq. 2 to 4), and figures of predictions pair by pair.

Shapes: points (B, H, W, 3) in the frame of camera 1 of each pair, valid masks and confidence (B, H, W). The two
views may differ in size. Invalid pixels may hold anything, NaN included, and get no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dust3r_ros.network.model import PairOutput

ALPHA = 0.2
"""Weight of the reward for confidence, from the paper."""

_FAR, _HOLD = 2e4, 0.1  # units: the mean distance from which it is held, and the weight of what is above
_SMALLEST = 1e-8  # least mean distance: predictions all at the origin must not divide by 0


@dataclass(frozen=True, eq=False)
class PairTruth:
    """True points of both views, in the frame of camera 1, any unit; ``valid_*`` say where they are known."""

    points_1: Tensor
    valid_1: Tensor
    points_2: Tensor
    valid_2: Tensor


@dataclass(frozen=True, eq=False)
class PairLoss:
    """Scalars of a batch: the loss to minimise, and the plain regression loss (without gradient) for comparison."""

    total: Tensor
    regression: Tensor


def norm_factor(points_1: Tensor, valid_1: Tensor, points_2: Tensor, valid_2: Tensor) -> Tensor:
    """z, (B, 1, 1, 1): mean distance to the origin over the valid points of both views (eq. 3).

    A pair without a valid point gets a tiny factor and no weight anywhere.
    """
    total: Tensor | float = 0.0
    count: Tensor | int = 0
    for points, valid in ((points_1, valid_1), (points_2, valid_2)):
        distance = _masked(points, valid).norm(dim=-1)  # its gradient at the origin is 0 in torch
        total = total + distance.sum(dim=(1, 2))
        count = count + valid.sum(dim=(1, 2))
    factor = total / torch.as_tensor(count).clamp(min=1)
    return factor.clamp(min=_SMALLEST)[:, None, None, None]


def regression(output: PairOutput, truth: PairTruth) -> tuple[Tensor, Tensor]:
    """Per pixel |X / z - X̄ / z̄| of both views (eq. 2), (B, H, W) each; 0 where the truth is not known.

    Prediction and truth are each divided by their own z, so the loss does not depend on their units.
    """
    return _errors(output, truth)[:2]


def _errors(output: PairOutput, truth: PairTruth) -> tuple[Tensor, Tensor, Tensor]:
    """``regression``, and the prediction's z."""
    masks = truth.valid_1, truth.valid_2
    z = norm_factor(output.points_1, masks[0], output.points_2, masks[1])
    z_true = norm_factor(truth.points_1, masks[0], truth.points_2, masks[1])
    first, second = (
        (_masked(predicted, valid) / z - _masked(true, valid) / z_true).norm(dim=-1)
        for predicted, true, valid in (
            (output.points_1, truth.points_1, masks[0]),
            (output.points_2, truth.points_2, masks[1]),
        )
    )
    return first, second, z


def confidence_loss(output: PairOutput, truth: PairTruth, alpha: float = ALPHA) -> PairLoss:
    """Mean of C l - alpha log C (eq. 4) with l of ``regression``, over valid pixels; both views count equally.

    C >= 1 keeps hard pixels in the loss; the second term rewards certainty, so C settles at alpha / l
    where l < alpha and at 1 elsewhere.

    l does not depend on the unit of the prediction, so nothing else leads back from distances to which too long a step
    has led: the total also grows with z above 20,000 units, where no network of use gets.
    """
    *losses, z = _errors(output, truth)
    total: Tensor | float = 0.0
    plain: Tensor | float = 0.0
    views = ((output.confidence_1, truth.valid_1), (output.confidence_2, truth.valid_2))
    for loss, (confidence, valid) in zip(losses, views, strict=True):
        known = torch.where(valid, confidence, torch.ones_like(confidence))
        total = total + _mean(known * loss - alpha * known.log(), valid) / 2
        plain = plain + _mean(loss.detach(), valid) / 2
    total = total + _HOLD * (z / _FAR - 1).clamp(min=0).mean()
    return PairLoss(torch.as_tensor(total), torch.as_tensor(plain))


def _masked(points: Tensor, valid: Tensor) -> Tensor:
    """Points with invalid ones moved to the origin: masked before any arithmetic, so that NaN cannot leak."""
    return torch.where(valid[..., None], points, torch.zeros_like(points))


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Over valid pixels of the whole batch; 0 when there is none."""
    return torch.where(valid, values, torch.zeros_like(values)).sum() / valid.sum().clamp(min=1)


_LEAST_DEPTH = 1e-6


def measured(output: PairOutput, truth: PairTruth, alpha: float) -> dict[str, Tensor]:
    """Per pair (B,): ``loss`` (confidence loss), ``regression``, and ``rel`` and ``delta_1.25`` of the depth of view 1
    after one scale per image (the ratio of medians).
    """
    rows = [_of_one(output[k : k + 1], _one(truth, k), alpha) for k in range(len(truth.points_1))]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _one(truth: PairTruth, k: int) -> PairTruth:
    one = slice(k, k + 1)
    return PairTruth(truth.points_1[one], truth.valid_1[one], truth.points_2[one], truth.valid_2[one])


def _of_one(output: PairOutput, truth: PairTruth, alpha: float) -> dict[str, Tensor]:
    losses = confidence_loss(output, truth, alpha)
    rel, delta = depth_errors(output.points_1[0, ..., 2], truth.points_1[0, ..., 2], truth.valid_1[0])
    return {"loss": losses.total, "regression": losses.regression, "rel": rel, "delta_1.25": delta}


def depth_errors(z: Tensor, z_true: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of |z - z̄| / z̄ and share of pixels within a factor of 1.25, of depth (H, W) scaled by its median.

    NaN and NaN where nothing is valid. A prediction mostly behind the camera is as wrong as one without depth: 1 and 0.
    """
    z, z_true = z[valid], z_true[valid]
    if not len(z):
        nothing = torch.full((), float("nan"), device=z.device)
        return nothing, nothing
    if z.median() <= 0:
        return torch.ones_like(z_true[0]), torch.zeros_like(z_true[0])
    z = z * (z_true.median() / z.median().clamp(min=_LEAST_DEPTH))
    ratio = torch.maximum(z / z_true, z_true / z.clamp(min=_LEAST_DEPTH))
    return ((z - z_true).abs() / z_true).mean(), (ratio < 1.25).float().mean()
