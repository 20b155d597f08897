"""Maps that would be bent or folded: is it prevented, repaired, or at least said? And is it said of right maps?

    python benchmarks/bent.py [--cases NAME ...] [--data ../shared/data] [--out results/bent]
        [--page docs/reliability.md]

The hard ones: a recorded cabinet with hardly any texture from its 28th image on, two rendered corridors that look the
same, two desks that do, and things that move and fill half of the view from the first image on. The others are all
recorded scenes and rendered walks, of which nothing must be said. Every one goes through the mapper as ``dust3r-map``
runs it, without dense depth. Writes bent.json and bent.png, and their table into ``--page``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test/support"), str(Path(__file__).resolve().parent)]

from mapped import extent_of, mapped  # noqa: E402
from movers import before, walk_among  # noqa: E402
from stay import recorded  # noqa: E402
from targets import case_options, errors_said, run_cases, where_and_when  # noqa: E402

from dust3r_ros.evaluation.errors import trajectory_errors  # noqa: E402
from dust3r_ros.evaluation.report.metrics import table_lines  # noqa: E402
from dust3r_ros.geometry.similarity import robust_similarity  # noqa: E402
from dust3r_ros.scenes.rooms import room  # noqa: E402
from dust3r_ros.scenes.sequence import RenderedSequence, look_at, render_path, render_sequence, walk  # noqa: E402
from dust3r_ros.scenes.solids import Box, Lamp, Solid, box_panels  # noqa: E402
from dust3r_ros.scenes.textures import brick, ceiling, decorated, fabric, planks, plaster, poster, tiles  # noqa: E402
from dust3r_ros.scenes.world import World, build, together  # noqa: E402
from dust3r_ros.types import Array, Image  # noqa: E402

_STEP_NS = 125_000_000
_SIZE = {"width": 320, "height": 240}
_SPREAD = 0.05  # of the path's extent: with a larger error, a map counts as bent
_NARROW = 0.05  # metres by which hands sway
BEGIN, END = "<!-- bent: begin, made by benchmarks/bent.py -->", "<!-- bent: end -->"


@dataclass(frozen=True, eq=False)
class Case:
    """Images and their true poses (None: unknown); ``hard``: the map would be wrong."""

    images: list[Image]
    w_T_c: list[Array | None]
    hard: bool = False


@dataclass(frozen=True, eq=False)
class Row:
    """What came of a case. ``error``: ATE, as a share of the extent of the true path (root mean square)."""

    name: str
    hard: bool
    keyframes: int
    images: int
    posed: int
    error: float
    contradicted: float
    said: bool
    seconds: float

    @property
    def met(self) -> bool:
        """A hard map is right in the end, or said to be doubtful; of a right map nothing is said."""
        return (self.said or self.error < _SPREAD) if self.hard else not self.said


def _segment(seed: int, length: float, paint: int) -> World:
    """A corridor along x around (0, 0), open at both ends."""
    rng = np.random.default_rng([seed, 77])
    walls = [decorated(brick), decorated(plaster, 0.5), decorated(brick, 0.25), decorated(plaster, 0.6)]
    panels = box_panels(np.array([-length / 2, -1.3, 0.0]), np.array([length / 2, 1.3, 2.6]), inside=True)
    papers = {"+y": walls[paint], "-y": walls[paint - 1], "+z": ceiling, "-z": tiles}
    shell = [(panels[side], paper) for side, paper in papers.items()]
    things: list[Solid] = []
    for at in np.arange(-length / 2 + 0.5, length / 2 - 1, 1.4):
        side, deep = rng.choice([-1.0, 1.0]), rng.uniform(0.25, 0.45)
        ys = sorted((side * 1.3, side * (1.3 - deep)))
        low, high = np.array([at, ys[0], 0.0]), np.array([at + rng.uniform(0.4, 1.0), ys[1], rng.uniform(0.4, 1.8)])
        things.append(Box(low, high, poster, poster))
    return build(shell, things, Lamp(np.array([0.0, 0.0, 2.5]), ambient=0.65, reach=8.0), seed, per_metre=150.0)


def corridor_world(alike: bool) -> World:
    """A corridor of 9 m, another one of 6 m, and then one that is the first once more, if ``alike``."""
    middle, last = _segment(2, 6.0, 2), _segment(1, 9.0, 0) if alike else _segment(3, 9.0, 3)
    far = [part.shifted(np.array([x, 0.0, 0.0])) for part, x in ((middle, 7.5), (last, 15.0))]
    return together(_segment(1, 9.0, 0), *far)


def corridors(alike: bool, frames: int = 130) -> RenderedSequence:
    """Along three corridors, of which the first and the last are ``alike``."""
    x, time_s = np.linspace(-4.2, 17.5, frames), np.arange(frames) / 8.0
    sway = _NARROW * np.sin(2 * np.pi * np.outer(time_s, [0.3, 0.5, 0.7]) + [0.0, 1.0, 2.0])
    position = np.stack([x, 0.25 * np.sin(x), np.full(frames, 1.35)], axis=1) + sway
    ahead = np.stack([np.full(frames, 2.0), 0.9 * np.sin(0.5 * x), np.full(frames, -0.1)], axis=1)
    poses = np.stack([look_at(*place) for place in zip(position, position + ahead, strict=True)])
    return render_path("corridors", corridor_world(alike), poses, rate_hz=8.0, **_SIZE)


def person(frames: int = 60, near: float = 1.1, shown: slice = slice(None)) -> RenderedSequence:
    """Somebody walks to and fro right before the camera that circles a table, in the frames ``shown``."""
    poses = walk("orbit", frames, rate_hz=8.0)
    there = np.zeros(frames, bool)
    there[shown] = True
    places = [before(w_T_c, near, 0.5 * np.sin(k / 5)) if there[k] else None for k, w_T_c in enumerate(poses)]
    return walk_among(places, poses, **_SIZE).sequence


def sliding(frames: int = 60) -> RenderedSequence:
    """A wall covered with posters slides through half of the view of a camera that moves more slowly."""
    wall = Box(np.array([-4.0, -0.1, 0.0]), np.array([4.0, 0.1, 1.5]), poster, poster)
    mover = build([], [wall], Lamp(np.array([0.4, -0.3, 2.55]), ambient=0.8), 9)
    k = np.arange(frames)[:, None]
    position = np.array([-2.2, -1.2, 1.5]) + k * [0.02, 0.0, 0.0] + 0.01 * np.sin(k / 4) * [0.0, 1.0, 0.0]
    ahead = np.array([0.3, 4.2, -0.5])
    poses = np.stack([look_at(at, at + ahead) for at in position])
    places = [np.array([-2.5 + 0.07 * at, 0.6, 0.0]) for at in range(frames)]
    return walk_among(places, poses, mover=mover, **_SIZE).sequence


def desks(alike: bool, frames: int = 18) -> RenderedSequence:
    """Photographs around a desk, then around another one in the same room, just the same if ``alike``."""
    rng, shape = np.random.default_rng(0), [np.array([-0.5, -0.4, 0.0]), np.array([0.5, 0.4, 0.7])]
    walls = box_panels(np.array([-4.5, -3.0, 0.0]), np.array([4.5, 3.0, 2.7]), inside=True)
    papers = {"+z": ceiling, "-z": planks}
    shell = [(panel, papers.get(side, decorated(plaster, 0.3))) for side, panel in walls.items()]
    places, parts, poses = [np.array([x, 0.0, 0.0]) for x in (-2.2, 2.2)], [], []
    for number, place in enumerate(places):
        screen = Box(np.array([-0.5, 0.3, 0.7]), np.array([0.5, 0.4, 1.4]), poster, poster)
        solids: list[Solid] = [Box(shape[0], shape[1], poster, fabric), screen]
        desk = build([], solids, Lamp(np.array([0.0, 0.0, 3.0]), ambient=0.7, reach=8.0), 0 if alike else number)
        parts.append(desk.shifted(place))
        for turn in 2 * np.pi * (np.arange(frames) + rng.uniform(-0.2, 0.2, frames)) / frames:
            radius, height = rng.uniform([1.5, 1.1], [1.9, 1.7])
            at = np.array([radius * np.cos(turn), radius * np.sin(turn), height])
            poses.append(look_at(place + at, place + np.array([0.0, 0.0, 0.7])))
    empty = build(shell, [], Lamp(np.array([0.0, 0.0, 2.6]), ambient=0.6), 0, per_metre=150.0)
    return render_path("desks", together(empty, *parts), np.stack(poses), width=640, height=480)


def laps(frames: int = 90) -> RenderedSequence:
    """Twice round a table."""
    poses = np.concatenate([walk("orbit", frames, laps=1.0, seed=seed) for seed in range(2)])
    return render_path("laps", room(), poses, **_SIZE)


def _rendered(make: Callable[[], RenderedSequence], hard: bool = False) -> Callable[[Path], Case]:
    def case(data: Path) -> Case:
        sequence = make()
        return Case(list(sequence.images), list(sequence.w_T_c), hard)

    return case


def _recorded(scene: str, first: int = 0) -> Callable[[Path], Case]:
    def case(data: Path) -> Case:
        images, poses = zip(*next(recorded(data / scene, 1)), strict=True)
        return Case(list(images[first:]), list(poses[first:]), first > 0)

    return case


CASES: dict[str, Callable[[Path], Case]] = {
    "cabinet from image 28": _recorded("tum_fr3_cabinet", 27),
    "corridors alike": _rendered(lambda: corridors(True), True),
    "desks alike": _rendered(lambda: desks(True), True),
    "person close by": _rendered(person, True),
    "wall that slides": _rendered(sliding, True),
    "corridors that differ": _rendered(lambda: corridors(False)),
    "desks that differ": _rendered(lambda: desks(False)),
    "person passes": _rendered(lambda: person(near=2.5, shown=slice(20, 40))),
    "two laps": _rendered(laps),
    **{kind: _rendered(lambda kind=kind: render_sequence(kind)) for kind in ("orbit", "sweep", "forward", "corridor")},
}


def measure(name: str, case: Case) -> tuple[Row, Array, Array]:
    """The row of a case, and the true and the found path (N, 3), brought together."""
    run = mapped(case.images, case.w_T_c, _STEP_NS)
    true = {pose.stamp_ns: pose.w_T_c[:3, 3] for pose in run.truth}
    both = [pose for pose in run.found if pose.stamp_ns in true]
    here, there = np.array([pose.w_T_c[:3, 3] for pose in both]), np.array([true[pose.stamp_ns] for pose in both])
    row = Row(
        name,
        case.hard,
        run.mapper.counts.keyframes,
        len(case.images),
        len(run.found),
        trajectory_errors(run.truth, run.found).ate / extent_of(there),
        run.mapper.submap.contradicted,
        bool(run.mapper.doubts),
        run.seconds,
    )
    return row, there, robust_similarity(here, there).apply(here)


def table(rows: list[Row], about: dict[str, object]) -> str:
    """Markdown, what was missed in bold."""
    head = ("case", "images with a pose", "keyframes", "error, of the path's extent", "contradicted", "said")
    cells = []
    for row in rows:
        name, said = f"{row.name} (hard)" if row.hard else row.name, "yes" if row.said else "no"
        figures = f"{row.posed} of {row.images}", row.keyframes, f"{row.error:.1%}", f"{row.contradicted:.0%}"
        cells.append((name, *figures, said if row.met else f"**{said}**"))
    return "\n".join([*table_lines(head, cells, (0, 5)), "", f"`dense=false`; {where_and_when(about)}."])


def plot(paths: list[tuple[Row, Array, Array]], path: Path) -> None:
    """True and found paths from above, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.7 * len(paths), 2.4), layout="constrained")
    for axes, (row, true, found) in zip(figure.subplots(1, len(paths), squeeze=False)[0], paths, strict=True):
        axis = np.linalg.svd(true - true.mean(axis=0), full_matrices=False)[2][:2]
        for points, style, label in ((true, "k-", "true"), (found, "C1.", "found")):
            flat = (points - true.mean(axis=0)) @ axis.T
            axes.plot(*flat.T, style, markersize=3, linewidth=1, label=label)
        axes.set(title=f"{row.name}\n{row.error:.1%}, {'doubted' if row.said else 'not doubted'}")
        axes.set_aspect("equal", adjustable="datalim")
        axes.title.set_fontsize(9)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


@errors_said("bent")
def main() -> int:
    """Exit code: 1 if a case could not be measured, else 0."""
    arguments = case_options(__doc__, "bent").parse_args()
    scenes = sorted(path.parent.name for path in arguments.data.glob("*/groundtruth.txt"))
    cases = {**CASES, **{scene: _recorded(scene) for scene in scenes}}
    if not scenes:
        del cases["cabinet from image 28"]

    def said(measured: tuple[Row, Array, Array]) -> str:
        row = measured[0]
        return (
            f"{row.name}: {row.posed} of {row.images} images, {row.keyframes} keyframes, error {row.error:.1%}, "
            f"contradicted {row.contradicted:.0%}, {'said' if row.said else 'not said'}"
            f"{'' if row.met else ': MISSED'}, {row.seconds:.0f} s"
        )

    run_cases(
        arguments,
        cases,
        lambda names: (measure(name, cases[name](arguments.data)) for name in names),
        said,
        lambda results, about: table([row for row, *_ in results], about),
        markers=(BEGIN, END),
        plot=lambda results, path: plot([entry for entry in results if entry[0].hard] or results, path),
        as_row=lambda entry: asdict(entry[0]) | {"met": entry[0].met},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
