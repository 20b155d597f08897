"""A file that one process writes: others are refused with a sentence."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from dust3r_ros.errors import OutputError
from dust3r_ros.io.files import output_error


class FileLock:
    """Holds ``path``-lock from construction to ``release``; the kernel lets it go when the process dies.

    Not the file itself: SQLite's own locks on that end when any handle on it is closed. Raises ``OutputError``
    where somebody else holds it, also another part of this process.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.with_name(path.name + "-lock")
        while True:
            try:
                self._handle = os.open(self._name, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise output_error(path, error) from error
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._handle)
                raise OutputError(
                    f"'{path}' is being written by another process or another part of this one; "
                    "end that first or give another file"
                ) from error
            if self._is_named():
                return
            os.close(self._handle)  # released and removed by its holder in between

    def _is_named(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self._name))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others write."""
        self._name.unlink(missing_ok=True)
        os.close(self._handle)
