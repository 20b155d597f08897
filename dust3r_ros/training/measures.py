"""What is measured of a prediction of the network, pair by pair."""

from __future__ import annotations

import torch
from torch import Tensor

from dust3r_ros.network.model import PairOutput
from dust3r_ros.training.losses import PairTruth, confidence_loss

_SMALLEST = 1e-6


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

    NaN and NaN where nothing is valid. A prediction that lies behind the camera for the most part is as wrong as one
    without any depth: 1 and 0.
    """
    z, z_true = z[valid], z_true[valid]
    if not len(z):
        nothing = torch.full((), float("nan"), device=z.device)
        return nothing, nothing
    if z.median() <= 0:
        return torch.ones_like(z_true[0]), torch.zeros_like(z_true[0])
    z = z * (z_true.median() / z.median().clamp(min=_SMALLEST))
    ratio = torch.maximum(z / z_true, z_true / z.clamp(min=_SMALLEST))
    return ((z - z_true).abs() / z_true).mean(), (ratio < 1.25).float().mean()
