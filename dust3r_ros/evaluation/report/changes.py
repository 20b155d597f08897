"""A comparison of two runs as text and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dust3r_ros.evaluation.report.compare import BETTER, FEW, LEVEL, WORSE, Change, Comparison
from dust3r_ros.evaluation.report.tables import Table

_HEAD = ("metric", "system", "scenes", "change", f"interval ({100 * LEVEL:.0f} %, all metrics together)", "most", "")
_ORDER = {WORSE: 0, BETTER: 1}


def verdict(comparison: Comparison) -> str:
    """The comparison in one line."""
    parts = [f"{len(comparison.worse)} worse", f"{len(comparison.better)} better"]
    parts.append(f"{len(comparison.changes)} compared")
    if comparison.gone:
        parts.append(f"{len(comparison.gone)} figures gone")
    if comparison.new:
        parts.append(f"{len(comparison.new)} figures new")
    return ", ".join(parts)


def changes_table(comparison: Comparison) -> Table:
    """What changed, worst first; mean change per scene, negative: the figure went down."""
    changes = sorted(comparison.changes, key=lambda change: _ORDER.get(change.verdict, 2))
    notes = [f"gone: {text}" for text in comparison.gone] + [f"new: {text}" for text in comparison.new]
    return Table(
        "What changed",
        _HEAD,
        [_cells(change) for change in changes],
        lead=f"{verdict(comparison)}. Mean change per scene from the first run to the second.",
        notes=[*notes, *comparison.remarks],
        texts=2,
    )


def _cells(change: Change) -> tuple[str, ...]:
    metric, (scene, most) = change.metric, change.extreme
    title = f"{metric.title} ({'lower' if metric.lower else 'higher'} is better)"
    few = change.verdict == FEW
    low, high = metric.change_shown(change.low), metric.change_shown(change.high)
    return (
        f"{title}, {change.protocol}",
        change.system,
        str(change.scenes),
        metric.change_shown(change.mean),
        "–" if few else f"{low} to {high}",
        f"{metric.change_shown(most)} ({scene})" if most else "–",
        change.verdict,
    )


def text(comparison: Comparison, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Plain text: one line per run, one per metric that got worse or better, the rest counted."""
    lines = [f"first:  {run_line(before)}", f"second: {run_line(after)}", ""]
    table = changes_table(comparison)
    for row in table.rows:
        if row[-1] in (WORSE, BETTER):
            lines.append(
                f"{row[-1].upper():7s} {row[0]}, {row[1]}: {row[3]} [{row[4]}] on {row[2]} scenes, most {row[5]}"
            )
    few = [change for change in comparison.changes if change.verdict == FEW]
    if few:
        names = ", ".join(dict.fromkeys(f"{change.metric.title} ({change.system}: {change.scenes})" for change in few))
        lines.append(f"too few scenes to judge: {names}")
    return "\n".join([*lines, *table.notes, verdict(comparison)]) + "\n"


def run_line(about: Mapping[str, Any]) -> str:
    """What a run was, in one line."""
    parts = [f"dust3r_ros {about.get('version', '?')}"]
    parts += [f"{name} {about[name]}" for name in ("commit", "date") if about.get(name)]
    hardware = about.get("hardware") or {}
    if hardware.get("cores"):
        parts.append(f"{hardware['cores']} cores ({hardware.get('processor') or hardware.get('machine', '')})")
    if hardware.get("others_cores") is not None:
        parts.append(f"others kept {hardware['others_cores']:.1f} cores busy")
    if about.get("seconds") is not None:
        parts.append(f"{about['seconds']:.0f} s")
    return ", ".join(parts)
