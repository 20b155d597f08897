"""A rendered sequence written as each data set lies on disk: the readers' other half, with known truth."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat
from spots import numbers, quaternion, write, write_image, write_png16

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.evaluation.datasets.tum import _ICL_MIRROR, _ROS, bonn_pose
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.products.ply import write_ply
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.types import Array, Array32

_CAMERA_T_LIDAR = pose(np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), [0.0, -0.08, -0.27])


def K_of(s: RenderedSequence) -> Array:  # noqa: N802
    """(3, 3)."""
    return np.array([[s.focal, 0, (s.width - 1) / 2], [0, s.focal, (s.height - 1) / 2], [0, 0, 1.0]])


def cloud_of(s: RenderedSequence, index: int, step: int = 3) -> Array:
    """(N, 3) what frame ``index`` sees, in its camera's frame, of every ``step``-th row and column."""
    seen = np.zeros(s.depths[index].shape, bool)
    seen[::step, ::step] = True
    return unproject(s.depths[index].astype(np.float64), s.focal)[seen & (s.depths[index] > 0)]


def tum_line(stamp: str, T: Array) -> str:
    return f"{stamp} {numbers([*T[:3, 3], *quaternion(T[:3, :3])])}"


def write_listed(s: RenderedSequence, folder: Path, as_written: Callable[[Array], Array] = lambda T: T) -> None:
    """rgb.txt, depth.txt and groundtruth.txt, as TUM RGB-D has them."""
    names = [f"{int(stamp) // 10**9}.{int(stamp) % 10**9:09d}" for stamp in s.stamps_ns]
    for name, image, depth in zip(names, s.images, s.depths, strict=True):
        write_image(folder / f"rgb/{name}.png", image)
        write_png16(folder / f"depth/{name}.png", np.rint(5000 * depth))
    write(folder / "rgb.txt", "# timestamp filename", *(f"{name} rgb/{name}.png" for name in names))
    write(folder / "depth.txt", *(f"{name} depth/{name}.png" for name in names))
    poses = zip(names, s.w_T_c, strict=True)
    write(folder / "groundtruth.txt", *(tum_line(name, as_written(T)) for name, T in poses))


def tum(s: RenderedSequence, root: Path) -> None:
    write_listed(s, root / "rgbd_dataset_freiburg3_room")


def write_bonn(s: RenderedSequence, root: Path) -> None:
    camera_T_written = bonn_pose(np.eye(4))  # ros^-1 T ros marker_T_c of T = 1
    ros = _ROS
    marker_T_c = camera_T_written  # ros^-1 ros is 1
    write_listed(s, root / "rgbd_bonn_room", lambda T: ros @ T @ np.linalg.inv(marker_T_c) @ ros.T)


def seven_scenes(s: RenderedSequence, root: Path) -> None:
    """Every third frame is a query; depth as somebody registered it."""
    scene = root / "room"
    write(scene / "TrainSplit.txt", "sequence1")
    write(scene / "TestSplit.txt", "sequence2")
    for index, (image, depth, T) in enumerate(zip(s.images, s.depths, s.w_T_c, strict=True)):
        start = scene / f"seq-{1 + (index % 3 == 1):02d}/frame-{index:06d}"
        write_image(start.with_name(f"{start.name}.color.png"), image)
        write_png16(start.with_name(f"{start.name}.depth.proj.png"), np.rint(1000 * depth))
        write(start.with_name(f"{start.name}.pose.txt"), *map(numbers, T))


def euroc(s: RenderedSequence, root: Path) -> None:
    mav = root / "MH_room/mav0"
    K = K_of(s)
    images, truth = [], []
    for stamp, image, T in zip(s.stamps_ns, s.images, s.w_T_c, strict=True):
        write_image(mav / f"cam0/data/{stamp}.png", np.repeat(image.mean(axis=2, keepdims=True), 3, 2).astype(np.uint8))
        images.append(f"{stamp},{stamp}.png")
        xyzw = quaternion(T[:3, :3])
        line = numbers([*T[:3, 3], xyzw[3], *xyzw[:3], *[0.0] * 9])
        truth.append(f"{stamp},{line.replace(' ', ',')}")
    write(mav / "cam0/data.csv", "#timestamp [ns],filename", *images)
    write(mav / "state_groundtruth_estimate0/data.csv", "#timestamp, p_RS_R_x [m], ...", *truth)
    eye = numbers(np.eye(4)).replace(" ", ", ")
    write(
        mav / "cam0/sensor.yaml",
        "camera_model: pinhole",
        f"T_BS: {{cols: 4, rows: 4, data: [{eye}]}}",
        f"resolution: [{s.width}, {s.height}]",
        f"intrinsics: [{K[0, 0]}, {K[1, 1]}, {K[0, 2]}, {K[1, 2]}]",
        "distortion_model: radial-tangential",
        "distortion_coefficients: [0.0, 0.0, 0.0, 0.0]",
    )


def write_icl(s: RenderedSequence, root: Path) -> None:
    folder, mirror, lines, truth = root / "living_room_traj0_frei_png", _ICL_MIRROR, [], []
    for index, (image, depth, T) in enumerate(zip(s.images, s.depths, s.w_T_c, strict=True)):
        write_image(folder / f"rgb/{index}.png", image)
        write_png16(folder / f"depth/{index}.png", np.rint(5000 * depth))
        lines.append(f"{index} depth/{index}.png {index} rgb/{index}.png")
        truth.append(tum_line(str(index), mirror @ T @ mirror))
    write(folder / "associations.txt", *lines)
    write(folder / "livingRoom0.gt.freiburg", *truth)


def scannet(s: RenderedSequence, root: Path) -> None:
    folder = root / "scans/scene0000_00"
    K = np.eye(4)
    K[:3, :3] = K_of(s)
    for name in ("color", "depth"):
        write(folder / f"intrinsic/intrinsic_{name}.txt", *map(numbers, K))
    for index, (image, depth, T) in enumerate(zip(s.images, s.depths, s.w_T_c, strict=True)):
        write_image(folder / f"color/{index}.jpg", image)
        write_png16(folder / f"depth/{index}.png", np.rint(1000 * depth))
        write(folder / f"pose/{index}.txt", *map(numbers, T))


def cambridge(s: RenderedSequence, root: Path) -> None:
    """Every third frame is a query."""
    scene = root / "ShopFacade"
    lists: dict[str, list[str]] = {"train": [], "test": []}
    cameras = []
    for index, (image, T) in enumerate(zip(s.images, s.w_T_c, strict=True)):
        name = f"seq1/frame{index:05d}"
        write_image(scene / f"{name}.png", image)
        xyzw = quaternion(T[:3, :3].T)
        lists["test" if index % 3 == 1 else "train"].append(f"{name}.png {numbers([*T[:3, 3], xyzw[3], *xyzw[:3]])}")
        cameras.append(f"{name}.jpg {s.focal!r} 1 0 0 0 0 0 0 0 0")
    for part, lines in lists.items():
        head = ("Visual Landmark Dataset V1", "ImageFile, Camera Position [X Y Z W P Q R]", "")
        write(scene / f"dataset_{part}.txt", *head, *lines)
    write(scene / "reconstruction.nvm", "NVM_V3", "", str(len(cameras)), *cameras)


def co3d(s: RenderedSequence, root: Path) -> None:
    turn, half = np.diag([-1.0, -1.0, 1.0]), min(s.width, s.height) / 2
    sequence, frames = "110_13051_23361", []
    for index, (image, depth, T) in enumerate(zip(s.images, s.depths, s.w_T_c, strict=True)):
        start, c_T_w = f"apple/{sequence}", invert(T)
        picture = f"{start}/images/frame{index + 1:06d}.jpg"
        deep = f"{start}/depths/frame{index + 1:06d}.jpg.geometric.png"
        write_image(root / picture, image)
        write_png16(root / deep, depth.astype(np.float16).view(np.uint16))
        frames.append(
            {
                "sequence_name": sequence,
                "frame_number": index,
                "frame_timestamp": 0.2 * index,
                "image": {"path": picture, "size": [s.height, s.width]},
                "depth": {"path": deep, "scale_adjustment": 1.0},
                "viewpoint": {
                    "R": (turn @ c_T_w[:3, :3]).T.tolist(),
                    "T": (turn @ c_T_w[:3, 3]).tolist(),
                    "focal_length": [s.focal / half] * 2,
                    "principal_point": [0.0, 0.0],
                    "intrinsics_format": "ndc_isotropic",
                },
            }
        )
    (root / "apple/frame_annotations.jgz").write_bytes(gzip.compress(json.dumps(frames).encode()))


def realestate10k(s: RenderedSequence, root: Path) -> None:
    size = np.array([s.width, s.height])
    lines = ["https://www.youtube.com/watch?v=none"]
    for stamp, image, T in zip((s.stamps_ns - s.stamps_ns[0]) // 1000, s.images, s.w_T_c, strict=True):
        write_image(root / f"test/000c3ab189999a83/{stamp}.jpg", image)
        lines.append(f"{stamp} {numbers([*(s.focal / size), 0.5, 0.5, 0, 0, *invert(T)[:3].ravel()])}")
    write(root / "test/000c3ab189999a83.txt", *lines)


def nyu(s: RenderedSequence, root: Path) -> None:
    for index, (image, depth) in enumerate(zip(s.images, s.depths, strict=True)):
        folder = root / f"official_splits/{'train' if index % 2 else 'test'}/bathroom"
        write_image(folder / f"rgb_{index + 1:05d}.jpg", image)
        write_png16(folder / f"sync_depth_{index + 1:05d}.png", np.rint(1000 * depth))


def kitti_odometry(s: RenderedSequence, root: Path) -> None:
    folder, K = root / "sequences/00", K_of(s)
    shift = np.array([[0.06, 0, 0]]).T  # of the left colour camera, as P2 has it
    world = invert(s.w_T_c[0])
    poses = []
    for index, (image, T) in enumerate(zip(s.images, s.w_T_c, strict=True)):
        write_image(folder / f"image_2/{index:06d}.png", image)
        scan = transform(invert(_CAMERA_T_LIDAR), cloud_of(s, index, 2))
        file = folder / f"velodyne/{index:06d}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.column_stack([scan, np.ones(len(scan))]).astype(np.float32).tofile(file)
        poses.append(numbers((world @ T @ pose(np.eye(3), shift.ravel()))[:3]))
    projections = {name: K @ np.hstack([np.eye(3), shift * (name == "P2")]) for name in ("P0", "P1", "P2", "P3")}
    lidar = invert(pose(np.eye(3), shift.ravel())) @ _CAMERA_T_LIDAR
    projections["Tr"] = lidar[:3]
    write(folder / "calib.txt", *(f"{name}: {numbers(P)}" for name, P in projections.items()))
    write(folder / "times.txt", *(f"{(stamp - s.stamps_ns[0]) / 1e9:e}" for stamp in s.stamps_ns))
    write(root / "poses/00.txt", *poses)


def kitti_depth(s: RenderedSequence, root: Path) -> None:
    folder, drive = root / "depth_selection/val_selection_cropped", "2011_09_26_drive_0002"
    for index, (image, depth) in enumerate(zip(s.images, s.depths, strict=True)):
        name = f"{index:010d}_image_02"
        write_image(folder / f"image/{drive}_sync_image_{name}.png", image)
        write_png16(folder / f"groundtruth_depth/{drive}_sync_groundtruth_depth_{name}.png", np.rint(256 * depth))
        write(folder / f"intrinsics/{drive}_sync_image_{name}.txt", numbers(K_of(s)))


def ddad(s: RenderedSequence, root: Path) -> None:
    scene, data, samples = root / "000150", [], []

    def posed(T: Array) -> dict[str, Any]:
        turn = dict(zip(("qx", "qy", "qz", "qw"), map(float, quaternion(T[:3, :3])), strict=True))
        return {"translation": dict(zip("xyz", map(float, T[:3, 3]), strict=True)), "rotation": turn}

    def datum(key: str, name: str, stamp: str, **value: Any) -> dict[str, Any]:
        return {"id": {"log": "x", "timestamp": stamp, "name": name, "index": "0"}, "key": key, "datum": value}

    for index, (image, T) in enumerate(zip(s.images, s.w_T_c, strict=True)):
        when = datetime.fromtimestamp(int(s.stamps_ns[index]) // 10**9, tz=timezone.utc)
        stamp = f"{when:%Y-%m-%dT%H:%M:%S}.{int(s.stamps_ns[index]) % 10**9:09d}Z"
        write_image(scene / f"rgb/CAMERA_01/{index}.png", image)
        scan = scene / f"point_cloud/LIDAR/{index}.npz"
        scan.parent.mkdir(parents=True, exist_ok=True)
        np.savez(scan, data=transform(invert(_CAMERA_T_LIDAR), cloud_of(s, index, 2)).astype(np.float32))
        picture = {"filename": f"rgb/CAMERA_01/{index}.png", "pose": posed(T)}
        cloud = {"filename": f"point_cloud/LIDAR/{index}.npz", "pose": posed(T @ _CAMERA_T_LIDAR)}
        data += [
            datum(f"l{index}", "LIDAR", stamp, point_cloud=cloud),
            datum(f"c{index}", "CAMERA_01", stamp, image=picture),
        ]
        samples.append({"datum_keys": [f"l{index}", f"c{index}"], "calibration_key": "k"})
    K = K_of(s)
    lens = {"fx": K[0, 0], "fy": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
    write(scene / "calibration/k.json", json.dumps({"names": ["CAMERA_01"], "intrinsics": [lens]}))
    write(scene / "scene_x.json", json.dumps({"name": "scene", "data": data, "samples": samples}))
    write(root / "ddad.json", json.dumps({"scene_splits": {"1": {"filenames": ["000150/scene_x.json"]}}}))


def dtu(s: RenderedSequence, root: Path) -> None:
    """MVSNet's layout, in millimetres, with the scanned points, all space observed and a plane below all."""
    K, clouds = K_of(s), []
    for index, (image, T) in enumerate(zip(s.images, s.w_T_c, strict=True)):
        c_T_w = invert(T)
        c_T_w[:3, 3] *= 1000
        write_image(root / f"scan1/images/{index:08d}.jpg", image)
        rows = ("extrinsic", *map(numbers, c_T_w), "", "intrinsic", *map(numbers, K), "", "425.0 2.5")
        write(root / f"scan1/cams/{index:08d}_cam.txt", *rows)
        write_pfm(root / f"Depths_raw/scan1/depth_map_{index:04d}.pfm", 1000 * s.depths[index])
        clouds.append(1000 * transform(T, cloud_of(s, index)))
    points = np.concatenate(clouds).astype(np.float32)
    (root / "Points/stl").mkdir(parents=True)
    (root / "ObsMask").mkdir()
    write_ply(root / "Points/stl/stl001_total.ply", Cloud(points, np.zeros(points.shape, np.uint8), points[:, 0] * 0))
    low, high = points.min(axis=0) - 50.0, points.max(axis=0) + 50.0
    seen = np.ones(np.ceil((high - low) / 100.0).astype(int), np.uint8)
    savemat(str(root / "ObsMask/ObsMask1_10.mat"), {"ObsMask": seen, "BB": np.stack([low, high]), "Res": 100.0})
    savemat(str(root / "ObsMask/Plane1.mat"), {"P": np.array([[0.0, 0.0, 1.0, 1000.0]])})


def write_pfm(path: Path, depth: Array32) -> None:
    """Rows from the bottom up; a negative scale says little endian."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"Pf\n{depth.shape[1]} {depth.shape[0]}\n-1.0\n".encode()
    path.write_bytes(head + depth[::-1].astype("<f4").tobytes())


# How a data set lies, and the focal (pixels) that its reader takes for images of 640 x 480 where no file tells it.
LAYOUTS: dict[str, tuple[Callable[[RenderedSequence, Path], None], float | None]] = {
    "tum": (tum, 537.3),
    "7scenes": (seven_scenes, 525.0),
    "euroc": (euroc, None),
    "icl-nuim": (write_icl, 480.6),
    "scannet": (scannet, None),
    "cambridge": (cambridge, None),
    "co3d": (co3d, None),
    "realestate10k": (realestate10k, None),
    "nyu": (nyu, 519.2),
    "bonn": (write_bonn, 542.7),
    "kitti-odometry": (kitti_odometry, None),
    "kitti-depth": (kitti_depth, None),
    "ddad": (ddad, None),
    "dtu": (dtu, None),
}
