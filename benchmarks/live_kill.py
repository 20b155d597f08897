"""A live run whose back end is killed repeatedly: the killer, and what survives of poses and map."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from live_run import Heard

from dust3r_ros.node.tools.verdict import silence

_SOON_S = (0.2, 1.5)  # from the map being seen to continue to the next kill
_AFTER_S = 10.0  # within which the map must continue after the last kill
_WATCHED_NS = 5_000_000_000  # how long poses are watched after a kill, while the back end restarts
_POLL_S = 0.02


@dataclass(frozen=True)
class Kill:
    """One kill at ``at`` (ns of the monotonic clock).

    ``reported``: stamps of the keyframes whose clouds the node had published before. Of what the map file then has,
    ``keyframes``: the stamps of those with a pose; ``posed``: those and of all frames with a pose, as redundant
    keyframes become.
    """

    at: int
    reported: frozenset[int]
    keyframes: frozenset[int]
    posed: frozenset[int]


class Killer:
    """Kills a node's back end ``kills`` times at random moments, each after the map continued; a ``Meanwhile``."""

    def __init__(self, map_file: Path, kills: int, seed: int = 0) -> None:
        self._map_file, self._wanted = map_file, kills
        self._random = np.random.default_rng(seed)
        self.kills: list[Kill] = []
        self.continued = 0

    def __call__(self, node: subprocess.Popen[bytes], heard: Heard, over: threading.Event) -> None:
        """Runs until there were enough kills, or until ``over`` is set and the last kill's outcome is known."""
        end: float | None = None
        since = 0
        while end is None or time.monotonic() < end:
            if over.is_set() and end is None:
                end = time.monotonic() + _AFTER_S
            pid = back_end(node.pid)
            if not self._goes_on(heard, since) or pid is None:
                time.sleep(_POLL_S)
                continue
            self.continued += bool(self.kills)
            if over.is_set() or len(self.kills) == self._wanted:
                return
            time.sleep(self._random.uniform(*_SOON_S))
            reported = frozenset(stamp for stamp, _ in tuple(heard.tiles))
            since = time.monotonic_ns()
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.kills.append(Kill(since, reported, *saved(self._map_file)))

    def _goes_on(self, heard: Heard, since: int) -> bool:
        """Whether the map continues: the node reported so after the kill, and the map has accepted a later image."""
        statuses = [(at, status) for at, status in tuple(heard.statuses) if at > since]
        if not statuses or (self.kills and not any(status.problems for _, status in statuses)):
            return False
        at, last = statuses[-1]
        return last.state == "tracking" and not last.problems and last.lag < (at - since) * 1e-9

    def figures(self, heard: Heard, end_ns: int) -> dict[str, float | None]:
        """silence (s), continued and gone, of a run whose last image was sent at ``end_ns``."""
        if not self.kills:
            return {"silence": None, "continued": 0, "gone": None}
        poses = [at for _, _, at, _ in heard.poses]
        states = [(at, status.state) for at, status in heard.statuses]
        quiet = []
        for kill, following in zip(self.kills, [*(kill.at for kill in self.kills[1:]), end_ns], strict=True):
            until = min(following, kill.at + _WATCHED_NS)
            if until > kill.at:
                quiet.append(silence(poses, states, kill.at, until))
        kept = [*(kill.posed for kill in self.kills[1:]), saved(self._map_file)[1]]
        lost = sum(len(kill.keyframes - later) for kill, later in zip(self.kills, kept, strict=True))
        lost += sum(len(kill.reported - kill.posed) for kill in self.kills)
        return {"silence": max(quiet, default=None), "continued": self.continued, "gone": lost}


def saved(path: Path) -> tuple[frozenset[int], frozenset[int]]:
    """Stamps of the keyframes with a pose in a map file, and of all images with one; also while it grows."""
    base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30.0)
    try:
        keyframes, frames = (
            frozenset(stamp for (stamp,) in base.execute(f"SELECT stamp_ns FROM {table} WHERE {pose} IS NOT NULL"))
            for table, pose in (("keyframes", "w_T_c"), ("frames", "keyframe_T_frame"))
        )
        return keyframes, keyframes | frames
    finally:
        base.close()


def back_end(node: int) -> int | None:
    """The process id of a node's back end; None while there is none."""
    for path in _children(node):
        with suppress(OSError):
            if b"dust3r_ros.mapping.process" in Path(f"/proc/{path}/cmdline").read_bytes():
                return path
    return None


def _children(pid: int) -> Sequence[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, task.read_text().split())
    return found
