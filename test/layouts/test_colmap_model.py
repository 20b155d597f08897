"""COLMAP models: text and binary alike, lenses, half a pixel, what is broken."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from spots import numbers, quaternion, spots, write

from dust3r_ros.errors import InputError
from dust3r_ros.layouts import colmap_model
from dust3r_ros.types import Calibration

K = np.array([[80.0, 0, 30], [0, 82, 43], [0, 0, 1]])
SPOTS = spots(K, 60, 90, count=3, seed=2)
SEEN = ([1, 5, 9], [], [5, 2**40])
CAMERAS = {
    "SIMPLE_PINHOLE": (0, [80.0, 30.0, 45.0], Calibration(60, 90, 80, 80, 29.5, 44.5)),
    "PINHOLE": (1, [80.0, 82.0, 30.0, 45.0], Calibration(60, 90, 80, 82, 29.5, 44.5)),
    "SIMPLE_RADIAL": (2, [80.0, 30.0, 45.0, 0.1], Calibration(60, 90, 80, 80, 29.5, 44.5, "plumb_bob", (0.1, 0, 0, 0))),
    "RADIAL": (3, [80, 30, 45, 0.1, 0.2], Calibration(60, 90, 80, 80, 29.5, 44.5, "plumb_bob", (0.1, 0.2, 0, 0))),
    "OPENCV": (
        4, [80, 82, 30, 45, 0.1, 0.2, 0.3, 0.4],
        Calibration(60, 90, 80, 82, 29.5, 44.5, "plumb_bob", (0.1, 0.2, 0.3, 0.4)),
    ),
    "OPENCV_FISHEYE": (
        5, [80, 82, 30, 45, 0.1, 0.2, 0.3, 0.4],
        Calibration(60, 90, 80, 82, 29.5, 44.5, "equidistant", (0.1, 0.2, 0.3, 0.4)),
    ),
    "FULL_OPENCV": (
        6, [80, 82, 30, 45, *[0.01] * 8], Calibration(60, 90, 80, 82, 29.5, 44.5, "rational_polynomial", (0.01,) * 8),
    ),
}  # fmt: skip


def write_text(folder: Path, model: str = "PINHOLE") -> None:
    write(folder / "cameras.txt", "# Camera list", f"7 {model} 60 90 {numbers(CAMERAS[model][1])}")
    lines = ["# Image list with two lines of data per image:"]
    for index, (spot, seen) in enumerate(zip(SPOTS, SEEN, strict=True)):
        x, y, z, w = quaternion(spot.c_T_w[:3, :3])
        lines.append(f"{index + 1} {numbers([w, x, y, z, *spot.c_T_w[:3, 3]])} 7 seq/image {9 - index}.jpg")
        lines.append(" ".join(f"1.5 2.5 {point}" for point in (*seen, -1)) if index != 1 else "")
    write(folder / "images.txt", *lines)


def write_binary(folder: Path, model: str = "PINHOLE") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    number, parameters, _ = CAMERAS[model]
    head = struct.pack("<QIiQQ", 1, 7, number, 60, 90)
    (folder / "cameras.bin").write_bytes(head + struct.pack(f"<{len(parameters)}d", *parameters))
    data = struct.pack("<Q", len(SPOTS))
    for index, (spot, seen) in enumerate(zip(SPOTS, SEEN, strict=True)):
        x, y, z, w = quaternion(spot.c_T_w[:3, :3])
        data += (
            struct.pack("<I7dI", index + 1, w, x, y, z, *spot.c_T_w[:3, 3], 7) + f"seq/image {9 - index}.jpg\0".encode()
        )
        data += struct.pack("<Q", len(seen) + 1)
        data += b"".join(struct.pack("<ddq", 1.5, 2.5, point) for point in (*seen, -1))
    (folder / "images.bin").write_bytes(data)


@pytest.mark.parametrize("model", CAMERAS)
@pytest.mark.parametrize("form", [write_text, write_binary])
def test_cameras_are_as_opencv_has_them(form: object, model: str, tmp_path: Path) -> None:
    form(tmp_path, model)  # type: ignore[operator]
    path, _ = colmap_model.files(tmp_path)
    assert colmap_model.cameras(path) == {7: CAMERAS[model][2]}


@pytest.mark.parametrize("form", [write_text, write_binary])
def test_images_have_pose_camera_and_points(form: object, tmp_path: Path) -> None:
    form(tmp_path)  # type: ignore[operator]
    found = colmap_model.images(colmap_model.files(tmp_path)[1])
    assert [(image.name, image.camera) for image in found] == [(f"seq/image {at}.jpg", 7) for at in (7, 8, 9)]
    for image, spot, seen in zip(found, SPOTS[::-1], SEEN[::-1], strict=True):
        np.testing.assert_allclose(image.w_T_c, spot.w_T_c, atol=1e-9)
        assert image.points.dtype == np.uint64 and image.points.tolist() == seen


def test_text_comes_before_binary_and_nothing_is_refused(tmp_path: Path) -> None:
    write_binary(tmp_path)
    assert colmap_model.files(tmp_path)[0].suffix == ".bin"
    write_text(tmp_path)
    assert colmap_model.files(tmp_path)[0].suffix == ".txt"
    (tmp_path / "images.txt").unlink()
    with pytest.raises(InputError, match=r"images\.txt' is missing"):
        colmap_model.files(tmp_path)
    with pytest.raises(InputError, match=r"holds no COLMAP model; cameras\.txt"):
        colmap_model.files(tmp_path / "gone")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("cameras.txt", "7 PINHOLE 60", "number model width height"),
        ("cameras.txt", "7 THIN_PRISM 60 90 1", "model THIN_PRISM; known are SIMPLE_PINHOLE"),
        ("cameras.txt", "7 PINHOLE 60 90 80 82 30", "3 parameters, not 4"),
        ("cameras.txt", "7 PINHOLE 60 90 -80 82 30 45", "focals positive"),
        ("cameras.txt", "7 SIMPLE_RADIAL 60 90 80 30 45 inf", "finite"),
        ("images.txt", "1 1 0 0 0 0 0 0 7\n\n", "number qw qx"),
        ("images.txt", "1 0 0 0 0 0 0 0 7 a.jpg\n\n", "quaternion"),
        ("images.txt", "1 1 0 0 0 0 0 0 7 a.jpg\n1.5 2.5\n", "triples"),
        ("images.txt", "1 1 0 0 0 0 0 0 7 a.jpg\n1.5 2.5 x\n", "triples"),
    ],
)
def test_broken_lines_are_named(name: str, text: str, said: str, tmp_path: Path) -> None:
    write_text(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}.*{said}"):
        colmap_model.cameras(tmp_path / "cameras.txt")
        colmap_model.images(tmp_path / "images.txt")


def test_binary_files_that_break_off_are_named(tmp_path: Path) -> None:
    write_binary(tmp_path)
    for name, read in (("cameras.bin", colmap_model.cameras), ("images.bin", colmap_model.images)):
        whole = (tmp_path / name).read_bytes()
        for size in (0, 5, 20, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:size])
            with pytest.raises(InputError, match=name):
                read(tmp_path / name)  # type: ignore[operator]


def test_it_reads_what_pycolmap_writes(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    write_text(tmp_path / "text")
    (tmp_path / "text/points3D.txt").write_text("")
    images = (tmp_path / "text/images.txt").read_text().replace("image ", "image_").splitlines()
    cleared = [line if at % 2 else "" for at, line in enumerate(images)]  # no points are there to be seen
    (tmp_path / "text/images.txt").write_text("\n".join(cleared) + "\n\n")
    model = pycolmap.Reconstruction(str(tmp_path / "text"))
    (tmp_path / "binary").mkdir()
    model.write(str(tmp_path / "binary"))
    cameras, pictures = colmap_model.files(tmp_path / "binary")
    assert colmap_model.cameras(cameras) == {7: CAMERAS["PINHOLE"][2]}
    for image, spot in zip(colmap_model.images(pictures), SPOTS[::-1], strict=True):
        np.testing.assert_allclose(image.w_T_c, spot.w_T_c, atol=1e-9)
