"""The topics that the node publishes. Nothing is computed without a subscriber."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import LifecycleNode

from dust3r_ros.config import NodeConfig
from dust3r_ros.msg import MappingStatus
from dust3r_ros.node import conversions
from dust3r_ros.node.conversions import Arrival
from dust3r_ros.node.interface import OUTPUTS
from dust3r_ros.node.map_maker import Audience, News
from dust3r_ros.node.map_publisher import KEYFRAME_TOPICS, MAP_TOPICS, grid_options, is_heard
from dust3r_ros.node.qos import advertise_all, withdraw
from dust3r_ros.node.tf_output import TfOutput
from dust3r_ros.node.topics import CameraTopics
from dust3r_ros.node.watch import Watch
from dust3r_ros.types import Array, Calibration, Camera, MapUpdate

_PLAIN = (*KEYFRAME_TOPICS, "pose", "status", "status_text", "diagnostics")
_LIVE = ("map_period", "map_stride", "min_confidence", "map_max_points")


class Publishers:
    """Publishes poses, status and the map messages of the back end; call ``frame`` and ``forget`` from one thread.

    ``live`` reads a parameter that may change while the node runs. Raises ``ConfigError`` for invalid QoS overrides and
    grid heights.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: NodeConfig,
        cameras: Sequence[CameraTopics],
        tf: TfOutput,
        live: Callable[[str], Any],
    ) -> None:
        grid_options(config)  # fail here rather than in the back end
        self._node, self._frame, self._tf, self._live = node, config.map_frame, tf, live
        self._first = cameras[0].name
        several = cameras if len(cameras) > 1 else ()
        rows = {key: (OUTPUTS[key], "") for key in (*MAP_TOPICS, *_PLAIN)}
        rows |= {f"info {camera.name}": (OUTPUTS["estimated"], camera.estimated) for camera in cameras}
        rows |= {
            f"pose {camera.name}": (OUTPUTS["camera_pose"], f"{camera.space}/estimated/pose") for camera in several
        }
        self._topics = advertise_all(node, rows)

    @property
    def all(self) -> tuple[Any, ...]:
        """Every lifecycle publisher."""
        return tuple(self._topics.values())

    @property
    def audience(self) -> Audience:
        """Subscribers of the back end's topics, and the parameters for preparing these."""
        listeners = {
            key: self._topics[key].get_subscription_count() if self._topics[key].is_activated else 0
            for key in (*MAP_TOPICS, *KEYFRAME_TOPICS)
        }
        return Audience(listeners, {name: self._live(name) for name in _LIVE})

    def frame(
        self,
        update: MapUpdate,
        frame_id: str,
        anchor_T_c: Array | None = None,
        metric: bool = False,
        raw: Calibration | None = None,
    ) -> None:
        """Publish the pose, transform and camera of an image.

        ``frame_id``: the camera's optical frame; ``anchor_T_c`` and ``metric`` as in ``TfOutput.frame``; ``raw``: the
        calibration of its raw images, None for the estimate itself.
        """
        stamp = update.stamp_ns
        if update.w_T_c is not None:
            first = self._topics["pose"] if update.camera == self._first else None
            for publisher in (first, self._topics.get(f"pose {update.camera}")):
                if publisher is not None and is_heard(publisher):
                    publisher.publish(
                        conversions.pose_with_covariance(update.w_T_c, update.covariance, stamp, self._frame)
                    )
            if self._topics["pose"].is_activated:
                self._tf.frame(update, frame_id, anchor_T_c, metric)
        camera = update.cameras.get(update.camera)
        if camera is not None:
            self.info(update.camera, raw or camera.calibration, stamp, frame_id)

    def info(self, camera: str, raw: Calibration, stamp_ns: int, frame_id: str) -> None:
        """Publish the calibration of a camera's raw images."""
        publisher = self._topics.get(f"info {camera}")
        if publisher is not None and is_heard(publisher):
            publisher.publish(conversions.camera_info_message(raw, stamp_ns, frame_id))

    def message(self, key: str, data: bytes) -> None:
        """Publish a serialised message of the back end."""
        publisher = self._topics.get(key)
        if publisher is not None and publisher.is_activated:
            publisher.publish(data)

    def forget(self) -> None:
        """The map was replaced: forget the old one."""
        self._tf.forget()

    def status(self, message: MappingStatus) -> None:
        """Publish ~/status."""
        if is_heard(self._topics["status"]):
            self._topics["status"].publish(message)

    def status_text(self, text: str, frame_id: str) -> None:
        """Publish ~/status_text, above the camera with this optical frame."""
        if frame_id and is_heard(self._topics["status_text"]):
            self._topics["status_text"].publish(conversions.text_marker(text, frame_id))

    def diagnostics(self, message: DiagnosticArray) -> None:
        """Publish /diagnostics."""
        if is_heard(self._topics["diagnostics"]):
            self._topics["diagnostics"].publish(message)

    def close(self) -> None:
        """Destroy all publishers."""
        withdraw(self._node, self._topics.values())


class PoseOutput:
    """Publishes poses in the order of their stamps, with the map's current ``cameras``. For one thread."""

    def __init__(self, publishers: Publishers, watch: Watch) -> None:
        self._publishers, self._watch = publishers, watch
        self._shown: dict[str, tuple[int, str]] = {}  # stamps and frames of the newest images published, by camera
        self.cameras: Mapping[str, Camera] = {}
        self._raw: Mapping[str, Calibration] = {}
        self.metric = False

    def know(self, news: News) -> None:
        """Take in the map's unit and cameras."""
        self.metric, self.cameras, self._raw = news.metric, news.cameras, news.raw

    def forget(self) -> None:
        """Time was set back: accept earlier stamps again."""
        self._shown.clear()

    def show(self, update: MapUpdate, arrival: Arrival) -> None:
        """Publish the pose and camera of an image, unless a newer one was published."""
        name, stamp_ns = update.camera, update.stamp_ns
        if name in self._shown and stamp_ns <= self._shown[name][0]:
            return
        self._shown[name] = stamp_ns, arrival.frame_id
        with self._watch("publish"):
            self._publishers.frame(update, arrival.frame_id, arrival.anchor_T_c, self.metric, self._raw.get(name))
        if update.w_T_c is not None:
            self._watch.posed(arrival)

    def show_cameras(self) -> None:
        """Publish the improved camera estimates again, for the newest images."""
        for name, (stamp_ns, frame_id) in self._shown.items():
            if name in self.cameras:
                raw = self._raw.get(name, self.cameras[name].calibration)
                self._publishers.info(name, raw, stamp_ns, frame_id)
