"""A recording mapped once, for all protocols that judge the map."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.datasets.recording import Recording, View
from dust3r_ros.evaluation.errors import MIN_MATCHES, TrajectoryErrors, trajectory_errors
from dust3r_ros.evaluation.protocols.cost import Cost
from dust3r_ros.evaluation.protocols.recordings import true_poses
from dust3r_ros.geometry.similarity import Similarity, similarity_of_poses
from dust3r_ros.session.session import Session
from dust3r_ros.types import Array32, Frame, Keyframe, StampedPose

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Mapped:
    """A recording and the session that mapped it; ``system``: the backend's name; ``frames`` taken,
    ``refused`` with the first ``reason``."""

    recording: Recording
    config: MapperConfig
    session: Session
    system: str
    cost: Cost
    frames: int
    refused: int
    reason: str
    peak_memory_mb: float
    peak_device_mb: float | None

    @property
    def camera(self) -> str:
        """The camera with the most tracked frames: its trajectory is compared. Raises ``InputError`` without a map."""
        names = [pose.camera for pose in self.session.mapper.trajectory()]
        if not names:
            raise InputError(f"nothing of '{self.recording.name}' was mapped")
        return max(sorted(set(names)), key=names.count)

    @property
    def trajectory(self) -> list[StampedPose]:
        """Poses of that camera in the final map."""
        return [pose for pose in self.session.mapper.trajectory() if pose.camera == self.camera]

    def errors(self, *, scale: bool = True) -> TrajectoryErrors:
        """Against the true poses. Raises ``GeometryError`` where nothing can be aligned."""
        return trajectory_errors(true_poses(self.recording, self.camera), self.trajectory, scale=scale)

    def truth_S_map(self) -> Similarity:  # noqa: N802
        """From the map to the truth, by centres and orientations of the posed frames (``similarity_of_poses``).

        Centres alone, as in ``errors``, leave the rotation about the path open where that is nearly straight. Raises
        ``GeometryError`` for fewer than 3 poses, or a camera that stands still, which gives no scale.
        """
        true = {pose.stamp_ns: pose.w_T_c for pose in true_poses(self.recording, self.camera)}
        both = [(pose.w_T_c, true[pose.stamp_ns]) for pose in self.trajectory if pose.stamp_ns in true]
        if len(both) < MIN_MATCHES:
            raise GeometryError(f"{len(both)} poses of the map have a true one; at least {MIN_MATCHES} are needed")
        found, known = np.array(both).swapaxes(0, 1)
        if not all(np.ptp(poses[:, :3, 3], axis=0).any() for poses in (found, known)):
            raise GeometryError(f"the camera of '{self.recording.name}' stands still; it must move to give a scale")
        return similarity_of_poses(found, known)

    def keyframes(self) -> Iterator[tuple[Keyframe, View]]:
        """The map's keyframes, each with its view."""
        views = {(view.stamp_ns, view.camera): view for view in self.recording.views}
        for keyframe in self.session.mapper.keyframes:
            if (keyframe.stamp_ns, keyframe.camera) in views:
                yield keyframe, views[keyframe.stamp_ns, keyframe.camera]


def map_recording(
    recording: Recording,
    config: MapperConfig,
    *,
    backend: Backend | None = None,
    known_focal: bool = False,
    with_depth: bool = False,
    max_frames: int | None = None,
) -> Mapped:
    """Feeds the views in their order to a new session and finishes the map. Decoding is not timed.

    ``backend`` replaces the one of ``config``. ``known_focal``: the mean of fx and fy is given and fixed.
    ``with_depth``: true depth is passed as an RGB-D camera's, which makes the map metric. Raises
    ``InputError`` when no view can be used; a view that is refused is counted.
    """
    if backend is not None:
        backend.clear()  # of the recording before
    session, cost = Session(config, _log, on_time_jump="ignore", backend=backend), Cost()
    refused, reason = 0, ""
    for view in islice(recording.views, max_frames):
        try:
            depth: Array32 | None = view.depth() if with_depth else None
            frame = Frame(view.stamp_ns, view.camera, view.image(), depth=depth)
            if known_focal:
                _give_focal(session, view, frame)
            with cost.timed():
                session.process(frame)
        except InputError as error:
            refused, reason = refused + 1, reason or str(error)
    frames = session.mapper.counts.frames
    if frames == 0:
        raise InputError(f"no view of '{recording.name}' could be used{': ' if reason else ''}{reason}")
    with cost.timed():
        session.finish()
    system = config.backend if backend is None else backend.name
    peaks = cost.peak_memory_mb, cost.peak_device_mb
    return Mapped(recording, config, session, system, cost, frames, refused, reason, *peaks)


def _give_focal(session: Session, view: View, frame: Frame) -> None:
    """Give the mean of the view's fx and fy as the focal of its camera, once, where known."""
    if view.K is None or view.camera in session.mapper.cameras:
        return
    height, width = frame.image.shape[:2]
    session.mapper.set_camera(view.camera, width, height, float(view.K[0, 0] + view.K[1, 1]) / 2.0)
