"""Files written atomically, and files locked for one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dust3r_ros.errors import InputError, OutputError

_REASONS = {
    errno.ENOSPC: "no space is left on the device; free some or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "the operation is not permitted; choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EISDIR: "a folder with this name is in the way; choose another name",
    errno.ENOTDIR: "a file with its folder's name is in the way; choose another folder",
    errno.ENOENT: "its folder does not exist; create it first",
    errno.EFBIG: "it is too large for the file system; choose another folder",
}


def output_error(path: str | Path, error: OSError) -> OutputError:
    """The error for a failed write of ``path``."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"'{path}' cannot be written: {reason}")


def followed(path: str | Path) -> Path:
    """``path``, or where it leads if it is a symbolic link: who writes to a link means that file."""
    return Path(os.path.realpath(path) if os.path.islink(path) else path)


def make_folder(path: str | Path) -> Path:
    """``path`` as a folder, created with its parents if missing; raises ``OutputError`` unless it can be written to."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"'{path}' cannot be created: a file with this name is in the way; choose another") from error
    except OSError as error:
        raise output_error(path, error) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise output_error(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return Path(path)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; it becomes ``path`` when the block ends without an error.

    The data are on disk before the name changes, so a crash leaves either the old file or the new one. The temporary
    name keeps the suffix, which some writers use to choose the format. A link stays, and the file that it leads to is
    replaced; what is no file, such as a device, is not. Raises ``OutputError`` for any error of the file system.
    """
    suffix, path = Path(path).suffix, followed(path)
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OutputError(f"'{path}' cannot be written: it is a device or a pipe; name a file")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=suffix)
    except OSError as error:
        raise output_error(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _settle(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _settle(temporary: Path, path: Path) -> None:
    handle = os.open(temporary, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files private; results get the usual permissions
    os.replace(temporary, path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` to fill; it becomes ``path`` when the block ends without an error.

    Raises ``OutputError`` when ``path`` exists already (unless it is an empty folder) or the file system refuses.
    """
    path = followed(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"'{path}' exists already; remove it or choose another name")
    make_folder(path.parent)
    try:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_lines(path: str | Path, failure: str) -> list[tuple[int, str]]:
    """Number and text of every line that is neither blank nor a ``#`` comment, stripped.

    Raises ``InputError``, which begins with ``failure``, for a file that is no text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{failure}: {error}") from error
    stripped = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole UTF-8 file atomically."""
    write_bytes(path, text.encode("utf-8"))


def replace_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace the text between two lines of a page.

    Raises ``OutputError`` for a page without these lines, so that nothing else is overwritten.
    """
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    head, opened, rest = old.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (opened and closed):
        raise OutputError(f"'{page}' has no place for the table; it must contain the lines '{begin}' and '{end}'")
    write_text(page, f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}")


_HELD: set[int] = set()  # descriptors of locks
_FORKED_S = 0.5  # within this time, a fork of a process that was killed has let go


def _let_go() -> None:
    """In a forked process: a lock is its parent's alone, and must end with that."""
    for handle in _HELD:
        with suppress(OSError):
            os.close(handle)
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


class FileLock:
    """Locks ``path``-lock from construction to ``release``; the kernel releases it when the process dies.

    Not the file itself, because SQLite's own locks on that end when any handle to it is closed; beside the file that
    a link leads to. A fork of the process does not hold it. Raises ``OutputError`` if it is locked already, even by
    this process.
    """

    def __init__(self, path: Path) -> None:
        path = followed(path)
        self._name = path.with_name(path.name + "-lock")
        end = time.monotonic() + _FORKED_S
        while True:
            try:
                self._handle = os.open(self._name, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise output_error(path, error) from error
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._handle)
                if time.monotonic() < end:
                    time.sleep(_FORKED_S / 50)
                    continue
                raise OutputError(
                    f"'{path}' is being written by another process or another part of this one; "
                    "end that first or choose another file"
                ) from error
            if self._is_named():
                _HELD.add(self._handle)
                return
            os.close(self._handle)  # released and removed by its holder in the meantime

    def _is_named(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self._name))
        except FileNotFoundError:
            return False

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock."""
        with suppress(OSError):  # it is gone, or its disk became read-only: the kernel's lock ends all the same
            self._name.unlink()
        _HELD.discard(self._handle)
        os.close(self._handle)
