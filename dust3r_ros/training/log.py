"""What a run tells of itself: lines of JSON, TensorBoard where it is installed, warnings that do not flood."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from dust3r_ros.errors import OutputError
from dust3r_ros.io.files import write_text

_log = logging.getLogger(__name__)


class MetricLog:
    """``metrics.jsonl``: one object per line, with ``kind`` (train, held_out) and ``step``.

    Lines later than ``step`` are removed first: they are of steps that a resumed run makes again. A full disk
    costs lines, not the run; it is told once.
    """

    def __init__(self, path: Path, step: int, tensorboard: Path | None, warn: Callable[[str], None]) -> None:
        self._path, self._warn, self._failed = path, warn, False
        rows = read_metrics(path)
        if any(row["step"] > step for row in rows) or (path.exists() and not _whole(path)):
            write_text(path, "".join(_line(row) for row in rows if row["step"] <= step))
        self._board = _board(tensorboard, step, warn) if tensorboard is not None else None

    def add(self, kind: str, step: int, values: dict[str, float]) -> None:
        """One line; numbers that are not finite are null."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line({"kind": kind, "step": step, **values}))
        except OSError as error:
            self._fail(error)
        if self._board is not None:
            try:
                for name, value in values.items():
                    self._board.add_scalar(f"{kind}/{name}", value, step)
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        if self._board is not None:
            try:
                self._board.close()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            self._warn(f"metrics cannot be written any more ({error.strerror or error}); training goes on")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a ``metrics.jsonl``; none when it does not exist."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut off by a crash
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


class Rare:
    """Tells at most one of many like messages per ``seconds``, with how many were left out."""

    def __init__(self, tell: Callable[[str], None], seconds: float = 30.0) -> None:
        self._tell, self._seconds, self._last, self._kept = tell, seconds, -math.inf, 0

    def __call__(self, words: str) -> None:
        now = monotonic()
        if now - self._last < self._seconds:
            self._kept += 1
            return
        more = f" (and {self._kept} more like it)" if self._kept else ""
        self._last, self._kept = now, 0
        self._tell(words + more)


def warn(words: str) -> None:
    """A line on stderr that leaves a progress bar whole."""
    from tqdm import tqdm

    tqdm.write(f"dust3r-train: warning: {' '.join(words.split())}", file=sys.stderr)


def _line(row: dict[str, Any]) -> str:
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
    }
    return json.dumps(plain) + "\n"


def _whole(path: Path) -> bool:
    data = path.read_bytes()
    return not data or data.endswith(b"\n")


def _board(folder: Path, step: int, warn: Callable[[str], None]) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None  # an extra; the lines hold the same
    try:
        return SummaryWriter(str(folder), purge_step=step + 1)
    except (OSError, OutputError) as error:
        warn(f"TensorBoard's files cannot be written: {error}")
        return None
