"""Parts that several readers share: registration of depth, points as depth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.layouts import reading

h5py = pytest.importorskip("h5py", reason="h5py (extra train) is not installed")

DEPTH = np.random.default_rng(0).uniform(0.5, 9, (5, 7)).astype(np.float32)
SAID = DEPTH.copy()
SAID[0, 0], SAID[1, 1], SAID[2, 2], SAID[3, 3] = np.nan, np.inf, -2, 0
KNOWN = np.where(np.isfinite(SAID) & (SAID > 0), SAID, 0)


def write_float3(path: Path, values: np.ndarray) -> None:
    head = "".join(f"{line}\n" for line in ("float", values.ndim, *reversed(values.shape)))
    path.write_bytes(head.encode() + values.astype("<f4").tobytes())


def write_h5(path: Path, values: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["depth"] = values


WRITERS = {
    "npy": lambda path, values: np.save(path, values),
    "pfm": lambda path, values: cv2.imwrite(str(path), values),
    "h5": write_h5,
    "float3": write_float3,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_floats_come_as_they_were_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"depth.{suffix}"
    WRITERS[suffix](path, SAID)
    found = reading.read(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, KNOWN)


def test_a_png_holds_so_many_for_a_unit(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    cv2.imwrite(str(path), np.array([[0, 1500], [65535, 1]], np.uint16))
    np.testing.assert_allclose(reading.read(path), [[0, 1.5], [65.535, 0.001]], rtol=1e-6)
    np.testing.assert_allclose(reading.read(path, 500.0)[0, 1], 3.0)


def test_pfm_of_either_order_and_of_colour(tmp_path: Path) -> None:
    path = tmp_path / "map.pfm"
    path.write_bytes(b"Pf\n7 5\n1.0\n" + DEPTH[::-1].astype(">f4").tobytes())
    np.testing.assert_array_equal(reading.pfm(path), DEPTH)
    colors = np.random.default_rng(1).random((4, 3, 3)).astype(np.float32)
    path.write_bytes(b"PF 3 4 -1.0\n" + colors[::-1].astype("<f4").tobytes())
    np.testing.assert_array_equal(reading.pfm(path), colors)
    with pytest.raises(InputError, match=r"map\.pfm' holds an array of shape \(4, 3, 3\)"):
        reading.read(path)


def test_float3_of_more_dimensions(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_float3(tmp_path / "a.float3", values)
    np.testing.assert_array_equal(reading.float3(tmp_path / "a.float3"), values)


@pytest.mark.parametrize("suffix", [*WRITERS, "png", "exr"])
def test_what_is_no_such_file_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"depth.{suffix}"
    with pytest.raises(InputError, match=rf"depth\.{suffix}"):
        reading.read(path)
    if suffix in WRITERS:
        WRITERS[suffix](path, DEPTH)
        whole = path.read_bytes()
    else:
        whole = b"\x89PNG and more of it"
    # A longer HDF5 file is still a whole one.
    longer = [] if suffix in ("h5", "npy") else [whole + b"more"]
    for broken in (b"", whole[:20], whole[: len(whole) // 2], whole[:-2], b"float\n2\n7\n", b"Pf\n7 5\n0\n", *longer):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=rf"depth\.{suffix}"):
            reading.read(path)


def test_a_kind_that_is_not_known_and_an_array_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"depth\.dpt' has an unknown suffix; it must be one of \.png"):
        reading.read(tmp_path / "depth.dpt")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["disparity"] = DEPTH
    with pytest.raises(InputError, match=r"a\.h5' does not hold an array 'depth'"):
        reading.read(tmp_path / "a.h5")


def test_without_exr_in_opencv_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.exr").write_bytes(b"\x76\x2f\x31\x01")
    monkeypatch.setattr(cv2, "imread", lambda *_: None)
    with pytest.raises(InputError, match=r"a\.exr' cannot be read as OpenEXR.*without the format.*\.npy"):
        reading.read(tmp_path / "a.exr")
    monkeypatch.setattr(cv2, "imread", lambda *_: np.stack([0 * DEPTH, 0 * DEPTH, DEPTH], axis=-1))
    np.testing.assert_array_equal(reading.read(tmp_path / "a.exr"), DEPTH)  # red is first, last in OpenCV


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
    with pytest.raises(InputError, match="not a rigid motion"):
        reading.rigid(tmp_path / "p.txt", np.diag([1.0, 1, -1, 1]))


def test_printed_digits_make_a_rotation(tmp_path: Path) -> None:
    turned = np.round(np.array([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 2], [0, 0, 1, 3]]) + 1e-4, 3)
    found = reading.rigid(tmp_path / "p.txt", turned)
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-12)
    assert found[:3, 3].tolist() == turned[:, 3].tolist()
