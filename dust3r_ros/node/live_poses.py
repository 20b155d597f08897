"""How often and how late poses come, from what a player published and a listener received. No ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.types import Array

# A topic and a stamp (ns): of an image, and of the pose that it gets.
Key = tuple[str, int]


@dataclass(frozen=True)
class Sent:
    """An image that went out at ``at`` (ns of the monotonic clock); ``recorded`` is its stamp in the recording (ns)."""

    key: Key
    recorded: int
    at: int


@dataclass(frozen=True, eq=False)
class Got:
    """A pose ``w_T_c`` (4, 4) that came at ``at`` (ns of the monotonic clock)."""

    key: Key
    at: int
    w_T_c: Array


@dataclass(frozen=True)
class LiveTiming:
    """Poses as somebody who listens has them.

    ``share``: part of the images, from that of the first pose on, that got one. Latencies (ms) are from publishing the
    image to receiving the pose. ``gap``: longest time (s) without a new pose, the end of the run included. ``first``:
    how long (s) the first pose took.
    """

    share: float
    p50_ms: float
    p95_ms: float
    max_ms: float
    gap: float
    first: float


def first_poses(got: Sequence[Got]) -> dict[Key, Got]:
    """The first pose of each image, in the order in which they came."""
    poses: dict[Key, Got] = {}
    for item in sorted(got, key=lambda item: item.at):
        poses.setdefault(item.key, item)
    return poses


def timing(sent: Sequence[Sent], got: Sequence[Got], begin_ns: int) -> LiveTiming | None:
    """Of images in the order sent; ``first`` counts from ``begin_ns``. None without a pose of any of them."""
    at = {item.key: item.at for item in sent}
    poses = {key: item for key, item in first_poses(got).items() if key in at}
    if not poses:
        return None
    p50, p95, most = np.percentile([1e-6 * (item.at - at[key]) for key, item in poses.items()], [50, 95, 100])
    since = min(stamp for _, stamp in poses)
    due = [key for key in at if key[1] >= since]
    times = [item.at for item in poses.values()]
    times.append(max(times[-1], sent[-1].at))  # a run whose poses end before its images has a gap there
    return LiveTiming(
        share=sum(key in poses for key in due) / len(due),
        p50_ms=float(p50),
        p95_ms=float(p95),
        max_ms=float(most),
        gap=1e-9 * float(np.max(np.diff(times))),
        first=1e-9 * (times[0] - begin_ns),
    )


def silence(poses: Sequence[int], states: Sequence[tuple[int, str]], begin_ns: int, end_ns: int) -> float:
    """Longest time (s) between two moments in which the node said it was tracking and gave no pose.

    ``poses``: when each came, ``states``: when each was told (ns of the monotonic clock).
    """
    tracking, quiet_since, longest = True, begin_ns, 0
    for at, state in sorted([*((at, "") for at in poses), *states, (end_ns, "end")]):
        if at > end_ns:
            break
        if tracking and at > begin_ns:
            longest = max(longest, at - max(quiet_since, begin_ns))
        if state in ("", "end"):  # a pose goes on counting from here
            quiet_since = at
        elif state != "tracking":
            tracking = False
        elif not tracking:
            tracking, quiet_since = True, at
    return longest * 1e-9
