"""The topics the node publishes. Only what somebody listens to is computed."""

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
from dust3r_ros.node.map_maker import KEYFRAME_TOPICS, Audience, News
from dust3r_ros.node.map_publisher import MAP_TOPICS, grid_options, is_heard
from dust3r_ros.node.qos import advertise_all, withdraw
from dust3r_ros.node.tf_output import TfOutput
from dust3r_ros.node.topics import CameraTopics
from dust3r_ros.node.watch import Watch
from dust3r_ros.types import Array, Calibration, Camera, MapUpdate

_PLAIN = (*KEYFRAME_TOPICS, "pose", "status", "status_text", "diagnostics")
_LIVE = ("map_stride", "min_confidence", "map_max_points")


class Publishers:
    """Publishes poses, the status, and what the back end prepared of the map; ``frame`` and ``forget`` from one thread.

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
        grid_options(config)  # better refused now than in the back end
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
        """Who listens to what the back end prepares, and how it is to be prepared."""
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
        """What one image gives: pose, transform and camera.

        ``frame_id``: the camera's optical frame; ``anchor_T_c`` and ``metric`` as ``TfOutput.frame`` has them; ``raw``:
        what its raw images are taken by, None for the estimate itself.
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
        """What raw images of a camera are taken by, for the one of a stamp."""
        publisher = self._topics.get(f"info {camera}")
        if publisher is not None and is_heard(publisher):
            publisher.publish(conversions.camera_info_message(raw, stamp_ns, frame_id))

    def message(self, key: str, data: bytes) -> None:
        """A message of the back end, as it goes over the wire."""
        publisher = self._topics.get(key)
        if publisher is not None and publisher.is_activated:
            publisher.publish(data)

    def forget(self) -> None:
        """The map was replaced: nothing kept of the old one holds."""
        self._tf.forget()

    def status(self, message: MappingStatus) -> None:
        """~/status."""
        if is_heard(self._topics["status"]):
            self._topics["status"].publish(message)

    def status_text(self, text: str, frame_id: str) -> None:
        """~/status_text, above the camera of that optical frame."""
        if frame_id and is_heard(self._topics["status_text"]):
            self._topics["status_text"].publish(conversions.text_marker(text, frame_id))

    def diagnostics(self, message: DiagnosticArray) -> None:
        """/diagnostics."""
        if is_heard(self._topics["diagnostics"]):
            self._topics["diagnostics"].publish(message)

    def close(self) -> None:
        """Take all publishers off the node."""
        withdraw(self._node, self._topics.values())


class PoseOutput:
    """Publishes images in the order of their stamps, with the ``cameras`` as the map knows them. For one thread."""

    def __init__(self, publishers: Publishers, watch: Watch) -> None:
        self._publishers, self._watch = publishers, watch
        self._shown: dict[str, tuple[int, str]] = {}  # stamps and frames of the newest images published, by camera
        self.cameras: Mapping[str, Camera] = {}
        self._raw: Mapping[str, Calibration] = {}
        self.metric = False

    def know(self, news: News) -> None:
        """The unit of the map and its cameras, from now on."""
        self.metric, self.cameras, self._raw = news.metric, news.cameras, news.raw

    def forget(self) -> None:
        """Time was set back: images of earlier stamps are new."""
        self._shown.clear()

    def show(self, update: MapUpdate, arrival: Arrival) -> None:
        """Publish what is known of an image, unless a newer one was published."""
        name, stamp_ns = update.camera, update.stamp_ns
        if name in self._shown and stamp_ns <= self._shown[name][0]:
            return
        self._shown[name] = stamp_ns, arrival.frame_id
        with self._watch("publish"):
            self._publishers.frame(update, arrival.frame_id, arrival.anchor_T_c, self.metric, self._raw.get(name))
        if update.w_T_c is not None:
            self._watch.posed(arrival)

    def show_cameras(self) -> None:
        """Publish the cameras once more, which the map knows better now, for the newest images."""
        for name, (stamp_ns, frame_id) in self._shown.items():
            if name in self.cameras:
                raw = self._raw.get(name, self.cameras[name].calibration)
                self._publishers.info(name, raw, stamp_ns, frame_id)
