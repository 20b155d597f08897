"""Moments against brute force over the pixels and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dust3r_ros.alignment import moments as mo
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.similarity import weighted_similarity
from dust3r_ros.types import Array

SEEDS = st.integers(0, 2**32 - 1)


def similarities(rng: np.random.Generator, count: int) -> Array:
    start = np.broadcast_to(np.eye(4), (count, 4, 4))
    return mo.retract(start, rng.normal(size=(count, 7)) * [1, 1, 1, 2, 2, 2, 0.5])


def problem(seed: int, edges: int = 4, pixels: int = 30) -> tuple[Array, Array, Array, Array, Array]:
    """a, b, weights and similarities of both ends under which a and b nearly meet."""
    rng = np.random.default_rng(seed)
    S_i, S_j = similarities(rng, edges), similarities(rng, edges)
    world = rng.normal(size=(edges, pixels, 3))
    a, b = (apply(mo.inverse(S), world + 0.1 * rng.normal(size=world.shape)) for S in (S_i, S_j))
    return a, b, rng.uniform(0, 2, size=(edges, pixels)), S_i, S_j


def apply(S: Array, points: Array) -> Array:
    return np.einsum("eij,epj->epi", S[:, :3, :3], points) + S[:, None, :3, 3]


def brute_cost(a: Array, b: Array, w: Array, S_i: Array, S_j: Array) -> Array:
    squared = np.sum((apply(S_i, a) - apply(S_j, b)) ** 2, axis=-1)
    factor = np.cbrt(np.linalg.det(S_i[:, :3, :3]) * np.linalg.det(S_j[:, :3, :3]))
    return np.sum(w * squared, axis=-1) / factor


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_the_cost_is_that_over_the_pixels_and_the_gradient_that_of_finite_differences(seed: int) -> None:
    a, b, w, S_i, S_j = problem(seed)
    M = mo.moments(a, b, w)
    np.testing.assert_allclose(mo.total_weight(M), w.sum(axis=1))
    value, gradient, _ = mo.normal_blocks(M, S_i, S_j)
    np.testing.assert_allclose(value, brute_cost(a, b, w, S_i, S_j), rtol=1e-9)
    h = 1e-6
    for k in range(14):
        step = np.zeros((len(a), 14))
        step[:, k] = h
        plus, minus = (
            brute_cost(a, b, w, mo.retract(S_i, sign * step[:, :7]), mo.retract(S_j, sign * step[:, 7:]))
            for sign in (1, -1)
        )
        np.testing.assert_allclose(gradient[:, k], (plus - minus) / (2 * h), rtol=1e-5, atol=1e-5 * value.max())


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_the_matrix_is_that_of_the_stacked_jacobian(seed: int) -> None:
    """2 J^T W J with J by finite differences of the residuals of every pixel."""
    a, b, w, S_i, S_j = problem(seed, edges=2)
    _, _, hessian = mo.normal_blocks(mo.moments(a, b, w), S_i, S_j, scale_free=False)
    h = 1e-6
    columns = []
    for step in np.eye(14) * h:
        moved = [
            apply(mo.retract(S_i, np.tile(sign * step[:7], (2, 1))), a)
            - apply(mo.retract(S_j, np.tile(sign * step[7:], (2, 1))), b)
            for sign in (1, -1)
        ]
        columns.append((moved[0] - moved[1]) / (2 * h))
    J = np.stack(columns, axis=-1)
    expected = 2 * np.einsum("ep,epxk,epxl->ekl", w, J, J)
    np.testing.assert_allclose(hessian, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0.1, 10))
def test_a_common_scale_of_the_world_scales_the_cost_of_no_edge(seed: int, factor: float) -> None:
    a, b, w, S_i, S_j = problem(seed)
    M = mo.moments(a, b, w)
    G = np.diag([factor, factor, factor, 1.0])
    value, gradient, _ = mo.normal_blocks(M, S_i, S_j)
    np.testing.assert_allclose(mo.normal_blocks(M, G @ S_i, G @ S_j)[0], value, rtol=1e-9)
    # moving both ends by one motion of the world costs nothing: here a growth about the world's origin
    along = np.zeros((len(M), 14))
    for end, S in ((0, S_i), (7, S_j)):
        along[:, end + 3 : end + 6] = np.einsum("eij,ej->ei", mo.inverse(S)[:, :3, :3], S[:, :3, 3])
        along[:, end + 6] = 1.0
    np.testing.assert_allclose(np.sum(gradient * along, axis=1), 0.0, atol=1e-8 * np.abs(gradient).max())


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_no_motion_of_the_whole_world_seems_to_cost_anything(seed: int) -> None:
    """However large the residuals: the matrix is 0 along all seven of them, and nowhere negative."""
    a, b, w, S_i, S_j = problem(seed)
    _, _, hessian = mo.normal_blocks(mo.moments(a, b, w), S_i, S_j)
    h = 1e-6
    for step in np.eye(7) * h:
        G = mo.retract(np.eye(4)[None], step[None])[0]
        along = [(mo.inverse(S) @ G @ S - np.eye(4)) / h for S in (S_i, S_j)]
        xi = np.concatenate(
            [
                np.stack(
                    [m[:, 2, 1], m[:, 0, 2], m[:, 1, 0], *m[:, :3, 3].T, m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2]], axis=1
                )
                / [1, 1, 1, 1, 1, 1, 3]
                for m in along
            ],
            axis=1,
        )
        left = np.einsum("ei,eij,ej->e", xi, hessian, xi) / np.sum(xi * xi, axis=1)
        assert (np.abs(left) < 1e-8 * np.trace(hessian, axis1=1, axis2=2)).all()
    assert (np.linalg.eigvalsh(hessian) > -1e-9 * np.trace(hessian, axis1=1, axis2=2)[:, None]).all()


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_the_matrix_is_that_of_residuals_that_move_with_their_ends(seed: int) -> None:
    """2 J^T W J of R^T r / sqrt(s_i s_j), R turned by half of what each end turns."""
    a, b, w, S_i, S_j = problem(seed, edges=2)
    _, _, hessian = mo.normal_blocks(mo.moments(a, b, w), S_i, S_j)
    h, columns = 1e-6, []
    for step in np.eye(14) * h:
        moved = []
        for sign in (1, -1):
            T_i, T_j = (mo.retract(S, np.tile(sign * x, (2, 1))) for S, x in ((S_i, step[:7]), (S_j, step[7:])))
            r = (apply(T_i, a) - apply(T_j, b)) / np.sqrt(mo.scale_of(T_i) * mo.scale_of(T_j))[:, None, None]
            turns = [(T @ mo.inverse(S))[:, :3, :3] for T, S in ((T_i, S_i), (T_j, S_j))]
            half = sum(t / np.cbrt(np.linalg.det(t))[:, None, None] for t in turns) / 2
            moved.append(np.einsum("eji,epj->epi", half, r))
        columns.append((moved[0] - moved[1]) / (2 * h))
    J = np.stack(columns, axis=-1)
    expected = 2 * np.einsum("ep,epxk,epxl->ekl", w, J, J)
    np.testing.assert_allclose(hessian, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_the_closed_form_is_umeyama_over_the_pixels(seed: int) -> None:
    a, b, w, _, _ = problem(seed)
    S, _ = mo.closed_form(mo.moments(a, b, w))
    for e in range(len(a)):
        np.testing.assert_allclose(S[e], weighted_similarity(a[e], b[e], w[e]).matrix, atol=1e-8)


def test_the_closed_form_is_a_rotation_where_a_mirror_fits_better() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=(1, 50, 3))
    S, _ = mo.closed_form(mo.moments(a, a * [1, 1, -1], np.ones((1, 50))))
    assert np.linalg.det(S[0, :3, :3]) > 0
    np.testing.assert_allclose(S[0], weighted_similarity(a[0], a[0] * [1, 1, -1]).matrix, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_re_expression_is_as_if_computed_anew(seed: int) -> None:
    a, b, w, _, _ = problem(seed)
    rng = np.random.default_rng(seed)
    T_i, T_j = similarities(rng, len(a)), similarities(rng, len(a))
    anew = mo.moments(apply(T_i, a), apply(T_j, b), w)
    np.testing.assert_allclose(
        mo.re_expressed(mo.moments(a, b, w), T_i, T_j), anew, rtol=1e-9, atol=1e-9 * np.abs(anew).max()
    )


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_28_numbers_hold_everything(seed: int) -> None:
    a, b, w, _, _ = problem(seed)
    M = mo.moments(a, b, w)
    numbers = mo.packed(M)
    assert numbers.shape == (len(a), 28)
    np.testing.assert_array_equal(mo.unpacked(numbers), M)
    np.testing.assert_allclose(M, np.swapaxes(M, 1, 2), rtol=1e-12, atol=1e-12)


def test_points_of_no_weight_may_hold_anything() -> None:
    a, b, w, _, _ = problem(5)
    w[:, ::3] = 0.0
    clean = mo.moments(a, b, w)
    a[:, 0], b[:, 3] = np.nan, np.inf
    np.testing.assert_allclose(mo.moments(a, b, w), clean, rtol=1e-12)


def line(count: int) -> Array:
    return (np.linspace(1, 2, count)[:, None] * [1.0, 2.0, -1.0]).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("case", ["no weight", "one line", "one end on a line", "one point"])
def test_an_edge_without_information_is_refused_with_its_numbers(case: str) -> None:
    a, b, w, _, _ = problem(6)
    if case == "no weight":
        w[2] = 0.0
    elif case == "one line":
        a[2] = b[2] = line(a.shape[1])
    elif case == "one end on a line":
        b[2] = line(a.shape[1])
    else:
        a[2] = b[2] = 1.5
    M = mo.moments(a, b, w)
    S, _ = mo.closed_form(M)
    assert np.isnan(S[2]).all() and np.isfinite(S[[0, 1, 3]]).all()
    with pytest.raises(GeometryError, match=r"pair \(2, 9\).*weight .*relative thickness"):
        mo.check_informative(M, [f"pair ({e}, 9)" for e in range(len(M))])


def test_gauss_newton_from_moments_finds_the_closed_form() -> None:
    """Both ways to the best similarity agree: iterate on one end with the other fixed."""
    a, b, w, S_i, S_j = problem(8)
    M = mo.moments(a, b, w)
    best = S_j @ mo.closed_form(M)[0]
    for _ in range(30):
        _, gradient, hessian = mo.normal_blocks(M, S_i, S_j, scale_free=False)
        S_i = mo.retract(S_i, -np.linalg.solve(hessian[:, :7, :7], gradient[:, :7, None])[..., 0])
    np.testing.assert_allclose(S_i, best, atol=1e-8)
