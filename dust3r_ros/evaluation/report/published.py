"""Tables of an evaluation: every scene, our figures beside the peers' and published ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
PEERS = ("pycolmap", "opencv")
_ROOM = 20.0  # metres of path

_COLUMNS = (
    "tracked", "ate", "ate_percent", "focal_error", "depth_rel", "depth_delta", "density", "covered", "accuracy",
    "accuracy_90", "completeness", "completeness_90", "seconds", "frames_per_second", "peak_memory_mb",
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


def _by_names(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    """{(scene, system): row} of the suite's rows."""
    return {(row["scene"], row["system"]): row for row in rows if row["protocol"] == PROTOCOL}


def peer_table(rows: Sequence[Row]) -> Table:
    """Our figures over the peers' on the same frames: below 1 is better for ATE and seconds, above for poses."""
    found = _by_names(rows)
    body, wins = [], []
    for peer in PEERS:
        for scene in dict.fromkeys(scene for scene, system in found if system == peer):
            ours, poses, theirs = (found.get((scene, system), {}) for system in (OURS, POSES, peer))
            ate = ratio(ours, theirs, "ate")
            cells = [_pair(ours, theirs, "ate_percent"), _ratio(ate), _pair(ours, theirs, "tracked")]
            cells += [_ratio(ratio(ours, theirs, "tracked")), _pair(ours, theirs, "focal_error")]
            cells += [_pair(ours, theirs, "seconds"), _ratio(ratio(ours, theirs, "seconds"))]
            cells.append(_ratio(ratio(poses, theirs, "seconds")))
            body.append([scene, peer, *cells])
            wins.append(ate is not None and ate <= 1)
    head = ["scene", "peer", "ATE, % of path", "ratio", "poses %", "ratio", "focal error %", "s", "ratio"]
    head.append("ratio, poses only")
    lead = (
        "Ours / the peer's, then the ratio, on the same frames with the same unknown focal. An ATE is of the frames "
        "that have a pose, so it must be read beside their share. pycolmap: incremental mapping with one simple "
        "pinhole camera. opencv: a chain of essential matrices, the focal guessed as the long edge: the floor. Ours "
        "maps densely; the last column is without dense depth, which is what the peers give."
    )
    notes = [f"ATE at or below the peer's in {sum(wins)} of {len(wins)} pairs of scene and peer"] if wins else []
    return Table("Beside peers", head, body, lead=lead, notes=notes if wins else ["no peer was run"], texts=2)


def ratio(ours: Row, theirs: Row, name: str) -> float | None:
    """Ours / theirs, None where one is missing or theirs is 0."""
    a, b = ours.get(name), theirs.get(name)
    return abs(a) / abs(b) if is_number(a) and is_number(b) and b else None  # type: ignore[arg-type]


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _pair(ours: Row, theirs: Row, name: str) -> str:
    metric = METRICS[name]
    return f"{metric.shown(ours.get(name))} / {metric.shown(theirs.get(name))}"


def target_table(rows: Sequence[Row]) -> Table:
    """The targets of the default backend on every scene, and where it misses them."""
    found = _by_names(rows)
    body = [_against_targets(scene, found) for scene, system in found if system == OURS]
    head = ["scene", "poses: all", "ATE: at most pycolmap's", "time: a tenth of pycolmap's", "focal: within 3 %",
            "δ1.25: at least 90 %", "pixels with points: at least 70 %"]  # fmt: skip
    lead = (
        "A bold figure misses its target, a dash was not measured or has nothing to be measured against. pycolmap "
        "counts where it places at least 90 % of the frames; its time is compared with ours for poses only. "
        "Of rendered worlds, pixels of the sky need no points."
    )
    rooms = [row["ate"] for (_, system), row in found.items() if system == OURS and _room_scale(row)]
    return Table("Targets", head, body, lead=lead, notes=_of_rooms(rooms))


def _against_targets(scene: str, found: Mapping[tuple[str, str], Row]) -> list[str]:
    """The row of a scene: its name and its figure for each target."""
    ours, poses = found[scene, OURS], found.get((scene, POSES), {})
    colmap = found.get((scene, "pycolmap"), {})
    if not (is_number(colmap.get("tracked")) and colmap["tracked"] >= 90):
        colmap = {}  # too few poses to be compared with
    points = ours.get("covered" if ours["dataset"] == RENDERED else "density")
    return [
        scene,
        _verdict(ours.get("tracked"), lambda value: value >= 100 - 1e-9, "{:.0f} %"),
        _verdict(ratio(ours, colmap, "ate"), lambda value: value <= 1, "{:.2f} x"),
        _verdict(ratio(poses, colmap, "seconds"), lambda value: value <= 0.1, "{:.2f} x"),
        _verdict(ours.get("focal_error"), lambda value: abs(value) <= 3, "{:+.1f} %"),
        _verdict(ours.get("depth_delta"), lambda value: value >= 90, "{:.1f} %"),
        _verdict(points, lambda value: value >= 70, "{:.0f} %"),
    ]


def _of_rooms(errors: Sequence[float]) -> list[str]:
    """The note on the mean ATE (metres) of room-scale scenes; empty without such scenes."""
    if not errors:
        return []
    mean = sum(errors) / len(errors)
    word = "met" if mean <= 0.06 else "missed"
    return [f"ATE, mean of the {len(errors)} recorded scenes of room scale: {mean:.3f} m, target 0.06 m: {word}"]


def _room_scale(row: Row) -> bool:
    """Whether this is a recorded scene in metres with a path no longer than a walk through a room."""
    ate, percent = row.get("ate"), row.get("ate_percent")
    if row.get("unit") != "m" or row["dataset"] != RECORDED or not (is_number(ate) and is_number(percent) and percent):
        return False
    return 100.0 * float(ate or 0.0) / percent <= _ROOM


def _verdict(value: Any, good: Callable[[float], bool], form: str) -> str:
    if not is_number(value):
        return "–"
    return form.format(value) if good(value) else f"**{form.format(value)}**"


_FILE = Path(__file__).with_name("published.yaml")
NOT_RUN = "not run here"
MEAN = "mean"
SUBSET = "subset"  # key of a row: the part of a published scene that it was measured on


@dataclass(frozen=True)
class Figure:
    """One published value (None: not given) of ``who`` on a scene ("mean": over a data set)."""

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
    """One table per task: the published figures beside those of every system in ``rows``. The official weights read
    "not run here" until there is a row of the system "dust3r". A mean over a data set is taken from the rows of its
    scenes, unless a row has that name.
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
    """A system's values for the figures of a line; dashes unless all are there."""
    own = [row for row in rows if row["protocol"] == held[0].protocol and _is_of(row, held[0].dataset)]
    for among, mark in (([row for row in own if not row.get(SUBSET)], ""), (own, " (subset)")):
        values = [_measured(among, system, figure.scene, figure.metric) for figure in held]
        if any(value is not None for value in values):
            return _shown(held, values) + mark
    return NOT_RUN


def _shown(held: Sequence[Figure], values: Sequence[float | None]) -> str:
    """The values of a line's figures in one cell."""
    return " / ".join(METRICS[figure.metric].shown(value) for figure, value in zip(held, values, strict=True))


def _named(system: str) -> str:
    return "dust3r, official weights" if system == WEIGHTS else system


def _headed(system: str, rows: Sequence[Row]) -> str:
    """The column's heading. A checkpoint measured here need not be the official weights."""
    given = system == WEIGHTS and any(row["system"] == WEIGHTS for row in rows)
    return f"{'dust3r, the weights given' if given else _named(system)}, here"


def _measured(rows: Sequence[Row], system: str, scene: str, metric: str) -> float | None:
    """The system's value on a scene, or the mean over its parts, or over the scenes of a data set's mean."""
    own = [row for row in rows if row["system"] == system and is_number(row.get(metric))]
    exact = [row for row in own if _scene(row) == scene.lower()]
    if exact:
        return float(exact[0][metric])
    parts = _scenes_of_mean(own, scene) if scene.endswith(MEAN) else _parts(own, scene)
    return _mean(parts, metric)


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
    """Rows of the scenes of a mean, by the words before "mean"; training scenes and subsets are left out."""
    start = mean.removesuffix(MEAN).strip().lower()
    whole = (row for row in rows if not row.get(SUBSET) and row.get("split") != "train")
    return [row for row in whole if start in _scene(row)]


def _scene(row: Row) -> str:
    return str(row["scene"]).lower()
