"""What got better or worse between two runs beyond noise, paired by scene; and which backend should be the default.

For each metric the mean change per scene, with intervals that hold for all metrics at once: studentised wild
bootstrap (Wu 1986; signs as in Liu 1988), one draw of signs for all metrics, critical value from the largest |t|
among them (Westfall and Young 1993). The method assumes symmetric noise, which the difference of
two runs has. In simulations with as few scenes it keeps its error level; resampling scenes does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.report.metrics import METRICS, TIMES, Metric, Table, is_number
from dust3r_ros.evaluation.report.published import BACKENDS, OURS, PROTOCOL, scene_table
from dust3r_ros.evaluation.report.run_file import Key, Row, RunFile
from dust3r_ros.types import Array

RESAMPLES = 10_000
LEVEL = 0.97  # of all intervals together
MIN_SCENES = 6  # with fewer, even changes of one sign are no evidence: 2 / 2^5 > 5 %

BETTER, WORSE, SAME, FEW = "better", "worse", "no change beyond noise", "too few scenes"
UNLIKE = "not comparable"  # times of other machines, or beside other programs


@dataclass(frozen=True)
class Change:
    """Mean change of a metric over ``scenes`` (positive: grew) and its interval; ``extreme``: the scene with the
    largest change, and that change. ``verdict`` is one of BETTER, WORSE, SAME, FEW, UNLIKE.
    """

    protocol: str
    system: str
    metric: Metric
    scenes: int
    mean: float
    low: float
    high: float
    verdict: str
    extreme: tuple[str, float]


@dataclass(frozen=True)
class Comparison:
    """``changes`` of all metrics; ``gone`` and ``new``: figures (scene: metric) that only one of the runs has.

    ``remarks``: why times may not be comparable.
    """

    changes: tuple[Change, ...]
    gone: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def better(self) -> tuple[Change, ...]:
        """What got better beyond noise."""
        return tuple(change for change in self.changes if change.verdict == BETTER)

    @property
    def worse(self) -> tuple[Change, ...]:
        """What got worse beyond noise."""
        return tuple(change for change in self.changes if change.verdict == WORSE)

    @property
    def is_worse(self) -> bool:
        """Whether a metric got worse or a figure is gone."""
        return bool(self.worse or self.gone)


@dataclass
class _Pairs:
    """Changes of one metric by scene (its place in the order of all scenes)."""

    metric: Metric
    at: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def compare(before: RunFile, after: RunFile, *, seed: int = 0, resamples: int = RESAMPLES) -> Comparison:
    """Every metric that both runs hold. Deterministic for a ``seed``.

    Raises ``InputError`` for runs of different scenes, protocols, systems or data, naming the first difference.
    """
    old, found = before.by_key(), after.by_key()
    _check(old, found)
    new = {key: found[key] for key in old}  # in the order of the first run
    scenes = {place: index for index, place in enumerate(dict.fromkeys((key[0], key[1]) for key in old))}
    pairs = _paired(old, new, scenes)
    critical = _critical(list(pairs.values()), len(scenes), seed, resamples)
    changes = [_judged(protocol, system, pair, critical) for (protocol, system, _), pair in pairs.items()]
    remarks = _remarks(before, after)
    if remarks:
        changes = [replace(c, verdict=UNLIKE) if c.metric.name in TIMES and c.mean else c for c in changes]
    return Comparison(tuple(changes), _only_in(old, new), _only_in(new, old), remarks)


def _check(old: dict[Key, Row], new: dict[Key, Row]) -> None:
    for missing, where in ((old.keys() - new.keys(), "second"), (new.keys() - old.keys(), "first")):
        if missing:
            names = " / ".join(sorted(missing)[0])
            raise InputError(
                f"the runs do not hold the same rows: {names} is missing in the {where} ({len(missing)} in all); "
                "compare runs of the same data, protocols and systems"
            )
    for key, row in old.items():
        for name in ("data", "frames", "unit", "limit"):
            if row.get(name) != new[key].get(name) and None not in (row.get(name), new[key].get(name)):
                raise InputError(
                    f"the runs are of different data: {' / '.join(key)} has {name} {row.get(name)!r} in the first and "
                    f"{new[key].get(name)!r} in the second"
                )


def _paired(
    old: Mapping[Key, Row], new: Mapping[Key, Row], scenes: Mapping[tuple[str, str], int]
) -> dict[tuple[str, str, str], _Pairs]:
    """The changes of every metric that both hold, by protocol, system and name; ``scenes``: index of each scene."""
    pairs: dict[tuple[str, str, str], _Pairs] = {}
    for key, row in old.items():
        dataset, scene, protocol, system = key
        for name, metric in METRICS.items():
            first, second = row.get(name), new[key].get(name)
            if not (is_number(first) and is_number(second)):
                continue
            change = metric.change(float(first), float(second))  # type: ignore[arg-type]
            if change is None:
                continue
            found = pairs.setdefault((protocol, system, name), _Pairs(metric))
            found.at.append(scenes[dataset, scene])
            found.values.append(change)
            found.names.append(scene)
    return pairs


def _only_in(rows: Mapping[Key, Row], others: Mapping[Key, Row]) -> tuple[str, ...]:
    """Figures (scene: metric) that ``others`` do not have."""
    return tuple(
        f"{key[0]} / {key[1]}, {key[2]}, {key[3]}: {name}"
        for key, row in rows.items()
        for name in METRICS
        if is_number(row.get(name)) and not is_number(others[key].get(name))
    )


def _critical(pairs: Sequence[_Pairs], scenes: int, seed: int, resamples: int) -> float:
    """The |t| below which noise alone stays in ``LEVEL`` of all draws, for all metrics at once."""
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), (resamples, scenes))
    largest = np.zeros(resamples)
    for found in pairs:
        values = np.array(found.values)
        if len(values) < MIN_SCENES or np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
            continue
        rest = values - values.mean()
        means = signs[:, found.at] @ rest / len(rest)
        # A sign does not change a square, so the spread of a draw follows from its mean.
        spread = np.maximum(np.mean(rest**2) - means**2, 1e-12 * np.mean(rest**2)) / (len(rest) - 1)
        largest = np.maximum(largest, np.abs(means) / np.sqrt(spread))
    return float(np.quantile(largest, LEVEL, method="higher"))


def _judged(protocol: str, system: str, found: _Pairs, critical: float) -> Change:
    values: Array = np.array(found.values)
    mean = float(values.mean())
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")
    low, high = mean - critical * error, mean + critical * error
    worst = int(np.argmax(np.abs(values)))
    verdict = SAME
    if len(values) < MIN_SCENES:
        # A single number per run says nothing about noise; that nothing changed at all is known all the same.
        verdict = FEW if np.any(values) else SAME
        low, high = float(values.min()), float(values.max())
    elif abs(mean) >= found.metric.least and not low <= 0.0 <= high:
        verdict = BETTER if (mean < 0) == found.metric.lower else WORSE
    return Change(
        protocol, system, found.metric, len(values), mean, low, high, verdict, (found.names[worst], found.values[worst])
    )


def _remarks(before: RunFile, after: RunFile) -> tuple[str, ...]:
    """Why a difference in time may come from the machines."""
    first, second = (run.about.get("hardware") or {} for run in (before, after))
    said = []
    for name in ("processor", "cores", "machine"):
        if first.get(name) != second.get(name):
            said.append(f"times are of different machines: {name} {first.get(name)!r} and {second.get(name)!r}")
    if first.get("shared") or second.get("shared"):
        said.append("scenes shared a machine with each other, so times cannot be compared")
    loads: list[float | None] = [run.get("others_cores") for run in (first, second)]
    busy: Callable[[float | None], bool] = lambda load: load is not None and load > 0.3  # noqa: E731
    if any(map(busy, loads)):
        shown = " and ".join("unknown" if load is None else f"{load:.1f}" for load in loads)
        said.append(f"other programs kept {shown} cores busy during the runs, so times cannot be compared")
    return tuple(said)


_NAMES = frozenset({"dataset", "scene", "protocol", "data", "unit", "limit"})
# What decides. Seconds and memory do not: they are shown.
JUDGED = ("tracked", "ate_percent", "focal_error", "depth_rel", "depth_delta", "density")
_SHOWN = (*JUDGED, "covered", "pairs_per_second", "seconds", "peak_memory_mb")
_LEGEND = (
    "two_view: geometry alone. dust3r: the network alone, on images no larger than those it was trained on. both: "
    "geometry, and the network's depth where geometry is unsure. Columns as in the results; pairs/s: pairs of the map "
    "per second in which pairs are predicted, which includes those predicted again."
)


def backend_tables(rows: Sequence[Row]) -> list[Table]:
    """Every scene with every backend, each backend's changes against the default, and the choice."""
    mine = [row for row in rows if row["protocol"] == PROTOCOL and row["system"] in BACKENDS]
    table = scene_table(_by_scene(mine), _SHOWN, "Scenes", _LEGEND)
    found = {name: against_default(mine, name) for name in BACKENDS[1:] if any(row["system"] == name for row in mine)}
    changes = changes_table(_together(found.values()))
    lead = (
        f"{changes.lead.replace('the first run', OURS).replace('the second', 'each other backend')} Another backend "
        "becomes the default when something of this is better beyond noise and nothing worse."
    )
    notes = [line for name, one in found.items() if (line := _missing(name, one))]
    return [replace(changes, title="The choice", lead=lead, notes=[*notes, f"Best: {best(found)}"]), table]


def _by_scene(rows: Sequence[Row]) -> list[Row]:
    """Scene by scene, the backends of each in the order of ``BACKENDS``."""
    order = {(row["scene"], row["system"]): row for row in rows}
    scenes = dict.fromkeys(row["scene"] for row in rows)
    return [order[scene, name] for scene in scenes for name in BACKENDS if (scene, name) in order]


def _missing(name: str, found: Comparison) -> str:
    """Figures that the default has and this backend lacks; empty if there are none."""
    counts = Counter(METRICS[text.rpartition(": ")[2]].title for text in found.gone)
    parts = ", ".join(f"{title} on {count} scenes" for title, count in counts.items())
    return f"{name} gives none where {OURS} does: {parts}" if parts else ""


def against_default(rows: Sequence[Row], name: str) -> Comparison:
    """Changes in ``JUDGED`` from the default backend to ``name``, on the scenes that have both."""
    default, other = (
        RunFile({}, [_backend_judged(row) | {"system": name} for row in rows if row["system"] == system])
        for system in (OURS, name)
    )
    return compare(default, other)


def _backend_judged(row: Row) -> Row:
    return {key: value for key, value in row.items() if key in _NAMES or key in JUDGED}


def best(found: dict[str, Comparison]) -> str:
    """The backend that should be the default: it gains and loses nothing; among several, the one that gains most."""
    gained = {name: len(one.better) for name, one in found.items() if one.better and not one.is_worse}
    return max(gained, key=lambda name: gained[name]) if gained else OURS


def _together(found: Iterable[Comparison]) -> Comparison:
    changes: list[Change] = []
    gone: list[str] = []
    for one in found:
        changes += one.changes
        gone += one.gone
    return Comparison(tuple(changes), tuple(gone))


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
