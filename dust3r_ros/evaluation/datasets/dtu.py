"""DTU MVS (Jensen et al., CVPR 2014): objects on a robot's table, as MVSNet lays them out or as the authors do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View, nominal, scaled
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.layouts import colmap_model, reading
from dust3r_ros.types import Array, Array32

_METRES = 1e-3  # the files are in millimetres
_CALIBRATION = "Calibration/cal18"
_MEASURED = 10  # of 255 in a depth_visual, as in MVSNet's own evaluation


def read(path: Path) -> Iterator[Recording]:
    """Scans ``scanN``: folders with cams and images (MVSNet) in ``path``, or those of ``path/Rectified``."""
    colmap_model = _scans(cams.parent for cams in path.glob("scan*/cams"))
    for number, scan in colmap_model or _scans(path.glob("Rectified/scan*")):
        views = tuple(_mvsnet(path, scan) if colmap_model else _rectified(path, scan))
        yield Recording(scan.name, DATASET.name, views, ordered=False, scene=scan.name, truth=_truth(path, number))


def _scans(folders: Iterable[Path]) -> list[tuple[int, Path]]:
    """(N, folder) of the folders that are named scanN, by N."""
    named = ((re.fullmatch(r"scan(\d+)", folder.name), folder) for folder in folders)
    return sorted((int(found.group(1)), folder) for found, folder in named if found and folder.is_dir())


def _truth(path: Path, number: int) -> dict[str, Path]:
    """The files that the DTU protocol reads (in millimetres), as far as they exist."""
    files = {
        "points": path / f"Points/stl/stl{number:03d}_total.ply",
        "observed": path / f"ObsMask/ObsMask{number}_10.mat",
        "plane": path / f"ObsMask/Plane{number}.mat",
    }
    return {name: file for name, file in files.items() if file.is_file()}


def _mvsnet(path: Path, scan: Path) -> Iterator[View]:
    for image in sorted((scan / "images").glob("*")):
        reading.existing(scan / "cams" / f"{image.stem}_cam.txt", "camera")
    for index, cam in enumerate(sorted((scan / "cams").glob("*_cam.txt"))):
        K, w_T_c = colmap_model.camera(cam)
        stem = cam.name.removesuffix("_cam.txt")
        image = next((file for file in sorted((scan / "images").glob(f"{stem}.*"))), scan / "images" / f"{stem}.jpg")
        depth = path / "Depths_raw" / scan.name / f"depth_map_{reading.whole(cam, stem):04d}.pfm"
        read_depth = _pfm(depth) if depth.is_file() else None
        name, w_T_c = f"{scan.name}/images/{image.name}", scaled(w_T_c, _METRES)
        yield View(nominal(index), "camera", K, w_T_c, reading.image_reader(image), read_depth, name=name)


def _rectified(path: Path, scan: Path) -> Iterator[View]:
    """Images of one light (the fourth, as MVSNet's) with their projection matrices."""
    for index, image in enumerate(sorted(scan.glob("rect_*_3_r5000.png"))):
        K, w_T_c = _projection(path / _CALIBRATION / f"pos_{image.name.split('_')[1]}.txt")
        name = f"Rectified/{scan.name}/{image.name}"
        yield View(nominal(index), "camera", K, w_T_c, reading.image_reader(image), name=name)


def _projection(path: Path) -> tuple[Array, Array]:
    """K and ``w_T_c`` of a projection matrix P = K [R | t]."""
    import cv2

    P = reading.matrix(path, 3, 4)
    if abs(np.linalg.det(P[:, :3])) < 1e-12:
        raise InputError(f"'{path}' holds a projection matrix that is singular")
    K, R, center = cv2.decomposeProjectionMatrix(P * np.sign(np.linalg.det(P[:, :3])))[:3]
    K = K / K[2, 2]
    w_T_c = reading.rigid(path, pose(R.T, (center[:3] / center[3]).ravel()))
    return reading.intrinsics(K[0, 0], K[1, 1], K[0, 2], K[1, 2], path), scaled(w_T_c, _METRES)


def _pfm(path: Path) -> Callable[[], Array32]:
    """Depth of an MVSNet map, masked by its depth_visual where there is one."""
    mask = path.with_name(path.name.replace("depth_map", "depth_visual")).with_suffix(".png")
    measured = reading.image_reader(mask) if mask.is_file() else None

    def read() -> Array32:
        depth = reading.read(path)
        good = depth > 0
        if measured is not None:
            seen = measured()[..., 0]
            if seen.shape != depth.shape:
                raise InputError(f"mask '{mask}' is {seen.shape}; it must be {depth.shape} as its depth map")
            good &= seen > _MEASURED
        return np.asarray(np.where(good, depth * np.float32(_METRES), 0), np.float32)

    return read


DATASET = Dataset(
    name="dtu",
    title="DTU MVS",
    source="Technical University of Denmark, https://roboimagedata.compute.dtu.dk/?page_id=36",
    fetch="Points.zip and ObsMask (SampleSet.zip); images from Rectified.zip, or MVSNet's dtu test set",
    licence="none stated (research; cite the paper)",
    layout="""
PATH/scan1/images/00000000.jpg  PATH/scan1/cams/00000000_cam.txt   (MVSNet's layout)
PATH/Depths_raw/scan1/depth_map_0000.pfm  depth_visual_0000.png    (optional)
or
PATH/Rectified/scan1/rect_001_3_r5000.png
PATH/Calibration/cal18/pos_001.txt
with, for the reconstruction protocol,
PATH/Points/stl/stl001_total.ply
PATH/ObsMask/ObsMask1_10.mat  Plane1.mat
""",
    notes=(
        "The files are in millimetres; poses and depth are converted to metres. Recording.truth names the points, the\n"
        "observed volume and the table's plane, which stay in millimetres."
    ),
    read=read,
)
