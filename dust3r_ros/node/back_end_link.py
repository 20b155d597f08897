"""The node's end of the back end's process: what is asked of it, what it tells, and that it is there."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rclpy.impl.rcutils_logger import RcutilsLogger

from dust3r_ros.errors import BackendError
from dust3r_ros.io.chrome_trace import Bundle
from dust3r_ros.mapping.process import RemoteObject
from dust3r_ros.node.map_maker import LOG, MESSAGE, NEWS, TRACE, MapMaker, News, Setting
from dust3r_ros.tracking.exchange import FollowedPose
from dust3r_ros.types import Array, Calibration

_WAIT_S = 1.0  # before a back end that cannot be started is started again; longer each time
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True)
class Hearing:
    """Who hears of the back end, each in a thread of its own.

    ``message`` gets a topic's key and a message as it goes over the wire, ``news`` what came unasked, ``again`` how
    things are in a back end that was started again, whether its map is another, and how many poses were not reported
    before; ``traced`` what ran there; ``ended``: it has ended, ``trouble`` says how.
    """

    message: Callable[[str, bytes], None]
    news: Callable[[News], None]
    again: Callable[[News, bool, int], None]
    traced: Callable[[Bundle], object]
    ended: Callable[[], None]


class BackEndLink:
    """Starts the back end, and starts it again when it ends unasked.

    It goes on from ``map_db`` then, with what was said of the robot; without one the map begins anew. Raises what
    ``MapMaker`` raises. ``hello``: how things were at the start.
    """

    def __init__(self, setting: Setting, logger: RcutilsLogger, hearing: Hearing) -> None:
        self._setting, self._logger, self._hearing = setting, logger, hearing
        self._unreported: deque[FollowedPose] = deque()
        self._known: dict[str, Calibration] = {}
        self._rig: Mapping[str, Array] = {}
        self._mapping: bool | None = None
        self._restarts, self._stopping = 0, False
        self.trouble = ""  # why there is none at the moment
        self._lock = threading.Lock()
        self._made, self._ended_last = 0, 0  # numbers of the newest process that was started and that ended
        self._number = 0  # of the one that is there
        self._back_end: RemoteObject | None = None
        self.hello: News = self._start(setting)

    @property
    def there(self) -> bool:
        """Whether it can be asked."""
        return self._back_end is not None

    @property
    def unreported(self) -> int:
        """Poses of images that it has not heard of yet."""
        return len(self._unreported)

    def report(self, pose: FollowedPose) -> None:
        """The pose of an image that it does not get; reported with the next call."""
        self._unreported.append(pose)

    def forget(self) -> int:
        """The map was replaced: poses in the one before count no more; returns how many were not reported."""
        count = len(self._unreported)
        self._unreported.clear()
        return count

    def call(self, method: str, *arguments: Any) -> Future[Any]:
        """Have a method of ``MapMaker`` called; its result, or what it raises, comes by the future."""
        back_end = self._back_end
        if back_end is None:
            refused: Future[Any] = Future()
            refused.set_exception(BackendError("the mapping process ended; it is being restarted"))
            return refused
        poses = []
        while self._unreported:
            poses.append(self._unreported.popleft())
        if poses:
            back_end.call("keep", poses)
        return back_end.call(method, *arguments)

    def know(self, camera: str, calibration: Calibration) -> Future[Any]:
        """A published calibration."""
        self._known[camera] = calibration
        return self.call("know", camera, calibration)

    def place(self, rig: Mapping[str, Array]) -> Future[Any]:
        """Where cameras sit on their rig."""
        self._rig = rig
        return self.call("place", rig)

    def set_mapping(self, mapping: bool) -> None:
        """Let the map grow, or only find cameras in it."""
        self._mapping = mapping
        self.call("set_mapping", mapping)

    def stop(self) -> None:
        """End the process after what it has to do. Raises ``OutputError`` when its files cannot be written."""
        with self._lock:
            self._stopping, back_end = True, self._back_end
        if back_end is None:
            return
        try:
            self.call("close").result()
        finally:
            back_end.stop()

    def _heard(self, kind: str, value: Any) -> None:
        if kind == MESSAGE:
            key, data = value
            self._hearing.message(key, data.tobytes())
        elif kind == NEWS:
            self._hearing.news(value)
        elif kind == TRACE:
            self._hearing.traced(value)
        elif kind == LOG:
            self._log(*value)

    def _log(self, level: str, text: str) -> None:
        if level == "error":  # rclpy allows one severity per line of code
            self._logger.error(text)
        elif level == "warning":
            self._logger.warning(text)
        else:
            self._logger.info(text)

    def _start(self, setting: Setting) -> News:
        """Make a back end and ask how things are in it; from then on it is there. Raises what that raises."""
        self._made = number = self._made + 1
        back_end = RemoteObject(MapMaker, (setting,), self._heard, lambda reason: self._ended(number, reason))
        news: News = back_end.call("hello").result()
        with self._lock:
            if self._ended_last == number:
                raise BackendError("the mapping process ended right after its start")
            if not self._stopping:
                self._back_end, self._number, self.trouble = back_end, number, ""
                return news
        back_end.stop()
        raise BackendError("the node is shutting down")

    def _ended(self, number: int, reason: str) -> None:
        with self._lock:
            self._ended_last = number
            if self._stopping or number != self._number:  # who starts one sees that it ended
                return
            self._back_end, self._number = None, 0
        kept = self._setting.node.map_db
        then = f"the map continues from '{kept}'" if kept else "the map starts anew, because map_db is not set"
        self.trouble = f"the mapping process ended ({reason}); it is being restarted, and {then}"
        self._logger.error(self.trouble)
        self._hearing.ended()
        threading.Thread(target=self._restart, name="restart", daemon=True).start()

    def _restart(self) -> None:
        self._restarts += 1
        setting, wait = self._setting_again(), _WAIT_S
        while not self._stopping:
            try:
                news = self._start(setting)
            except Exception as error:
                if self._stopping:
                    return
                self._logger.error(f"the mapping process cannot be restarted: {error}")
                time.sleep(wait)
                wait = min(2.0 * wait, _LONGEST_WAIT_S)
                continue
            unheard = self.forget()
            for camera, calibration in self._known.items():
                self.know(camera, calibration)
            if self._rig:
                self.place(self._rig)
            if self._mapping is not None:
                self.set_mapping(self._mapping)
            self._logger.info("the mapping process is running again")
            self._hearing.again(news, not self._setting.node.map_db, unheard)
            return

    def _setting_again(self) -> Setting:
        """The map that grew is continued; a manifest gets a number, for the one so far stays as it is."""
        node, manifest = self._setting.node, self._setting.manifest
        if manifest:
            path = Path(manifest)
            manifest = str(path.with_name(f"{path.stem}.{self._restarts}{path.suffix}"))
        if node.map_db and Path(node.map_db).exists():
            node = replace(node, map_start="continue", load_map="")
        return replace(self._setting, node=node, manifest=manifest)
