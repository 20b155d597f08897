"""What a process that receives images asks of its allocator and its middleware, before ROS starts.

Measured at 640 x 480, 30 Hz, two cores: a reliable image of a publisher with default settings comes after 14 ms without
this, after 7 ms by shared memory, after 2 ms by sockets that hold it; a best-effort one in 19, 29 and 100 of 100 cases.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# Settings of Fast DDS, the default middleware, for messages as large as images.
PROFILES = Path(__file__).with_name("fastdds.xml")
# The same, but images are received by sockets.
SOCKETS = Path(__file__).with_name("fastdds_sockets.xml")
# What Linux must let a socket hold for that: two images of 640 x 480, or one of 1280 x 720; it counts double.
_SOCKET_BYTES = 1 << 21
_LARGEST = Path("/proc/sys/net/core/rmem_max")
# By one of these a user has settings of their own, which are left alone.
_OF_USER = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
# Parameters of mallopt (malloc.h of glibc) and the bytes they get; MMAP_THRESHOLD takes no more than 32 MiB.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT = {_MMAP_THRESHOLD: 1 << 25, _TRIM_THRESHOLD: 1 << 28, _TOP_PAD: 1 << 24}


def prepare() -> None:
    """Both; call it first in a process."""
    keep_memory()
    use_profiles()


def keep_memory() -> bool:
    """Have malloc keep the memory of images for the next ones; returns whether it can (glibc).

    By default it maps every block of that size anew, and the kernel clears it page by page at each image.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in _KEPT.items())


def use_profiles() -> bool:
    """Let Fast DDS read ``PROFILES`` or ``SOCKETS`` when ROS starts; returns whether it will.

    The user's own settings go first.
    """
    if any(name in os.environ for name in _OF_USER) or Path("DEFAULT_FASTRTPS_PROFILES.xml").exists():
        return False
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(SOCKETS if sockets_hold_images() else PROFILES)
    return True


def sockets_hold_images() -> bool:
    """Whether Linux lets a socket have room for whole images."""
    try:
        return int(_LARGEST.read_text()) >= _SOCKET_BYTES
    except (OSError, ValueError):  # not Linux
        return False
