"""The choice of the default backend by measurement: all on the same scenes, and whether one beats the default."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from dust3r_ros.evaluation.report.changes import changes_table
from dust3r_ros.evaluation.report.compare import Change, Comparison, compare
from dust3r_ros.evaluation.report.metrics import METRICS
from dust3r_ros.evaluation.report.run_file import Row, RunFile
from dust3r_ros.evaluation.report.scenes import BACKENDS, OURS, PROTOCOL, scene_table
from dust3r_ros.evaluation.report.tables import Table

_NAMES = frozenset({"dataset", "scene", "protocol", "data", "unit", "limit"})
# What decides. Seconds and memory do not: they are shown.
JUDGED = ("tracked", "ate_percent", "focal_error", "depth_rel", "depth_delta", "density")
_SHOWN = (*JUDGED, "covered", "pairs_per_second", "seconds", "peak_memory_mb")
_LEGEND = (
    "two_view: geometry alone. dust3r: the network alone, on images no larger than those it was trained on. both: "
    "geometry, and the network's depth where geometry knows less. Columns as in the results; pairs/s: pairs of the map "
    "per second in which pairs are predicted, which includes those predicted again."
)


def backend_tables(rows: Sequence[Row]) -> list[Table]:
    """Every scene with every backend, and what each changes against the default, with the choice."""
    mine = [row for row in rows if row["protocol"] == PROTOCOL and row["system"] in BACKENDS]
    order = {(row["scene"], row["system"]): row for row in mine}
    scenes = dict.fromkeys(row["scene"] for row in mine)
    sorted_rows = [order[scene, name] for scene in scenes for name in BACKENDS if (scene, name) in order]
    table = scene_table(sorted_rows, _SHOWN, "Scenes", _LEGEND)
    found = {name: against_default(mine, name) for name in BACKENDS[1:] if any(row["system"] == name for row in mine)}
    changes = changes_table(_together(found.values()))
    lead = (
        f"{changes.lead.replace('the first run', OURS).replace('the second', 'each other backend')} Another backend "
        "becomes the default when something of this is better beyond noise and nothing worse."
    )
    notes = [line for name, one in found.items() if (line := _missing(name, one))]
    return [replace(changes, title="The choice", lead=lead, notes=[*notes, f"Best: {best(found)}"]), table]


def _missing(name: str, found: Comparison) -> str:
    """What a backend has no figure for, where the default has one; nothing for none."""
    counts = Counter(METRICS[text.rpartition(": ")[2]].title for text in found.gone)
    parts = ", ".join(f"{title} on {count} scenes" for title, count in counts.items())
    return f"{name} gives none where {OURS} does: {parts}" if parts else ""


def against_default(rows: Sequence[Row], name: str) -> Comparison:
    """What backend ``name`` changes of ``JUDGED`` against the default backend, on the scenes that have both."""
    default, other = (
        RunFile({}, [_judged(row) | {"system": name} for row in rows if row["system"] == system])
        for system in (OURS, name)
    )
    return compare(default, other)


def _judged(row: Row) -> Row:
    return {key: value for key, value in row.items() if key in _NAMES or key in JUDGED}


def best(found: dict[str, Comparison]) -> str:
    """The backend that should be the default: one that gains and loses nothing, of several the one that gains most."""
    gained = {name: len(one.better) for name, one in found.items() if one.better and not one.is_worse}
    return max(gained, key=lambda name: gained[name]) if gained else OURS


def _together(found: Iterable[Comparison]) -> Comparison:
    changes: list[Change] = []
    gone: list[str] = []
    for one in found:
        changes += one.changes
        gone += one.gone
    return Comparison(tuple(changes), tuple(gone))
