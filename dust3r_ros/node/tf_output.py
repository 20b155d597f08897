"""The transform between map and robot: which one to publish, when, and never a second parent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from rclpy.node import Node

from dust3r_ros.config import NodeConfig
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.node.conversions import transform_message
from dust3r_ros.node.tf_listener import TfListener, TransformSender
from dust3r_ros.types import Array, MapUpdate, TrackingState

# Images with stamps further (ns) than this from the clock come from another time, such as a bag without --clock.
_FOREIGN_NS = 60_000_000_000
# Smaller changes of a rig's rotation matrices and positions (m) are ignored.
_MOVED = 1e-3
# A camera without a pose for so long (ns) is stood in for by others of its rig.
_SILENT_NS = 500_000_000
# Transforms sent last that are remembered: more than images of several cameras overtake each other by.
_REMEMBERED = 16
# Smaller changes of map -> odom_frame while bridged are rounding.
_SAME = 1e-6


@dataclass(frozen=True, eq=False)
class _Anchor:
    """The pose of odom_frame in the map, ``w_T_a``; ``lag_ns``: image clock minus node clock."""

    w_T_a: Array
    stamp_ns: int
    lag_ns: int


class TfOutput:
    """Publishes map -> odom_frame at a steady rate, or map -> base_frame or camera with each image.

    A camera fixed below other frames, as drivers publish it, keeps its parent: the map becomes the parent of the
    topmost frame. With ``invert_tf`` it is the other way round. A child that already has a parent from another node, or
    that is above the map, is left alone; this is logged once and listed in ``problems``. ``live`` reads parameters.

    ``map -> odom_frame`` waits until the map is in metres, because odometry is.
    """

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        sender: TransformSender,
        listener: TfListener,
        live: Callable[[str], Any],
    ) -> None:
        self._node, self._config, self._sender, self._listener, self._live = node, config, sender, listener, live
        self._root = config.odom_frame or config.base_frame
        self._lock = Lock()
        self._anchor: _Anchor | None = None
        self._sent: deque[tuple[str, int]] = deque(maxlen=_REMEMBERED)  # frames and stamps
        self._problems: dict[str, str] = {}
        self._logged: set[str] = set()
        self._rig: dict[str, tuple[str, Array]] = {}  # by topmost frame: the first camera's, and first_T_top
        self._posed_ns: dict[str, int] = {}  # newest stamps by frame of a camera that is below no other

    @property
    def steady(self) -> bool:
        """Whether a transform is renewed between images."""
        return bool(self._config.odom_frame)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why transforms are not published, a sentence each."""
        with self._lock:
            return tuple(self._problems.values())

    def frame(self, update: MapUpdate, camera_frame: str, anchor_T_c: Array | None, metric: bool) -> None:
        """Take in an image. ``anchor_T_c``: the camera in odom_frame or base_frame at its stamp, None if unknown."""
        if update.w_T_c is None:
            return
        if not self._root:
            self._publish_camera(update.w_T_c, camera_frame, update.stamp_ns)
            return
        self._note("anchor", self._lack(camera_frame, anchor_T_c, metric))
        if self._config.odom_frame and not metric:
            with self._lock:
                self._anchor = None  # if there is one, it was in another map
            return
        if anchor_T_c is None:
            return
        w_T_a = update.w_T_c @ invert(anchor_T_c)
        if self.steady:
            self._move(update, w_T_a)
        else:
            self._publish(w_T_a, self._root, update.stamp_ns)

    def _move(self, update: MapUpdate, w_T_a: Array) -> None:
        """Renew odom_frame's transform from now on as an image says."""
        lag_ns = self._lag_ns(update.stamp_ns)
        with self._lock:
            before = self._anchor
            # While bridged, only odometry moves the robot (REP 105); the anchor moves if the map was corrected.
            if update.state is TrackingState.BRIDGED and before and np.allclose(w_T_a, before.w_T_a, atol=_SAME):
                w_T_a = before.w_T_a
            self._anchor = _Anchor(w_T_a, update.stamp_ns, lag_ns)
        self.tick()

    def tick(self) -> None:
        """Renew map -> odom_frame, post-dated so that it covers the newest odometry."""
        with self._lock:
            anchor = self._anchor
        if anchor is None:
            return
        clock_ns = self._node.get_clock().now().nanoseconds
        # A simulated clock that has not started is 0.
        now_ns = clock_ns + anchor.lag_ns if clock_ns else anchor.stamp_ns
        self._publish(anchor.w_T_a, self._root, now_ns + round(self._config.transform_tolerance * 1e9))

    def rig(self, frames: Mapping[str, tuple[str, Array]]) -> None:
        """Publish estimated extrinsics, metres: optical frame -> (optical frame of the first camera, first_T_camera).

        Only what TF lacks is published, on /tf_static, and again when it changed.
        """
        if not self._live("publish_tf"):
            return
        now_ns = self._node.get_clock().now().nanoseconds
        messages = []
        for frame, (first, first_T_camera) in frames.items():
            if not frame or not first:
                continue  # no image of that camera yet
            top, top_T_camera = self._top(frame)
            if top == self._top(first)[0]:
                continue  # TF connects them already
            first_T_top = first_T_camera @ invert(top_T_camera)
            before = self._rig.get(top, ("", first_T_top))
            if before[0] == first and np.allclose(before[1], first_T_top, atol=_MOVED):
                continue
            if self._free(first, top, "rig " + top):
                self._rig[top] = first, first_T_top
                messages.append(transform_message(first_T_top, now_ns, first, top))
        if messages:
            self._sender.send_static(messages)

    def forget(self) -> None:
        """The map was replaced: renew nothing until an image is localised in the new one."""
        with self._lock:
            self._anchor = None
            self._problems.clear()
            self._posed_ns.clear()

    def _publish_camera(self, w_T_c: Array, frame: str, stamp_ns: int) -> None:
        """Publish the transform between the map and a camera, or the topmost frame above the camera.

        No frame may get two parents: one that ``rig`` put below the first camera is left out while that one has poses,
        and if the map is the child, it is the child of one camera.
        """
        if self._live("invert_tf"):
            if next(iter(self._posed_ns), frame) == frame:
                self._posed_ns[frame] = stamp_ns
                self._publish(w_T_c, frame, stamp_ns)
            return
        top, top_T_c = self._top(frame)
        w_T_top = w_T_c @ invert(top_T_c)
        if top in self._rig:
            first, first_T_top = self._rig[top]
            if stamp_ns - self._posed_ns.get(first, 0) < _SILENT_NS:
                return
            top, top_T_first = self._top(first)
            w_T_top = w_T_top @ invert(top_T_first @ first_T_top)
        else:
            self._posed_ns[frame] = stamp_ns
        self._publish(w_T_top, top, stamp_ns)

    def _lag_ns(self, stamp_ns: int) -> int:
        """Image clock minus node clock for images from another time, else 0."""
        lag_ns = stamp_ns - self._node.get_clock().now().nanoseconds
        foreign = abs(lag_ns) > _FOREIGN_NS and not self._node.get_parameter("use_sim_time").value
        return lag_ns if foreign else 0

    def _top(self, frame: str) -> tuple[str, Array]:
        """The topmost frame with static transforms from other nodes down to ``frame``, and ``top_T_frame``."""
        above = [name for name in self._ancestors(frame) if name != self._config.map_frame]
        fixed = self._listener.buffer.fixed(above[-1], frame) if above else None
        return (frame, np.eye(4)) if fixed is None else (above[-1], fixed)

    def _publish(self, w_T_f: Array, frame: str, stamp_ns: int) -> None:
        """Publish the transform between the map and ``frame``, if allowed, once per stamp.

        Of cameras on one body, the first at a stamp says where it is, and the clock may stand still: TF warns about
        repeated stamps.
        """
        if not self._live("publish_tf"):
            return
        parent, child, parent_T_child = self._config.map_frame, frame, w_T_f
        if self._live("invert_tf"):
            parent, child, parent_T_child = child, parent, invert(w_T_f)
        if not self._free(parent, child, "parent"):
            return
        with self._lock:
            if (frame, stamp_ns) in self._sent:
                return
            self._sent.append((frame, stamp_ns))
        self._sender.send(transform_message(parent_T_child, stamp_ns, parent, child))

    def _free(self, parent: str, child: str, topic: str) -> bool:
        """Whether ``child`` may get ``parent``: no other node gives it one, and it is not above ``parent``."""
        other = self._listener.parent(child)
        problem = ""
        if other is not None:
            problem = (
                f"another node publishes '{other}' -> '{child}' on TF, so '{parent}' -> '{child}' is not published:"
                f" a frame can have only one parent ({self._advice(child, other)})"
            )
        elif child == parent:
            problem = f"'{child}' is the frame of the map, but also that of the camera or robot: one needs another name"
        elif child in self._ancestors(parent):
            problem = (
                f"'{child}' is already above '{parent}' on TF, so '{parent}' -> '{child}' is not published:"
                " it would close a loop"
            )
        self._note(topic, problem)
        return not problem

    def _advice(self, child: str, parent: str) -> str:
        if child == self._config.odom_frame or self._config.map_frame in (child, parent):
            return "stop that transform, or set publish_tf to false"
        if child == self._config.base_frame:
            above = [frame for frame in self._ancestors(child) if frame != self._config.map_frame] or [parent]
            moving = next((frame for frame in above if self._listener.buffer.fixed(frame, child) is None), "")
            return f"set odom_frame to '{moving}'" if moving else f"set base_frame to '{above[-1]}'"
        return "set odom_frame, base_frame, invert_tf or publish_tf"

    def _ancestors(self, frame: str) -> list[str]:
        found: list[str] = []
        above = self._listener.parent(frame)
        while above is not None and above not in found:
            found.append(above)
            above = self._listener.parent(above)
        return found

    def _lack(self, camera_frame: str, anchor_T_c: Array | None, metric: bool) -> str:
        shown = f"'{self._config.map_frame}' -> '{self._root}'"
        if anchor_T_c is None:
            return f"TF from '{self._root}' to '{camera_frame}' is missing at the stamps of images; {shown} needs it"
        if self._config.odom_frame and not metric:
            return f"{shown} waits until the map is in metres"
        return ""

    def _note(self, topic: str, problem: str) -> None:
        """Set or clear a problem; each is logged once."""
        with self._lock:
            if problem:
                self._problems[topic] = problem
            else:
                self._problems.pop(topic, None)
            new = problem and problem not in self._logged
            if new:
                self._logged.add(problem)
        if new:
            self._node.get_logger().warning(problem)
