"""Tables of an evaluation: every scene, ours beside peers and beside published figures."""

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
    "Poses: share of frames with one. ATE: root mean square position error after Sim3, in metres where the truth is "
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


def peer_table(rows: Sequence[Row]) -> Table:
    """Our figures over the peers' on the same frames: below 1 is better for ATE and seconds, above for poses."""
    found = {(row["scene"], row["system"]): row for row in rows if row["protocol"] == PROTOCOL}
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
    """What is asked of the default backend on every scene, and where it falls short."""
    found = {(row["scene"], row["system"]): row for row in rows if row["protocol"] == PROTOCOL}
    body = []
    for scene in dict.fromkeys(scene for scene, system in found if system == OURS):
        ours, poses = found[scene, OURS], found.get((scene, POSES), {})
        colmap = found.get((scene, "pycolmap"), {})
        succeeded = is_number(colmap.get("tracked")) and colmap["tracked"] >= 90
        focal = ours.get("focal_error")
        body.append(
            [
                scene,
                _verdict(ours.get("tracked"), lambda value: value >= 100 - 1e-9, "{:.0f} %"),
                _verdict(ratio(ours, colmap, "ate") if succeeded else None, lambda value: value <= 1, "{:.2f} x"),
                _verdict(ratio(poses, colmap, "seconds") if succeeded else None, lambda v: v <= 0.1, "{:.2f} x"),
                _verdict(focal, lambda value: abs(value) <= 3, "{:+.1f} %"),
                _verdict(ours.get("depth_delta"), lambda value: value >= 90, "{:.1f} %"),
                _verdict(
                    ours.get("covered" if ours["dataset"] == RENDERED else "density"),
                    lambda value: value >= 70,
                    "{:.0f} %",
                ),
            ]
        )
    head = ["scene", "poses: all", "ATE: at most pycolmap's", "time: a tenth of pycolmap's", "focal: within 3 %",
            "δ1.25: at least 90 %", "pixels with points: at least 70 %"]  # fmt: skip
    rooms = [row["ate"] for (_, system), row in found.items() if system == OURS and _room_scale(row)]
    notes = []
    if rooms:
        mean = sum(rooms) / len(rooms)
        word = "met" if mean <= 0.06 else "missed"
        notes.append(
            f"ATE, mean of the {len(rooms)} recorded scenes of room scale: {mean:.3f} m, target 0.06 m: {word}"
        )
    lead = (
        "A bold figure misses its target, a dash was not measured or has nothing to be measured against. pycolmap "
        "counts where it places at least 90 % of the frames; its time is compared with ours for poses only. "
        "Of rendered worlds, pixels of the sky need no points."
    )
    return Table("Targets", head, body, lead=lead, notes=notes)


def _room_scale(row: Row) -> bool:
    """A recorded scene in metres whose path is no longer than a walk through a room."""
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
