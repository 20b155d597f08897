"""The node's link to the back end's process: calls, messages from it, and restarts."""

from __future__ import annotations

import contextlib
import threading
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

_WAIT_S = 1.0  # before another attempt to start the back end; doubles each time
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True)
class Hearing:
    """Callbacks for what the back end sends, each called in a thread of its own.

    ``message`` gets a topic's key and a serialised message; ``news`` unsolicited news; ``again``, after a restart, the
    news, whether the map is a new one, and how many poses were not reported before; ``traced`` trace events. ``ended``
    is called when the process has ended, with the reason in ``trouble``.
    """

    message: Callable[[str, bytes], None]
    news: Callable[[News], None]
    again: Callable[[News, bool, int], None]
    traced: Callable[[Bundle], object]
    ended: Callable[[], None]


class BackEndLink:
    """Starts the back end, and restarts it when it ends unexpectedly.

    It then continues from ``map_db`` or, where that was not written, the map that was loaded last, with the known
    calibrations and rig; without either the map starts anew. Raises what ``MapMaker`` raises. ``hello``: the news at
    the start; ``loaded``: the file of the map that a service loaded, "" where one reset it.
    """

    loaded: str | None = None

    def __init__(self, setting: Setting, logger: RcutilsLogger, hearing: Hearing) -> None:
        self._setting, self._logger, self._hearing = setting, logger, hearing
        self._unreported: deque[FollowedPose] = deque()
        self._in_vain = 0  # poses since the back end ended
        self._known: dict[str, Calibration] = {}
        self._rig: Mapping[str, Array] = {}
        self._mapping: bool | None = None
        self._restarts, self._stopping = 0, threading.Event()
        self._restarter: threading.Thread | None = None
        self.trouble = ""  # why there is no back end at the moment
        self._lock = threading.Lock()
        self._made, self._ended_last = 0, 0  # numbers of the last process started and the last one ended
        self._number = 0  # of the running process
        self._back_end: RemoteObject | None = None
        self.hello: News = self._start(setting)

    @property
    def there(self) -> bool:
        """Whether the back end is running."""
        return self._back_end is not None

    @property
    def unreported(self) -> int:
        """Number of poses not reported to it yet."""
        return len(self._unreported) + self._in_vain

    def report(self, pose: FollowedPose) -> None:
        """Keep the pose of an image that is not handed over, to be reported with the next call.

        Without a back end it is only counted: the next one takes no poses in the map of the last.
        """
        if self.there:
            self._unreported.append(pose)
        else:
            self._in_vain += 1

    def forget(self) -> int:
        """The map was replaced: discard poses in the old one; returns how many were not reported."""
        count = self.unreported
        self._unreported.clear()
        self._in_vain = 0
        return count

    def call(self, method: str, *arguments: Any) -> Future[Any]:
        """Call a method of ``MapMaker``; the future gets its result or exception."""
        back_end = self._back_end
        if back_end is None:
            refused: Future[Any] = Future()
            refused.set_exception(BackendError("the mapping process ended; it is being restarted"))
            return refused
        poses = []
        with contextlib.suppress(IndexError):  # other threads take them, too
            while True:
                poses.append(self._unreported.popleft())
        if poses:
            back_end.call("keep", poses)
        return back_end.call(method, *arguments)

    def know(self, camera: str, calibration: Calibration) -> Future[Any]:
        """Pass on a published calibration."""
        self._known[camera] = calibration
        return self.call("know", camera, calibration)

    def place(self, rig: Mapping[str, Array]) -> Future[Any]:
        """Pass on the cameras' places on their rig."""
        self._rig = rig
        return self.call("place", rig)

    def set_mapping(self, mapping: bool) -> Future[Any]:
        """Switch between mapping and localization only."""
        self._mapping = mapping
        return self.call("set_mapping", mapping)

    def stop(self) -> None:
        """End the process once its work is done. Raises ``OutputError`` when its files cannot be written."""
        with self._lock:
            self._stopping.set()
            back_end, restarter = self._back_end, self._restarter
        if back_end is None:
            if restarter is not None:
                restarter.join()  # the process that it may be starting holds map_db
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
        """Start a back end and wait for its first news. Raises what that raises."""
        self._made = number = self._made + 1
        back_end = RemoteObject(MapMaker, (setting,), self._heard, lambda reason: self._ended(number, reason))
        news: News = back_end.call("hello").result()
        with self._lock:
            if self._ended_last == number:
                raise BackendError("the mapping process ended right after its start")
            if not self._stopping.is_set():
                self._back_end, self._number, self.trouble = back_end, number, ""
                return news
        back_end.stop()
        raise BackendError("the node is shutting down")

    def _ended(self, number: int, reason: str) -> None:
        again = self._setting_again().node
        kept = again.load_map or again.map_db
        then = f"the map continues from '{kept}'" if kept else "the map starts anew, because map_db is not set"
        with self._lock:
            self._ended_last = number
            if self._stopping.is_set() or number != self._number:  # ``_start`` handles that itself
                return
            self._back_end, self._number = None, 0
            self.trouble = f"the mapping process ended ({reason}); it is being restarted, and {then}"
            self._restarter = threading.Thread(target=self._restart, name="restart", daemon=True)
            self._restarter.start()
        self._logger.error(self.trouble)
        self._hearing.ended()

    def _restart(self) -> None:
        self._restarts += 1
        setting, wait = self._setting_again(), _WAIT_S
        while not self._stopping.is_set():
            try:
                news = self._start(setting)
            except Exception as error:
                if self._stopping.is_set():
                    return
                self._logger.error(f"the mapping process cannot be restarted: {error}")
                self._stopping.wait(wait)
                wait = min(2.0 * wait, _LONGEST_WAIT_S)
                continue
            unheard = self.forget()
            for camera, calibration in self._known.items():
                self.know(camera, calibration)
            if self._rig:
                self.place(self._rig)
            self._logger.info("the mapping process is running again")
            self._hearing.again(news, not self._setting.node.map_db, unheard)
            return

    def _setting_again(self) -> Setting:
        """The setting for a restart: continue the map; write a new, numbered manifest and keep the old one."""
        node, manifest, mapper = self._setting.node, self._setting.manifest, self._setting.mapper
        if self._mapping is not None:
            mapper = replace(mapper, mode="mapping" if self._mapping else "localization")
        if manifest:
            path = Path(manifest)
            manifest = str(path.with_name(f"{path.stem}.{self._restarts}{path.suffix}"))
        if self.loaded is not None:  # a file that is gone would be waited for
            node = replace(node, load_map=self.loaded if Path(self.loaded).is_file() else "")
        wrote = "mapping" in (self._setting.mapper.mode, mapper.mode)
        if wrote and node.map_db and Path(node.map_db).exists():
            node = replace(node, map_start="continue", load_map="")
        return replace(self._setting, mapper=mapper, node=node, manifest=manifest)
