"""Our figures beside those of other programs on the same frames: targets met or missed, by scene and by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from dust3r_ros.evaluation.report.metrics import METRICS, Table, is_number
from dust3r_ros.evaluation.report.published import COLMAP, COLMAP_METHODS, OURS, PEERS, POSES, PROTOCOL, RECORDED
from dust3r_ros.evaluation.report.run_file import Row
from dust3r_ros.evaluation.scene import LITTLE, MEANINGS, OTHER

_ROOM = 20.0  # metres of path
ENOUGH = 90.0  # percent of the images that must have a pose, else an ATE says little
_AS_GOOD = 1.1  # times the lowest ATE: the truth is not more exact
Runs = Mapping[str, Row]  # of one scene, by system


def runs_by_scene(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """{scene: {system: row}} of the suite's rows."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["protocol"] == PROTOCOL:
            found.setdefault(row["scene"], {})[row["system"]] = row
    return found


def kinds_in(runs: Runs) -> list[str]:
    """The kinds of a scene, which our own rows hold."""
    return next((row["kinds"] for row in runs.values() if row.get("kinds")), [OTHER])


def ratio(ours: Row, theirs: Row, name: str) -> float | None:
    """Ours / theirs, None where one is missing or theirs is 0."""
    a, b = ours.get(name), theirs.get(name)
    return abs(a) / abs(b) if is_number(a) and is_number(b) and b else None  # type: ignore[arg-type]


def _placed(runs: Runs, systems: Sequence[str] = COLMAP_METHODS) -> list[Row]:
    """Rows of ``systems`` with enough poses to be compared with."""
    rows = (runs.get(system, {}) for system in systems)
    return [row for row in rows if is_number(row.get("tracked")) and row["tracked"] >= ENOUGH]


def _ate(runs: Runs) -> float | None:
    """Our ATE over the lowest of pycolmap's methods."""
    known = [row["ate"] for row in _placed(runs) if is_number(row.get("ate"))]
    return ratio(runs.get(OURS) or runs.get(POSES, {}), {"ate": min(known)}, "ate") if known else None


def _time(system: str, of: str = "seconds") -> Callable[[Runs], float | None]:
    """The system's time over that of pycolmap's default, or of its sequential form where there are too many images."""
    default = (f"{COLMAP} incremental, exhaustive", f"{COLMAP} incremental, sequential")

    def figure(runs: Runs) -> float | None:
        return ratio(runs.get(system, {}), next(iter(_placed(runs, default)), {}), of)

    return figure


def _of_quickest(runs: Runs) -> float | None:
    known = [row["seconds"] for row in _placed(runs) if is_number(row.get("seconds"))]
    return ratio(runs.get(POSES, {}), {"seconds": min(known)}, "seconds") if known else None


def _own(name: str) -> Callable[[Runs], float | None]:
    return lambda runs: (runs.get(OURS) or runs.get(POSES, {})).get(name)


def _dense_ms(runs: Runs) -> float | None:
    """What a keyframe's depth adds to the time of its poses."""
    dense, poses = runs.get(OURS, {}), runs.get(POSES, {})
    if not (is_number(dense.get("seconds")) and is_number(poses.get("seconds")) and dense.get("keyframes")):
        return None
    return float(1000 * (dense["seconds"] - poses["seconds"]) / dense["keyframes"])


@dataclass(frozen=True)
class Target:
    """``figure`` of a scene, which must be ``limit`` or less (``at_least``: or more), whatever its sign.

    ``lenient``: the limit for scenes with little motion.
    """

    title: str
    figure: Callable[[Runs], float | None]
    limit: float
    form: str
    at_least: bool = False
    lenient: float | None = None

    def met(self, value: float, kinds: Sequence[str]) -> bool:
        """Whether a scene of these kinds meets it."""
        limit = self.lenient if self.lenient is not None and LITTLE in kinds else self.limit
        return value >= limit - 1e-9 if self.at_least else abs(value) <= limit

    def worst(self, values: Sequence[float]) -> float:
        """Of the values of several scenes."""
        return min(values) if self.at_least else max(values, key=abs)


TARGETS = (
    Target("poses: at least 95 %", _own("tracked"), 95.0, "{:.0f} %", at_least=True),
    Target("ATE: at most the best of pycolmap's", _ate, 1.0, "{:.2f} x"),
    Target("time, poses only: a tenth of pycolmap's", _time(POSES), 0.1, "{:.2f} x"),
    Target("processor time, poses only: a tenth", _time(POSES, "processor_seconds"), 0.1, "{:.2f} x"),
    Target("time, dense: half of pycolmap's", _time(OURS), 0.5, "{:.2f} x"),
    Target("focal: within 3 % (little motion 15 %)", _own("focal_error"), 3.0, "{:+.1f} %", lenient=15.0),
    Target("δ1.25: at least 95 %", _own("depth_delta"), 95.0, "{:.1f} %", at_least=True),
    Target("true pixels with points: at least 80 %", _own("covered"), 80.0, "{:.0f} %", at_least=True),
    Target("a keyframe's depth: at most 120 ms", _dense_ms, 120.0, "{:.0f} ms"),
)
_MEASURED_AGAINST = (
    f"pycolmap counts where it poses at least {ENOUGH:.0f} % of the frames. ATE: against the lowest of its four "
    "methods. Time: against its default, incremental mapping of exhaustive matches (sequential ones where there are "
    "too many images); beside other programs, processor time is more reliable"
)


def target_table(rows: Sequence[Row]) -> Table:
    """The targets of the default backend on every scene, and where it misses them."""
    found = {scene: runs for scene, runs in runs_by_scene(rows).items() if OURS in runs}
    body = []
    for scene, runs in found.items():
        verdicts = (_verdict(target, target.figure(runs), kinds_in(runs)) for target in TARGETS)
        body.append([scene, *verdicts, _ratio(_of_quickest(runs))])
    head = ["scene", *(target.title for target in TARGETS), "time, poses only / the quickest of pycolmap's"]
    lead = (
        "A bold figure misses its target, a dash was not measured or has nothing to be measured against. "
        f"{_MEASURED_AGAINST}; the last column, without a target, is against the quickest of its methods."
    )
    rooms = [runs[OURS]["ate"] for runs in found.values() if _room_scale(runs[OURS])]
    return Table("Targets", head, body, lead=lead, notes=_of_rooms(rooms))


def _verdict(target: Target, value: Any, kinds: Sequence[str]) -> str:
    if not is_number(value):
        return "–"
    text = target.form.format(value)
    return text if target.met(value, kinds) else f"**{text}**"


def kind_target_table(rows: Sequence[Row]) -> Table:
    """The targets by kind of recording: how many scenes meet each, and the worst figure."""
    found = {scene: runs for scene, runs in runs_by_scene(rows).items() if OURS in runs or POSES in runs}
    measured = [target for target in TARGETS if any(is_number(target.figure(runs)) for runs in found.values())]
    kinds = by_kind(found)
    body = []
    for kind, scenes in kinds.items():
        cells = [_of_kind(target, [found[scene] for scene in scenes]) for target in measured]
        body.append([kind, str(len(scenes)), *cells])
    known = ", ".join(f"{kind}: {meaning}" for kind, meaning in MEANINGS.items())
    lead = (
        "Met or missed by how many scenes of a kind, and the worst figure. A recording may be of several kinds, by its "
        f"true motion: {known}. {_MEASURED_AGAINST}."
    )
    notes = [f"not measured: {target.title}" for target in TARGETS if target not in measured]
    notes += _of_little_motion([found[scene] for scene in kinds.get(LITTLE, ())])
    head = ["kind", "scenes", *(target.title for target in measured)]
    return Table("Targets by kind", head, body, lead=lead, notes=notes)


def _of_little_motion(scenes: Sequence[Runs]) -> list[str]:
    """The note on the focal errors of scenes with little motion; empty without any."""
    found = (_own("focal_error")(runs) for runs in scenes)
    errors = [value for value in found if value is not None]
    if not errors:
        return []
    middle, bias = median(map(abs, errors)), sum(errors) / len(errors)
    words = ["met" if good else "missed" for good in (middle <= 5, abs(bias) <= 2)]
    return [
        f"{LITTLE}, focal error: median {middle:.1f} %, target 5 %: {words[0]}; "
        f"mean {bias:+.1f} %, target within 2 %: {words[1]}"
    ]


def _of_kind(target: Target, scenes: Sequence[Runs]) -> str:
    pairs = [(target.figure(runs), kinds_in(runs)) for runs in scenes]
    known = [(value, kinds) for value, kinds in pairs if is_number(value)]
    if not known:
        return "–"
    met = sum(target.met(value, kinds) for value, kinds in known)  # type: ignore[arg-type]
    worst = target.form.format(target.worst([value for value, _ in known]))  # type: ignore[misc]
    return f"met ({worst})" if met == len(known) else f"**missed by {len(known) - met} of {len(known)}** ({worst})"


def by_kind(found: Mapping[str, Runs]) -> dict[str, list[str]]:
    """{kind: scenes}, the kinds of motion first, then those of changed images."""
    held: dict[str, list[str]] = {kind: [] for kind in (*MEANINGS, OTHER)}
    for scene, runs in found.items():
        for kind in kinds_in(runs):
            held.setdefault(kind, []).append(scene)
    return {kind: scenes for kind, scenes in held.items() if scenes}


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


def methods_of(runs: Iterable[Runs]) -> list[str]:
    """Those systems that are compared by kind: ours without dense depth, pycolmap's methods."""
    held = {system for one in runs for system in one}
    return [system for system in (POSES if POSES in held else OURS, *COLMAP_METHODS) if system in held]


def method_tables(rows: Sequence[Row]) -> list[Table]:
    """By kind: whose trajectory is best, and focal, time and memory of each method. Empty without pycolmap."""
    found = runs_by_scene(rows)
    methods = methods_of(found.values())
    if len(methods) < 2:
        return []
    best = {scene: best_of(runs, methods) for scene, runs in found.items()}

    def held(method: str, scenes: Sequence[str]) -> list[Row]:
        """The method's rows; an empty one where it poses too few images to be judged by the rest."""
        return [next(iter(_placed(found[scene], [method])), {}) for scene in scenes]

    def trajectory(method: str, scenes: Sequence[str]) -> str:
        posed = [found[scene].get(method, {}).get("tracked") or 0.0 for scene in scenes]
        wins = {name: sum(name in best[scene] for scene in scenes) for name in methods}
        ate = _median(held(method, scenes), "ate_percent", 2)
        text = f"{ate} ({median(posed):.0f} %, {min(posed):.0f} %); {wins[method]}"
        return f"**{text}**" if wins[method] and wins[method] == max(wins.values()) else text

    def focal(method: str, scenes: Sequence[str]) -> str:
        own = held(method, scenes)
        return f"{_median(own, 'focal_error', 1)} ({_largest(own, 'focal_error', 1)})"

    def cost(method: str, scenes: Sequence[str]) -> str:
        own = [row for row in held(method, scenes) if row]
        return f"{_median(own, 'processor_seconds', 2, by='frames')} ({_largest(own, 'peak_memory_mb', 0)})"

    def table(title: str, lead: str, cell: Callable[[str, Sequence[str]], str]) -> Table:
        kinds = by_kind(found).items()
        body = [[kind, str(len(scenes)), *(cell(method, scenes) for method in methods)] for kind, scenes in kinds]
        return Table(title, ["kind", "scenes", *methods], body, lead=lead)

    ranking = (
        "ATE in percent of the path (median), in brackets the share of images with a pose (median, least), then on how "
        "many scenes the method is best: its ATE is the lowest, or within a tenth of it. Bold: best most often. A "
        f"method that poses fewer than {ENOUGH:.0f} % of the images has no ATE here, and a dash if so on half of the "
        "scenes. Sequential: each image with the ten before it and some farther back, no search for loops."
    )
    focals = "Percent, whatever its sign: median, and the largest; where enough images have a pose."
    costs = "Processor seconds for an image (median), and the most memory in MB; where enough images have a pose."
    return [
        table("Trajectory by kind", ranking, trajectory),
        table("Focal error by kind", focals, focal),
        table("Cost by kind", costs, cost),
    ]


def best_of(runs: Runs, methods: Sequence[str]) -> list[str]:
    """The methods with the lowest ATE on a scene, or within a tenth of it, among those with enough poses."""
    known = {row["system"]: row["ate"] for row in _placed(runs, methods) if is_number(row.get("ate"))}
    return [method for method, ate in known.items() if ate <= _AS_GOOD * min(known.values())]


def _values(rows: Sequence[Row], name: str, by: str = "") -> list[float]:
    """Magnitudes of a figure, infinite where it is missing; ``by``: divided by this one."""
    held = (abs(row[name]) / (row[by] if by else 1) if is_number(row.get(name)) else float("inf") for row in rows)
    return list(held)


def _median(rows: Sequence[Row], name: str, digits: int, by: str = "") -> str:
    value = median(_values(rows, name, by) or [float("inf")])
    return f"{value:.{digits}f}" if is_number(value) else "–"


def _largest(rows: Sequence[Row], name: str, digits: int) -> str:
    known = [value for value in _values(rows, name) if is_number(value)]
    return f"{max(known):.{digits}f}" if known else "–"


def peer_table(rows: Sequence[Row]) -> Table:
    """Our figures over the peers' on the same frames: below 1 is better for ATE and costs, above for poses."""
    found = runs_by_scene(rows)
    body, wins = [], []
    for peer in PEERS:
        for scene, runs in found.items():
            if peer not in runs:
                continue
            ours, poses, theirs = (runs.get(system, {}) for system in (OURS, POSES, peer))
            ate = ratio(ours, theirs, "ate")
            cells = [_pair(ours, theirs, "ate_percent"), _ratio(ate), _pair(ours, theirs, "tracked")]
            cells += [_pair(ours, theirs, "focal_error"), _pair(ours, theirs, "seconds")]
            cells += [_ratio(ratio(ours, theirs, "seconds")), _ratio(ratio(poses, theirs, "seconds"))]
            cells += [_ratio(ratio(poses, theirs, "processor_seconds")), _pair(poses, theirs, "peak_memory_mb")]
            body.append([scene, peer, *cells])
            wins.append(ate is not None and ate <= 1)
    head = ["scene", "peer", "ATE, % of path", "ratio", "poses %", "focal error %", "s", "ratio", "ratio, poses only"]
    head += ["ratio of processor s, poses only", "MB, poses only"]
    lead = (
        "Ours / the peer's, or their ratio, on the same frames with the same unknown focal. An ATE is of the frames "
        "that have a pose, so it must be read beside their share. pycolmap: its own options, so one camera with a "
        "radial term and the principal point in the middle; its methods share features, and matches, whose time each "
        "of them counts. opencv: a chain of essential matrices, the focal guessed as the long edge: the floor. Ours "
        "maps densely; the last columns are without dense depth, which is what the peers give."
    )
    notes = [f"ATE at or below the peer's in {sum(wins)} of {len(wins)} pairs of scene and peer"] if wins else []
    return Table("Beside peers", head, body, lead=lead, notes=notes if wins else ["no peer was run"], texts=2)


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _pair(ours: Row, theirs: Row, name: str) -> str:
    metric = METRICS[name]
    return f"{metric.shown(ours.get(name))} / {metric.shown(theirs.get(name))}"
