"""ROS domains that no other demo, benchmark or test of this machine is in."""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from pathlib import Path
from typing import IO

from dust3r_ros.errors import Dust3rRosError

DOMAINS = 102  # beyond these, DDS's ports are those that the system lends to anyone
_held: dict[int, IO[str]] = {}
_used: set[int] = set()  # by this process; what it left there may be heard for a while


class DomainError(Dust3rRosError):
    """Every ROS domain of this machine is in use."""


def free_domain() -> int:
    """A domain that is this process's alone until it ends or releases it; every call another one.

    A lock on a file says so, which all who ask here respect. Raises ``DomainError`` if all are taken.
    """
    numbers = list(range(DOMAINS))
    random.SystemRandom().shuffle(numbers)
    for number in sorted(numbers, key=_used.__contains__):
        try:
            lock = (Path(tempfile.gettempdir()) / f"dust3r_ros_domain_{number}.lock").open("w")
        except PermissionError:  # another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _held[number] = lock
        _used.add(number)
        return number
    raise DomainError(f"all {DOMAINS} ROS domains of this machine are in use by demos, benchmarks or tests")


def release_domain(number: int) -> None:
    """Others may use it again; whatever this process had in it has been shut down."""
    with _held.pop(number) as lock:
        fcntl.flock(lock, fcntl.LOCK_UN)  # also where a forked child still has the file open


def isolate() -> None:
    """Use a free ROS domain, on this machine only, in this process and those it starts from now on."""
    os.environ["ROS_DOMAIN_ID"] = str(free_domain())
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.pop("ROS_LOCALHOST_ONLY", None)
