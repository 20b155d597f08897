"""EuRoC MAV (Burri et al., IJRR 2016), ASL layout: the left camera, with poses of the body."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, Track, View
from dust3r_ros.evaluation.datasets.tum import matrix_of
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array, Calibration

_TOLERANCE_NS = 10_000_000  # poses come at 200 Hz
# ROS names of a sensor.yaml's distortion models, and their numbers of coefficients.
_MODELS = {"radial-tangential": "plumb_bob", "equidistant": "equidistant"}


def read(path: Path) -> Iterator[Recording]:
    """Sequences: ``path`` itself or folders one or two below that hold a mav0."""
    found = [path] if (path / "mav0").is_dir() else []
    found = found or sorted(mav.parent for pattern in ("*/mav0", "*/*/mav0") for mav in path.glob(pattern))
    for folder in found:
        yield Recording(folder.resolve().name, DATASET.name, _views(folder / "mav0"), scene=folder.resolve().name)


def _views(mav: Path) -> tuple[View, ...]:
    calibration, b_T_c = _sensor(mav / "cam0" / "sensor.yaml")
    K, truth = matrix_of(calibration), Track(_poses(mav / "state_groundtruth_estimate0" / "data.csv"))
    listing = mav / "cam0" / "data.csv"
    views = []
    for stamp, file in reading.rows(listing, 2, "nanoseconds,file", ","):
        stamp_ns = reading.whole(listing, stamp)
        w_T_b = truth.at(stamp_ns, _TOLERANCE_NS)
        views.append(
            View(
                stamp_ns,
                "cam0",
                K,
                None if w_T_b is None else w_T_b @ b_T_c,
                reading.image_reader(mav / "cam0" / "data" / file),
                calibration=calibration,
                name=f"{mav.resolve().parent.name}/mav0/cam0/data/{file}",
            )
        )
    return tuple(views)


def _poses(path: Path) -> Iterator[tuple[int, Array]]:
    """(stamp, ``w_T_b``) of lines ``ns, p xyz, q wxyz, v xyz, biases``."""
    for fields in reading.rows(path, 17, "ns,px,py,pz,qw,qx,qy,qz and 9 of velocity and biases", ","):
        numbers = reading.floats(path, fields[1:8])
        yield reading.whole(path, fields[0]), reading.quaternion_pose(path, numbers[:3], numbers[[4, 5, 6, 3]])


def _sensor(path: Path) -> tuple[Calibration, Array]:
    """Lens and ``b_T_c`` (T_BS) of a camera's sensor.yaml. Raises ``InputError`` naming it."""
    try:
        data: Any = yaml.safe_load(reading.text(path))
        camera, model = data["camera_model"], data["distortion_model"]
        width, height = (int(value) for value in data["resolution"])
        fx, fy, cx, cy = (float(value) for value in data["intrinsics"])
        coefficients = tuple(float(value) for value in data["distortion_coefficients"])
        T = np.array(data["T_BS"]["data"], np.float64).reshape(4, 4)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"'{path}' is not a camera's sensor.yaml, with camera_model, intrinsics, resolution, distortion_model, "
            f"distortion_coefficients and T_BS: {type(error).__name__}: {error}"
        ) from error
    if camera != "pinhole" or model not in _MODELS or len(coefficients) != 4:
        raise InputError(
            f"'{path}' has camera_model {camera!r}, distortion_model {model!r} with {len(coefficients)} coefficients;"
            f" pinhole with 4 of {' or '.join(_MODELS)} is known"
        )
    reading.intrinsics(fx, fy, cx, cy, path)
    return Calibration(width, height, fx, fy, cx, cy, _MODELS[model], coefficients), reading.rigid(path, T)


DATASET = Dataset(
    name="euroc",
    title="EuRoC MAV",
    source="ETH Zurich, https://projects.asl.ethz.ch/datasets/doku.php?id=kmavvisualinertialdatasets",
    fetch="the sequences' ASL .zip, unpacked into a folder of the sequence's name",
    licence="non-commercial use permitted",
    layout="""
PATH/MH_01_easy/mav0/
  cam0/sensor.yaml  cam0/data.csv  cam0/data/*.png
  state_groundtruth_estimate0/data.csv
""",
    notes=(
        "The left camera only. Images are distorted: View.calibration has the lens. Poses are the body's times T_BS,\n"
        "interpolated to the image's stamp. No depth."
    ),
    read=read,
)
