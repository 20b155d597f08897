"""The results of incremental.py with their targets: rows, table and plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from targets import target

from dust3r_ros.evaluation.report.metrics import table_lines
from dust3r_ros.io.files import atomic_path

if TYPE_CHECKING:
    from incremental import Run

_PART = 100  # keyframes over which a percentile is taken
_STEP, _SPAN = 25, 50  # of the plot's curves: keyframes between points, and window
LIMIT_MS = 50.0


@dataclass(frozen=True)
class Row:
    """A figure, its upper limit (None: no target) and a note."""

    what: str
    value: float
    limit: float | None
    unit: str
    note: str = ""

    @property
    def target(self) -> dict[str, Any]:
        """As a row of the common table, whether it is met among it."""
        wanted, met = ("", None) if self.limit is None else (f"<= {self.limit:g}", self.value <= self.limit)
        return target(self.what, float(self.value), wanted, met, self.note, self.unit)


@dataclass(frozen=True)
class Accuracy:
    """Metres: ``path``, and ATE of the run as it stood, ``after`` its end, ``with_wrong`` loops and of the ``batch``
    solution, which took ``batch_s`` seconds and is ``apart`` by root mean square.
    """

    path: float
    live: float
    after: float
    with_wrong: float
    batch: float
    apart: float
    batch_s: float


def percentile(values: Sequence[float], end: int, q: float) -> float:
    """A percentile over the keyframes around ``end``, or the last before it at the end of the run."""
    low = max(0, min(end - _PART // 2, len(values) - _PART))
    return float(np.percentile(values[low : low + _PART], q))


def figures(clean: Run, dirty: Run, accuracy: Accuracy) -> list[Row]:
    """All rows."""
    return [*_cost(clean), *_accuracy(accuracy), *_wrong_loops(clean, dirty, accuracy)]


def _cost(clean: Run) -> list[Row]:
    count = len(clean.wall_ms)
    (early, early_cpu), (late, late_cpu) = (
        [percentile(times, at, 95) for times in (clean.wall_ms, clean.cpu_ms)] for at in (100, count)
    )
    growth = max(clean.process_mib) - clean.process_mib[min(20, count - 1)]
    return [
        Row("time per keyframe, p50", percentile(clean.wall_ms, count, 50), None, "ms"),
        Row("time per keyframe, p95", late, LIMIT_MS, "ms", f"the wall clock; {late_cpu:.1f} ms of processor time"),
        Row("time per keyframe, p95, processor", late_cpu, None, "ms"),
        Row("time per keyframe, max (whole graph)", max(clean.wall_ms), None, "ms"),
        Row("finish: whole graph until nothing moves", clean.finish_ms, None, "ms"),
        Row("p95 at the end / at keyframe 100", late / early, 1.2, "x",
            f"the wall clock; {late_cpu / early_cpu:.2f} x of processor time"),
        Row("memory of the aligner's arrays", max(clean.aligner_mib), 1024.0, "MiB"),
        Row("growth of the process since keyframe 20", growth, 1024.0, "MiB"),
    ]  # fmt: skip


def _accuracy(found: Accuracy) -> list[Row]:
    return [
        Row("ATE / path, live", 100 * found.live / found.path, 0.5, "%"),
        Row("ATE / path, finished", 100 * found.after / found.path, 0.5, "%"),
        Row("difference of ATE to batch solution", 100 * abs(found.after / found.batch - 1), 1.0, "%"),
        Row("distance to batch solution / ATE", 100 * found.apart / found.after, None, "%"),
        Row("batch solution", 1e3 * found.batch_s, None, "ms"),
    ]


def _wrong_loops(clean: Run, dirty: Run, accuracy: Accuracy) -> list[Row]:
    believed = {(int(i), int(j)) for i, j in dirty.aligner.map.edges.ends_on()}
    return [
        Row("ATE with 30 % wrong loops / without", accuracy.with_wrong / accuracy.after, 1.1, "x"),
        Row("wrong loop pairs in the map", float(len(believed & dirty.wrong)), 0.0, f"of {len(dirty.wrong)}"),
        Row("right loop pairs left out", float(len(dirty.right - believed)), None, f"of {len(dirty.right)}"),
        Row("same without wrong ones", float(len(clean.right & clean.refused)), None, f"of {len(clean.right)}"),
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown with each figure's target."""
    verdicts = {True: "met", False: "MISSED", None: ""}
    judged = (row.target for row in rows)
    cells = [(row["name"], row["measured"], row["target"], verdicts[row["met"]]) for row in judged]
    return "\n".join(table_lines(("what", "measured", "target", ""), cells, range(4)))


def plot(path: Path, clean: Run, dirty: Run) -> None:
    """Time and memory over the run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 7), sharex=True)
    starts = range(0, max(1, len(clean.wall_ms) - _SPAN // 2 + 1), _STEP)
    for times, name, color in (
        (clean.wall_ms, "wall clock", "C0"),
        (clean.cpu_ms, "processor", "C2"),
        (dirty.wall_ms, "wall clock, 30 % wrong loops", "C1"),
    ):
        for q, style in ((50, "-"), (95, "--"), (100, ":")):
            curve = [np.percentile(times[start : start + _SPAN], q) for start in starts]
            above.plot(list(starts), curve, style, color=color, label=f"{name}, {'max' if q == 100 else f'p{q}'}")
    above.axhline(LIMIT_MS, color="gray", linewidth=0.8)
    above.set(ylabel="ms per keyframe", yscale="log")
    above.legend(fontsize=7, ncols=3)
    below.plot(clean.aligner_mib, label="aligner's arrays")
    below.plot(np.array(clean.process_mib) - clean.process_mib[0], label="process, since the first keyframe")
    below.set(xlabel="keyframe", ylabel="MiB")
    below.legend(fontsize=7)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
