"""The files that a session writes while it runs: the growing map, and a record of its input."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dust3r_ros.errors import OutputError
from dust3r_ros.mapping.map_view import LiveMap
from dust3r_ros.types import Frame, MapUpdate


class Log(Protocol):
    """A session's log: a ROS logger or one of the standard library."""

    def info(self, message: str) -> object: ...

    def warning(self, message: str) -> object: ...


class Record(Protocol):
    """Records what reaches the mapper, so that the run can be reproduced (``io.manifest``).

    It never raises; ``problem`` says why it stopped.
    """

    problem: str

    def frame(self, frame: Frame) -> None: ...

    def event(self, kind: str, **values: Any) -> None: ...

    def close(self) -> None: ...


class Journal(Protocol):
    """Writes the map as it grows (``storage.journal``)."""

    @property
    def path(self) -> Path: ...

    @property
    def moved(self) -> bool: ...

    def update(self, live: LiveMap, settings: Mapping[str, Any] | None) -> None: ...

    def close(self) -> None: ...


class Keeper:
    """Journal and record of a session; a full disk does not stop the run.

    ``problems``: what cannot be written at the moment. The journal catches up with the next update that can be written.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._record: Record | None = None
        self._journal: Journal | None = None
        self._open_journal: Callable[[bool], Journal] | None = None
        self._problem = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """What cannot be written at the moment, a sentence each."""
        record = self._record.problem if self._record is not None else ""
        return tuple(text for text in (self._problem, record) if text)

    def writes(self, path: str | Path) -> bool:
        """Whether a file is the one that the journal writes."""
        return self._journal is not None and os.path.realpath(self._journal.path) == os.path.realpath(path)

    def keep_map(self, open_journal: Callable[[bool], Journal], fresh: bool) -> None:
        """Write the map from now on; ``open_journal(fresh)`` opens the file, new or to be continued."""
        self._open_journal, self._journal = open_journal, open_journal(fresh)

    def keep_record(self, record: Record) -> None:
        """Record the map's input from now on."""
        self._record = record

    def note(self, kind: str, **values: Any) -> None:
        """Record an event."""
        if self._record is not None:
            self._record.event(kind, **values)

    def frame(self, frame: Frame) -> None:
        """Record a frame that was used."""
        if self._record is not None:
            self._record.frame(frame)

    def write(
        self, live: Callable[[], LiveMap], update: MapUpdate | None, settings: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Write the map after an update; None: after any change."""
        changed = update is None or update.keyframe is not None or bool(update.changed or update.removed)
        if self._journal is None and self._open_journal is not None and changed:
            self.renew()  # it could not be opened before
        if self._journal is not None and self._journal.moved:
            self._log.warning(f"'{self._journal.path}' was moved or deleted; the whole map goes to a new file there")
            self.renew()
            changed = True
        if self._journal is None:
            return
        try:
            self._journal.update(live(), settings() if changed or self._problem else None)
            self._problem = ""
        except OutputError as error:
            self._failed(error)

    def renew(self) -> None:
        """Start a file for a new map and close the old one."""
        if self._open_journal is None:
            return
        try:
            if self._journal is not None:
                journal, self._journal = self._journal, None
                journal.close()
            self._journal = self._open_journal(True)
        except OutputError as error:
            self._failed(error)

    def close(self) -> None:
        """Close the files. Raises ``OutputError`` when the map cannot be written."""
        journal, record = self._journal, self._record
        self._journal = self._record = None
        if record is not None:
            record.close()
        if journal is not None:
            journal.close()

    def _failed(self, error: OutputError) -> None:
        sentence = f"mapping continues, but the map is not saved: {error}"
        if not self._problem:
            self._log.warning(sentence)
        self._problem = sentence
