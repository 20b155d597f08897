"""The viewer's scene in viser (https://viser.studio), updated where the map changed.

In the map frame (z up, map units):

- ``/points/NUMBER``: points of a keyframe, in its own frame, so that a keyframe that only moves sends just its pose;
- ``/keyframes/NUMBER``: pyramid of a keyframe with its image; ``/graph``: the pair graph;
- ``/path/NAME``: the line through the keyframes of a camera; ``/cameras/NAME``: its pose now, with its image;
- ``/landmarks``: where the map has no depth (``dense: false``).
"""

from __future__ import annotations

import contextlib
import io
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from dust3r_ros.cloud.cloud import Cloud, keyframe_cloud
from dust3r_ros.geometry.rigid import quaternion
from dust3r_ros.types import Array, Camera, Image, Keyframe

MAX_POINTS = 2_000_000  # points in the scene; a browser can still rotate this many
_KEYFRAME_POINTS = 15_000
_KEYFRAME_EDGE, _CAMERA_EDGE = 96, 320  # pixels; size of the images on pyramids
_PYRAMID = 0.05  # size of a keyframe's pyramid, in median depths
_FLUSH_S = 1.0
_GRAPH = "/graph/pairs"
_ORANGE, _BLUE, _GREY = (230, 120, 20), (40, 120, 200), (120, 120, 130)


@dataclass
class News:
    """The changes since the last update, each item in its newest state."""

    anew: bool = False
    changed: dict[int, Keyframe] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    seen: dict[str, tuple[Array | None, Camera | None, Image | None]] = field(default_factory=dict)
    edges: list[tuple[int, int, float]] | None = None
    landmarks: Cloud | None = None
    status: str | None = None


@dataclass
class _Shown:
    """A keyframe in the scene: server handles, and a checksum of the source of its points."""

    camera: str
    w_T_c: Array
    depth: float  # median, 0 for none
    checksum: int
    pyramid: Any
    points: Any = None

    @property
    def center(self) -> Array:
        """The camera centre, (3,)."""
        return self.w_T_c[:3, 3]

    @property
    def seen(self) -> Array:
        """The point it looks at, (3,)."""
        return self.center + self.depth * self.w_T_c[:3, 2]


class Scene:
    """A server's scene; for one thread."""

    def __init__(self, server: Any, min_confidence: float) -> None:
        self._server, self._min_confidence = server, min_confidence
        self._keyframes: dict[int, _Shown] = {}
        self._every, self._size, self._edges = 1, _PYRAMID, list[tuple[int, int, float]]()
        self._cameras: dict[str, Any] = {}
        self._images: dict[str, Image] = {}  # the newest of each camera, small
        self._line_handles: dict[str, Any] = {}
        server.gui.configure_theme(show_share_button=False, control_width="small")  # sharing would leave this machine
        self._status = server.gui.add_markdown("**waiting for images**")
        self._with_pyramids = server.gui.add_checkbox("keyframes", True)
        self._with_graph = server.gui.add_checkbox("pair graph", False)
        self._with_pyramids.on_update(lambda _: self._turn("/keyframes", self._with_pyramids.value))
        self._with_graph.on_update(lambda _: self._turn("/graph", self._with_graph.value))
        self._folders: dict[str, Any] = {}
        self._reset()
        self._look(np.array([1.0, 0.0, 0.0]), 2.0)  # where a map starts

    @property
    def port(self) -> int:
        """The port served."""
        return int(self._server.get_port())

    def close(self) -> None:
        """Send what is pending, then stop the server."""
        self._server.flush()
        time.sleep(_FLUSH_S)  # the server cannot tell whether everything is sent
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that it stopped
            self._server.stop()

    def show(self, news: News) -> None:
        """Apply changes to the scene, at once for all clients."""
        with self._server.atomic():
            if news.anew:
                self._reset()
            for index in news.removed - news.changed.keys():
                self._remove(index)
            for index in sorted(news.changed):
                self._show_keyframe(news.changed[index])
            self._thin()
            if news.changed or news.removed or news.anew:
                self._resize()
                self._edges = self._edges if news.edges is None else news.edges
                self._show_lines()
            if news.landmarks is not None:
                self._show_landmarks(news.landmarks)
            for name, (w_T_c, camera, image) in news.seen.items():
                self._show_camera(name, w_T_c, camera, image)
            if news.status is not None:
                self._status.content = news.status

    def _reset(self) -> None:
        self._server.scene.reset()
        for kept in (self._keyframes, self._cameras, self._images, self._line_handles):
            kept.clear()
        self._every, self._edges = 1, []
        for name, box in (("/keyframes", self._with_pyramids), ("/graph", self._with_graph)):
            self._folders[name] = self._server.scene.add_frame(name, show_axes=False, visible=box.value)

    def _turn(self, folder: str, visible: bool) -> None:
        self._folders[folder].visible = visible

    def _remove(self, index: int) -> None:
        shown = self._keyframes.pop(index, None)
        if shown is not None:
            for handle in (shown.pyramid, shown.points):
                if handle is not None:
                    handle.remove()

    def _show_keyframe(self, keyframe: Keyframe) -> None:
        checksum = zlib.crc32(keyframe.confidence.tobytes(), zlib.crc32(keyframe.depth.tobytes()))
        checksum = zlib.crc32(np.float64(keyframe.focal).tobytes(), checksum)
        place = _place(keyframe.w_T_c)
        shown = self._keyframes.get(keyframe.index)
        if shown is not None and shown.checksum == checksum:
            shown.w_T_c = keyframe.w_T_c
            for handle in (shown.pyramid, shown.points):
                if handle is not None:
                    handle.position, handle.wxyz = place["position"], place["wxyz"]
            return
        if shown is not None:
            self._remove(keyframe.index)
        height, width = keyframe.depth.shape
        pyramid = self._server.scene.add_camera_frustum(
            f"/keyframes/{keyframe.index}",
            2 * np.arctan(0.5 * height / keyframe.focal),
            width / height,
            scale=self._size,
            thickness=1.5,
            thickness_units="screen",
            color=_BLUE,
            image=_small(keyframe.image, _KEYFRAME_EDGE),
            format="jpeg",
            **place,
        )
        shown = _Shown(keyframe.camera, keyframe.w_T_c, 0.0, checksum, pyramid)
        self._keyframes[keyframe.index] = shown
        stride = max(1, int(np.ceil(np.sqrt(keyframe.depth.size / _KEYFRAME_POINTS))))
        cloud = keyframe_cloud(replace(keyframe, w_T_c=np.eye(4)), self._min_confidence, stride, self._every)
        finite = np.isfinite(cloud.points).all(axis=1)
        if not finite.any():
            return
        points = cloud.points[finite]
        shown.depth = float(np.median(points[:, 2]))
        shown.points = self._server.scene.add_point_cloud(
            f"/points/{keyframe.index}",
            points,
            cloud.colors[finite],
            point_size=shown.depth * stride / keyframe.focal,
            point_shading="flat",
            **place,
        )

    def _thin(self) -> None:
        """Drop every second point of all keyframes if there are too many."""
        clouds = [shown.points for shown in self._keyframes.values() if shown.points is not None]
        while sum(len(cloud.points) for cloud in clouds) > MAX_POINTS:
            self._every *= 2
            for cloud in clouds:
                points, colors = cloud.points[::2], cloud.colors[::2]
                cloud.points, cloud.colors, cloud.point_size = points, colors, cloud.point_size * np.sqrt(2)

    def _resize(self) -> None:
        """Adapt pyramids and initial viewpoint to the depth and extent of the map."""
        depths = [shown.depth for shown in self._keyframes.values() if shown.depth]
        if not depths:
            return
        depth = float(np.median(depths))
        if not 0.8 < _PYRAMID * depth / self._size < 1.25:
            self._size = _PYRAMID * depth
            for handle in [*(shown.pyramid for shown in self._keyframes.values()), *self._cameras.values()]:
                handle.scale = self._size
        seen = np.array([shown.seen for shown in self._keyframes.values()])
        middle = np.median(seen, axis=0)
        self._look(middle, 0.6 * depth + float(np.percentile(np.linalg.norm(seen - middle, axis=1), 90)))

    def _look(self, middle: Array, radius: float) -> None:
        """Set the viewpoint for new clients: from above and aside. Connected ones keep theirs."""
        self._server.initial_camera.position = middle + radius * np.array([-0.8, -0.8, 1.0])
        self._server.initial_camera.look_at = middle

    def _show_lines(self) -> None:
        """Update path and pair graph."""
        path: defaultdict[str, list[Array]] = defaultdict(list)
        for index in sorted(self._keyframes):
            path[self._keyframes[index].camera].append(self._keyframes[index].center)
        lines = {f"/path/{_name(camera)}": np.stack([at[:-1], at[1:]], axis=1) for camera, at in path.items()}
        places = {index: shown.center for index, shown in self._keyframes.items()}
        pairs = [(places[a], places[b]) for a, b, _ in self._edges if a in places and b in places]
        lines[_GRAPH] = np.array(pairs).reshape(-1, 2, 3)
        lines = {name: segments for name, segments in lines.items() if len(segments)}
        for name in self._line_handles.keys() - lines.keys():
            self._line_handles.pop(name).remove()
        for name, segments in lines.items():
            color, pixels = (_GREY, 1.0) if name == _GRAPH else (_ORANGE, 3.0)
            self._line_handles[name] = self._server.scene.add_line_segments(
                name, segments.astype(np.float32), color, thickness=pixels, thickness_units="screen"
            )

    def _show_landmarks(self, cloud: Cloud) -> None:
        every = max(1, -(-len(cloud) // MAX_POINTS))
        size = 0.1 * self._size
        self._server.scene.add_point_cloud(
            "/landmarks", cloud.points[::every], cloud.colors[::every], point_size=size, precision="float32"
        )

    def _show_camera(self, name: str, w_T_c: Array | None, camera: Camera | None, image: Image | None) -> None:
        """Show a pyramid at the camera's pose; none while it is unknown. ``image``: None for the last one."""
        handle = self._cameras.get(name)
        if image is not None:
            self._images[name] = _small(image, _CAMERA_EDGE)
        small = self._images.get(name)
        if w_T_c is None or camera is None or small is None:
            if handle is not None:
                handle.visible = False
            return
        fov = 2 * np.arctan(0.5 * camera.height / camera.focal)
        if handle is None:
            self._cameras[name] = self._server.scene.add_camera_frustum(
                f"/cameras/{_name(name)}",
                fov,
                camera.width / camera.height,
                scale=2 * self._size,
                thickness=3.0,
                thickness_units="screen",
                color=_ORANGE,
                image=small,
                format="jpeg",
                **_place(w_T_c),
            )
            return
        place = _place(w_T_c)
        handle.fov, handle.image, handle.visible = fov, small, True
        handle.position, handle.wxyz = place["position"], place["wxyz"]


def _place(w_T_c: Array) -> dict[str, Array]:
    """A pose in the server's form."""
    x, y, z, w = quaternion(w_T_c[:3, :3])
    return {"position": w_T_c[:3, 3], "wxyz": np.array([w, x, y, z])}


def _small(image: Image, edge: int) -> Image:
    """The image scaled to at most ``edge`` pixels on its longer side."""
    scale = min(1.0, edge / max(image.shape[:2]))
    size = max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0]))
    return np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _name(camera: str) -> str:
    """A camera's name as a single path component ("front/left" has two)."""
    return camera.strip("/").replace("/", "_") or "camera"
