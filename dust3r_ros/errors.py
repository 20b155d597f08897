"""The errors of this package: one base, messages that name the thing, its value and what is right."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LONGEST = 2000  # characters of a message
_POINTER = b"version https://git-lfs"


class Dust3rRosError(Exception):
    """Base of every error this package raises on purpose.

    ``exit_code`` is what the command line exits with: 2 for usage or input that the user can put
    right, 1 for a run that failed.
    """

    exit_code = 1

    def __str__(self) -> str:
        """One line of bounded length, whatever names and values it quotes."""
        text = _BREAKS.sub(" ", super().__str__())
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 3 :]}"


class ConfigError(Dust3rRosError):
    """A parameter is unknown, of the wrong type or out of its range."""

    exit_code = 2


class InputError(Dust3rRosError):
    """A file, folder, bag, topic or image cannot be used as it is."""

    exit_code = 2


class CheckpointError(InputError):
    """A network checkpoint is missing, truncated, foreign or carries code."""


class GeometryError(Dust3rRosError):
    """Too few or degenerate measurements for what was asked."""


class BackendError(Dust3rRosError):
    """A backend cannot run (missing dependency, device or weights)."""


class MapFileError(InputError):
    """A saved map is of a newer version, damaged or not a map."""


class OutputError(Dust3rRosError):
    """A result cannot be written (no space, no permission)."""


class TrainingError(Dust3rRosError):
    """A training run cannot continue: its loss is no longer a number, or a process of it is gone."""


def refuse_pointer(what: str, raw: bytes, error: type[Dust3rRosError] = InputError) -> None:
    """Raise ``error`` if ``what``, which begins with ``raw``, is what Git LFS leaves in the place of a large file."""
    if raw.startswith(_POINTER):
        raise error(f"{what} is only a pointer to a file that Git LFS keeps; 'git lfs pull' fetches it")


def refuse_pointers(path: Path, error: type[Dust3rRosError] = InputError) -> None:
    """The same of a file, or of the files in a folder; nothing where they cannot be read."""
    with suppress(OSError):
        for each in path.iterdir() if path.is_dir() else [path]:
            if each.is_file():
                with each.open("rb") as file:
                    refuse_pointer(f"'{each}'", file.read(len(_POINTER)), error)
