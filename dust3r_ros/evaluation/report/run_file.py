"""One JSON file per run: what ran where, how busy the machine was, and its rows."""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dust3r_ros import __version__
from dust3r_ros.errors import InputError
from dust3r_ros.geometry.processes import usable_cores
from dust3r_ros.io.files import make_folder, write_text

_STAT = Path("/proc/stat")
_CPUINFO = Path("/proc/cpuinfo")


class Machine:
    """The machine; its load is counted from the creation of this object."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.perf_counter(), _busy(), _own()

    def about(self) -> dict[str, Any]:
        """Architecture, processor, cores, memory (GB), Python and ``others_cores``: cores that other processes kept
        busy meanwhile. None, or an empty string, where the system does not say.
        """
        busy, others = _busy(), None
        if busy is not None and self._busy is not None:
            elapsed = max(time.perf_counter() - self._start, 1e-9)
            others = round(max((busy - self._busy) - (_own() - self._own), 0.0) / elapsed, 2)
        return {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": usable_cores(),
            "memory_gb": _memory_gb(),
            "python": platform.python_version(),
            "others_cores": others,
        }


def _processor() -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (OSError, ValueError):
        return None


def _busy() -> float | None:
    """Busy seconds of all cores together, for any process; time stolen by the host counts."""
    try:
        words = _STAT.read_text(encoding="utf-8").splitlines()[0].split()
        user, nice, system, _, _, irq, softirq, steal = map(int, words[1:9])
    except (OSError, ValueError, IndexError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Processor seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


FORMAT = 1
Row = dict[str, Any]
Key = tuple[str, str, str, str]
_NAMES = ("dataset", "scene", "protocol", "system")


@dataclass(frozen=True)
class RunFile:
    """``about``: format, version, commit, date, configuration, hardware, seconds; ``rows``: plain dicts.

    A row names its dataset, scene, protocol and system (what was measured: a backend or a peer) and holds one
    value per metric, None where there was nothing to measure; ``note`` says why. No two rows have the same four names.
    """

    about: Mapping[str, Any]
    rows: Sequence[Row] = field(default_factory=list)

    def by_key(self) -> dict[Key, Row]:
        """{(dataset, scene, protocol, system): row}."""
        return {key_of(row): row for row in self.rows}


def key_of(row: Mapping[str, Any]) -> Key:
    """The names of a row."""
    dataset, scene, protocol, system = (str(row[name]) for name in _NAMES)
    return dataset, scene, protocol, system


def about(
    *,
    commit: str = "",
    date: str = "",
    configuration: Mapping[str, Any] | None = None,
    hardware: Mapping[str, Any] | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """The head of a run file. Commit and date come from the caller: no clock is read here."""
    return {
        "format": FORMAT,
        "version": __version__,
        "commit": commit,
        "date": date,
        "configuration": dict(configuration or {}),
        "hardware": dict(hardware or {}),
        "seconds": None if seconds is None else round(seconds, 1),
    }


def write_run(path: str | Path, run: RunFile) -> Path:
    """Write ``run``; a missing folder is created. Raises ``OutputError`` when it cannot be written."""
    path = Path(path)
    make_folder(path.parent)
    write_text(path, json.dumps({"about": run.about, "rows": list(run.rows)}, indent=1, allow_nan=False) + "\n")
    return path


def read_run(path: str | Path) -> RunFile:
    """The run in ``path``. Raises ``InputError`` that names the file and what is wrong with it."""
    data = _json(path)
    if not isinstance(data, dict) or not isinstance(data.get("about"), dict) or not isinstance(data.get("rows"), list):
        raise InputError(f"'{path}' is not a run of an evaluation: it must hold 'about' and 'rows'")
    if data["about"].get("format") != FORMAT:
        found = data["about"].get("format")
        raise InputError(f"'{path}' has format {found!r}; this version reads format {FORMAT}: measure again")
    _check_rows(path, data["rows"])
    return RunFile(data["about"], data["rows"])


def _json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"'{path}' is not JSON: {error}") from error


def _check_rows(path: str | Path, rows: Sequence[Any]) -> None:
    """Raises ``InputError`` for a row without its names, or with the names of another row."""
    seen: set[Key] = set()
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in _NAMES):
            raise InputError(f"row {number} of '{path}' does not name its {', '.join(_NAMES)}")
        if key_of(row) in seen:
            raise InputError(f"row {number} of '{path}' repeats {' / '.join(key_of(row))}")
        seen.add(key_of(row))


def merged(runs: Sequence[RunFile]) -> RunFile:
    """All rows of all runs under the head of the first; among rows with the same names the last is kept."""
    if not runs:
        raise InputError("no run to show; give at least one JSON file")
    rows = {key: row for run in runs for key, row in run.by_key().items()}
    return RunFile(runs[0].about, list(rows.values()))
