"""The losses: exact gradients, no dependence on units or on what is not known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.network.model import PairOutput  # noqa: E402
from dust3r_ros.training.losses import ALPHA, PairTruth, confidence_loss, norm_factor, regression  # noqa: E402

SEEDS = st.integers(0, 2**31)


def drawn(seed: int, first: tuple[int, int] = (3, 4), second: tuple[int, int] = (4, 2), dtype=torch.float64):
    """Two pairs whose views differ in size: prediction and truth, most of it valid."""
    rng = np.random.default_rng(seed)

    def some(size, *more):
        return torch.tensor(rng.standard_normal((2, *size, *more)), dtype=dtype)

    def mask(size):
        valid = rng.random((2, *size)) < 0.7
        valid[:, 0, 0] = True
        return torch.tensor(valid)

    output = PairOutput(some(first, 3), 1 + some(first).exp(), some(second, 3), 1 + some(second).exp())
    return output, PairTruth(some(first, 3), mask(first), some(second, 3), mask(second))


def test_gradients() -> None:
    output, truth = drawn(0)
    inputs = [output.points_1, output.confidence_1, output.points_2, output.confidence_2]
    inputs = [value.requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(lambda *values: confidence_loss(PairOutput(*values), truth).total, inputs)


@given(seed=SEEDS, a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_units_do_not_matter(seed: int, a: float, b: float) -> None:
    output, truth = drawn(seed)
    scaled = PairOutput(a * output.points_1, output.confidence_1, a * output.points_2, output.confidence_2)
    other = PairTruth(b * truth.points_1, truth.valid_1, b * truth.points_2, truth.valid_2)
    torch.testing.assert_close(confidence_loss(scaled, other).regression, confidence_loss(output, truth).regression)
    torch.testing.assert_close(confidence_loss(scaled, other).total, confidence_loss(output, truth).total)


@given(seed=SEEDS, anything=st.sampled_from([math.nan, math.inf, -1e30, 0.0]))
@settings(max_examples=25, deadline=None)
def test_what_is_not_valid_counts_for_nothing(seed: int, anything: float) -> None:
    """Whatever stands there, in truth or prediction: the same loss, and no gradient."""
    output, truth = drawn(seed)
    before = confidence_loss(output, truth).total
    hole_1, hole_2 = ~truth.valid_1, ~truth.valid_2
    values = [value.clone() for value in (output.points_1, output.confidence_1, output.points_2, output.confidence_2)]
    for value, hole in zip(values, (hole_1, hole_1, hole_2, hole_2), strict=True):
        value[hole] = anything
        value.requires_grad_()
    spoiled = [points.clone() for points in (truth.points_1, truth.points_2)]
    spoiled[0][hole_1], spoiled[1][hole_2] = anything, anything
    after = confidence_loss(PairOutput(*values), PairTruth(spoiled[0], truth.valid_1, spoiled[1], truth.valid_2)).total
    torch.testing.assert_close(after, before)
    after.backward()
    for value, hole in zip(values, (hole_1, hole_1, hole_2, hole_2), strict=True):
        assert torch.isfinite(value.grad).all() and (value.grad[hole] == 0).all()


def test_one_factor_per_pair() -> None:
    """z of eq. 3, in NumPy."""
    _, truth = drawn(3)
    factor = norm_factor(truth.points_1, truth.valid_1, truth.points_2, truth.valid_2)
    views = ((truth.points_1.numpy(), truth.valid_1.numpy()), (truth.points_2.numpy(), truth.valid_2.numpy()))
    for pair in range(2):
        distances = [np.linalg.norm(points[pair][valid[pair]], axis=1) for points, valid in views]
        assert float(factor[pair]) == pytest.approx(np.concatenate(distances).mean(), rel=1e-12)


def test_by_hand() -> None:
    """One pixel per view. z = (1 + 3) / 2 = 2 and z̄ = (2 + 2) / 2 = 2; the views err by 0.5 each way, C is 1 and e."""
    one = torch.tensor([[[[0.0, 0.0, 1.0]]]]), torch.tensor([[[[0.0, 0.0, 3.0]]]])
    true = torch.tensor([[[[0.0, 0.0, 2.0]]]])
    valid, sure = torch.ones(1, 1, 1, dtype=torch.bool), torch.full((1, 1, 1), math.e)
    truth = PairTruth(true, valid, true, valid)
    output = PairOutput(one[0], torch.ones(1, 1, 1), one[1], sure)
    assert [float(view) for view in regression(output, truth)] == [0.5, 0.5]
    loss = confidence_loss(output, truth)
    assert float(loss.regression) == 0.5
    assert float(loss.total) == pytest.approx((0.5 + math.e * 0.5 - ALPHA) / 2)


def test_a_true_prediction_costs_nothing_and_may_be_sure() -> None:
    output, truth = drawn(4)
    exact = PairOutput(truth.points_1, output.confidence_1, truth.points_2, output.confidence_2)
    assert float(confidence_loss(exact, truth).regression) == pytest.approx(0, abs=1e-12)
    assert float(confidence_loss(exact, truth).total) < 0


def test_confidence_settles_where_the_paper_says() -> None:
    """d/dC (C l - alpha log C) = 0 at C = alpha / l."""
    output, truth = drawn(5)
    near = PairTruth(
        output.points_1 + 0.01, torch.ones_like(truth.valid_1), output.points_2 + 0.01, torch.ones_like(truth.valid_2)
    )
    losses = regression(output, near)
    best = [(ALPHA / loss).clamp(min=1) for loss in losses]

    def total(factor: float) -> float:
        views = PairOutput(output.points_1, 1 + (best[0] - 1) * factor, output.points_2, 1 + (best[1] - 1) * factor)
        return float(confidence_loss(views, near).total)

    assert total(1.0) < min(total(0.9), total(1.1))


def test_a_pair_without_truth_weighs_nothing() -> None:
    output, truth = drawn(6)
    alone = PairTruth(*(value.clone() for value in vars(truth).values()))
    alone.valid_1[1], alone.valid_2[1] = False, False
    alone.points_1[1] = math.nan
    first = PairTruth(*(value[:1] for value in vars(truth).values()))
    torch.testing.assert_close(confidence_loss(output, alone).regression, confidence_loss(output[:1], first).regression)
    alone.valid_1[0], alone.valid_2[0] = False, False
    output.points_1.requires_grad_()
    nothing = confidence_loss(output, alone).total
    nothing.backward()
    assert float(nothing.detach()) == 0 and (output.points_1.grad == 0).all()


def test_what_runs_away_is_held() -> None:
    """From 20,000 units on, a larger unit costs more; nothing else changes."""
    output, truth = drawn(7)

    def total(unit: float) -> float:
        views = PairOutput(unit * output.points_1, output.confidence_1, unit * output.points_2, output.confidence_2)
        return float(confidence_loss(views, truth).total)

    mean = float(norm_factor(output.points_1, truth.valid_1, output.points_2, truth.valid_2).mean())
    assert total(1e3) == pytest.approx(total(1.0), rel=1e-12)
    assert total(4e5) - total(1e5) == pytest.approx(0.1 * 3e5 * mean / 2e4)
