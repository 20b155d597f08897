"""A timeline of all processes of a run: a Chrome trace, for chrome://tracing and https://ui.perfetto.dev.

Written in the Trace Event Format: complete events ("X"), counters ("C") and names ("M").
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from dust3r_ros import __version__
from dust3r_ros.errors import OutputError
from dust3r_ros.io.files import atomic_path, make_folder

KEPT = 200_000  # events: about the last 15 minutes of a live run, 40 MB of memory and a file of 25 MB
_LINE = 4096  # bytes: a pipe takes up to this many at once or none at all

# Phase, name, process, thread, begin (s), and the duration (s) or, for a counter, its value.
Event = tuple[str, str, int, int, float, float]


@dataclass(frozen=True)
class Bundle:
    """Events of one process to be sent to another: ``names`` by (process, thread), thread 0 for the process itself.

    ``gone``: number of older events that were dropped.
    """

    names: Mapping[tuple[int, int], str]
    events: tuple[Event, ...]
    gone: int


class ChromeTrace:
    """Collects the newest ``kept`` events of this process, named ``process``, and of those it forks.

    Times are on the monotonic clock, which all processes of a machine share. For any thread.
    """

    def __init__(self, process: str, kept: int = KEPT) -> None:
        self._pid, self._process = os.getpid(), process
        self._events: deque[Event] = deque(maxlen=kept)
        self._names = {(self._pid, 0): process}
        self._gone = 0
        self._lock = threading.Lock()
        self._of_children, self._to_parent = os.pipe()
        os.set_blocking(self._of_children, False)
        os.set_blocking(self._to_parent, False)

    def stage(self, name: str, begin: float, end: float) -> None:
        """Add a stage of this thread, by ``perf_counter`` (s), as reported by a ``Stopwatch``."""
        self._add(("X", name, os.getpid(), threading.get_native_id(), begin, end - begin))

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure a stage without a stopwatch: ``with trace("publish"): …``."""
        begin = perf_counter()
        try:
            yield
        finally:
            self.stage(name, begin, perf_counter())

    def count(self, name: str, value: float) -> None:
        """Add the current value of a counter."""
        self._add(("C", name, os.getpid(), threading.get_native_id(), perf_counter(), float(value)))

    def take(self) -> Bundle:
        """Remove and return the events so far."""
        self._hear_children()
        with self._lock:
            bundle = Bundle(dict(self._names), tuple(self._events), self._gone)
            self._events.clear()
            self._gone = 0
        return bundle

    def add(self, bundle: Bundle) -> None:
        """Add events of another process."""
        with self._lock:
            self._names.update(bundle.names)
            self._gone += bundle.gone
            for event in bundle.events:
                self._keep(event)

    def write(self, path: str | Path) -> None:
        """Write the file atomically. Raises ``OutputError``."""
        bundle = self.take()
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            about = {"made by": f"dust3r_ros {__version__}", "clock": "monotonic", "kept": _bound(bundle)}
            file.write(f'{{"displayTimeUnit": "ms", "otherData": {json.dumps(about)}, "traceEvents": [\n')
            file.write(",\n".join(json.dumps(line) for line in _lines(bundle)))
            file.write("\n]}\n")

    def close(self) -> None:
        """Stop collecting."""
        for descriptor in (self._of_children, self._to_parent):
            os.close(descriptor)

    def _add(self, event: Event) -> None:
        thread = threading.current_thread().name
        if event[2] != self._pid:  # in a fork, memory is a copy
            line = json.dumps([thread, event]).encode() + b"\n"
            if len(line) <= _LINE:
                with suppress(OSError):  # full: not worth waiting for
                    os.write(self._to_parent, line)
            return
        with self._lock:
            self._names[event[2], event[3]] = thread
            self._keep(event)

    def _keep(self, event: Event) -> None:
        self._gone += len(self._events) == self._events.maxlen
        self._events.append(event)

    def _hear_children(self) -> None:
        data = b""
        with suppress(OSError):
            while part := os.read(self._of_children, 1 << 16):
                data += part
        with self._lock:
            for line in data.splitlines():
                thread, event = json.loads(line)
                self._names[event[2], 0] = f"{self._process}: background work"
                self._names[event[2], event[3]] = thread
                self._keep(tuple(event))


def check_place(path: str | Path) -> None:
    """Check at the start that a trace can be written at the end. Raises ``OutputError``."""
    folder = make_folder(Path(path).absolute().parent)
    if Path(path).is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"'{path}' cannot be written; give the name of a file in a folder that you may write to")


def _bound(bundle: Bundle) -> str:
    if not bundle.gone:
        return f"all {len(bundle.events)} events"
    return f"the newest {len(bundle.events)} events; {bundle.gone} older ones were dropped"


def _lines(bundle: Bundle) -> Iterator[dict[str, Any]]:
    seen = {event[2:4] for event in bundle.events} | {(event[2], 0) for event in bundle.events}
    for (pid, tid), name in bundle.names.items():
        if (pid, tid) in seen:
            kind = "thread_name" if tid else "process_name"
            yield {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}
    for phase, name, pid, tid, begin, value in bundle.events:
        line = {"ph": phase, "name": name, "pid": pid, "tid": tid, "ts": round(1e6 * begin, 3)}
        yield {**line, "dur": round(1e6 * value, 3)} if phase == "X" else {**line, "args": {"value": value}}
