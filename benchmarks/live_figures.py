"""Figures of a live run with their targets, from what it published and received. No ROS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.evaluation.errors import trajectory_errors
from dust3r_ros.node.tools.verdict import Got, Sent, first_poses, timing
from dust3r_ros.types import Array, StampedPose

# The camera has begun to move when it is this far (m) from its first position.
MOVED_M = 0.01
# Errors of fewer images mean nothing: a similarity fits them.
FEWEST = 20


@dataclass(frozen=True)
class Figure:
    """A row of the table: key, title, unit, and target: at most ``limit``, or at least if ``more``."""

    key: str
    title: str
    unit: str
    limit: float
    more: bool = False

    @property
    def target(self) -> str:
        """The target as shown in the table."""
        return f"{'≥' if self.more else '≤'} {self.limit:g} {self.unit}".strip()

    def met(self, value: float | None) -> bool | None:
        """Whether a value meets the target; None for none."""
        if value is None:
            return None
        return value >= self.limit if self.more else value <= self.limit


FIGURES = (
    Figure("share", "images with a pose, of those after the first pose", "%", 99, more=True),
    Figure("latency_p50", "image published to pose received, p50", "ms", 20),
    Figure("latency_p95", "the same, p95", "ms", 33),
    Figure("latency_max", "the same, max", "ms", 100),
    Figure("gap", "longest gap between poses", "s", 0.1),
    Figure("first", "first pose after the camera begins to move", "s", 3),
    Figure("causal", "error of the poses as published against offline's", "×", 1.5),
    Figure("final", "error of the final map's trajectory against offline's", "×", 1.1),
    Figure("cloud_p95", "cloud of a keyframe on `~/map_tiles` after its image, p95", "s", 2),
    Figure("cores", "cores used by the node, all its processes", "", 1.7),
    Figure("replay", "files and tables that differ when the run is replayed from its manifest", "", 0),
    Figure("grown", "keyframes at the end, of those after two passes", "×", 1.3),
    Figure("memory", "memory of both processes at the end, against that after four passes", "×", 1.05),
    Figure("silence", "back end killed: longest time without a pose or the state `lost`", "s", 0.2),
    Figure("continued", "back end killed: times the map continued, of ten", "", 10, more=True),
    Figure("gone", "back end killed: saved or reported keyframes that were lost", "", 0),
)
# In a finished map nothing is mapped, so figures of the map are not judged.
OF_LOCALIZATION = ("share", "latency_p50", "latency_p95", "latency_max", "gap", "cores")
# A disturbed run is judged by how it recovers.
OF_KILLS = ("silence", "continued", "gone")
# Of a camera that goes to and fro: the map stops growing.
OF_STAYING = ("share", "latency_p50", "latency_p95", "latency_max", "gap", "cores", "grown", "memory")
OF_MAPPING = tuple(figure.key for figure in FIGURES if figure.key not in (*OF_KILLS, "grown", "memory"))


def timings(sent: Sequence[Sent], got: Sequence[Got], moving_since_ns: int) -> dict[str, float | None]:
    """share, latency_…, gap and first. ``moving_since_ns``: when the first image of the moving camera was sent."""
    found = timing(sent, got, moving_since_ns)
    if found is None:
        return dict.fromkeys(("share", "latency_p50", "latency_p95", "latency_max", "gap", "first"))
    return {
        "share": 100.0 * found.share,
        "latency_p50": found.p50_ms,
        "latency_p95": found.p95_ms,
        "latency_max": found.max_ms,
        "gap": found.gap,
        "first": found.first,
    }


def moving_since(sent: Sequence[Sent], truth: Mapping[int, StampedPose]) -> int:
    """When the first image taken ``MOVED_M`` away from its camera's first one was sent (ns)."""
    begin: dict[str, Array] = {}
    for item in sent:
        place = truth[item.recorded].w_T_c[:3, 3]
        if np.linalg.norm(place - begin.setdefault(item.key[0], place)) > MOVED_M:
            return item.at
    return sent[0].at


def clouds(sent: Sequence[Sent], tiles: Iterable[tuple[int, int]]) -> float | None:
    """Seconds from an image to the first cloud of its keyframe, p95, from (stamp sent, time of arrival) (ns)."""
    at = {item.key[1]: item.at for item in sent}
    came: dict[int, int] = {}
    for stamp, when in tiles:
        if stamp in at:
            came[stamp] = min(when, came.get(stamp, when))
    return float(np.percentile([when - at[stamp] for stamp, when in came.items()], 95) * 1e-9) if came else None


def against_offline(
    truth: Mapping[int, StampedPose], estimate: Sequence[StampedPose], offline: Sequence[StampedPose]
) -> tuple[float, float] | None:
    """Root mean square errors (m) of both over their common images, each after its own similarity.

    None where they share fewer than ``FEWEST`` images, or one of them stands still.
    """
    common = {item.stamp_ns for item in estimate} & {item.stamp_ns for item in offline}
    if len(common) < FEWEST:
        return None
    try:
        found = [
            trajectory_errors(
                [truth[stamp] for stamp in sorted(common)],
                [item for item in poses if item.stamp_ns in common],
                tolerance_s=1e-6,
            ).ate
            for poses in (estimate, offline)
        ]
    except GeometryError:
        return None
    return found[0], found[1]


def in_recorded_time(sent: Sequence[Sent], got: Sequence[Got]) -> list[StampedPose]:
    """Poses as first published, with the stamps of the recording."""
    recorded = {item.key: item.recorded for item in sent}
    return [StampedPose(recorded[key], key[0], item.w_T_c) for key, item in first_poses(got).items() if key in recorded]


def rows(values: Mapping[str, float | None], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Figures of these keys with value and verdict, for the JSON file."""
    wanted = [figure for figure in FIGURES if figure.key in keys]
    return [
        {**asdict(figure), "target": figure.target, "value": values.get(figure.key),
         "met": figure.met(values.get(figure.key))}
        for figure in wanted
    ]  # fmt: skip
