"""The inner loops that are compiled (``*_kernel.c``), where they were built: else NumPy does what they do."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

import dust3r_ros

_NAME = "libdust3r_ros_kernels.so"


def _library() -> ctypes.CDLL | None:
    """Where the messages are, which is another folder of this package in a checkout."""
    built = [path for folder in dust3r_ros.__path__ if (path := Path(folder) / _NAME).is_file()]
    if not built:
        return None
    library = ctypes.CDLL(str(built[0]))
    library.errors.restype = library.settle.restype = ctypes.c_double
    library.describe.restype = None
    return library


LIBRARY = _library()


def address(array: np.ndarray) -> ctypes.c_void_p:
    """Where the numbers of an array are, which must be kept meanwhile."""
    return ctypes.c_void_p(array.ctypes.data)
