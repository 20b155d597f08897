"""The topics the node publishes. Only what somebody listens to is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import LifecycleNode

from dust3r_ros.alignment.cloud import keyframe_cloud
from dust3r_ros.config import NodeConfig
from dust3r_ros.mapper import Mapper
from dust3r_ros.msg import MappingStatus
from dust3r_ros.node import conversions
from dust3r_ros.node.interface import OUTPUTS
from dust3r_ros.node.map_publisher import MapPublisher, is_heard
from dust3r_ros.node.qos import advertise_all, withdraw
from dust3r_ros.node.tf_output import TfOutput
from dust3r_ros.node.topics import CameraTopics
from dust3r_ros.types import Array, Calibration, Keyframe, MapUpdate

_PLAIN = ("keyframe_cloud", "depth", "pose", "status", "diagnostics")


class Publishers:
    """Publishes updates, the map and the status; ``frame``, ``changed``, ``map`` and ``forget`` from one thread.

    ``live`` reads a parameter that may change while the node runs. Raises ``ConfigError`` for QoS overrides and grid
    heights that cannot be.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: NodeConfig,
        cameras: Sequence[CameraTopics],
        tf: TfOutput,
        live: Callable[[str], Any],
    ) -> None:
        self._node, self._config, self._frame, self._tf, self._live = node, config, config.map_frame, tf, live
        self._first = cameras[0].name
        self._map = MapPublisher(node, config, live, self._first)
        several = cameras if len(cameras) > 1 else ()
        rows = {key: (OUTPUTS[key], "") for key in _PLAIN}
        rows |= {f"info {camera.name}": (OUTPUTS["estimated"], camera.estimated) for camera in cameras}
        rows |= {
            f"pose {camera.name}": (OUTPUTS["camera_pose"], f"{camera.space}/estimated/pose") for camera in several
        }
        try:
            self._topics = advertise_all(node, rows)
        except BaseException:
            self._map.close()
            raise
        self._frames: dict[str, str] = {}

    @property
    def all(self) -> tuple[Any, ...]:
        """Every lifecycle publisher."""
        return (*self._map.all, *self._topics.values())

    def frame(
        self,
        update: MapUpdate,
        frame_id: str,
        anchor_T_c: Array | None = None,
        metric: bool = False,
        raw: Calibration | None = None,
    ) -> None:
        """What one image gives: transform, pose, camera, and the cloud of the keyframe it became.

        ``frame_id``: the camera's optical frame; ``anchor_T_c`` and ``metric`` as ``TfOutput.frame`` has them; ``raw``:
        what its raw images are taken by, None for the estimate itself.
        """
        self._frames[update.camera] = frame_id
        self._map.note(update)
        stamp = update.stamp_ns
        if update.w_T_c is not None:
            if self._topics["pose"].is_activated:
                self._tf.frame(update, frame_id, anchor_T_c, metric)
            first = self._topics["pose"] if update.camera == self._first else None
            for publisher in (first, self._topics.get(f"pose {update.camera}")):
                if publisher is not None and is_heard(publisher):
                    publisher.publish(
                        conversions.pose_with_covariance(update.w_T_c, update.covariance, stamp, self._frame)
                    )
        camera, info = update.cameras.get(update.camera), self._topics.get(f"info {update.camera}")
        if camera is not None and info is not None and is_heard(info):
            info.publish(conversions.camera_info_message(raw or camera.calibration, stamp, frame_id))
        if update.changed and update.keyframe is not None:
            self._newest_keyframe(update)

    def changed(self, update: MapUpdate) -> None:
        """The map changed without an image."""
        self._map.note(update)

    def map(self, mapper: Mapper, stamp_ns: int) -> None:
        """Map, tiles, path, graph and grid as they stand, each when it changed and somebody listens."""
        self._map.publish(mapper, stamp_ns)

    def forget(self) -> None:
        """The map was replaced: nothing kept of the old one holds, all is published anew."""
        self._map.forget()
        self._tf.forget()

    def status(self, message: MappingStatus) -> None:
        """~/status."""
        if is_heard(self._topics["status"]):
            self._topics["status"].publish(message)

    def diagnostics(self, message: DiagnosticArray) -> None:
        """/diagnostics."""
        if is_heard(self._topics["diagnostics"]):
            self._topics["diagnostics"].publish(message)

    def close(self) -> None:
        """Take all publishers off the node."""
        self._map.close()
        withdraw(self._node, self._topics.values())

    def _newest_keyframe(self, update: MapUpdate) -> None:
        cloud, depth = self._topics["keyframe_cloud"], self._topics["depth"]
        if not (is_heard(cloud) or is_heard(depth)):
            return
        with_depth = [keyframe for keyframe in update.changed if (keyframe.depth > 0).any()]
        if not with_depth:
            return
        newest = max(with_depth, key=lambda keyframe: keyframe.index)
        if is_heard(cloud):
            cloud.publish(self._cloud_of(newest))
        if is_heard(depth):
            frame = self._frames.get(newest.camera) or f"{newest.camera}_optical_frame"
            depth.publish(conversions.depth_message(newest, frame))

    def _cloud_of(self, keyframe: Keyframe) -> Any:
        points = keyframe_cloud(
            keyframe, min_confidence=float(self._live("min_confidence")), stride=int(self._live("map_stride"))
        )
        return conversions.cloud_message([conversions.pack(points)], keyframe.stamp_ns, self._frame)
