"""Cameras as MVSNet has them (Yao et al., ECCV 2018); DTU and BlendedMVS come so."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array


def camera(path: Path) -> tuple[Array, Array]:
    """K (3, 3) and ``w_T_c`` (4, 4), in the file's unit, of a file with ``extrinsic`` (world to camera, 4 x 4) and
    ``intrinsic`` (3 x 3). Raises ``InputError``.
    """
    fields = reading.text(path).split()
    if len(fields) < 27 or fields[0] != "extrinsic" or fields[17] != "intrinsic":
        raise InputError(f"'{path}' must hold 'extrinsic' with 16 numbers and 'intrinsic' with 9")
    c_T_w = reading.rigid(path, reading.floats(path, fields[1:17]).reshape(4, 4))
    M = reading.floats(path, fields[18:27]).reshape(3, 3)
    return reading.intrinsics(M[0, 0], M[1, 1], M[0, 2], M[1, 2], path), np.asarray(invert(c_T_w))
