"""The compiled inner loops (``*_kernel.c``), if they were built; NumPy replaces them otherwise."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

import dust3r_ros

_NAME = "libdust3r_ros_kernels.so"


def _library() -> ctypes.CDLL | None:
    """Search every folder of this package: the built messages and a checkout lie in different ones."""
    built = [path for folder in dust3r_ros.__path__ if (path := Path(folder) / _NAME).is_file()]
    if not built:
        return None
    library = ctypes.CDLL(str(built[0]))
    library.errors.restype = library.settle.restype = ctypes.c_double
    library.describe.restype = None
    library.promising_extrema.restype = ctypes.c_long
    return library


LIBRARY = _library()


def address(array: np.ndarray) -> ctypes.c_void_p:
    """The address of an array's data; the caller must keep the array alive."""
    return ctypes.c_void_p(array.ctypes.data)
