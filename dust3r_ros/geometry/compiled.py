"""The compiled inner loops (``*_kernel.c``), if they were built; NumPy replaces them otherwise."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

import dust3r_ros
from dust3r_ros.geometry.pinhole import Pinhole

_NAME = "libdust3r_ros_kernels.so"


def _library() -> ctypes.CDLL | None:
    """Search every folder of this package: the built messages and a checkout lie in different ones."""
    built = [path for folder in dust3r_ros.__path__ if (path := Path(folder) / _NAME).is_file()]
    if not built:
        return None
    library = ctypes.CDLL(str(built[0]))
    library.errors.restype = library.settle.restype = ctypes.c_double
    library.describe.restype = library.find_patches.restype = None
    library.promising_extrema.restype = ctypes.c_long
    return library


LIBRARY = _library()


class _PinholeImage(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_long) for name in ("height", "width")),
        *((name, ctypes.c_double) for name in ("focal", "cx", "cy")),
    ]


class PinholeMaps(ctypes.Structure):
    """A pinhole camera and up to six maps of its image in the library's layout; ``kept``: the arrays it points to."""

    kept: list[np.ndarray]
    _fields_ = [("camera", _PinholeImage), ("maps", ctypes.c_void_p * 6)]

    @classmethod
    def of(cls, camera: Pinhole, *maps: np.ndarray) -> PinholeMaps:
        """``maps`` (H, W, ...), uint8 or converted to float32; the first is (H, W)."""
        kept = [np.ascontiguousarray(part, np.uint8 if part.dtype == np.uint8 else np.float32) for part in maps]
        addresses = (ctypes.c_void_p * 6)(*(part.ctypes.data for part in kept))
        given = cls(_PinholeImage(*maps[0].shape, camera.focal, *camera.center), addresses)
        given.kept = kept
        return given

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy points to copies of the arrays."""
        camera = self.camera
        return PinholeMaps.of, (Pinhole(camera.focal, (camera.cx, camera.cy)), *self.kept)
