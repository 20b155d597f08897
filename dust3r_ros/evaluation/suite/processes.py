"""Programs in processes of their own, with an end in time: memory is their own, and a crash is a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress


def finish(command: Sequence[str], timeout: float, environment: Mapping[str, str] | None = None) -> str:
    """Runs ``command`` to its end; empty, or why it failed. At the end of ``timeout`` (s) it and its children are
    ended, and so they are when we are.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env=environment,
    )
    try:
        said = process.communicate(timeout=max(timeout, 0.0))[1]
    except subprocess.TimeoutExpired:
        _end(process)
        return f"stopped after {timeout:.0f} s"
    except BaseException:
        _end(process)
        raise
    if process.returncode == 0:
        return ""
    lines = said.strip().splitlines()
    if process.returncode < 0:
        return f"ended by signal {-process.returncode} ({signal.strsignal(-process.returncode)})"
    return lines[-1] if lines else f"exit code {process.returncode}"


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
