"""The map as it grows, in the Rerun viewer or as a recording for it; no ROS (https://rerun.io).

Entities, all below ``map`` (z up, map units) but the last two:

- ``cameras/NAME``: pose, pinhole and image of each camera as it is now;
- ``keyframes/NUMBER``: pose of a keyframe, its points below in its own frame;
- ``path/NAME/PART``: the line through the keyframes of a camera, in parts;
- ``focal/NAME``: focal length over time, native pixels; ``status``: counts as text.

Timelines: ``stamp`` (that of the image) and ``frame`` (how many images were shown).
"""

from __future__ import annotations

import logging
import os
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from dust3r_ros.cloud.cloud import keyframe_cloud
from dust3r_ros.errors import BackendError, ConfigError, OutputError
from dust3r_ros.types import Array, Camera, Image, Keyframe, MapCounts, MapUpdate

_log = logging.getLogger(__name__)

APPLICATION = "dust3r_ros"
SUFFIX = ".rrd"
MAX_POINTS = 15_000  # per keyframe; a recording of a day must still open
_IMAGE_EDGE = 640  # pixels
_PART = 64  # keyframes per piece of the path: what is sent again when one of them moves


class RerunView:
    """A live viewer (``path`` None: a window opens) or a recording (``path``: a file ``*.rrd``), used in ``with``.

    A recording grows with the run and can be read up to where it ends when the run is killed.
    ``min_confidence`` as for the cloud. Raises ``BackendError`` where the Rerun SDK is missing,
    ``ConfigError`` for a path of another suffix or a window without a display, ``OutputError`` when
    the file cannot be written or the window cannot be opened.
    """

    def __init__(self, path: str | Path | None = None, *, min_confidence: float = 1.5) -> None:
        if path is None:
            _check_display()
        elif Path(path).suffix.lower() != SUFFIX:
            raise ConfigError(f"recording '{path}' must be a file *{SUFFIX}, as the Rerun viewer opens them")
        self._rr = _sdk()
        self._min_confidence = min_confidence
        self._frames = 0
        self._cameras: dict[str, Camera] = {}
        self._path: defaultdict[str, dict[int, dict[int, Array]]] = defaultdict(dict)  # camera, part, keyframe: centre
        self._depths: dict[int, int] = {}  # keyframe: checksum of what its points were made from
        self._stream = self._rr.RecordingStream(APPLICATION)
        try:
            if path is None:
                with _own_programs_found():
                    self._rr.spawn(recording=self._stream)
            else:
                self._stream.save(str(path))
        except (OSError, RuntimeError) as error:
            what = f"recording '{path}' cannot be written" if path else "the Rerun viewer cannot be started"
            raise OutputError(f"{what}: {str(error).strip().splitlines()[0]}") from error
        self._stream.log("map", self._rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)

    def __enter__(self) -> RerunView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still on its way; the window stays open. Further calls do nothing."""
        if self._stream is None:
            return
        stream, self._stream = self._stream, None
        try:
            stream.flush(timeout_sec=10.0)
            stream.disconnect()
        except (OSError, RuntimeError) as error:  # somebody closed the window; the map does not mind
            _log.warning("the viewer did not take everything: %s", error)

    def show(self, update: MapUpdate, image: Image | None = None, counts: MapCounts | None = None) -> None:
        """Log what one frame, or the end of a run, changed; ``image`` RGB (H, W, 3) uint8 is the frame's."""
        if self._stream is None:
            return
        self._frames += image is not None
        self._stream.set_time("stamp", timestamp=np.datetime64(update.stamp_ns, "ns"))
        self._stream.set_time("frame", sequence=self._frames)
        self._show_cameras(update, image)
        self.show_keyframes(update.changed, update.removed)
        self._stream.log("status", self._rr.TextDocument(_status(update, counts), media_type="text/markdown"))

    def show_keyframes(self, changed: Sequence[Keyframe], removed: Sequence[int] = ()) -> None:
        """Log keyframes that are new or changed (points only where depth did), and take removed ones away."""
        parts: set[tuple[str, int]] = set()
        for index in removed:
            self._depths.pop(index, None)
            self._stream.log(f"map/keyframes/{index}", self._rr.Clear(recursive=True))
            for camera, path in self._path.items():
                if path.get(index // _PART, {}).pop(index, None) is not None:
                    parts.add((camera, index // _PART))
        for keyframe in changed:
            part = keyframe.index // _PART
            self._path[keyframe.camera].setdefault(part, {})[keyframe.index] = keyframe.w_T_c[:3, 3]
            parts.add((keyframe.camera, part))
            self._show_keyframe(keyframe)
        # The line enters a part from the last keyframe before it.
        for camera, part in sorted(parts | {(camera, part + 1) for camera, part in parts}):
            self._show_path(camera, part)

    def _show_keyframe(self, keyframe: Keyframe) -> None:
        entity = f"map/keyframes/{keyframe.index}"
        self._stream.log(entity, self._transform(keyframe.w_T_c))
        checksum = zlib.crc32(keyframe.confidence.tobytes(), zlib.crc32(keyframe.depth.tobytes()))
        checksum = zlib.crc32(np.float64(keyframe.focal).tobytes(), checksum)
        if self._depths.get(keyframe.index) == checksum:
            return
        self._depths[keyframe.index] = checksum
        stride = max(1, int(np.ceil(np.sqrt(keyframe.depth.size / MAX_POINTS))))
        # In its own frame, so that a keyframe that only moves sends its pose alone
        cloud = keyframe_cloud(replace(keyframe, w_T_c=np.eye(4)), self._min_confidence, stride)
        finite = np.isfinite(cloud.points).all(axis=1)
        points = self._rr.Points3D(cloud.points[finite], colors=cloud.colors[finite])
        self._stream.log(f"{entity}/points", points)

    def _show_path(self, camera: str, part: int) -> None:
        path = self._path[camera]
        if part not in path:
            return
        before = next((path[p] for p in range(part - 1, -1, -1) if path.get(p)), {})
        line = [before[max(before)]] if before else []
        line += [path[part][index] for index in sorted(path[part])]
        strips = [np.array(line)] if len(line) > 1 and path[part] else []
        self._stream.log(f"map/path/{_name(camera)}/{part}", self._rr.LineStrips3D(strips, colors=[230, 120, 20]))

    def _show_cameras(self, update: MapUpdate, image: Image | None) -> None:
        new = [name for name in update.cameras if name not in self._cameras]
        self._cameras.update(update.cameras)
        if new:
            self._stream.send_blueprint(self._layout())
        for name, camera in update.cameras.items():
            self._stream.log(f"focal/{_name(name)}", self._rr.Scalars([camera.focal]))
        entity = f"map/cameras/{_name(update.camera)}"
        if update.w_T_c is not None:
            self._stream.log(entity, self._transform(update.w_T_c))
        if image is None:
            return
        seen = self._cameras.get(update.camera)
        scale = min(1.0, _IMAGE_EDGE / max(image.shape[:2]))
        size = max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0]))
        if seen is not None:
            K = seen.matrix.copy()
            K[:2] *= size[0] / seen.width
            self._stream.log(entity, self._rr.Pinhole(image_from_camera=K, resolution=size))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        self._stream.log(entity, self._rr.Image(np.ascontiguousarray(small)).compress(jpeg_quality=75))

    def _transform(self, w_T_c: Array) -> Any:
        return self._rr.Transform3D(translation=w_T_c[:3, 3], mat3x3=w_T_c[:3, :3])

    def _layout(self) -> Any:
        """The map on the left; images, focal lengths and counts on the right."""
        import rerun.blueprint as rrb

        images = [rrb.Spatial2DView(origin=f"map/cameras/{_name(name)}", name=name) for name in sorted(self._cameras)]
        right = [
            rrb.Tabs(*images, name="images") if len(images) > 1 else images[0],
            rrb.TimeSeriesView(origin="focal", name="focal length, pixels"),
            rrb.TextDocumentView(origin="status", name="status"),
        ]
        map_view = rrb.Spatial3DView(origin="map", name="map")
        return rrb.Blueprint(rrb.Horizontal(map_view, rrb.Vertical(*right), column_shares=[2, 1]))


def _sdk() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise BackendError(
            "the viewer needs the Rerun SDK, which is not installed: pip install 'dust3r_ros[view]' (or: rerun-sdk)"
        ) from error
    if not hasattr(rerun, "Scalars") or not hasattr(rerun.RecordingStream, "set_time"):
        raise BackendError(
            f"the viewer needs a newer Rerun SDK than {getattr(rerun, '__version__', 'this one')}: "
            "pip install --upgrade 'dust3r_ros[view]' (or: rerun-sdk)"
        )
    return rerun


@contextmanager
def _own_programs_found() -> Iterator[None]:
    """With programs beside this Python found last: the viewer is among them, and an environment need not be active."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([before, str(Path(sys.executable).parent)])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _check_display() -> None:
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ConfigError(
            "no display for the viewer's window (neither DISPLAY nor WAYLAND_DISPLAY is set); "
            f"name a file *{SUFFIX} to record for it instead"
        )


def _name(camera: str) -> str:
    """A camera's name as one part of a path ("front/left" has two)."""
    return camera.strip("/").replace("/", "_") or "camera"


def _status(update: MapUpdate, counts: MapCounts | None) -> str:
    """Markdown: state, counts, cameras."""
    lines = [f"**{update.state.value}**", ""]
    if counts is not None:
        lines.append(f"- {counts.frames} frames, {counts.tracked} tracked, {counts.lost} lost")
        lines.append(f"- {counts.keyframes} keyframes, {counts.pairs} pairs")
    for name, camera in sorted(update.cameras.items()):
        spread = f" ± {camera.focal_std:.1f}" if np.isfinite(camera.focal_std) and not camera.fixed else ""
        how = "given" if camera.fixed else f"from {camera.support} pairs"
        lines.append(f"- {name}: f = {camera.focal:.1f}{spread} px at {camera.width} x {camera.height}, {how}")
    return "\n".join(lines) + "\n"
