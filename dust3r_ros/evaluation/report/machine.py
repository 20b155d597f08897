"""Where an evaluation ran, and how much of the machine others used meanwhile."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

_STAT = Path("/proc/stat")
_CPUINFO = Path("/proc/cpuinfo")


class Machine:
    """The machine; its load is counted from when this was made."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.perf_counter(), _busy(), _own()

    def about(self) -> dict[str, Any]:
        """Architecture, processor, cores, memory (GB), Python and ``others_cores``: cores that other processes kept
        busy meanwhile. None, or an empty text, where the system does not tell.
        """
        busy, others = _busy(), None
        if busy is not None and self._busy is not None:
            elapsed = max(time.perf_counter() - self._start, 1e-9)
            others = round(max((busy - self._busy) - (_own() - self._own), 0.0) / elapsed, 2)
        return {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
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
    """Seconds that all cores together have worked, whoever for; time the host took away counts."""
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
