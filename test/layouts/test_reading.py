"""Parts that several readers share: registration of depth, points as depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.layouts import reading


def test_the_same_camera_changes_no_depth() -> None:
    K = reading.intrinsics(50.0, 52.0, 15.5, 11.5)
    depth = np.random.default_rng(0).uniform(1, 2, (24, 32)).astype(np.float32)
    np.testing.assert_array_equal(reading.registered(depth, K, K, 32, 24), depth)


def test_a_shifted_camera_shifts_depth_and_leaves_a_border() -> None:
    K, shifted = reading.intrinsics(50.0, 50.0, 16, 12), reading.intrinsics(50.0, 50.0, 13, 12)
    depth = np.ones((24, 32), np.float32)
    depth[5, 9] = 2
    found = reading.registered(depth, K, shifted, 32, 24)
    assert found[5, 6] == 2 and found[5, 9] == 1
    assert (found[:, -3:] == 0).all() and (found[:, :-3] > 0).all()


def test_the_nearest_point_of_a_pixel_counts() -> None:
    K = reading.intrinsics(10.0, 10.0, 4, 3)
    points = np.array([[0.0, 0, 5], [0, 0, 3], [0, 0, 4], [0, 0, -1], [0.3, 0, 1], [9, 0, 1]])
    depth = reading.splatted(points, K, 9, 7)
    assert depth.dtype == np.float32 and depth[3, 4] == 3 and depth[3, 7] == 1 and np.count_nonzero(depth) == 2
    assert not reading.splatted(np.zeros((0, 3)), K, 9, 7).any()


def test_a_matrix_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("1 2 3\n4 5")
    with pytest.raises(InputError, match=r"m\.txt' holds 5 numbers; it must hold 2 rows of 3"):
        reading.matrix(tmp_path / "m.txt", 2, 3)


def test_text_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"t\.txt' cannot be read as text"):
        reading.rows(tmp_path / "t.txt")


def test_a_mirror_is_no_pose(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rotation"):
        reading.rigid(tmp_path / "p.txt", np.diag([1.0, 1, -1, 1]))


def test_printed_digits_make_a_rotation(tmp_path: Path) -> None:
    turned = np.round(np.array([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 2], [0, 0, 1, 3]]) + 1e-4, 3)
    found = reading.rigid(tmp_path / "p.txt", turned)
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-12)
    assert found[:3, 3].tolist() == turned[:, 3].tolist()
