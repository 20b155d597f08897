"""What every benchmark of alignment leaves for the common table: targets, and where and beside what it ran."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

_STAT = Path("/proc/stat")


def target(
    name: str, measured: float | str | None, limit: str, met: bool | None, note: str = "", unit: str = ""
) -> dict[str, Any]:
    """A row of the table: what, its value (None: not measured), what it should be, whether it is.

    ``met`` None: could not be judged; ``note`` says why, or what the figure leaves out.
    """
    shown = "not measured" if measured is None else f"{measured:.3g}" if isinstance(measured, float) else str(measured)
    return {"name": name, "measured": f"{shown} {unit}".strip(), "target": limit, "met": met, "note": note}


class Machine:
    """The machine, and how much of it others used since this was made."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.perf_counter(), _busy(), _own()

    def about(self) -> dict[str, Any]:
        """Version, architecture, cores, Python and ``others_cores``: cores that other processes kept busy.

        None where the system does not tell.
        """
        from dust3r_ros import __version__

        busy, others = _busy(), None
        if busy is not None and self._busy is not None:
            elapsed = max(time.perf_counter() - self._start, 1e-9)
            others = round(max((busy - self._busy) - (_own() - self._own), 0.0) / elapsed, 2)
        return {
            "version": __version__,
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "others_cores": others,
        }


def _busy() -> float | None:
    """Seconds that all cores together have worked, whoever for; time the host took away counts."""
    try:
        words = _STAT.read_text().splitlines()[0].split()
        user, nice, system, _, _, irq, softirq, steal = map(int, words[1:9])
    except (OSError, ValueError, IndexError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Processor seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
