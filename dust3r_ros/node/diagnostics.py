"""The node's entry on /diagnostics."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from dust3r_ros.node.conversions import header
from dust3r_ros.node.status import Snapshot
from dust3r_ros.types import TrackingState

# Without images for this long, the camera is taken for silent.
SILENT_S = 3.0


def diagnostics_message(now: Snapshot, before: Snapshot, now_ns: int, name: str, image_topic: str) -> DiagnosticArray:
    """The snapshot as diagnostics of hardware ``image_topic``; what was dropped or refused since ``before`` warns."""
    level, text = _judge(now, before, image_topic)
    values = {
        "state": now.shown_state,
        "backend": now.backend,
        "frames": now.counts.frames,
        "tracked": now.counts.tracked,
        "keyframes": now.counts.keyframes,
        "pairs": now.counts.pairs,
        "lost": now.counts.lost,
        "dropped": now.dropped,
        "rejected": now.rejected,
        "failed": now.failed,
        "waiting": now.waiting,
        **{f"focal {camera.name} (px)": f"{camera.focal:.1f}" for camera in now.cameras.values()},
        **{f"{stage} p95 (ms)": f"{times['p95_ms']:.1f}" for stage, times in now.stages.items()},
    }
    status = DiagnosticStatus(
        level=level,
        name=name,
        message=text,
        hardware_id=image_topic,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
    return DiagnosticArray(header=header(now_ns, ""), status=[status])


def _judge(now: Snapshot, before: Snapshot, image_topic: str) -> tuple[bytes, str]:
    if now.failed > before.failed:
        return DiagnosticStatus.ERROR, f"the mapper failed: {now.message}"
    if now.paused:
        return DiagnosticStatus.OK, "paused"
    if now.silent_s is None:
        return DiagnosticStatus.WARN, f"no image on {image_topic} yet"
    if now.silent_s > SILENT_S:
        return DiagnosticStatus.WARN, f"no image on {image_topic} for {now.silent_s:.0f} s"
    if now.rejected > before.rejected:
        return DiagnosticStatus.WARN, f"{now.rejected - before.rejected} images refused: {now.message}"
    if now.state is TrackingState.LOST:
        return DiagnosticStatus.WARN, "the camera is lost"
    if now.dropped > before.dropped:
        dropped = now.dropped - before.dropped
        return DiagnosticStatus.WARN, f"{dropped} images dropped: they come faster than they are mapped"
    return DiagnosticStatus.OK, now.shown_state
