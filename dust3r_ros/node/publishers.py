"""The topics the node publishes. Only what somebody listens to is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Path
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from dust3r_ros.alignment.cloud import keyframe_cloud
from dust3r_ros.alignment.fusion import agreed
from dust3r_ros.alignment.overlap import overlapping
from dust3r_ros.mapper import Mapper
from dust3r_ros.msg import MappingStatus
from dust3r_ros.node import conversions
from dust3r_ros.node.transforms import TransformSender
from dust3r_ros.types import Keyframe, MapUpdate

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
_NEIGHBOURS = 6  # keyframes that a keyframe's points are checked against


class Publishers:
    """Publishes updates, the map and the status from the worker's thread.

    ``live`` reads a parameter that may change while the node runs (``map_stride``,
    ``min_confidence``, ``publish_tf``).
    """

    def __init__(
        self,
        node: LifecycleNode,
        map_frame: str,
        estimated_topic: str,
        transforms: TransformSender,
        live: Callable[[str], Any],
    ) -> None:
        self._node, self._frame, self._transforms, self._live = node, map_frame, transforms, live
        make = node.create_lifecycle_publisher
        self._map = make(PointCloud2, "~/map", LATCHED)
        self._graph = make(MarkerArray, "~/graph", LATCHED)
        self._path = make(Path, "~/path", LATCHED)
        self._keyframe = make(PointCloud2, "~/keyframe_cloud", RELIABLE)
        self._depth = make(Image, "~/depth", RELIABLE)
        self._pose = make(PoseWithCovarianceStamped, "~/pose", RELIABLE)
        self._info = make(CameraInfo, estimated_topic, RELIABLE)
        self._status = make(MappingStatus, "~/status", RELIABLE)
        self._diagnostics = make(DiagnosticArray, "/diagnostics", RELIABLE)
        self.all = (
            self._map, self._graph, self._path, self._keyframe, self._depth,
            self._pose, self._info, self._status, self._diagnostics,
        )  # fmt: skip
        self._parts: dict[int, tuple[tuple[int, int, float], NDArray[np.void]]] = {}
        self._stale: set[str] = set()
        self._shown: tuple[int, float] | None = None

    def frame(self, update: MapUpdate, child_frame: str) -> None:
        """What one frame gives: transform, pose, camera, and the cloud of the keyframe it became."""
        self._stale |= {"path"} | ({"map", "graph"} if update.changed or update.removed else set())
        stamp = update.stamp_ns
        if update.w_T_c is not None:
            if self._live("publish_tf") and self._pose.is_activated:
                self._transforms.send(conversions.transform_message(update.w_T_c, stamp, self._frame, child_frame))
            if _heard(self._pose):
                self._pose.publish(
                    conversions.pose_with_covariance(update.w_T_c, update.covariance, stamp, self._frame)
                )
        camera = update.cameras.get(update.camera)
        if camera is not None and _heard(self._info):
            self._info.publish(conversions.camera_info_message(camera, stamp, child_frame))
        if update.changed and update.keyframe is not None:
            self._newest_keyframe(update, child_frame)

    def _newest_keyframe(self, update: MapUpdate, child_frame: str) -> None:
        with_depth = [keyframe for keyframe in update.changed if (keyframe.depth > 0).any()]
        if not with_depth:
            return
        newest = max(with_depth, key=lambda keyframe: keyframe.index)
        if _heard(self._keyframe):
            points = self._points(newest)
            self._keyframe.publish(conversions.cloud_message([points], newest.stamp_ns, self._frame))
        if _heard(self._depth):
            self._depth.publish(conversions.depth_message(newest, child_frame))

    def map(self, mapper: Mapper, stamp_ns: int) -> None:
        """The map cloud, path and graph as they stand, each when it changed and somebody listens."""
        if ("map" in self._stale or self._shown != self._selection()) and _heard(self._map):
            self._stale.discard("map")
            self._shown = self._selection()
            self._map.publish(conversions.cloud_message(self._all_points(mapper), stamp_ns, self._frame))
        if "path" in self._stale and _heard(self._path):
            self._stale.discard("path")
            self._path.publish(conversions.path_message(mapper.trajectory(), stamp_ns, self._frame))
        if "graph" in self._stale and _heard(self._graph):
            self._stale.discard("graph")
            self._graph.publish(
                conversions.graph_markers(
                    mapper.keyframes, mapper.edges, stamp_ns, self._frame, _marker_size(mapper.keyframes)
                )
            )

    def forget(self) -> None:
        """The map was replaced: nothing kept of the old one holds, all is published anew."""
        self._parts.clear()
        self._stale = {"map", "path", "graph"}

    def status(self, message: MappingStatus) -> None:
        """~/status."""
        if _heard(self._status):
            self._status.publish(message)

    def diagnostics(self, message: DiagnosticArray) -> None:
        """/diagnostics."""
        if _heard(self._diagnostics):
            self._diagnostics.publish(message)

    def close(self) -> None:
        """Take all publishers off the node."""
        for publisher in self.all:
            self._node.destroy_lifecycle_publisher(publisher)

    def _all_points(self, mapper: Mapper) -> list[NDArray[np.void]]:
        """The points of the map, by keyframes; its landmarks when no depth is made."""
        keyframes, config = mapper.keyframes, mapper.config
        indices = {keyframe.index for keyframe in keyframes}
        self._parts = {index: part for index, part in self._parts.items() if index in indices}
        if not config.dense:
            return [conversions.pack(mapper.landmarks())]

        for keyframe in keyframes:  # computed once per version and selection
            key = (keyframe.version, *self._selection())
            if self._parts.get(keyframe.index, (None,))[0] == key:
                continue
            if config.fusion:
                keyframe = agreed(keyframe, overlapping(keyframe, keyframes, _NEIGHBOURS), key[2])
            self._parts[keyframe.index] = key, self._points(keyframe)
        return [self._parts[keyframe.index][1] for keyframe in keyframes]

    def _points(self, keyframe: Keyframe) -> NDArray[np.void]:
        """The selected points of one keyframe in the map."""
        stride, min_confidence = self._selection()
        return conversions.pack(keyframe_cloud(keyframe, min_confidence=min_confidence, stride=stride))

    def _selection(self) -> tuple[int, float]:
        """Stride and least confidence of the points that are shown."""
        return int(self._live("map_stride")), float(self._live("min_confidence"))


def _heard(publisher: Any) -> bool:
    return bool(publisher.is_activated) and publisher.get_subscription_count() > 0


def _marker_size(keyframes: tuple[Keyframe, ...]) -> float:
    """A fortieth of the extent of the camera path: visible, and not in the way."""
    if len(keyframes) < 2:
        return 0.05
    centers = np.stack([keyframe.w_T_c[:3, 3] for keyframe in keyframes])
    return max(float(np.ptp(centers, axis=0).max()) / 40, 1e-3)
