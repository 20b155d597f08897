"""Draws the path of an image: the modules it passes through in front end and back end, from a trace of both."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import dust3r_ros
from dust3r_ros.config import MapperConfig
from dust3r_ros.scenes.sequence import render_sequence
from dust3r_ros.session.back_end import BackEnd
from dust3r_ros.session.session import Session
from dust3r_ros.tracking.exchange import KeyframeRequest
from dust3r_ros.tracking.live_camera import LiveCamera
from dust3r_ros.types import Frame, Image

_PACKAGE = f"{Path(dust3r_ros.__file__).parent}/"
_WIDE, _WRAP = 12.0, 6  # inches; modules of a folder in a row
_COLORS = {"front end": "#3a7bd5", "back end": "#e07b39"}


class Way:
    """Modules in the order of the first call into each, in any thread."""

    def __init__(self) -> None:
        self.modules: dict[str, None] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """The profile function for ``threading.setprofile``."""
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(_PACKAGE) and frame.f_code.co_name != "<module>":
            self.modules.setdefault(path[len(_PACKAGE) :])

    def start(self) -> None:
        """Start tracing; clear ``modules`` before an image to get that image's path."""
        threading.setprofile(self)
        sys.setprofile(self)

    def stop(self) -> None:
        """Stop tracing in this thread and in those that start later."""
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def way_picture() -> Image:
    """(H, W, 3): the longest path of an image through each end, once the map is no longer young."""
    return _drawn(_longest())


def _longest() -> dict[str, list[str]]:
    """Modules by end: for an image that is only tracked, and for one that becomes a keyframe."""
    sequence, way = render_sequence("orbit", 90, 320, 240), Way()
    session = Session(MapperConfig(), logging.getLogger("way"))
    back_end, camera = BackEnd(session), LiveCamera(MapperConfig(), 2.0, 0.0)
    longest: dict[str, list[str]] = {"front end": [], "back end": []}

    def run(end: str, ordinary: Callable[[], bool], body: Callable[[], Any]) -> Any:
        way.modules.clear()
        result = body()
        if ordinary() and len(way.modules) > len(longest[end]):
            longest[end] = list(way.modules)
        return result

    way.start()

    for index, image in enumerate(sequence.images):
        frame = Frame(int(sequence.stamps_ns[index]), "camera", image)
        found = run("front end", lambda: camera.front.knows_map, lambda frame=frame: camera.track(frame, None, False))
        camera.front.pick_up()
        tracked, before = found.tracked, session.mapper.counts.keyframes
        request = KeyframeRequest(frame, tracked.followed, tracked.ids, tracked.pixels)
        taken = run(
            "back end",
            lambda before=before: session.mapper.counts.keyframes > before > 8,
            lambda request=request: back_end.take(request),
        )
        if taken.snapshot is not None:
            camera.take(taken.snapshot, taken.update.covariance)
    way.stop()
    session.close()
    return longest


def _drawn(ways: dict[str, list[str]]) -> Image:
    """A row per folder and end; its modules are boxes numbered in the order of first calls."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows: list[tuple[str, str, list[tuple[int, str]]]] = []
    for end, modules in ways.items():
        folders: dict[str, list[tuple[int, str]]] = {}
        for place, module in enumerate(modules, start=1):
            folder, _, name = module.removesuffix(".py").rpartition("/")
            name = name.replace("__init__", folder.rpartition("/")[2])
            folders.setdefault(folder or "dust3r_ros", []).append((place, name))
        for folder, boxes in folders.items():
            rows += [(end, folder, boxes[first : first + _WRAP]) for first in range(0, len(boxes), _WRAP)]
    figure = Figure(figsize=(_WIDE, 0.36 * len(rows) + 0.3), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WRAP + 1.7), ylim=(len(rows) + 0.4, -0.4))
    axes.axis("off")
    last = ("", "")
    for row, (end, folder, boxes) in enumerate(rows):
        if end != last[0]:
            axes.text(
                0.05, row + 0.5, f"{end}, {len(ways[end])} modules", color=_COLORS[end], weight="bold", va="center"
            )
        if (end, folder) != last:
            axes.text(1.6, row + 0.5, f"{folder}/", ha="right", va="center", color="#555555")
        last = end, folder
        for column, (place, name) in enumerate(boxes):
            box = {"boxstyle": "round,pad=0.3", "facecolor": _COLORS[end], "edgecolor": "none"}
            words = f"{place}  {name}"
            axes.text(1.7 + column, row + 0.5, words, va="center", color="white", fontsize=8, bbox=box)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
