"""What the node says of itself: one snapshot, shown as MappingStatus and as diagnostics."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dust3r_ros.msg import CameraEstimate, MappingStatus, StageLatency
from dust3r_ros.node.conversions import header
from dust3r_ros.types import Camera, MapCounts, TrackingState


@dataclass(frozen=True)
class Snapshot:
    """The state of the node at one moment; counts since it was configured or reset.

    ``failed`` counts frames at which the mapper raised something unforeseen, ``silent_s`` is how
    long no image came (None: none came yet).
    """

    stamp_ns: int = 0
    state: TrackingState = TrackingState.INITIALISING
    paused: bool = False
    backend: str = ""
    counts: MapCounts = MapCounts()
    dropped: int = 0
    rejected: int = 0
    failed: int = 0
    waiting: int = 0
    silent_s: float | None = None
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    message: str = ""

    @property
    def shown_state(self) -> str:
        """The state as MappingStatus names it."""
        return MappingStatus.PAUSED if self.paused else self.state.value


def memory_mb() -> float:
    """Resident memory of this process, MiB (its peak where /proc is missing)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def status_message(snapshot: Snapshot, frame: str) -> MappingStatus:
    """The snapshot as the message of ~/status."""
    counts = snapshot.counts
    return MappingStatus(
        header=header(snapshot.stamp_ns, frame),
        state=snapshot.shown_state,
        backend=snapshot.backend,
        frames=counts.frames,
        tracked=counts.tracked,
        keyframes=counts.keyframes,
        pairs=counts.pairs,
        lost=counts.lost,
        dropped=snapshot.dropped,
        rejected=snapshot.rejected,
        waiting=snapshot.waiting,
        scale_state=MappingStatus.SCALE_UNKNOWN,
        metres_per_unit=0.0,
        memory_mb=memory_mb(),
        stages=[
            StageLatency(
                name=name,
                count=int(stage["count"]),
                p50_ms=float(stage["p50_ms"]),
                p95_ms=float(stage["p95_ms"]),
                max_ms=float(stage["max_ms"]),
            )
            for name, stage in snapshot.stages.items()
        ],
        cameras=[
            CameraEstimate(
                name=camera.name,
                width=camera.width,
                height=camera.height,
                focal=float(camera.focal),
                focal_std=float(camera.focal_std),
                support=int(camera.support),
                fixed=bool(camera.fixed),
            )
            for camera in snapshot.cameras.values()
        ],
        message=snapshot.message,
    )
