"""Tables of an evaluation: every scene, and our figures beside published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS
from dust3r_ros.evaluation.report.metrics import METRICS, Table, is_number
from dust3r_ros.evaluation.report.run_file import Row

PROTOCOL = "sequence"
RECORDED, RENDERED = "recorded", "rendered"
OURS = "two_view"
POSES = "two_view, poses only"
WEIGHTS = "dust3r"  # the network alone, where a run has a checkpoint
BOTH = "both"
BACKENDS = (OURS, WEIGHTS, BOTH)
COLMAP = "pycolmap"
COLMAP_METHODS = tuple(
    f"{COLMAP} {mapper}, {match}" for match in ("exhaustive", "sequential") for mapper in ("incremental", "global")
)
PEERS = (*COLMAP_METHODS, "opencv")

_COLUMNS = (
    "tracked", "ate", "ate_percent", "focal_error", "depth_rel", "depth_delta", "density", "covered", "accuracy",
    "accuracy_90", "completeness", "completeness_90", "seconds", "processor_seconds", "frames_per_second",
    "peak_memory_mb",
)  # fmt: skip
LEGEND = (
    "Poses: share of frames posed. ATE: root mean square position error after Sim3, in metres where the truth is "
    "metric. Depth Rel and δ1.25: keyframe depth against true depth, scaled once by the trajectory's Sim3. Pixels with "
    "points: share of keyframe pixels that have depth, of all and of those with true depth. Cloud accuracy and "
    "completeness: distances between the map's cloud and that of the keyframes' true depth (median and 90 % "
    "quantile), in percent of the true cloud's extent. Memory: the most that the process held. A dash: no truth, or "
    "nothing to measure."
)


def scene_table(
    rows: Sequence[Row], columns: Sequence[str] = _COLUMNS, title: str = "Scenes", lead: str = LEGEND
) -> Table:
    """One row per scene and system, with the metrics that ``columns`` names."""
    mine = [row for row in rows if row["protocol"] == PROTOCOL]
    head = ["scene", "system", "frames", *(_head(name) for name in columns)]
    body = [
        [row["scene"], row["system"], _count(row.get("frames")), *(_cell(row, name) for name in columns)]
        for row in mine
    ]
    notes = [f"{row['scene']}, {row['system']}: {row['note']}" for row in mine if row.get("note")]
    return Table(title, head, body, lead=lead, notes=notes, texts=2)


def _head(name: str) -> str:
    metric = METRICS[name]
    return f"{metric.title} {metric.unit}".strip()


def _cell(row: Row, name: str) -> str:
    if name == "ate" and is_number(row.get("ate")) and not row.get("unit"):
        return "no scale"
    return METRICS[name].shown(row.get(name))


def _count(value: Any) -> str:
    return f"{value:.0f}" if is_number(value) else "–"


_FILE = Path(__file__).with_name("published.yaml")
NOT_RUN = "not run here"
MEAN = "mean"
SUBSET = "subset"  # key of a row: the part of a published scene that it was measured on


@dataclass(frozen=True)
class Figure:
    """One published value (None: not given) of ``who`` on a scene ("mean": over the ``scenes`` scenes of a data set;
    None: their number is not known).
    """

    title: str
    protocol: str
    dataset: str
    scene: str
    who: str
    metric: str
    value: float | None
    source: str
    scenes: int | None = None


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
        figures.append(Figure(*names, found["value"], source, anchors["scenes"]))
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
                float(value), sources[table["source"]], table.get("scenes"),
            )
            for metric, value in zip(table["metrics"], values, strict=True)
        ]  # fmt: skip
    return found


def beside_published(rows: Sequence[Row]) -> list[Table]:
    """One table per task: the published figures beside those of every system in ``rows``. The official weights read
    "not run here" until there is a row of the system "dust3r". A mean over a data set is taken from the rows of its
    scenes, unless a row has that name; it says how many scenes it covers, unless these are known to be all.
    """
    tasks: dict[str, list[Figure]] = {}
    for figure in published():
        tasks.setdefault(figure.title.partition(",")[0], []).append(figure)
    return [_beside(task, figures, rows) for task, figures in tasks.items()]


def _beside(task: str, figures: Sequence[Figure], rows: Sequence[Row]) -> Table:
    """A row per data set and scene, its figures in one cell: 3.0 / 0.97."""
    mine = _comparable(figures, rows)
    systems = [WEIGHTS, *dict.fromkeys(row["system"] for row in mine if row["system"] != WEIGHTS)]
    lines: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in figures:
        lines.setdefault((figure.title.partition(",")[2].strip(), figure.scene, figure.who), []).append(figure)
    head = ["data", "scene", "system", "figures", "published", *(_headed(system, mine) for system in systems)]
    body = []
    for (data, scene, who), held in lines.items():
        metrics = " / ".join(_head(figure.metric) for figure in held)
        given = _shown(held, [figure.value for figure in held])
        body.append([data, scene, _named(who), metrics, given, *(_here(mine, system, held) for system in systems)])
    return Table(f"Published: {task.lower()}", head, body, notes=_sources(figures, mine), texts=4)


def _comparable(figures: Sequence[Figure], rows: Sequence[Row]) -> list[Row]:
    """Rows of the scenes in ``figures``, under the published names; rows of subsets last."""
    asked, scenes = {(figure.protocol, figure.dataset) for figure in figures}, {figure.scene for figure in figures}
    named = sorted(map(_as_published, rows), key=lambda row: bool(row.get(SUBSET)))
    return [
        row for row in named
        if any(row["protocol"] == protocol and _is_of(row, dataset) for protocol, dataset in asked)
        and (not row.get(SUBSET) or row["scene"] in scenes)  # a subset does not enter a mean over scenes
    ]  # fmt: skip


def _sources(figures: Sequence[Figure], rows: Sequence[Row]) -> list[str]:
    """The sources of the figures and the subsets of the rows, each once."""
    notes = [f"Source: {figure.source}" for figure in figures]
    notes += [f"Subset: {row['scene']} here is {row[SUBSET]}" for row in rows if row.get(SUBSET)]
    return list(dict.fromkeys(notes))


def _as_published(row: Row) -> Row:
    """A row measured on a part of a published scene (``of``: 7scenes/redkitchen), renamed to that scene."""
    if not row.get("of"):
        return row
    dataset, _, scene = str(row["of"]).partition("/")
    return row | {"dataset": dataset, "scene": scene}


def _is_of(row: Row, dataset: str) -> bool:
    """Whether a row belongs to the data set, by name or title."""
    return row["dataset"] in (dataset, DATASETS[dataset].title if dataset in DATASETS else dataset)


def _here(rows: Sequence[Row], system: str, held: Sequence[Figure]) -> str:
    """A system's values for the figures of a line; those of a subset where there are no others."""
    own = [row for row in rows if row["system"] == system and row["protocol"] == held[0].protocol]
    own = [row for row in own if _is_of(row, held[0].dataset)]
    whole = [row for row in own if not row.get(SUBSET)]
    return _cell_of(whole, held) or _cell_of(own, held, " (subset)") or NOT_RUN


def _cell_of(rows: Sequence[Row], held: Sequence[Figure], mark: str = "") -> str:
    """The values of a line's figures in one cell, and how many scenes they cover; "" without any."""
    values, counts = zip(*(_measured(rows, figure) for figure in held), strict=True)
    marks = [f" ({count})" for count in dict.fromkeys(counts) if count]
    if not marks and all(value is None for value in values):
        return ""
    return _shown(held, values) + mark + "".join(marks)


def _shown(held: Sequence[Figure], values: Sequence[float | None]) -> str:
    """The values of a line's figures in one cell."""
    return " / ".join(METRICS[figure.metric].shown(value) for figure, value in zip(held, values, strict=True))


def _named(system: str) -> str:
    return "dust3r, official weights" if system == WEIGHTS else system


def _headed(system: str, rows: Sequence[Row]) -> str:
    """The column's heading. A checkpoint measured here need not be the official weights."""
    given = system == WEIGHTS and any(row["system"] == WEIGHTS for row in rows)
    return f"{'dust3r, the weights given' if given else _named(system)}, here"


def _measured(rows: Sequence[Row], figure: Figure) -> tuple[float | None, str]:
    """A system's value on a scene, or the mean over its parts, or over the scenes of a data set's mean; and how many
    of these the mean covers ("": all, or it is none). A scene that failed has a row without the value.
    """
    exact = [row for row in _with(figure.metric, rows) if _scene(row) == figure.scene.lower()]
    if exact:
        return float(exact[0][figure.metric]), ""
    if figure.scene.endswith(MEAN):
        among = _scenes_of_mean(rows, figure.scene)
        measured = _with(figure.metric, among)
        return _mean(measured, figure.metric), _covered(len(measured), len(among), figure.scenes)
    among = _parts(rows, figure.scene)
    measured = _with(figure.metric, among)
    count = f"{len(measured)} of {len(among)} parts" if 0 < len(measured) < len(among) else ""
    return _mean(measured, figure.metric), count


def _with(metric: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if is_number(row.get(metric))]


def _covered(measured: int, tried: int, published_over: int | None) -> str:
    """How many scenes a mean covers; "" where nothing was tried, or where it covers those of the published mean."""
    every = max(tried, published_over or 0)
    if tried == 0 or measured == published_over == every:
        return ""
    if measured == every:
        return f"{measured} scene{'s' * (measured != 1)}"
    return f"{measured} of {every} scenes"


def _mean(rows: Sequence[Row], metric: str) -> float | None:
    """Mean magnitude of a metric, rows weighted by their number of images; None without rows."""
    if not rows:
        return None
    counts = [float(row.get("images") or 1) for row in rows]
    return sum(abs(row[metric]) * count for row, count in zip(rows, counts, strict=True)) / sum(counts)


def _parts(rows: Sequence[Row], scene: str) -> list[Row]:
    """Rows of parts of a scene: ``chess/seq-03`` is a part of ``chess``."""
    return [row for row in rows if _scene(row).split("/")[0] == scene.lower()]


def _scenes_of_mean(rows: Sequence[Row], mean: str) -> list[Row]:
    """Rows of the scenes of a mean, by the words before "mean"; training scenes and subsets are left out, and so is a
    row of the mean's own name.
    """
    start = mean.removesuffix(MEAN).strip().lower()
    whole = (row for row in rows if not row.get(SUBSET) and row.get("split") != "train")
    return [row for row in whole if start in _scene(row) and _scene(row) != mean.lower()]


def _scene(row: Row) -> str:
    return str(row["scene"]).lower()
