"""What a session is in, as the node shows it."""

from __future__ import annotations

from dust3r_ros.config import MapperConfig, NodeConfig
from dust3r_ros.node.status import RigCamera, Snapshot
from dust3r_ros.session.session import Session
from dust3r_ros.types import Camera, TrackingState


def session_snapshot(
    session: Session, mapper: MapperConfig, node: NodeConfig, before: Snapshot | None = None
) -> Snapshot:
    """The session now; ``before`` gives what only a frame tells (stamp, state, message)."""
    world, left_out = session.estimate, session.mapper.left_out
    cameras = session.cameras
    counts = session.mapper.counts
    started = TrackingState.LOST if counts.keyframes else TrackingState.INITIALISING
    return Snapshot(
        stamp_ns=before.stamp_ns if before else 0,
        state=before.state if before else started,
        message=before.message if before else "",
        backend=mapper.backend,
        device=session.device,
        mode="mapping" if session.mapper.mapping else "localization",
        counts=counts,
        resets=session.resets,
        revision=session.mapper.revision,
        stages=session.stopwatch.summary(),
        cameras=cameras,
        published={name: session.calibrations.raw(camera) for name, camera in session.mapper.cameras.items()},
        sources={name: _source(camera) for name, camera in cameras.items()},
        rig=_rig(session, list(cameras)),
        masked=left_out.masked,
        moving=left_out.moving,
        far=left_out.far,
        moving_regions=left_out.regions,
        scale_state=world.state.value,
        metres_per_unit=session.metres_per_unit,
        metres_per_unit_std=session.metres_per_unit * world.relative_std if session.metres_per_unit else 0.0,
        scale_sources=tuple(source.source for source in world.sources),
        map_file=node.map_db,
        manifest_file=node.manifest,
        problems=tuple(session.keeper.problems),
        contradictions=tuple(world.contradictions),
    )


def _source(camera: Camera) -> str:
    return "fixed" if camera.fixed else "prior" if camera.given and camera.given_std else "estimated"


def _rig(session: Session, cameras: list[str]) -> dict[str, RigCamera]:
    """How the other cameras stand to the first one, as TF or the images say it."""
    if not cameras:
        return {}
    first, found = cameras[0], {}
    for camera in cameras[1:]:
        known = session.known_extrinsics(first, camera)
        if known is not None:
            found[camera] = RigCamera(first, known, 0.0, True)
            continue
        told = session.mapper.rig.between(first, camera)
        if told is not None:
            found[camera] = RigCamera(first, told.a_T_b, told.length_std, False)
    return found
