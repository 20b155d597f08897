"""Progress of a run, its pace if it is timed, and its log: lines of JSON, TensorBoard, rate-limited warnings."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from dust3r_ros.errors import OutputError
from dust3r_ros.io.files import write_text
from dust3r_ros.training.recipe import Recipe


@dataclass
class Progress:
    """``step`` counts all steps, ``within`` those of ``stage``; ``position``: pairs before the next batch;
    ``stage_start``: position of the stage's first pair. ``plan``: steps of every stage.

    ``bad``: batches without a finite gradient, the last ``bad_in_row`` in a row; ``skipped``: unusable samples;
    ``seconds`` of training, ``waiting`` of them for data.
    """

    plan: list[int] = field(default_factory=list)
    step: int = 0
    stage: int = 0
    within: int = 0
    position: int = 0
    stage_start: int = 0
    bad: int = 0
    bad_in_row: int = 0
    skipped: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return self.stage >= len(self.plan)

    @property
    def stage_done(self) -> bool:
        """Whether the stage has had its steps."""
        return self.within >= self.plan[self.stage]

    @property
    def total(self) -> int:
        """Steps of the whole run, as planned now."""
        return sum(self.plan)

    def next_stage(self) -> None:
        """Begin the next stage."""
        self.stage, self.within, self.stage_start = self.stage + 1, 0, self.position

    def count(self, pairs: int, good: bool) -> None:
        """Count a step of ``pairs`` pairs over all processes."""
        self.step, self.within, self.position = self.step + 1, self.within + 1, self.position + pairs
        self.bad, self.bad_in_row = self.bad + (not good), 0 if good else self.bad_in_row + 1

    def as_mapping(self) -> dict[str, Any]:
        """As stored."""
        return asdict(self)


UNKNOWN = 2000
"""Steps of a stage in a timed run before its speed is known: many, so that its first steps do not learn at full rate.
"""


def planned(recipe: Recipe, steps: int | None = None, timed: bool = False) -> list[int]:
    """Steps of every stage: the recipe's, or ``steps`` in total in the recipe's proportions.

    For a ``timed`` run they are not known yet.
    """
    if timed:
        return [UNKNOWN] * len(recipe.stages)
    own = [stage.steps for stage in recipe.stages]
    if steps is None:
        return own
    ends = [round(steps * sum(own[: number + 1]) / sum(own)) for number in range(len(own))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


class MetricLog:
    """``metrics.jsonl``: one object per line, with ``kind`` (train, held_out) and ``step``.

    Lines after ``step`` are removed first: a resumed run repeats those steps. A full disk loses lines, not the run,
    and is reported once.
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
        """Flush TensorBoard."""
        if self._board is not None:
            try:
                self._board.close()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            self._warn(f"metrics can no longer be written ({error.strerror or error}); training continues")


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
    """Reports at most one of many similar messages per ``seconds``, with the number left out."""

    def __init__(self, report: Callable[[str], None], seconds: float = 30.0) -> None:
        self._report, self._seconds, self._last, self._kept = report, seconds, -math.inf, 0

    def __call__(self, words: str) -> None:
        now = monotonic()
        if now - self._last < self._seconds:
            self._kept += 1
            return
        more = f" (and {self._kept} more like it)" if self._kept else ""
        self._last, self._kept = now, 0
        self._report(words + more)


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
        return None  # optional; the lines hold the same
    try:
        return SummaryWriter(str(folder), purge_step=step + 1)
    except (OSError, OutputError) as error:
        warn(f"TensorBoard's files cannot be written: {error}")
        return None


# A plan is made after a few steps of a stage or a sitting, when the caches are warm, and renewed as the stage proceeds.
# The state is written at once with a new plan, so that a run that is killed and resumed follows the plan of its earlier
# steps.
_WARM = 2  # first steps, which are slower than the others
_FIRST_LOOKS = (8, 32)  # steps after which the plan is made and renewed
_RESUMED = 3  # the same after a resume, before these
_FEW = 200  # steps: in a mean of fewer, those in which calls are recorded or blocks compiled outweigh the others
_LOOKS = (0.3, 0.6, 0.8, 0.9)  # shares of a stage's plan after which it is renewed


@dataclass
class Pace:
    """The clock of a run. ``seconds``: its total budget, of which ``reserve`` is kept for the work after training."""

    seconds: float
    reserve: float = 0.0
    _spent: list[float] = field(default_factory=list)
    _stage: int = -1
    _first: tuple[int, ...] = ()  # looks of this stage in this sitting
    _looked: tuple[int, int] = (0, 0)

    def over(self, elapsed: float) -> bool:
        """Whether training has to end now, after ``elapsed`` seconds of this and earlier sittings."""
        return elapsed >= self.seconds - self.reserve

    def update(self, progress: Progress, recipe: Recipe, elapsed: float, step_seconds: float) -> bool:
        """Record the time of a step and renew the plan of the stage in ``progress`` if it is due; returns whether it
        was.

        A stage ends when its share, and those before it, of the time are over.
        """
        stage = progress.stage
        if stage != self._stage:
            self._stage, self._spent, self._looked = stage, [], (0, self._shares(progress))
            self._first = _FIRST_LOOKS if progress.within == 1 else (_RESUMED, *_FIRST_LOOKS)
        self._spent.append(step_seconds)
        due = sum(len(self._spent) >= look for look in self._first)
        more = due > self._looked[0] or self._shares(progress) > self._looked[1]
        if not more or len(self._spent) <= _WARM:
            return False
        recent = sorted(self._spent[_WARM:][-_FEW:])
        usual = sum(recent) / len(recent) if len(recent) == _FEW else recent[len(recent) // 2]
        left = (self.seconds - self.reserve) * sum(recipe.shares[: stage + 1]) - elapsed
        progress.plan[stage] = progress.within + max(round(left / max(usual, 1e-6)), 1)
        self._looked = due, self._shares(progress)
        return True

    def _shares(self, progress: Progress) -> int:
        """How many of the shares of the stage's plan are done."""
        return sum(progress.within >= int(progress.plan[progress.stage] * share) for share in _LOOKS)
