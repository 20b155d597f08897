"""Clouds come back as they were, here and in other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.errors import InputError, OutputError
from dust3r_ros.products.ply import read_ply, write_ply

START = b"ply\nformat binary_little_endian 1.0\n"
XYZ = b"property float x\nproperty float y\nproperty float z\nend_header\n"


def some_cloud(count: int) -> Cloud:
    rng = np.random.default_rng(count)
    return Cloud(
        rng.normal(size=(count, 3)).astype(np.float32),
        rng.integers(0, 256, (count, 3), dtype=np.uint8),
        rng.uniform(1, 50, count).astype(np.float32),
    )


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_round_trip_is_exact(tmp_path: Path, count: int) -> None:
    cloud = some_cloud(count)
    write_ply(tmp_path / "map.ply", cloud)
    back = read_ply(tmp_path / "map.ply")
    assert np.array_equal(back.points, cloud.points) and back.points.dtype == np.float32
    assert np.array_equal(back.colors, cloud.colors) and back.colors.dtype == np.uint8
    assert np.array_equal(back.confidence, cloud.confidence) and back.confidence.dtype == np.float32


def test_the_file_is_what_other_programs_expect(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh", reason="the independent PLY reader is not installed")
    cloud = some_cloud(500)
    write_ply(tmp_path / "map.ply", cloud)
    other = trimesh.load(tmp_path / "map.ply", process=False)
    assert np.array_equal(np.asarray(other.vertices, np.float32), cloud.points)
    assert np.array_equal(np.asarray(other.colors)[:, :3], cloud.colors)


def test_the_header_says_what_follows(tmp_path: Path) -> None:
    write_ply(tmp_path / "map.ply", some_cloud(3))
    header, body = (tmp_path / "map.ply").read_bytes().split(b"end_header\n")
    assert header.decode().splitlines() == [
        "ply", "format binary_little_endian 1.0", "element vertex 3", "property float x", "property float y",
        "property float z", "property uchar red", "property uchar green", "property uchar blue",
        "property float confidence",
    ]  # fmt: skip
    assert len(body) == 3 * 19


def test_foreign_clouds_of_other_types_are_read(tmp_path: Path) -> None:
    layout = np.dtype([("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("intensity", "<u2")])
    vertices = np.zeros(4, layout)
    vertices["z"] = [1, 2, 3, 4]
    header = "ply\r\nformat binary_little_endian 1.0\r\ncomment made elsewhere\r\nobj_info x\r\nelement vertex 4\r\n"
    header += "property double x\r\nproperty double y\r\nproperty float64 z\r\nproperty ushort intensity\r\n"
    header += "element face 0\r\nproperty list uchar int vertex_indices\r\nend_header\r\n"
    (tmp_path / "foreign.ply").write_bytes(header.encode() + vertices.tobytes())
    cloud = read_ply(tmp_path / "foreign.ply")
    assert cloud.points[:, 2].tolist() == [1, 2, 3, 4]
    assert (cloud.colors == 128).all() and (cloud.confidence == 1).all()


@pytest.mark.parametrize(
    "kind, values, expected",
    [("<f4", (0.5, 0.0, 1.0), [128, 0, 255]), ("<f8", (255, 0, 7), [255, 0, 7]), ("<u2", (255, 0, 7), [255, 0, 7])],
)
def test_colours_of_other_types(tmp_path: Path, kind: str, values: tuple[float, ...], expected: list[int]) -> None:
    name = {"<f4": b"float", "<f8": b"double", "<u2": b"ushort"}[kind]
    colors = b"".join(b"property %s %s\n" % (name, color) for color in (b"red", b"green", b"blue"))
    header = START + b"element vertex 1\n" + colors + XYZ
    (tmp_path / "map.ply").write_bytes(header + np.array(values, kind).tobytes() + bytes(12))
    assert read_ply(tmp_path / "map.ply").colors.tolist() == [expected]
    for wrong in (256, 65535) if kind == "<u2" else (-0.1, 300, np.nan):
        (tmp_path / "map.ply").write_bytes(header + np.array([wrong, 0, 0], kind).tobytes() + bytes(12))
        with pytest.raises(InputError, match="colours"):
            read_ply(tmp_path / "map.ply")


@pytest.mark.parametrize(
    "data, words",
    [
        (START + b"element vertex 3\nend_header\n", "properties none; x, y and z"),
        (START + b"element vertex 1\nproperty float x\n" + XYZ + bytes(16), "float x'; it must be a scalar"),
        (START + b"element vertex 99999999999999\n" + XYZ + bytes(12), "truncated: 99999999999999 points need"),
        (START + b"element vertex " + b"9" * 24 + b"\n" + XYZ + bytes(12), "truncated"),
        (b"ply\nelement vertex 1\n" + XYZ + bytes(12), "declare its format"),
        (b"", "not a PLY"),
        (b"obj\n", "not a PLY"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", "ascii"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 9\nproperty float x\n", "damaged header"),
        (b"ply\nformat binary_little_endian 1.0\nend_header\n", "damaged header"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nend_header\nabcd", "x, y and z"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n", "scalar"),
        (b"ply\nelement face 1\n", "vertex"),
    ],
)
def test_what_is_no_cloud_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "bad.ply").write_bytes(data)
    with pytest.raises(InputError, match=words):
        read_ply(tmp_path / "bad.ply")


def test_truncated_and_missing_files_are_named(tmp_path: Path) -> None:
    write_ply(tmp_path / "map.ply", some_cloud(100))
    data = (tmp_path / "map.ply").read_bytes()
    (tmp_path / "map.ply").write_bytes(data[:-500])
    with pytest.raises(InputError, match=r"map\.ply' is truncated: 100 points need 1900 bytes, it has 1400"):
        read_ply(tmp_path / "map.ply")
    with pytest.raises(InputError, match=r"gone\.ply"):
        read_ply(tmp_path / "gone.ply")
    with pytest.raises(OutputError, match="nowhere"):
        write_ply(tmp_path / "nowhere" / "map.ply", some_cloud(1))
