"""A point that several cameras see: dark images but for the pixel where it is, with its z as depth there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS, View
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.types import Array, Array32, Image

POINT = np.array([0.3, -1.1, 2.4])
COLOR = (200, 120, 250)


@dataclass(frozen=True, eq=False)
class Spot:
    """What one camera sees of ``POINT``: at ``pixel`` (u, v), ``z`` deep, from ``w_T_c``."""

    K: Array
    w_T_c: Array
    pixel: tuple[int, int]
    z: float
    width: int
    height: int

    @property
    def c_T_w(self) -> Array:  # noqa: N802
        return invert(self.w_T_c)

    def image(self, pixel: tuple[int, int] | None = None) -> Image:
        """RGB, ``COLOR`` at the pixel."""
        image = np.zeros((self.height, self.width, 3), np.uint8)
        u, v = pixel or self.pixel
        image[v, u] = COLOR
        return image

    def depth(self) -> Array32:
        depth = np.zeros((self.height, self.width), np.float32)
        depth[self.pixel[1], self.pixel[0]] = self.z
        return depth

    def write_image(self, path: Path) -> None:
        write_image(path, self.image())

    def write_depth(self, path: Path, per_metre: float) -> None:
        write_png16(path, np.rint(self.depth() * per_metre).astype(np.uint16))


def spots(K: Array, width: int, height: int, count: int = 2, seed: int = 0) -> list[Spot]:
    """``count`` cameras with ``K`` that see ``POINT``, turned at random, at whole pixels and depths of k/4."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        u, v = int(rng.integers(width // 8, width - width // 8)), int(rng.integers(height // 8, height - height // 8))
        z, R = float(rng.integers(4, 20)) / 4, Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
        ray = np.linalg.solve(K, [u, v, 1.0])
        found.append(Spot(K, pose(R, POINT - R @ ray * z), (u, v), z, width, height))
    return found


def write_image(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without chroma subsampling a JPEG's brightest pixel stays where it is.
    flags = [cv2.IMWRITE_JPEG_QUALITY, 100] if path.suffix == ".jpg" else []
    assert cv2.imwrite(str(path), image[..., ::-1], flags)


def write_png16(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values.astype(np.uint16))


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def numbers(values: Array | Sequence[float]) -> str:
    """Numbers with every digit."""
    return " ".join(repr(float(value)) for value in np.asarray(values).ravel())


def quaternion(R: Array) -> Array:
    """(x, y, z, w)."""
    return Rotation.from_matrix(R).as_quat()


def check(
    view: View,
    spot: Spot,
    *,
    with_depth: bool = True,
    unit: float = 1.0,
    tolerance: float = 1e-5,
    depth_tolerance: float = 0.0,
) -> None:
    """The reader's K and ``w_T_c`` put the point where the image and depth have it.

    ``unit``: one of the tree's units in those of the reader. ``depth_tolerance`` (relative): for depth that is
    computed, not read.
    """
    assert view.K is not None
    w_T_c = spot.w_T_c if view.w_T_c is None else view.w_T_c
    in_camera = transform(invert(w_T_c), POINT * unit)
    projected = view.K @ in_camera
    assert in_camera[2] > 0
    np.testing.assert_allclose(projected[:2] / projected[2], spot.pixel, atol=tolerance * 100)
    if view.w_T_c is not None:
        np.testing.assert_allclose(view.w_T_c[:3, :3], spot.w_T_c[:3, :3], atol=tolerance)
        np.testing.assert_allclose(view.w_T_c[:3, 3], spot.w_T_c[:3, 3] * unit, atol=tolerance)
    image = view.image()
    assert image.dtype == np.uint8 and image.shape == (spot.height, spot.width, 3)
    v, u = np.unravel_index(image.astype(int).sum(axis=2).argmax(), image.shape[:2])
    assert (u, v) == spot.pixel
    depth = view.depth()
    if not with_depth:
        assert depth is None
        return
    assert depth is not None and depth.dtype == np.float32 and depth.shape == image.shape[:2]
    np.testing.assert_allclose(depth[v, u], np.float32(spot.z * unit), rtol=depth_tolerance)
    assert np.count_nonzero(depth) == 1


def damage(name: str, root: Path) -> None:
    """Damages every file below ``root`` in turn: reading the data set works or says which file is broken."""
    refused = 0
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        whole = file.read_bytes()
        noise = np.random.default_rng(len(whole)).bytes(200)
        for broken in (b"", whole[: len(whole) // 2], whole[:-3], noise, b"1 2\n", b"{}", b"[[1]]", b"\0" * 64):
            file.write_bytes(broken)
            try:
                for recording in DATASETS[name].open(root):
                    for view in recording.views:
                        view.image()
                        view.depth()
            except InputError as error:
                assert str(root) in str(error)
                refused += 1
        file.write_bytes(whole)
    assert refused
