"""Publishes the map on ~/map, ~/map_tiles, ~/path, ~/graph and ~/grid, in a thread of its own, and keyframes."""

from __future__ import annotations

import math
import time
import traceback
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose
from nav_msgs.msg import OccupancyGrid
from visualization_msgs.msg import MarkerArray

from dust3r_ros.cloud.cloud import Cloud, keyframe_cloud
from dust3r_ros.cloud.fusion import agreed, overlapping
from dust3r_ros.config import NodeConfig
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.node import conversions
from dust3r_ros.node.conversions import graph_markers, header, ns_to_stamp
from dust3r_ros.node.map_changes import Changed, Changes, MapPoints, Packed, Rebuilding, Tiles
from dust3r_ros.occupancy import UNKNOWN, Grid, GridOptions, OccupancyGridMap
from dust3r_ros.types import Array, Keyframe, MapUpdate, StampedPose


class GraphMarkers:
    """The graph markers, from kept keyframe positions; for one thread."""

    def __init__(self) -> None:
        self._centers: dict[int, Array] = {}

    def message(
        self, changed: Changed, edges: Sequence[tuple[int, int, float]], stamp_ns: int, frame: str
    ) -> MarkerArray:
        """The graph after the changes; ``edges`` are all pairs: (first, second, weight)."""
        if changed.whole:
            self._centers.clear()
        for index in changed.removed:
            self._centers.pop(index, None)
        for keyframe in changed.keyframes:
            self._centers[keyframe.index] = keyframe.w_T_c[:3, 3]
        return graph_markers(self._centers, edges, stamp_ns, frame, self._size())

    def _size(self) -> float:
        """A fortieth of the path's extent: visible without hiding the map."""
        if len(self._centers) < 2:
            return 0.05
        return max(float(np.ptp(np.stack(list(self._centers.values())), axis=0).max()) / 40, 1e-3)


# Keyframes added to the grid at once, 0.2 s of work.
_AT_ONCE = 30


class GridMap:
    """The occupancy grid of the keyframes so far; for one thread."""

    def __init__(self, config: NodeConfig) -> None:
        """Raises ``ConfigError`` for invalid heights."""
        self._options = grid_options(config)
        self._grid = OccupancyGridMap(self._options)
        self._shown = False

    @property
    def pending(self) -> bool:
        """Whether keyframes wait to be added."""
        return self._grid.pending > 0

    @property
    def problem(self) -> str:
        """What is wrong with the grid, a sentence or ""."""
        excess = self._grid.excess
        return f"~/grid leaves out the rest of the map, which needs {excess} (grid_resolution)" if excess else ""

    def message(self, changed: Changed, stamp_ns: int, frame: str) -> OccupancyGrid | None:
        """The grid after the changes; None until there is a first cell.

        A new, empty map gives one unknown cell: nav2 refuses a grid without cells and would plan on the old one.
        """
        removed = set(changed.removed)
        if changed.whole and not changed.keyframes:
            self._grid = OccupancyGridMap(self._options)
        elif changed.whole:  # the old cells stay until the new ones are ready
            removed |= self._grid.indices - {keyframe.index for keyframe in changed.keyframes}
        self._grid.update(changed.keyframes, removed, limit=_AT_ONCE)
        grid = self._grid.grid()
        shown, self._shown = self._shown, bool(grid.data.size)
        if shown and not self._shown:
            grid = Grid(grid.resolution, grid.origin, np.full((1, 1), UNKNOWN, np.int8))
        return grid_message(grid, stamp_ns, frame) if grid.data.size else None


def grid_options(config: NodeConfig) -> GridOptions:
    """The grid options from the parameters; raises ``ConfigError`` for invalid heights."""
    return GridOptions(
        resolution=config.grid_resolution,
        min_height=config.grid_min_height or None,
        max_height=config.grid_max_height or None,
        camera_height=config.grid_camera_height or None,
    )


def grid_message(grid: Grid, stamp_ns: int, frame: str) -> OccupancyGrid:
    """The message of a grid, for nav2's static layer."""
    height, width = grid.data.shape
    message = OccupancyGrid(header=header(stamp_ns, frame))
    info = message.info
    info.map_load_time = ns_to_stamp(stamp_ns)
    info.resolution, info.width, info.height = float(grid.resolution), width, height
    x, y, yaw = grid.origin
    info.origin = Pose()
    info.origin.position.x, info.origin.position.y = float(x), float(y)
    info.origin.orientation.z, info.origin.orientation.w = float(np.sin(yaw / 2)), float(np.cos(yaw / 2))
    message.data = array("b", np.ascontiguousarray(grid.data, np.int8).tobytes())
    return message


_NEIGHBOURS = 6  # keyframes that a keyframe's points are checked against
_REST = 3.0  # the thread rests this many times as long as it worked, to leave the CPU to the mapper
_WITH_DEPTH = ("map", "map_tiles", "grid")
_WITH_KEYFRAMES = (*_WITH_DEPTH, "graph")
_NEVER_HELD = {"map_tiles"}  # the others wait for ``map_period``
_PATH_POSES = 2000  # more say nothing more in a picture, and take longer to send
KEYFRAME_TOPICS = ("keyframe_cloud", "depth", "depth_info", "keyframe_image")
MAP_TOPICS = (*_WITH_KEYFRAMES, "path")


@dataclass(frozen=True, eq=False)
class _View:
    """What to publish: the state between two frames; a topic without an entry is left out."""

    stamp_ns: int
    changed: dict[str, Changed]
    context: tuple[Keyframe, ...] = ()  # all keyframes, if points are checked against others
    landmarks: Cloud | None = None
    trajectory: Sequence[StampedPose] | None = None
    edges: Sequence[tuple[int, int, float]] = ()
    selection: tuple[int, float, int] = (1, 1.0, 1)


@dataclass
class _Kept:
    """What the thread keeps from one publication to the next."""

    points: MapPoints = field(default_factory=MapPoints)
    tiles: Tiles = field(default_factory=Tiles)
    graph: GraphMarkers = field(default_factory=GraphMarkers)


class MapPublisher:
    """Call ``note`` for every update and ``publish`` periodically, both from the mapper's thread, which never waits.

    Points are computed only for changed keyframes and only for topics with a subscriber. ``live`` reads parameters
    (``map_period``, ``map_stride``, ``min_confidence``, ``map_max_points``).
    """

    def __init__(
        self,
        topics: Mapping[str, Any],
        config: NodeConfig,
        live: Callable[[str], Any],
        first: str,
        complain: Callable[[str], None],
    ) -> None:
        """``topics``: publishers by ``MAP_TOPICS``. ``first``: the camera whose path ~/path shows.

        Raises ``ConfigError`` for invalid grid heights.
        """
        self._topics, self._frame, self._live, self._first = topics, config.map_frame, live, first
        self._complain = complain
        self.problem = ""  # of ~/grid, a sentence; while it has subscribers
        self._grid = GridMap(config)
        self._changes = {key: Changes() for key in _WITH_KEYFRAMES}
        self._kept, self._rebuilding = _Kept(), Rebuilding()
        self._path_stale = True
        self._selection: tuple[int, float, int] | None = None
        self._tile_listeners = 0
        self._thread = ThreadPoolExecutor(1, "publishing")
        self._job: Future[None] | None = None
        self._rest_until, self._shown = 0.0, -math.inf

    def note(self, update: MapUpdate) -> None:
        """Take in the changes of an update."""
        self._path_stale = True
        self._rebuilding.note(update, time.monotonic())
        for changes in self._changes.values():
            changes.note(update)

    def note_poses(self) -> None:
        """Images were only followed: the path has more poses."""
        self._path_stale = True

    def forget(self) -> None:
        """The map was replaced: publish all of it anew."""
        self._path_stale = True
        self._rebuilding.clear()
        for changes in self._changes.values():
            changes.skip()

    def publish(self, mapper: Mapper, stamp_ns: int) -> bool:
        """Send what changed, where there are subscribers; False while something is held back.

        Nothing is sent while the thread works or rests, no points while all depth is being computed anew, and only
        tiles within ``map_period`` of the last publication of the rest.
        """
        now = time.monotonic()
        if (self._job is not None and not self._job.done()) or now < self._rest_until:
            return False
        self._report_failure()
        all_due = now >= self._shown + self._live("map_period")
        view = self._view(mapper, stamp_ns, all_due)
        if view.changed or view.trajectory is not None:
            self._job = self._thread.submit(self._work, view)
        if all_due and (view.changed.keys() - _NEVER_HELD or view.trajectory is not None):
            self._shown = now
        return all_due and not self._rebuilding(now)

    def close(self) -> None:
        """End the thread once its publication is sent."""
        self._thread.shutdown()
        self._report_failure()

    # In the mapper's thread

    def _view(self, mapper: Mapper, stamp_ns: int, all_due: bool) -> _View:
        heard = {key: is_heard(publisher) for key, publisher in self._topics.items()}
        selection = (
            int(self._live("map_stride")),
            float(self._live("min_confidence")),
            int(self._live("map_max_points")),
        )
        self._reconsider(selection, heard)
        everything = _Once(lambda: mapper.keyframes)
        changed = self._take_changed(heard, everything, all_due)
        with_points = not {"map", "map_tiles"}.isdisjoint(changed)
        trajectory = self._take_path(mapper) if heard["path"] and all_due else None
        return _View(
            stamp_ns,
            changed,
            tuple(everything()) if with_points and mapper.config.fusion else (),
            mapper.landmarks() if "map" in changed and not mapper.config.dense else None,
            trajectory,
            mapper.edges if "graph" in changed else (),
            selection,
        )

    def _take_changed(self, heard: Mapping[str, bool], everything: _Once, all_due: bool) -> dict[str, Changed]:
        """Changes by topic with subscribers; for the others, the next subscriber gets the whole map."""
        wanted = (key for key in self._due(all_due) if heard[key] and self._pending(key))
        changed = {key: self._changes[key].take(everything) for key in wanted}
        for key in _WITH_KEYFRAMES:
            if not heard[key]:
                self._changes[key].skip()
        return changed

    def _due(self, all_due: bool) -> list[str]:
        """The topics on which changes of keyframes may be sent now."""
        held = _WITH_DEPTH if self._rebuilding(time.monotonic()) else ()
        begun = {"grid"} if self._grid.pending else set()  # what is sent in parts goes on
        return [key for key in _WITH_KEYFRAMES if key not in held and (all_due or key in _NEVER_HELD | begun)]

    def _take_path(self, mapper: Mapper) -> list[StampedPose] | None:
        """The path of the first camera, None if unchanged."""
        if not self._path_stale:
            return None
        self._path_stale = False
        return mapper.path(self._first, _PATH_POSES)

    def _reconsider(self, selection: tuple[int, float, int], heard: dict[str, bool]) -> None:
        """Start over with all points if their selection changed, tiles have a new subscriber, or there is room."""
        if selection != self._selection:
            self._selection = selection
            self._changes["map"].skip()
            self._changes["map_tiles"].skip()
        if self._kept.points.too_thin(selection[2]):
            self._changes["map"].skip()
        listeners = self._topics["map_tiles"].get_subscription_count() if heard["map_tiles"] else 0
        if listeners > self._tile_listeners:
            self._changes["map_tiles"].skip()
        self._tile_listeners = listeners

    def _pending(self, key: str) -> bool:
        """Whether a topic has something to send."""
        if key == "map_tiles" and self._kept.tiles.waiting:
            return True
        return self._changes[key].any or (key == "grid" and self._grid.pending)

    def _report_failure(self) -> None:
        error = self._job.exception() if self._job is not None and self._job.done() else None
        self._job = None
        if error is not None:
            text = "".join(traceback.format_exception(error))
            self._complain(f"the map cannot be published: {text}")
            self.forget()

    # In the publishing thread

    def _work(self, view: _View) -> None:
        begin = time.thread_time()
        stamp_ns, frame = view.stamp_ns, self._frame
        if "map" in view.changed:
            self._topics["map"].publish(conversions.cloud_message(self._map_parts(view), stamp_ns, frame))
        if "map_tiles" in view.changed:
            tiles = self._kept.tiles
            tiles.update(view.changed["map_tiles"])
            for message in tiles.messages(self._points(view), stamp_ns, frame):
                self._topics["map_tiles"].publish(message)
        if "graph" in view.changed:
            markers = self._kept.graph.message(view.changed["graph"], view.edges, stamp_ns, frame)
            self._topics["graph"].publish(markers)
        if "grid" in view.changed:
            grid = self._grid.message(view.changed["grid"], stamp_ns, frame)
            before, self.problem = self.problem, self._grid.problem
            if self.problem and not before:
                self._complain(self.problem)
            if grid is not None:
                self._topics["grid"].publish(grid)
        if view.trajectory is not None:
            self._topics["path"].publish(conversions.path_message(view.trajectory, stamp_ns, frame))
        self._rest_until = time.monotonic() + _REST * (time.thread_time() - begin)

    def _map_parts(self, view: _View) -> list[Packed]:
        if view.landmarks is not None:
            return [conversions.pack(view.landmarks)]
        points = self._kept.points
        points.update(view.changed["map"], self._points(view), view.selection[2])
        return points.parts

    def _points(self, view: _View) -> Callable[[Keyframe, int], Packed]:
        """A function for every ``every``-th selected point of a keyframe."""
        stride, min_confidence, _ = view.selection

        def points(keyframe: Keyframe, every: int) -> Packed:
            if view.context:
                keyframe = agreed(keyframe, overlapping(keyframe, view.context, _NEIGHBOURS), min_confidence)
            return conversions.pack(keyframe_cloud(keyframe, min_confidence, stride, every))

        return points


class KeyframePublisher:
    """Publishes each keyframe once, as soon as it has depth: the newest first, and one after each update."""

    def __init__(self, topics: Mapping[str, Any], frame: str, live: Callable[[str], Any]) -> None:
        """``topics``: publishers by ``KEYFRAME_TOPICS``. ``frame``: the map's. ``live``: as of ``MapPublisher``."""
        self.frames: dict[str, str] = {}  # optical frame of each camera
        self._topics, self._frame, self._live = topics, frame, live
        self._with_depth: set[tuple[str, int]] = set()  # camera and stamp

    def forget(self) -> None:
        self._with_depth.clear()

    def show(self, update: MapUpdate) -> None:
        """Publish the newest keyframe that has got its first depth, where somebody listens."""
        fresh = [
            keyframe for keyframe in update.changed if (keyframe.camera, keyframe.stamp_ns) not in self._with_depth
        ]
        fresh = [keyframe for keyframe in fresh if keyframe.camera in self.frames and (keyframe.depth > 0).any()]
        self._with_depth.update((keyframe.camera, keyframe.stamp_ns) for keyframe in fresh)
        heard = {key for key, topic in self._topics.items() if is_heard(topic)}
        if not fresh or not heard:
            return
        newest = max(fresh, key=lambda keyframe: keyframe.index)
        if "keyframe_cloud" in heard:
            points = keyframe_cloud(
                newest, min_confidence=float(self._live("min_confidence")), stride=int(self._live("map_stride"))
            )
            message = conversions.cloud_message([conversions.pack(points)], newest.stamp_ns, self._frame)
            self._topics["keyframe_cloud"].publish(message)
        for key, make in (
            ("depth_info", conversions.keyframe_info_message),
            ("keyframe_image", conversions.keyframe_image_message),
            ("depth", conversions.depth_message),
        ):
            if key in heard:
                self._topics[key].publish(make(newest, self.frames[newest.camera]))


class _Once:
    """All keyframes, fetched at most once."""

    def __init__(self, ask: Callable[[], Sequence[Keyframe]]) -> None:
        self._ask = ask
        self._answer: Sequence[Keyframe] | None = None

    def __call__(self) -> Sequence[Keyframe]:
        if self._answer is None:
            self._answer = self._ask()
        return self._answer


def is_heard(publisher: Any) -> bool:
    """Whether a publisher is active and has a subscriber."""
    return bool(publisher.is_activated) and publisher.get_subscription_count() > 0
