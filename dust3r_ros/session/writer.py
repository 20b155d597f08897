"""What a session keeps on disk while it runs: the map as it grows, and a record of what it is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dust3r_ros.errors import OutputError
from dust3r_ros.mapping.map_view import LiveMap
from dust3r_ros.types import Frame, MapUpdate


class Log(Protocol):
    """Where a session tells the user what it does: a ROS logger or one of the standard library."""

    def info(self, message: str) -> object: ...

    def warning(self, message: str) -> object: ...


class Record(Protocol):
    """Writes down what reaches the mapper, so that it can be fed again (``io.manifest``).

    It never raises; ``problem`` says why it could not go on.
    """

    problem: str

    def frame(self, frame: Frame) -> None: ...

    def event(self, kind: str, **values: Any) -> None: ...

    def close(self) -> None: ...


class Journal(Protocol):
    """Writes the map as it grows (``io.map_journal``)."""

    @property
    def path(self) -> Path: ...

    def update(self, live: LiveMap, settings: Mapping[str, Any] | None) -> None: ...

    def close(self) -> None: ...


class Keeper:
    """Journal and record of a session; a disk that is full does not stop the run.

    ``problems`` are what cannot be written at the moment. What the journal misses it makes up for with the next
    update that can be written.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._record: Record | None = None
        self._journal: Journal | None = None
        self._open_journal: Callable[[bool], Journal] | None = None
        self._problem = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences."""
        record = self._record.problem if self._record is not None else ""
        return tuple(text for text in (self._problem, record) if text)

    def writes(self, path: str | Path) -> bool:
        """Whether a file is the one in which the map grows."""
        return self._journal is not None and self._journal.path.resolve() == Path(path).resolve()

    def keep_map(self, open_journal: Callable[[bool], Journal], fresh: bool) -> None:
        """From now on write the map; ``open_journal(fresh)`` opens the file, anew or to continue it."""
        self._open_journal, self._journal = open_journal, open_journal(fresh)

    def keep_record(self, record: Record) -> None:
        """From now on write down what the map is made from."""
        self._record = record

    def note(self, kind: str, **values: Any) -> None:
        """Something that happened besides frames."""
        if self._record is not None:
            self._record.event(kind, **values)

    def frame(self, frame: Frame) -> None:
        """A frame that was used."""
        if self._record is not None:
            self._record.frame(frame)

    def write(
        self, live: Callable[[], LiveMap], update: MapUpdate | None, settings: Callable[[], Mapping[str, Any]]
    ) -> None:
        """The map as it stands after an update; None: after anything."""
        changed = update is None or update.keyframe is not None or bool(update.changed)
        if self._journal is None and self._open_journal is not None and changed:
            self.renew()  # it could not be opened
        if self._journal is None:
            return
        try:
            self._journal.update(live(), settings() if changed or self._problem else None)
            self._problem = ""
        except OutputError as error:
            self._failed(error)

    def renew(self) -> None:
        """Another map: the file of the one so far is closed, and the next one begins."""
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
        """Let go of the files. Raises ``OutputError`` when the map cannot be written."""
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
