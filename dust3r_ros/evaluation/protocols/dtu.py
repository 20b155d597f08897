"""DTU's reference: the scanned points, the volume its scanner observed and the plane its object stands on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.protocols.clouds import ObservedVolume
from dust3r_ros.evaluation.protocols.reconstruction import Reference
from dust3r_ros.evaluation.protocols.recordings import Recording
from dust3r_ros.products.ply import read_ply


def read_reference(
    points: str | Path, observed: str | Path | None = None, plane: str | Path | None = None
) -> Reference:
    """From files as DTU ships them: ``stl006_total.ply``, ``ObsMask6_10.mat`` and ``Plane6.mat``, all in mm.

    The mask has ObsMask (X, Y, Z), BB (2, 3) lowest and highest corner and Res, the edge of a voxel; the plane P (4,).
    Raises ``InputError`` naming the file that is missing or damaged.
    """
    volume = None
    if observed is not None:
        data = _matlab(observed, ("ObsMask", "BB", "Res"))
        seen, low, voxel = (
            np.asarray(data["ObsMask"]) > 0,
            np.asarray(data["BB"], np.float64),
            float(np.ravel(data["Res"])[0]),
        )
        if seen.ndim != 3 or low.shape != (2, 3) or not (np.isfinite(low).all() and voxel > 0):
            raise InputError(f"'{observed}' holds a mask {seen.shape}, a box {low.shape} and voxels of {voxel} mm")
        volume = ObservedVolume(seen, low[0], voxel)
    normal = None if plane is None else np.ravel(np.asarray(_matlab(plane, ("P",))["P"], np.float64))
    if normal is not None and (normal.shape != (4,) or not np.isfinite(normal).all()):
        raise InputError(f"'{plane}' holds a plane of {normal.size} numbers; it must be 4")
    return Reference(read_ply(points).points.astype(np.float64), volume, normal)


def reference_of(recording: Recording) -> Reference:
    """Of a recording whose ``truth`` names the files: points, and observed and plane where they are there.

    What ``reconstruction.run_reconstruction`` takes as ``reference``. Raises ``InputError`` where there are no points.
    """
    files = getattr(recording, "truth", {})
    if "points" not in files:
        raise InputError(f"'{recording.name}' has no measured points to compare with")
    return read_reference(files["points"], files.get("observed"), files.get("plane"))


def _matlab(path: str | Path, names: tuple[str, ...]) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        data = loadmat(str(path))
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise InputError(f"'{path}' cannot be read as a MATLAB file: {error}") from error
    missing = [name for name in names if name not in data]
    if missing:
        raise InputError(f"'{path}' has no {', '.join(missing)}; it must hold {', '.join(names)}")
    return dict(data)
