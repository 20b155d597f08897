"""ROS domains that no other test process on this machine is in."""

from __future__ import annotations

import fcntl
import random
import tempfile
from pathlib import Path
from typing import IO

DOMAINS = 102  # beyond these, DDS's ports are those that the system lends to anyone
_held: list[IO[str]] = []


def free_domain() -> int:
    """A domain that is this process's alone until it ends; every call another one.

    A lock on a file says so: of several test processes (and of several runs at a time), none hears the others.
    """
    numbers = list(range(DOMAINS))
    random.SystemRandom().shuffle(numbers)
    for number in numbers:
        try:
            lock = (Path(tempfile.gettempdir()) / f"dust3r_ros_test_domain_{number}.lock").open("w")
        except PermissionError:  # another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _held.append(lock)
        return number
    raise RuntimeError(f"test processes hold all {DOMAINS} ROS domains of this machine")
