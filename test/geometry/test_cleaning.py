from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.cleaning import clean_confidences, depth_edges
from dust3r_ros.geometry.pinhole import pixel_grid
from dust3r_ros.geometry.rigid import pose, transform


@pytest.mark.parametrize("tolerance", [0.001, 0.05])
def test_reference(reference: dict[str, np.ndarray], tolerance: float) -> None:
    K, expected = reference["clean_K"].astype(float), reference[f"clean_out_tol{tolerance:g}"]
    cleaned = clean_confidences(
        reference["clean_depth"],
        reference["clean_conf"],
        reference["clean_c2w"].astype(float),
        K[:, 0, 0],
        centers=[tuple(k[:2, 2]) for k in K],
        tolerance=tolerance,
    )
    np.testing.assert_array_equal(cleaned, expected)
    assert 0.2 < np.mean(np.asarray(cleaned) == 0) < 0.4


def test_reference_points_are_those_of_its_depth(reference: dict[str, np.ndarray]) -> None:
    """``clean_pts`` is what ``clean_confidences`` makes of depth and poses itself."""
    rays = np.concatenate([(pixel_grid(30, 40) - [20, 15]) / 36.0, np.ones((30, 40, 1))], axis=-1)
    for depth, w_T_c, points in zip(
        reference["clean_depth"], reference["clean_c2w"], reference["clean_pts"], strict=True
    ):
        np.testing.assert_allclose(transform(w_T_c, rays * depth[..., None]), points, atol=1e-5)


def facing(depth: float, confidence: float, size: tuple[int, int] = (20, 30)) -> tuple[np.ndarray, np.ndarray]:
    return np.full(size, depth), np.full(size, confidence)


def test_a_floating_patch_goes_and_the_wall_stays() -> None:
    wall, sure = facing(4.0, 5.0)
    patch, less = facing(4.0, 2.0, (24, 36))
    patch[8:14, 15:22] = 2.0
    poses = np.stack([np.eye(4), pose(np.eye(3), [0.1, 0.0, 0.0])])
    first, second = clean_confidences([wall, patch], [sure, less], poses, [30.0, 36.0])
    np.testing.assert_array_equal(first, sure)
    np.testing.assert_array_equal(second == 0, patch == 2.0)


def test_the_surer_point_stays_in_front() -> None:
    wall, less = facing(4.0, 2.0)
    near, sure = facing(2.0, 5.0)
    cleaned = clean_confidences([wall, near], [less, sure], np.stack([np.eye(4)] * 2), [30.0, 30.0])
    assert all((confidence > 0).all() for confidence in cleaned)


def test_unknown_depth_and_cameras_that_look_away_change_nothing() -> None:
    wall, sure = facing(4.0, 5.0)
    near, less = facing(2.0, 2.0)
    away = pose(np.diag([-1.0, 1.0, -1.0]), [0.0, 0.0, 0.0])
    cleaned = clean_confidences([wall, near], [sure, less], np.stack([np.eye(4), away]), [30.0, 30.0])
    np.testing.assert_array_equal(cleaned, [sure, less])
    cleaned = clean_confidences([np.zeros_like(wall), near], [sure, less], np.stack([np.eye(4)] * 2), [30.0, 30.0])
    np.testing.assert_array_equal(cleaned, [sure, less])


def test_input_is_not_changed_and_must_belong_together() -> None:
    wall, sure = facing(4.0, 5.0)
    near, less = facing(2.0, 2.0)
    cleaned = clean_confidences([wall, near], [sure, less], np.stack([np.eye(4)] * 2), [30.0, 30.0])
    assert (cleaned[1] == 0).all() and (less == 2.0).all()
    with pytest.raises(GeometryError, match=r"\[2, 1, 2, 2, 2\]"):
        clean_confidences([wall, near], [sure], np.stack([np.eye(4)] * 2), [30.0, 30.0])
    with pytest.raises(GeometryError, match="View 1"):
        clean_confidences([wall, near], [sure, less[1:]], np.stack([np.eye(4)] * 2), [30.0, 30.0])


def test_edges_are_both_sides_of_a_jump_and_no_slope() -> None:
    depth = np.full((10, 12), 3.0)
    depth[:, 6:] = 2.0
    expected = np.zeros((10, 12), bool)
    expected[:, 5:7] = True
    np.testing.assert_array_equal(depth_edges(depth), expected)
    slope = np.broadcast_to(np.linspace(1, 2, 60), (10, 60))
    assert not depth_edges(slope).any()


def test_holes_are_no_edges() -> None:
    depth = np.full((10, 12), 3.0)
    depth[4, 4], depth[7, 7] = 0.0, np.nan
    assert not depth_edges(depth).any()
