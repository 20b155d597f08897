"""What one look says of the ground plan: things in the slab, floor, and the air in front of them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from dust3r_ros.geometry.ground import Ground
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, invert, pose, transform
from dust3r_ros.occupancy.plan import Plan, Slab, plan_of, scan_of
from dust3r_ros.types import Array, Keyframe

SLAB = Slab(Ground(np.array([0.0, 0.0, 1.0]), 0.0), 0.1, 1.5)
WIDTH, HEIGHT, FOCAL = 160, 120, 100.0


def rays(w_T_c: Array) -> Array:
    """(H, W, 3) directions of z = 1 in the world."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    local = np.stack([(u - 79.5) / FOCAL, (v - 59.5) / FOCAL, np.ones_like(u)], axis=-1)
    return local @ w_T_c[:3, :3].T


def look(
    eye: tuple[float, float, float], *, wall: float = 4.0, box: bool = False, turn: Array | None = None
) -> Keyframe:
    """A camera that looks along x over a floor at a wall; a box 1 m before it is 0.5 m wide and high."""
    w_T_c = pose(np.eye(3), eye) @ BODY_T_OPTICAL
    if turn is not None:
        w_T_c[:3, :3] = w_T_c[:3, :3] @ turn
    d = rays(w_T_c)
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = np.where(d[..., 2] < 0, -eye[2] / d[..., 2], np.inf)
        depth = np.minimum(floor, np.where(d[..., 0] > 0, (wall - eye[0]) / d[..., 0], np.inf))
        front = np.where(d[..., 0] > 0, (wall - 1.0 - eye[0]) / d[..., 0], np.inf)
    if box:
        hit = eye + d * np.where(np.isfinite(front), front, 0)[..., None]
        on = (np.abs(hit[..., 1]) < 0.25) & (hit[..., 2] > 0) & (hit[..., 2] < 0.5)
        depth = np.where(on, np.minimum(front, depth), depth)
    depth = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    confidence = np.where(depth > 0, 5, 1).astype(np.float32)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    return Keyframe(0, 0, 0, "c", w_T_c, FOCAL, image, depth, confidence)


def made(keyframe: Keyframe, slab: Slab = SLAB, resolution: float = 0.1, max_range: float = 8.0) -> Plan:
    return plan_of(scan_of(keyframe, 1.5), slab, resolution, max_range)


def at(plan: Plan, x: float, y: float, resolution: float = 0.1) -> int:
    row, column = int(np.floor(y / resolution)) - plan.row, int(np.floor(x / resolution)) - plan.column
    inside = 0 <= row < plan.cells.shape[0] and 0 <= column < plan.cells.shape[1]
    return int(plan.cells[row, column]) if inside else 0


def test_a_wall_and_the_way_to_it() -> None:
    plan = made(look((0.05, 0.05, 1.0)))
    for y in np.arange(-2.45, 2.5, 0.1):
        assert at(plan, 4.02, y) == 1 or at(plan, 3.98, y) == 1
        assert at(plan, 4.35, y) == 0
    for x in np.arange(0.55, 3.8, 0.1):
        assert at(plan, x, 0.05) == -1
    assert at(plan, -0.5, 0.05) == 0 and at(plan, 1.0, 2.0) == 0  # behind, and out of the image


def test_a_box_hides_what_is_behind_but_not_the_floor_that_is_seen() -> None:
    plan = made(look((0.05, 0.05, 1.0), box=True))
    assert {at(plan, x, 0.05) for x in (2.97, 3.03)} >= {1}
    assert at(plan, 3.25, 0.05) == 0  # in its shadow: the ray over its top meets the wall
    assert at(plan, 3.25, 0.85) == -1 and at(plan, 2.75, 0.05) == -1


def test_what_is_below_or_above_the_slab_is_no_obstacle() -> None:
    keyframe = look((0.05, 0.05, 1.0), box=True)
    high = Slab(SLAB.ground, 0.6, 1.5)
    assert at(made(keyframe, high), 3.03, 0.05) == -1
    low = Slab(SLAB.ground, 0.1, 0.4)
    assert {at(made(keyframe, low), x, 0.05) for x in (2.97, 3.03)} >= {1}
    under = made(look((0.05, 0.05, 3.0), wall=4.0), Slab(SLAB.ground, 0.1, 0.5))
    assert at(under, 0.55, 0.05) == 0  # the camera looks over it, far above the slab
    assert at(under, 3.85, 0.05) == 0


def test_from_above_air_is_free_only_where_rays_come_low() -> None:
    pitch = np.radians(50.0)
    down = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    plan = made(look((0.05, 0.05, 3.0), wall=50.0, turn=down), Slab(SLAB.ground, 0.1, 0.5))
    middle = 0.05 + 3.0 / np.tan(pitch)
    assert at(plan, middle, 0.05) == -1
    assert at(plan, 0.15, 0.05) == 0
    assert not (plan.cells == 1).any()


def test_less_than_three_pixels_are_nothing() -> None:
    keyframe = look((0.05, 0.05, 1.0))
    keyframe.depth[:] = 0
    keyframe.depth[58, 80] = keyframe.depth[58, 20] = 2.0
    keyframe.confidence[:] = 5
    assert made(keyframe).cells.size == 0
    keyframe.depth[57:60, 80] = 2.0
    assert (made(keyframe).cells == 1).sum() == 1


def test_one_wrong_far_pixel_opens_no_wall() -> None:
    keyframe = look((0.05, 0.05, 1.0))
    truth = made(keyframe)
    keyframe.depth[59, 70] = keyframe.depth[58, 100] = 7.5
    wrong = made(keyframe)
    far = wrong.cells[:, max(0, 43 - wrong.column) :]
    assert not (far == -1).any()
    assert at(truth, 3.5, 0.05) == at(wrong, 3.5, 0.05) == -1


def test_pixels_without_depth_confidence_or_on_edges_say_nothing() -> None:
    keyframe = look((0.05, 0.05, 1.0))
    keyframe.confidence[:] = 1.4
    assert made(keyframe).cells.size == 0
    keyframe.confidence[:] = 5
    keyframe.depth[:] = np.nan
    assert made(keyframe).cells.size == 0 and not scan_of(keyframe, 1.5).depth.any()
    edge = look((0.05, 0.05, 1.0), box=True)
    edge.depth[40:80:2] *= 1.5  # every row jumps
    assert (scan_of(edge, 1.5).depth[40:80] == 0).all()


def test_the_plan_stays_when_the_map_is_tilted_with_its_ground() -> None:
    keyframe = look((0.05, 0.05, 1.0), box=True)
    tilt = np.radians(20.0)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    tilted = Keyframe(**{**vars(keyframe), "w_T_c": pose(turn, [0, 0, 0]) @ keyframe.w_T_c})
    plan, other = made(keyframe), made(tilted, Slab(Ground(turn[:, 2], 0.0), 0.1, 1.5))
    # Along x nothing changes; across, the ground is seen shortened
    line = [at(plan, x, 0.05) for x in np.arange(0.55, 3.9, 0.1)]
    assert line == [at(other, x, 0.05) for x in np.arange(0.55, 3.9, 0.1)]
    assert (other.cells == 1).sum() == pytest.approx((plan.cells == 1).sum(), rel=0.15)


def test_a_range_beyond_what_is_seen_costs_nothing() -> None:
    keyframe = look((0.05, 0.05, 1.0), box=True)
    plan = made(keyframe, max_range=8.0)
    tracemalloc.start()
    try:
        far = made(keyframe, max_range=200.0)
        assert tracemalloc.get_traced_memory()[1] < 20e6  # bytes; 4000 x 4000 cells would be more
    finally:
        tracemalloc.stop()
    assert (far.row, far.column) == (plan.row, plan.column) and np.array_equal(far.cells, plan.cells)


def test_range_limits_the_view_and_large_images_are_thinned() -> None:
    keyframe = look((0.05, 0.05, 1.0))
    near = made(keyframe, max_range=2.0)
    assert not (near.cells == 1).any() and at(near, 1.85, 0.05) == -1 and at(near, 2.25, 0.05) == 0
    big = Keyframe(**{
        **vars(keyframe), "focal": 4 * FOCAL + 1.5, "depth": np.kron(keyframe.depth, np.ones((4, 4), np.float32)),
        "confidence": np.kron(keyframe.confidence, np.ones((4, 4), np.float32)),
    })  # fmt: skip
    scan = scan_of(big, 1.5)
    assert scan.depth.size < 40_000
    local = transform(invert(big.w_T_c), scan.points())
    v, u = np.nonzero(scan.depth)
    assert np.allclose(local[:, 2], big.depth[:: scan.stride, :: scan.stride][v, u], rtol=1e-3)
    assert np.allclose(local[:, 0] / local[:, 2] * big.focal + 319.5, u * scan.stride, atol=1e-6)
    assert 50 <= len(scan.points(50)) <= 100
