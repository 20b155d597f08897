"""The node's entries on /diagnostics: mapping, backend, scale, inputs, TF, and one per camera."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from dust3r_ros.node.conversions import header
from dust3r_ros.node.status import NO_MAP, Snapshot, memory_mb
from dust3r_ros.node.topics import TopicHealth
from dust3r_ros.types import Camera, TrackingState

# Seconds by which the map may be behind the camera without a warning.
LAGS_S = 2.0

_OK, _WARN, _ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
_Verdict = tuple[bytes, str]


def diagnostics_message(now: Snapshot, before: Snapshot, now_ns: int, name: str) -> DiagnosticArray:
    """The snapshot of node ``name`` as diagnostics; images dropped or refused since ``before`` give a warning."""
    statuses = [
        _status(f"{name}: mapping", name, _mapping(now, before), _mapping_values(now)),
        _status(f"{name}: backend", name, (_OK, f"{now.backend} on {now.device}" if now.device else now.backend), {}),
        _status(f"{name}: scale", name, _scale(now), _scale_values(now)),
        _status(f"{name}: inputs", name, _inputs(now, before), dict(chain(*map(_input_values, now.inputs)))),
        _status(f"{name}: tf", name, (_WARN, "; ".join(now.tf_problems)) if now.tf_problems else (_OK, "fine"), {}),
    ]
    for camera in now.cameras.values():
        statuses.append(
            _status(
                f"{name}: calibration {camera.name}", camera.name, _calibration(camera), _camera_values(now, camera)
            )
        )
    return DiagnosticArray(header=header(now_ns, ""), status=statuses)


def refusal_message(reason: str, now_ns: int, name: str) -> DiagnosticArray:
    """Diagnostics of node ``name`` that could not be configured, with the ``reason``."""
    refused = _status(f"{name}: mapping", name, (_ERROR, f"not configured: {reason}"), {})
    return DiagnosticArray(header=header(now_ns, ""), status=[refused])


def _status(name: str, hardware: str, verdict: _Verdict, values: Mapping[str, object]) -> DiagnosticStatus:
    level, text = verdict
    return DiagnosticStatus(
        level=level,
        name=name,
        message=text,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def _mapping(now: Snapshot, before: Snapshot) -> _Verdict:
    if now.failed > before.failed:
        return _ERROR, f"the mapper failed: {now.message}"
    if now.problems:
        return _ERROR, "; ".join(now.problems)
    if now.paused:
        return _OK, "paused"
    if now.lacks_map:
        return _WARN, NO_MAP
    if now.rejected > before.rejected:
        return _WARN, f"{now.rejected - before.rejected} images refused: {now.message}"
    if unseen := _unseen(now):
        return _WARN, unseen
    if now.dropped > before.dropped:
        return _WARN, f"{now.dropped - before.dropped} images dropped: they arrive faster than they can be mapped"
    if now.lag > LAGS_S:
        return _WARN, f"the map is {now.lag:.1f} s behind the camera: it gets fewer keyframes than it should"
    return _OK, now.shown_state


_UNSEEN = {
    TrackingState.LOST: "is lost",
    TrackingState.BRIDGED: "is not found in the map; its pose is extended by odometry or IMU",
}


def _unseen(now: Snapshot) -> str:
    """Which cameras are not found in the map; "" if all are. The node's state is that of the best one."""
    if len(now.states) > 1:
        return "; ".join(f"camera '{name}' {_UNSEEN[state]}" for name, state in now.states.items() if state in _UNSEEN)
    return f"the camera {_UNSEEN[now.state]}" if now.state in _UNSEEN else ""


def _mapping_values(now: Snapshot) -> dict[str, object]:
    counts = now.counts
    return {
        "state": now.shown_state,
        "mode": now.mode,
        "frames": counts.frames,
        "tracked": counts.tracked,
        "keyframes": counts.keyframes,
        "pairs": counts.pairs,
        "maps": counts.maps,
        "lost": counts.lost,
        "dropped": now.dropped,
        "lost in transport": now.lost_in_transport,
        "rejected": now.rejected,
        "failed": now.failed,
        "incomplete": now.incomplete,
        "waiting": now.waiting,
        "lag (s)": f"{now.lag:.2f}",
        "depth lag (s)": f"{now.depth_lag:.2f}",
        "backlog": now.backlog,
        "depth backlog": now.depth_backlog,
        "resets": now.resets,
        "revision": now.revision,
        "memory (MiB)": f"{memory_mb() + now.back_end_mb:.0f}",
        "keyframes in memory (MiB)": f"{now.kept_mb[0]:.0f}",
        "keyframes on disk (MiB)": f"{now.kept_mb[1]:.0f}",
        "masked (%)": f"{100 * now.masked:.1f}",
        "moving (%)": f"{100 * now.moving:.1f}",
        "contradicts the map (%)": f"{100 * now.contradicted:.1f}",
        "far (%)": f"{100 * now.far:.1f}",
        **{f"front end: {stage} p95 (ms)": f"{times['p95_ms']:.1f}" for stage, times in now.front_stages.items()},
        **{f"{stage} p95 (ms)": f"{times['p95_ms']:.1f}" for stage, times in now.stages.items()},
        **({"map file": now.map_file} if now.map_file else {}),
        **({"manifest": now.manifest_file} if now.manifest_file else {}),
    }


def _scale(now: Snapshot) -> _Verdict:
    if now.contradictions:
        return _WARN, "; ".join(now.contradictions)
    if now.scale_state == "metric":
        return _OK, "lengths are in metres, by " + (", ".join(now.scale_sources) or "a given scale")
    if now.scale_state == "converging":
        return _OK, "the scale is being measured by " + ", ".join(now.scale_sources)
    return _OK, "unknown: lengths are in an arbitrary unit"


def _scale_values(now: Snapshot) -> dict[str, object]:
    if not now.metres_per_unit:
        return {}
    return {"metres per unit": f"{now.metres_per_unit:.5g}", "standard deviation": f"{now.metres_per_unit_std:.2g}"}


def _inputs(now: Snapshot, before: Snapshot) -> _Verdict:
    """Missing images are worst, then missing companions, then unusable messages."""
    if now.paused:
        return _OK, "paused"
    silent = _silent(now)
    if silent:
        return _WARN, "; ".join(_silence(item) for item in silent)
    lost = now.lost_in_transport - before.lost_in_transport
    if lost > 0:
        return _WARN, (
            f"{lost} images were lost in transport, judging by their stamps; see 'Images that get lost' in docs/ros.md"
        )
    reasons = [*(item.reason for item in now.inputs if item.reason and not item.well), *now.lacking]
    if reasons:
        return _WARN, "; ".join(reasons)
    return _OK, "all inputs arrive"


def _silent(now: Snapshot) -> list[TopicHealth]:
    """The silent image topics; if there is none, the silent companions."""
    silent = [item for item in now.inputs if item.silent and item.kind not in ("camera_info", "depth_info")]
    return [item for item in silent if item.kind == "image"] or silent


def _silence(item: TopicHealth) -> str:
    since = "yet" if item.silent_s is None else f"for {item.silent_s:.0f} s"
    return f"no {item.kind} on {item.topic} {since}{': ' if item.why else ''}{item.why}"


def _input_values(item: TopicHealth) -> list[tuple[str, str]]:
    values = [(f"{item.topic} (Hz)", f"{item.rate_hz:.1f}"), (f"{item.topic} count", str(item.count))]
    if item.silent_s is not None:
        values.append((f"{item.topic} last (s ago)", f"{item.silent_s:.1f}"))
    if item.returns:
        values.append((f"{item.topic} came back", str(item.returns)))
    if item.kind == "image":
        values.append((f"{item.topic} lost in transport", str(item.lost)))
    if item.bad:
        values.append((f"{item.topic} refused", f"{item.bad}: {item.reason}"))
    return values


def _calibration(camera: Camera) -> _Verdict:
    if camera.contradicted:
        return _WARN, (
            f"the images give a focal length of {camera.measured:.1f} +- {camera.measured_std:.1f} px, the published "
            f"calibration {camera.given:.1f} px: {camera.disagreement:.1f} standard deviations apart"
        )
    if camera.fixed:
        return _OK, f"focal length {camera.focal:.1f} px, given"
    if camera.support == 0:
        return _OK, f"focal length {camera.focal:.1f} px, a guess so far"
    return _OK, f"focal length {camera.focal:.1f} +- {camera.focal_std:.1f} px"


def _camera_values(now: Snapshot, camera: Camera) -> dict[str, object]:
    raw = now.published.get(camera.name, camera.calibration)
    values: dict[str, object] = {
        "focal (px)": f"{camera.focal:.1f}",
        "focal std (px)": f"{camera.focal_std:.1f}",
        "support (pairs)": camera.support,
        "source": now.sources.get(camera.name, "fixed" if camera.fixed else "estimated"),
        "size": f"{camera.width}x{camera.height}",
        "principal point": f"{raw.cx:.1f}, {raw.cy:.1f}",
        "distortion": ", ".join(f"{value:.4g}" for value in raw.coefficients) or "none",
    }
    if camera.name in now.states:
        values["state"] = now.states[camera.name].value
    if camera.given:
        values["published focal (px)"] = f"{camera.given:.1f}"
        values["disagreement (sigma)"] = f"{camera.disagreement:.1f}"
    if camera.name in now.rig:
        place = now.rig[camera.name]
        values["extrinsics"] = f"{'from TF' if place.known else 'estimated'}, to {place.reference}"
    return values
