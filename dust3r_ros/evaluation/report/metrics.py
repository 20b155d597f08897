"""The figures of rows: names, which direction is better, how runs are compared; tables of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Table:
    """``head`` and ``rows`` of texts under a ``title``; the first ``texts`` columns are words, the others figures.

    ``lead`` introduces the table, ``notes`` follow it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    lead: str = ""
    notes: Sequence[str] = ()
    texts: int = 1

    def markdown(self, level: int = 2) -> str:
        """With a heading of ``level``; no text breaks the table."""
        lines = [f"{'#' * level} {self.title}", ""]
        if self.lead:
            lines += [self.lead, ""]
        if self.rows:
            lines += [*table_lines(self.head, self.rows, range(self.texts)), ""]
        lines += [*(f"- {note}" for note in self.notes), *([""] if self.notes else [])]
        return "\n".join(lines)

    def html(self) -> str:
        """With a heading; every text is escaped."""
        from dust3r_ros.products.report import html_table  # loads OpenCV, which tables in Markdown do without

        parts = [f"<h2>{escape(self.title)}</h2>", f"<p>{escape(self.lead)}</p>" if self.lead else ""]
        if self.rows:
            parts.append(f'<div class="wide">{html_table(self.head, self.rows, self.texts)}</div>')
        if self.notes:
            parts.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in self.notes) + "</ul>")
        return "\n".join(part for part in parts if part)


def table_lines(head: Sequence[str], rows: Iterable[Sequence[object]], texts: Collection[int] = (0,)) -> list[str]:
    """The lines of a table in Markdown, which no text breaks; columns ``texts`` are words, the others figures."""
    rules = ["---" if column in texts else "---:" for column in range(len(head))]
    return [_line(head), _line(rules), *map(_line, rows)]


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in cells) + " |"


RATIO, DIFFERENCE = "ratio", "difference"


@dataclass(frozen=True)
class Metric:
    """One figure. ``lower``: lower is better; ``how`` the values of two runs on a scene are compared.

    Errors and times differ between scenes by orders of magnitude, so their ratio is compared; percentages share a
    scale, so their difference is. ``least``: a smaller change (log of the ratio, or percentage points) matters to
    nobody, whatever its interval. ``sided``: the sign is the direction, the magnitude how bad it is.
    """

    name: str
    title: str
    unit: str = ""
    lower: bool = True
    how: str = RATIO
    least: float = 0.01
    digits: int = 2
    sided: bool = False

    def shown(self, value: Any) -> str:
        """The value, rounded; a dash for None."""
        if not is_number(value):
            return "–"
        return f"{value:{'+' if self.sided else ''}.{self.digits}f}"

    def change(self, before: float, after: float) -> float | None:
        """Change of one scene, positive where the figure grew; None where no ratio exists."""
        if self.sided:
            before, after = abs(before), abs(after)
        if self.how == DIFFERENCE:
            return after - before
        if before == after:
            return 0.0
        return math.log(after / before) if min(before, after) > 0 else None

    def change_shown(self, change: float) -> str:
        """A change for reading: a ratio in percent, a difference in points."""
        if self.how == RATIO:
            return f"{100 * math.expm1(min(change, 700.0)):+.1f} %"
        return f"{change:+.{max(self.digits, 1)}f}" + (" points" if self.unit == "%" else f" {self.unit}".rstrip())


def _of(*rows: Metric) -> dict[str, Metric]:
    return {row.name: row for row in rows}


METRICS: Mapping[str, Metric] = _of(
    Metric("tracked", "poses", "%", lower=False, how=DIFFERENCE, least=0.5, digits=0),
    Metric("ate", "ATE", "", digits=4),
    Metric("ate_percent", "ATE of path", "%"),
    Metric("ate_median", "ATE, median", "", digits=4),
    Metric("ate_se3", "ATE (SE3)", "", digits=4),
    Metric("rpe", "RPE", "", digits=4),
    Metric("rpe_deg", "RPE, rotation", "deg"),
    Metric("focal_error", "focal error", "%", how=DIFFERENCE, least=0.1, digits=1, sided=True),
    Metric("depth_rel", "depth Rel", "%", digits=1),
    Metric("depth_delta", "δ1.25", "%", lower=False, how=DIFFERENCE, least=0.3, digits=1),
    Metric("depth_rel_median", "depth Rel, each by its median", "%", digits=1),
    Metric("depth_delta_median", "δ1.25, each by its median", "%", lower=False, how=DIFFERENCE, least=0.3, digits=1),
    Metric("density", "pixels with points", "%", lower=False, how=DIFFERENCE, least=0.5, digits=0),
    Metric("covered", "true pixels with points", "%", lower=False, how=DIFFERENCE, least=0.5, digits=0),
    Metric("accuracy", "cloud accuracy, median", "%"),
    Metric("accuracy_90", "cloud accuracy, q90", "%"),
    Metric("completeness", "cloud completeness, median", "%"),
    Metric("completeness_90", "cloud completeness, q90", "%"),
    Metric("seconds", "seconds", "s", least=0.1, digits=1),
    Metric("processor_seconds", "processor time", "s", least=0.1, digits=1),
    Metric("frames_per_second", "frames/s", "", lower=False, least=0.1, digits=1),
    Metric("peak_memory_mb", "memory", "MB", least=0.05, digits=0),
    # Protocols on data sets
    Metric("rel", "Rel", "%"),
    Metric("delta", "δ1.25", "%", lower=False, how=DIFFERENCE, least=0.3),
    Metric("tau", "τ", "%", lower=False, how=DIFFERENCE, least=0.3),
    Metric("position_cm", "position, median", "cm", digits=1),
    Metric("rotation_deg", "rotation, median", "deg"),
    Metric("rra_15", "RRA@15", "%", lower=False, how=DIFFERENCE, least=0.3, digits=1),
    Metric("rta_15", "RTA@15", "%", lower=False, how=DIFFERENCE, least=0.3, digits=1),
    Metric("maa_30", "mAA@30", "%", lower=False, how=DIFFERENCE, least=0.3, digits=1),
    Metric("accuracy_mm", "accuracy", "mm", digits=3),
    Metric("completeness_mm", "completeness", "mm", digits=3),
    Metric("overall_mm", "overall", "mm", digits=3),
    Metric("accuracy_cm", "accuracy", "cm"),
    Metric("completeness_cm", "completeness", "cm"),
    Metric("overall_cm", "overall", "cm"),
    Metric("accuracy_median_cm", "accuracy, median", "cm"),
    Metric("completeness_median_cm", "completeness, median", "cm"),
    Metric("found", "queries with a pose", "%", lower=False, how=DIFFERENCE, least=0.5, digits=0),
    Metric("recall_5cm_5deg", "within 5 cm, 5°", "%", lower=False, how=DIFFERENCE, least=0.5, digits=1),
    Metric("recall_25cm_2deg", "within 25 cm, 2°", "%", lower=False, how=DIFFERENCE, least=0.5, digits=1),
    Metric("recall_50cm_5deg", "within 50 cm, 5°", "%", lower=False, how=DIFFERENCE, least=0.5, digits=1),
    Metric("recall_500cm_10deg", "within 5 m, 10°", "%", lower=False, how=DIFFERENCE, least=0.5, digits=1),
    Metric("rta_15_signed", "RTA@15, signed", "%", lower=False, how=DIFFERENCE, least=0.3, digits=1),
    Metric("fov_error_deg", "field of view error", "deg", how=DIFFERENCE, least=0.1, digits=1, sided=True),
    Metric("scale_error", "scale error", "%", how=DIFFERENCE, least=0.1, digits=1, sided=True),
    Metric("pairs_per_second", "pairs/s", "", lower=False, least=0.1, digits=1),
    Metric("peak_device_mb", "device memory", "MB", least=0.05, digits=0),
)
# Other programs on the machine change these.
TIMES = frozenset({"seconds", "processor_seconds", "frames_per_second", "pairs_per_second"})
# Facts about a row, not results: runs that differ in them are neither better nor worse.
FACTS = frozenset(
    {"dataset", "scene", "protocol", "system", "note", "unit", "data", "kinds", "frames", "keyframes", "pairs", "focal",
     "metric", "extent", "limit", "matches", "pixels", "version", "backend", "views", "queries", "retrieved", "images",
     "sources", "poses", "path", "true_focal", "width", "height", "pairs_without_pose",
     "of", "subset", "split"}
)  # fmt: skip


def is_number(value: Any) -> bool:
    """Whether this is a figure that can be compared: a finite number, not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
