"""KITTI: odometry (Geiger et al., CVPR 2012), driving sequences with poses and, with the lidar, depth; and the depth
benchmark (Uhrig et al., 3DV 2017), its 1000 selected validation images with accumulated lidar depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View, nominal
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array, Array32

_LEFT_COLOR, _LEFT_GREY = 2, 0
_PER_METRE = 256.0
_FOLDERS = (".", "val_selection_cropped", "depth_selection/val_selection_cropped")


def read_odometry(path: Path) -> Iterator[Recording]:
    """Sequences of ``path/sequences``: the left colour camera, or the left grey one where there is no colour."""
    for folder in reading.folders(path / "sequences", "calib.txt") if (path / "sequences").is_dir() else []:
        name = folder.name
        yield Recording(name, ODOMETRY.name, _sequence(path, folder), scene=name)


def _sequence(root: Path, folder: Path) -> tuple[View, ...]:
    camera = _LEFT_COLOR if (folder / f"image_{_LEFT_COLOR}").is_dir() else _LEFT_GREY
    K, cam_T_0, cam_T_lidar = _calibration(folder / "calib.txt", camera)
    times = [
        reading.stamp(folder / "times.txt", field) for (field,) in reading.rows(folder / "times.txt", 1, "seconds")
    ]
    images = sorted((folder / f"image_{camera}").glob("*.png"))
    if len(images) != len(times):
        raise InputError(f"'{folder / 'times.txt'}' has {len(times)} stamps for {len(images)} images of image_{camera}")
    poses = _poses(root / "poses" / f"{folder.name}.txt", len(times))
    views = []
    for stamp, w_T_0, file in zip(times, poses, images, strict=True):
        w_T_c = None if w_T_0 is None else w_T_0 @ invert(cam_T_0)
        depth = _scanned(folder / "velodyne" / f"{file.stem}.bin", file, K, cam_T_lidar)
        name = f"sequences/{folder.name}/image_{camera}/{file.name}"
        views.append(View(stamp, f"image_{camera}", K, w_T_c, reading.image_reader(file), depth, name=name))
    return tuple(views)


def _poses(path: Path, count: int) -> list[Array | None]:
    """``w_T_0`` of the left grey camera, one line of a (3, 4) each; None for the sequences whose truth is withheld."""
    if not path.is_file():
        return [None] * count
    lines = reading.rows(path, 12, "the 12 numbers of a pose")
    if len(lines) != count:
        raise InputError(f"'{path}' has {len(lines)} poses; times.txt has {count} stamps")
    return [reading.rigid(path, reading.floats(path, fields).reshape(3, 4)) for fields in lines]


def _calibration(path: Path, camera: int) -> tuple[Array, Array, Array | None]:
    """K, ``cam_T_0`` from the left grey camera, ``cam_T_lidar`` where the file has Tr. Raises ``InputError``."""
    found = {}
    for fields in reading.rows(path, 13, "P0: and 12 numbers"):
        found[fields[0].rstrip(":")] = reading.floats(path, fields[1:]).reshape(3, 4)
    P = found.get(f"P{camera}")
    if P is None:
        raise InputError(f"'{path}' holds {', '.join(found) or 'nothing'}; it must hold P{camera}")
    K = reading.intrinsics(P[0, 0], P[1, 1], P[0, 2], P[1, 2], path)
    # P = K [I | t]: all cameras of the rectified rig have the same orientation.
    cam_T_0 = pose(np.eye(3), np.linalg.solve(K, P[:, 3]))
    return K, cam_T_0, cam_T_0 @ reading.rigid(path, found["Tr"]) if "Tr" in found else None


def _scanned(scan: Path, image: Path, K: Array, cam_T_lidar: Array | None) -> Callable[[], Array32] | None:
    if cam_T_lidar is None or not scan.is_file():
        return None

    def read() -> Array32:
        values = np.fromfile(scan, np.float32)
        if not values.size or values.size % 4:
            raise InputError(f"scan '{scan}' holds {values.size} numbers; it must hold x, y, z, reflectance per point")
        return reading.splatted(
            transform(cam_T_lidar, values.reshape(-1, 4)[:, :3].astype(np.float64)), K, *reading.image_size(image)
        )

    return read


ODOMETRY = Dataset(
    name="kitti-odometry",
    title="KITTI odometry",
    source="KIT and Toyota, https://www.cvlibs.net/datasets/kitti/eval_odometry.php (after registration)",
    fetch="data_odometry_color.zip (or _gray), _calib.zip, _poses.zip and, for depth, _velodyne.zip, all unpacked",
    licence="CC BY-NC-SA 3.0",
    layout="""
PATH/sequences/00/
  calib.txt  times.txt
  image_2/000000.png ...   (or image_0)
  velodyne/000000.bin ...  (optional)
PATH/poses/00.txt ...      (00 to 10)
""",
    notes=(
        "Poses are the left grey camera's; those of image_2 are shifted by its position in the rig (P2). The world\n"
        "frame is that camera at the first image. Depth is the nearest lidar point of each pixel: sparse, and not\n"
        "from a single instant."
    ),
    read=read_odometry,
)


def read_depth(path: Path) -> Iterator[Recording]:
    """One recording: the selection in ``path`` or where the archive puts it below."""
    for folder in (path / inner for inner in _FOLDERS):
        if (folder / "groundtruth_depth").is_dir():
            yield Recording("val_selection_cropped", DEPTH.name, tuple(_selection(folder)), ordered=False, split="val")
            return


def _selection(folder: Path) -> Iterator[View]:
    images = sorted((folder / "image").glob("*.png"))
    depths = sorted((folder / "groundtruth_depth").glob("*.png"))
    if len(images) != len(depths):
        raise InputError(f"'{folder}' holds {len(images)} images and {len(depths)} depth images; they must match")
    for index, file in enumerate(images):
        # 2011_09_26_drive_0002_sync_image_0000000005_image_02.png
        drive, separator, rest = file.name.partition("_sync_image_")
        if not separator:
            raise InputError(f"image '{file}' is not named like DRIVE_sync_image_NUMBER_image_02.png")
        depth = folder / "groundtruth_depth" / f"{drive}_sync_groundtruth_depth_{rest}"
        intrinsics = folder / "intrinsics" / f"{file.stem}.txt"
        M = reading.matrix(intrinsics, 3, 3)
        K = reading.intrinsics(M[0, 0], M[1, 1], M[0, 2], M[1, 2], intrinsics)
        camera = rest.removesuffix(".png").partition("_")[2]
        yield View(
            nominal(index),
            camera,
            K,
            None,
            reading.image_reader(file),
            reading.depth_reader(depth, _PER_METRE),
            name=f"image/{file.name}",
        )


DEPTH = Dataset(
    name="kitti-depth",
    title="KITTI depth prediction (validation selection)",
    source="KIT, https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction (after registration)",
    fetch="data_depth_selection.zip, unpacked",
    licence="CC BY-NC-SA 3.0",
    layout="""
PATH/depth_selection/val_selection_cropped/   (or PATH itself)
  image/2011_09_26_drive_0002_sync_image_0000000005_image_02.png ...
  groundtruth_depth/2011_09_26_drive_0002_sync_groundtruth_depth_0000000005_image_02.png ...
  intrinsics/2011_09_26_drive_0002_sync_image_0000000005_image_02.txt ...
""",
    notes="No poses. Depth: 256 per metre, sparse. Stamps only number the images.",
    read=read_depth,
)
