"""The errors of this package: one base, messages that name the thing, its value and what is right."""

from __future__ import annotations


class Dust3rRosError(Exception):
    """Base of every error this package raises on purpose.

    ``exit_code`` is what the command line exits with: 2 for usage or input that the user can put
    right, 1 for a run that failed.
    """

    exit_code = 1


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
    """A training run cannot go on: its loss is no number any more, or a process of it is gone."""
