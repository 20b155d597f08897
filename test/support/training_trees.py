"""A rendered sequence written as each training set lies on disk, with known truth."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import data_trees
import numpy as np
import pytest
import wire
from scipy.spatial.transform import Rotation
from spots import numbers, quaternion, write, write_image, write_png16

from dust3r_ros.geometry.lens import ray_slopes
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, invert, pose
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.types import Array, Array32, Calibration, Image

h5py = pytest.importorskip("h5py", reason="h5py (extra train) is not installed")
pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.training.datasets import PairFolder  # noqa: E402


def co3d(s: RenderedSequence, root: Path) -> None:
    data_trees.co3d(s, root)


def blendedmvs(s: RenderedSequence, root: Path, project: str = "57f8d9bbe73f6760f10e916a") -> None:
    folder, K = root / project, data_trees.K_of(s)
    for index, (image, depth, T) in enumerate(zip(s.images, s.depths, s.w_T_c, strict=True)):
        write_image(folder / f"blended_images/{index:08d}.jpg", image)
        rows = ("extrinsic", *map(numbers, invert(T)), "", "intrinsic", *map(numbers, K), "", "425.0 2.5 128 900")
        write(folder / f"cams/{index:08d}_cam.txt", *rows)
        data_trees.write_pfm(folder / f"rendered_depth_maps/{index:08d}.pfm", depth)
    write(folder / "cams/pair.txt", "0")


def arkitscenes(s: RenderedSequence, root: Path, fold: str = "raw/Training") -> None:
    folder, K = root / fold / "40753679", data_trees.K_of(s)
    lines = []
    for index, (image, depth, T) in enumerate(zip(s.images, s.depths, s.w_T_c, strict=True)):
        stamp = 6791.123 + index / 10
        write_image(folder / f"lowres_wide/40753679_{stamp:.3f}.png", image)
        write_png16(folder / f"lowres_depth/40753679_{stamp:.3f}.png", np.rint(1000 * depth))
        # Names are cut to milliseconds here and rounded there.
        lens = folder / f"lowres_wide_intrinsics/40753679_{stamp + 0.001 * (index % 2):.3f}.pincam"
        write(lens, f"{s.width} {s.height} {numbers([K[0, 0], K[1, 1], K[0, 2], K[1, 2]])}")
        c_T_w = invert(T)
        turn = Rotation.from_matrix(c_T_w[:3, :3]).as_rotvec()
        lines.append(f"{stamp + 0.0004:.6f} {numbers([*turn, *c_T_w[:3, 3]])}")
    write(folder / "lowres_wide.traj", *lines)


def float3(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = ["float", values.ndim, *reversed(values.shape)]
    path.write_bytes("".join(f"{line}\n" for line in head).encode() + values.astype("<f4").tobytes())


def staticthings3d(s: RenderedSequence, root: Path, converted: bool = False) -> None:
    for index, (image, depth, T) in enumerate(zip(s.images, s.depths, s.w_T_c, strict=True)):
        place, name = "TRAIN/A/0000", f"{index + 6:04d}"

        def at(kind: str, suffix: str, place: str = place, name: str = name) -> Path:
            inside = f"{place}/{kind}/left" if converted else f"{kind}/{place}/left"
            return root / inside / f"{name}.{suffix}"

        write_image(at("frames_cleanpass", "png"), image)
        float3(at("depths", "float3"), depth)
        float3(at("poses", "float3"), invert(T))
        lens = at("intrinsics", "float3")
        float3(lens if converted else lens.parents[1] / lens.name, data_trees.K_of(s))


def habitat(s: RenderedSequence, root: Path, split: str = "train") -> None:
    scene, frames = root / split / "00006-HkseAnWCgqk", []
    turn = np.diag([1.0, -1.0, -1.0])
    for index, (image, depth, T) in enumerate(zip(s.images, s.depths, s.w_T_c, strict=True)):
        color, deep = f"color/{index:06d}.jpg", f"depth/{index:06d}.{'npy' if index % 2 else 'png'}"
        write_image(scene / color, image)
        (scene / "depth").mkdir(exist_ok=True)
        np.save(scene / deep, depth) if index % 2 else write_png16(scene / deep, np.rint(1000 * depth))
        x, y, z, w = quaternion(T[:3, :3] @ turn)
        frames.append(
            {"color": color, "depth": deep, "position": T[:3, 3].tolist(), "rotation": list(map(float, (w, x, y, z)))}
        )
    hfov = float(np.degrees(2 * np.arctan(s.width / 2 / s.focal)))
    text = json.dumps({"width": s.width, "height": s.height, "hfov": hfov, "frames": frames})
    write(scene / "frames.json", text)


def observations(s: RenderedSequence) -> list[np.ndarray]:
    """Which of some points on the surfaces each frame registered, a third of what it sees: (N,) numbers."""
    points = np.concatenate([
        data_trees.cloud_of(s, index, 6) @ T[:3, :3].T + T[:3, 3] for index, T in enumerate(s.w_T_c)
    ])  # fmt: skip
    K, found, rng = data_trees.K_of(s), [], np.random.default_rng(0)
    for depth, T in zip(s.depths, s.w_T_c, strict=True):
        camera = (points - T[:3, 3]) @ T[:3, :3]
        uv = np.rint((camera @ K.T)[:, :2] / np.maximum(camera[:, 2:], 1e-6)).astype(int)
        inside = (camera[:, 2] > 0) & (uv >= 0).all(axis=1) & (uv < [s.width, s.height]).all(axis=1)
        u, v = np.where(inside[:, None], uv, 0).T
        visible = inside & (np.abs(depth[v, u] - camera[:, 2]) < 0.02 * camera[:, 2])
        found.append(np.flatnonzero(visible & (rng.random(len(points)) < 0.33)) + 1)
    return found


def colmap_text(s: RenderedSequence, folder: Path, names: list[str], camera: str) -> None:
    """cameras.txt and images.txt; ``camera`` is all of its line but the number."""
    write(folder / "cameras.txt", "# Camera list", f"1 {camera}")
    lines = ["# Image list with two lines of data per image:"]
    for index, (name, T, seen) in enumerate(zip(names, s.w_T_c, observations(s), strict=True)):
        c_T_w = invert(T)
        x, y, z, w = quaternion(c_T_w[:3, :3])
        lines.append(f"{index + 1} {numbers([w, x, y, z, *c_T_w[:3, 3]])} 1 {name}")
        lines.append(" ".join(["1.5 2.5 -1", *(f"1.0 2.0 {point}" for point in seen)]))
    write(folder / "images.txt", *lines)


def colmap_binary(s: RenderedSequence, folder: Path, names: list[str], parameters: list[float]) -> None:
    """cameras.bin with one PINHOLE, images.bin."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.bin").write_bytes(struct.pack("<QIiQQ4d", 1, 1, 1, 2 * s.width, 2 * s.height, *parameters))
    parts = [struct.pack("<Q", len(names))]
    for index, (name, T, seen) in enumerate(zip(names, s.w_T_c, observations(s), strict=True)):
        c_T_w = invert(T)
        x, y, z, w = quaternion(c_T_w[:3, :3])
        parts.append(struct.pack("<I7dI", index + 1, w, x, y, z, *c_T_w[:3, 3], 1) + name.encode() + b"\0")
        parts.append(struct.pack("<Q", len(seen) + 1) + struct.pack("<ddq", 1.5, 2.5, -1))
        parts += [struct.pack("<ddq", 1.0, 2.0, point) for point in seen]
    (folder / "images.bin").write_bytes(b"".join(parts))


def megadepth(s: RenderedSequence, root: Path) -> None:
    """The model is of images twice as large, as their lens was taken out."""
    folder = root / "MegaDepth_v1/phoenix/S6/zl548/MegaDepth_v1/0000/dense0"
    names = [f"{index}_o.jpg" for index in range(len(s))]
    for name, image, depth in zip(names, s.images, s.depths, strict=True):
        write_image(folder / "imgs" / name, image)
        (folder / "depths").mkdir(exist_ok=True)
        with h5py.File(folder / "depths" / name.replace(".jpg", ".h5"), "w") as file:
            file["depth"] = depth
    model = root / "Undistorted_SfM/0000/sparse"
    colmap_binary(s, model, names, [2 * s.focal, 2 * s.focal, float(s.width), float(s.height)])


class Lens(NamedTuple):
    """What a lens makes of a rendered sequence: raw images and depth, and how it is calibrated."""

    calibration: Calibration
    images: list[Image]
    depths: list[Array32]


def through(s: RenderedSequence, focal: float, model: str, coefficients: tuple[float, ...]) -> Lens:
    K = data_trees.K_of(s)
    c = Calibration(s.width, s.height, focal, focal, K[0, 2] + 0.5, K[1, 2] - 0.5, model, coefficients)
    v, u = np.mgrid[: s.height, : s.width]
    slopes = ray_slopes(c, np.stack([u.ravel(), v.ravel()], axis=-1))
    maps = (slopes * s.focal + K[:2, 2]).reshape(s.height, s.width, 2).astype(np.float32)
    x, y = maps[..., 0], maps[..., 1]
    inside = (x >= 0) & (y >= 0) & (x <= s.width - 1) & (y <= s.height - 1)
    images = [np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR)) for image in s.images]
    # Bilinear between inverse depths, which is exact on planes.
    inverse = [cv2.remap(1 / depth, x, y, cv2.INTER_LINEAR, borderValue=1.0) for depth in s.depths]
    return Lens(c, images, [np.where(inside, 1 / part, 0).astype(np.float32) for part in inverse])


def scannetpp(s: RenderedSequence, root: Path, device: str = "both") -> None:
    write(root / "splits/nvs_sem_train.txt", "036bce3393")
    scene = root / "data/036bce3393"
    # A fisheye's focal is that of the middle; what it sees beyond the rendered image has no depth.
    lenses = {
        "dslr": (through(s, 0.9 * s.focal, "equidistant", (0.02, -0.01, 0.0, 0.0)), "OPENCV_FISHEYE", "DSC{:05d}.JPG"),
        "iphone": (through(s, s.focal, "plumb_bob", (0.05, -0.02, 0.001, 0.0)), "OPENCV", "frame_{:06d}.jpg"),
    }
    for name, (lens, model, form) in lenses.items():
        if device not in ("both", name):
            continue
        names = [form.format(10 * index) for index in range(len(s))]
        pictures = scene / name / ("resized_images" if name == "dslr" else "rgb")
        for file, image, depth in zip(names, lens.images, lens.depths, strict=True):
            pictures.mkdir(parents=True, exist_ok=True)
            flags = [cv2.IMWRITE_JPEG_QUALITY, 100]
            (pictures / file).write_bytes(cv2.imencode(".jpg", image[..., ::-1], flags)[1].tobytes())
            write_png16(scene / name / f"render_depth/{Path(file).stem}.png", np.rint(1000 * depth))
        c = lens.calibration
        line = f"{model} {c.width} {c.height} {numbers([c.fx, c.fy, c.cx + 0.5, c.cy + 0.5, *c.coefficients])}"
        colmap_text(s, scene / name / "colmap", [f"video/{file}" if name == "iphone" else file for file in names], line)


# Of the waymo tree: the camera in the vehicle, and the lidar, which is in the camera's place and turned.
_V_T_CAMERA = pose(Rotation.from_euler("zyx", [0.1, -0.03, 0.02]).as_matrix(), [1.5, 0.1, 2.0])
_V_T_LIDAR = pose(Rotation.from_euler("z", 0.7).as_matrix(), _V_T_CAMERA[:3, 3])
_BEAMS, _COLUMNS = 90, 600
FRONT = 1


def waymo(s: RenderedSequence, root: Path, split: str = "training") -> None:
    """One camera with a lens, the top lidar, whose points have poses of their own."""
    lens = through(s, s.focal, "plumb_bob", (0.05, -0.02, 0.001, -0.001, 0.0))
    frames = [_frame(s, lens, index) for index in range(len(s))]
    file = root / split / "segment-100_with_camera_labels.tfrecord"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(wire.records(frames))


def _frame(s: RenderedSequence, lens: Lens, index: int) -> bytes:
    c = lens.calibration
    w_T_v = s.w_T_c[index] @ invert(_V_T_CAMERA @ BODY_T_OPTICAL)
    k = c.coefficients
    camera = wire.number(1, FRONT) + wire.doubles(2, [c.fx, c.fy, c.cx + 0.5, c.cy + 0.5, *k])
    camera += wire.transform(3, _V_T_CAMERA) + wire.number(4, c.width) + wire.number(5, c.height)
    inclinations = np.linspace(-0.75, 0.5, _BEAMS) ** 3 + np.linspace(-0.25, 0.4, _BEAMS)  # not even, not symmetric
    laser = wire.number(1, 1) + wire.doubles(2, inclinations) + wire.transform(5, _V_T_LIDAR)
    context = wire.data(1, b"100") + wire.data(2, camera) + wire.data(3, laser)
    picture = cv2.imencode(".jpg", lens.images[index][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    image = wire.number(1, FRONT) + wire.data(2, picture) + wire.transform(3, w_T_v)
    ranges, projections = _scan(s, lens, index, inclinations)
    rpy = Rotation.from_matrix(w_T_v[:3, :3]).as_euler("ZYX")[::-1]
    poses = np.broadcast_to(np.concatenate([rpy, w_T_v[:3, 3]]), (_BEAMS, _COLUMNS, 6))
    parts = (np.stack([ranges, *[np.zeros_like(ranges)] * 3], axis=-1), projections, poses)
    returned = b"".join(wire.data(2 + at, zlib.compress(wire.matrix(part))) for at, part in enumerate(parts))
    # The frame's own pose is that of another moment: of no use to the top lidar.
    elsewhere = pose(np.eye(3), [0.3, 0, 0]) @ w_T_v
    return (
        wire.data(1, context) + wire.number(2, 1000 * index) + wire.transform(3, elsewhere) + wire.data(4, image)
        + wire.data(5, wire.number(1, 1) + wire.data(2, returned))
    )  # fmt: skip


def _scan(s: RenderedSequence, lens: Lens, index: int, inclinations: Array) -> tuple[Array, np.ndarray]:
    """The range image (beams, columns), 0 = none, and its projections (beams, columns, 6)."""
    own = np.arctan2(_V_T_LIDAR[1, 0], _V_T_LIDAR[0, 0])
    azimuth = np.pi * (2 * (np.arange(_COLUMNS)[::-1] + 0.5) / _COLUMNS - 1) - own
    level, up = np.cos(inclinations[::-1])[:, None], np.sin(inclinations[::-1])[:, None]
    rays = np.stack(np.broadcast_arrays(level * np.cos(azimuth), level * np.sin(azimuth), up), axis=-1)
    optical = rays @ _V_T_LIDAR[:3, :3].T @ (_V_T_CAMERA @ BODY_T_OPTICAL)[:3, :3]
    x, y, z = np.moveaxis(optical, -1, 0)
    K, safe = data_trees.K_of(s), np.where(z > 0.1, z, 1.0)
    u, v = K[0, 0] * x / safe + K[0, 2], K[1, 1] * y / safe + K[1, 2]
    inside = (z > 0.1) & (u >= 0) & (v >= 0) & (u <= s.width - 1) & (v <= s.height - 1)
    inverse = cv2.remap(1 / s.depths[index], u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR)
    c = lens.calibration
    raw_K = np.array([[c.fx, 0, c.cx], [0, c.fy, c.cy], [0, 0, 1]])
    slopes = np.where(inside[..., None], optical / safe[..., None], [0.0, 0.0, 1.0])
    at = cv2.projectPoints(slopes.reshape(-1, 3), np.zeros(3), np.zeros(3), raw_K, np.array(c.coefficients))
    raw = np.rint(np.asarray(at[0]).reshape(*z.shape, 2)).astype(np.int64)
    inside &= (raw >= 0).all(axis=-1) & (raw < [s.width, s.height]).all(axis=-1)
    ranges = np.where(inside, 1 / np.where(inside, inverse * z, 1.0), 0.0)
    projections = np.zeros((*z.shape, 6), np.int64)
    projections[..., 0] = np.where(inside, FRONT, 0)
    projections[..., 1:3] = np.where(inside[..., None], raw, 0)
    return ranges, projections


Opener = Callable[..., PairFolder]  # a set by name, with options of TrainingSet.open

TREES: dict[str, Callable[[RenderedSequence, Path], None]] = {
    "co3d": co3d,
    "blendedmvs": blendedmvs,
    "arkitscenes": arkitscenes,
    "staticthings3d": staticthings3d,
    "habitat": habitat,
    "megadepth": megadepth,
    "scannetpp": scannetpp,
    "waymo": waymo,
}
