"""Published figures as data, and tables that put a run beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS
from dust3r_ros.evaluation.report.metrics import METRICS, is_number
from dust3r_ros.evaluation.report.run_file import Row
from dust3r_ros.evaluation.report.scenes import WEIGHTS
from dust3r_ros.evaluation.report.tables import Table

_FILE = Path(__file__).with_name("published.yaml")
NOT_RUN = "not run here"
MEAN = "mean"
SUBSET = "subset"  # of a row: what of a published scene it was measured on


@dataclass(frozen=True)
class Figure:
    """One published value (None: its authors give none) of ``who`` on a scene ("mean": over a data set)."""

    title: str
    protocol: str
    dataset: str
    scene: str
    who: str
    metric: str
    value: float | None
    source: str


@lru_cache(maxsize=1)
def published() -> tuple[Figure, ...]:
    """All figures, in the order of the file. Raises ``InputError`` where the file contradicts itself."""
    import yaml

    data = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    figures = [figure for table in data["tables"] for figure in _table(table, data["sources"])]
    anchors = data["anchors"]
    for who, found in anchors["figures"].items():
        source = f"{who}: {found['paper']} ({data['sources'][anchors['source']]})"
        names = (anchors["title"], anchors["protocol"], anchors["dataset"], anchors["scene"], who, anchors["metric"])
        figures.append(Figure(*names, found["value"], source))
    unknown = {figure.metric for figure in figures} - METRICS.keys()
    if unknown:
        raise InputError(f"'{_FILE.name}' names metrics that are not known: {', '.join(sorted(unknown))}")
    return tuple(figures)


def _table(table: Mapping[str, Any], sources: Mapping[str, str]) -> list[Figure]:
    found = []
    for scene, values in table["figures"].items():
        if len(values) != len(table["metrics"]):
            raise InputError(f"'{_FILE.name}': {table['title']}, {scene} has {len(values)} figures")
        found += [
            Figure(
                table["title"], table["protocol"], table["dataset"], scene, table["system"], metric,
                float(value), sources[table["source"]],
            )
            for metric, value in zip(table["metrics"], values, strict=True)
        ]  # fmt: skip
    return found


def beside_published(rows: Sequence[Row]) -> list[Table]:
    """One table per task: the published figures, and what every system of ``rows`` has there; the official weights say
    "not run here" until a row of the system "dust3r" fills them. A mean over a data set is that of the rows of its
    scenes, unless a row is named so.
    """
    tasks: dict[str, list[Figure]] = {}
    for figure in published():
        tasks.setdefault(figure.title.partition(",")[0], []).append(figure)
    return [_beside(task, figures, rows) for task, figures in tasks.items()]


def _beside(task: str, figures: Sequence[Figure], rows: Sequence[Row]) -> Table:
    """A row per data set and scene, its figures in one cell: 3.0 / 0.97."""
    asked, scenes = {(figure.protocol, figure.dataset) for figure in figures}, {figure.scene for figure in figures}
    # What is of the whole comes before what is of a subset; that of a scene is none of a mean over all.
    named = sorted(map(_as_published, rows), key=lambda row: bool(row.get(SUBSET)))
    mine = [
        row for row in named
        if any(row["protocol"] == protocol and _is_of(row, dataset) for protocol, dataset in asked)
        and (not row.get(SUBSET) or row["scene"] in scenes)
    ]  # fmt: skip
    systems = [WEIGHTS, *dict.fromkeys(row["system"] for row in mine if row["system"] != WEIGHTS)]
    lines: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in figures:
        lines.setdefault((figure.title.partition(",")[2].strip(), figure.scene, figure.who), []).append(figure)
    head = ["data", "scene", "system", "figures", "published", *(_headed(system, mine) for system in systems)]
    body = []
    for (data, scene, who), held in lines.items():
        cells = [data, scene, _named(who), " / ".join(_titled(figure.metric) for figure in held)]
        cells.append(" / ".join(METRICS[figure.metric].shown(figure.value) for figure in held))
        body.append(cells + [_here(mine, system, held) for system in systems])
    notes = [f"Source: {figure.source}" for figure in figures]
    notes += [f"Subset: {row['scene']} here is {row[SUBSET]}" for row in mine if row.get(SUBSET)]
    return Table(f"Published: {task.lower()}", head, body, notes=list(dict.fromkeys(notes)), texts=4)


def _as_published(row: Row) -> Row:
    """A row of a part of a published scene, which it names (``7scenes/redkitchen``), under that scene's names."""
    if not row.get("of"):
        return row
    dataset, _, scene = str(row["of"]).partition("/")
    return row | {"dataset": dataset, "scene": scene}


def _titled(metric: str) -> str:
    return f"{METRICS[metric].title} {METRICS[metric].unit}".strip()


def _is_of(row: Row, dataset: str) -> bool:
    """Whether a row is of the data set, by its name or its title."""
    return row["dataset"] in (dataset, DATASETS[dataset].title if dataset in DATASETS else dataset)


def _here(rows: Sequence[Row], system: str, held: Sequence[Figure]) -> str:
    """What a system has for the figures of a line; of figures that are not all there, dashes."""
    own = [row for row in rows if row["protocol"] == held[0].protocol and _is_of(row, held[0].dataset)]
    for among, mark in (([row for row in own if not row.get(SUBSET)], ""), (own, " (subset)")):
        values = [_measured(among, system, figure.scene, figure.metric) for figure in held]
        if any(value is not None for value in values):
            shown = (METRICS[figure.metric].shown(value) for figure, value in zip(held, values, strict=True))
            return " / ".join(shown) + mark
    return NOT_RUN


def _named(system: str) -> str:
    return "dust3r, official weights" if system == WEIGHTS else system


def _headed(system: str, rows: Sequence[Row]) -> str:
    """What was measured here need not be the official weights: it is what the checkpoint held."""
    given = system == WEIGHTS and any(row["system"] == WEIGHTS for row in rows)
    return f"{'dust3r, the weights given' if given else _named(system)}, here"


def _measured(rows: Sequence[Row], system: str, scene: str, metric: str) -> float | None:
    """The system's value on a scene, the mean over its parts (``chess/seq-03`` is one of ``chess``), or over all scenes
    that a mean is of, each counting as many images as it has; those to train on, and subsets, are not among these.
    """
    own = [row for row in rows if row["system"] == system and is_number(row.get(metric))]
    exact = [row for row in own if str(row["scene"]).lower() == scene.lower()]
    if exact:
        return float(exact[0][metric])
    parts = [row for row in own if str(row["scene"]).lower().split("/")[0] == scene.lower()]
    if scene.endswith(MEAN):
        start = scene.removesuffix(MEAN).strip().lower()
        whole = (row for row in own if not row.get(SUBSET) and row.get("split") != "train")
        parts = [row for row in whole if start in str(row["scene"]).lower()]
    if not parts:
        return None
    counts = [float(row.get("images") or 1) for row in parts]
    return sum(abs(row[metric]) * count for row, count in zip(parts, counts, strict=True)) / sum(counts)
