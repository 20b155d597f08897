"""Walks through worlds nobody has seen: are they mapped, by an unknown camera, wherever it goes?

    python benchmarks/walks.py [--cases NAME ...] [--count 64] [--out results/walks] [--page docs/reliability.md]

World after world of the endless series (its own seed, so none that a network learns from), the kinds in turn: rooms,
corridors, streets, parks, monuments, still lifes, jumbles and factories, with bare walls and endless repetition. In
each, a camera of random size and field of view is carried along a random path, at a walking pace (1.5 to 5 % of the
image from image to image) or briskly (5 to 13 %), and takes pictures with noise, blur and uneven exposure. Half of the
cameras are pinholes that read an image at once, half have a lens, a centre that is off the middle and, most of them, a
shutter that rolls, as phones do. Nothing is left out because it is hard, but views of nearly nothing. Every walk goes
through the mapper as ``dust3r-map`` runs it, without dense depth. Writes walks.json and walks.jpg, and their table into
``--page``.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, Slerp

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test/support"), str(Path(__file__).resolve().parent)]

from mapped import error_of, mapped  # noqa: E402
from rolling import read_out  # noqa: E402
from targets import Z_HEAD, case_options, errors_said, run_cases, where_and_when, z_cells  # noqa: E402

from dust3r_ros.errors import InputError  # noqa: E402
from dust3r_ros.evaluation.report.metrics import table_lines  # noqa: E402
from dust3r_ros.scenes.endless.casting import Eye  # noqa: E402
from dust3r_ros.scenes.endless.photography import draw_exposure, photograph  # noqa: E402
from dust3r_ros.scenes.endless.viewpoints import CLEAR, free_place, worth_of  # noqa: E402
from dust3r_ros.scenes.endless.worlds import LAYOUTS, World, make_world  # noqa: E402
from dust3r_ros.scenes.sequence import look_at, unsteadiness  # noqa: E402
from dust3r_ros.types import Array, Image  # noqa: E402

R = TypeVar("R")

_SEED = (9177, 4)
_COUNT = 64
_RATE_HZ = 8.0
_STEP_NS = round(1e9 / _RATE_HZ)
_SIZES = [(640, 480)] * 4 + [(640, 360), (480, 640), (512, 384), (800, 600)]
_FIELD = (40.0, 110.0)  # degrees along the longer side
_PACES = {"calm": (0.015, 0.05), "brisk": (0.05, 0.13)}  # of the longer side, from image to image
_IMAGES = (15, 100)
PINHOLE, PHONE = "pinhole", "phone"
_AT_ONCE = 0.25  # of phones
_READOUT_S = (0.005, 0.03)  # of the others, from the first to the last row
_BANDS = 24  # of rows, each read at once
# OpenCV's k1 times the square of the corners' radius; the centre's standard deviation, of the longer side.
_BENDS, _OFF = (-0.1, 0.02), 0.012
LAYOUT_NAMES = [layout.__name__ for layout in LAYOUTS]
_FINE = 241  # places of a path at which it is looked at, every 16th with the eyes
_LOOK = 16
_LEAST_WORTH = 0.3
_LEAST_PARALLAX = 0.3  # of the longer side, over the whole path
_TRIES = 300
_WAVES = 6  # of a hand
_RIGHT, _BENT = 0.01, 0.05  # of the path's extent
BEGIN, END = "<!-- walks: begin, made by benchmarks/walks.py -->", "<!-- walks: end -->"


@dataclass(frozen=True, eq=False)
class Walk:
    """``images`` and their true poses, of a camera of ``focal`` pixels in a world of kind ``layout``."""

    layout: str
    motion: str
    images: list[Image]
    w_T_c: Array
    focal: float


@dataclass(frozen=True, eq=False)
class Phone:
    """What is not as in a pinhole: OpenCV's ``k1``, the ``center`` (2,), pixels, and ``readout``, seconds."""

    k1: float
    center: Array
    readout: float

    def sources(self, eye: Eye) -> tuple[Eye, Array]:
        """The pinhole that sees all that this camera does, in place of ``eye``, and where (H, W, 2) in its image."""
        K = eye.K.copy()
        K[:2, 2] += self.center
        pixels = np.stack(np.meshgrid(np.arange(eye.width), np.arange(eye.height)), axis=-1).astype(np.float64)
        rays = cv2.undistortPoints(pixels.reshape(-1, 1, 2), K, np.array([self.k1, 0.0, 0.0, 0.0])).reshape(-1, 2)
        half = np.ceil(eye.focal * np.abs(rays).max(axis=0)).astype(int) + 2
        wide = eye_of(*(2 * half + 1).tolist(), eye.focal, eye.w_T_c)
        return wide, (eye.focal * rays + half).reshape(*pixels.shape).astype(np.float32)


def _draw_phone(rng: np.random.Generator, eye: Eye) -> Phone:
    side, corner = max(eye.width, eye.height), np.hypot(eye.width, eye.height) / (2.0 * eye.focal)
    k1 = rng.uniform(*_BENDS) / corner**2
    readout = 0.0 if rng.random() < _AT_ONCE else rng.uniform(*_READOUT_S)
    return Phone(float(k1), side * _OFF * rng.normal(size=2), float(readout))


@dataclass(frozen=True, eq=False)
class Row:
    """What came of a walk. ``error``: ATE, as a share of the extent of the true path (root mean square), NaN without
    a map; ``focal``: relative error, and its claimed deviation; ``said``: whether the map is said to be doubtful."""

    name: str
    layout: str
    motion: str
    pace: str
    camera: str
    images: int
    keyframes: int
    posed: float
    error: float
    focal: float
    std: float
    said: bool
    seconds: float

    @property
    def z(self) -> float:
        """The focal's error in its deviations, whatever its sign."""
        return abs(self.focal) / self.std


def _turned(way: Array, angle: Array) -> Array:
    """(N, 3): ``way`` turned by angles (N,) about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * way[0] - s * way[1], s * way[0] + c * way[1], np.full_like(c, way[2])], axis=1)


Aims = tuple[Array, Array]  # (N, 3) positions, and what is looked at from there


def _around(rng: np.random.Generator, world: World, at: Array, aim: Array, t: Array) -> Aims:
    angle = np.radians(rng.uniform(40, 150)) * rng.choice([-1, 1])
    nearer = 1 + rng.uniform(-0.3, 0.3) * np.sin(np.pi * t)
    return aim - _turned(aim - at, angle * t) * nearer[:, None], np.tile(aim, (len(t), 1))


def _sideways(rng: np.random.Generator, world: World, at: Array, aim: Array, t: Array) -> Aims:
    way = aim - at
    side = np.cross(way, [0, 0, 1])
    side = (side / (np.linalg.norm(side) + 1e-9) * rng.choice([-1, 1]) + rng.normal(0, 0.3, 3)) * np.linalg.norm(way)
    return at + t[:, None] * side * rng.uniform(0.5, 1.2), aim + t[:, None] * side * rng.uniform(0.2, 1.0)


def _forward(rng: np.random.Generator, world: World, at: Array, aim: Array, t: Array) -> Aims:
    way = aim - at
    return at + t[:, None] * way * rng.uniform(0.4, 0.75), np.tile(aim + way, (len(t), 1))


def _looking_about(rng: np.random.Generator, world: World, at: Array, aim: Array, t: Array) -> Aims:
    way = aim - at
    yaw = np.radians(60) * np.sin(2 * np.pi * t * rng.uniform(0.5, 1.2))
    return at + 0.25 * float(np.linalg.norm(way)) * unsteadiness(rng, 3 * t, 3, _WAVES), at + _turned(way, yaw)


def _strolling(rng: np.random.Generator, world: World, at: Array, aim: Array, t: Array) -> Aims:
    far, stage = float(np.linalg.norm(aim - at)), world.stage
    places, aims = [at], [aim]
    for _ in range(int(rng.integers(2, 5))):
        place = np.clip(places[-1] + rng.normal(0, 0.6 * far, 3) * [1, 1, 0.25], *stage.room)
        way = _turned(aims[-1] - places[-1], rng.normal(0, 0.5, 1))[0] * [1, 1, 0.7]
        places, aims = [*places, place], [*aims, place + way]
    stops = np.linspace(0, 1, len(places))
    return CubicSpline(stops, places)(t), CubicSpline(stops, aims)(t)


_MOTIONS: dict[str, Callable[[np.random.Generator, World, Array, Array, Array], Aims]] = {
    "around": _around,
    "sideways": _sideways,
    "forward": _forward,
    "looking about": _looking_about,
    "strolling": _strolling,
}


def _path(rng: np.random.Generator, world: World, motion: str) -> Array:
    """(N, 4, 4) poses ``w_T_c``, close to each other."""
    at, aim = free_place(world, rng)
    t, far = np.linspace(0, 1, _FINE), float(np.linalg.norm(aim - at))
    positions, aims = _MOTIONS[motion](rng, world, at, aim, t)
    positions = positions + 0.01 * far * unsteadiness(rng, 8 * t, 3, _WAVES)
    aims = aims + 0.015 * far * unsteadiness(rng, 8 * t, 3, _WAVES)
    roll = 0.03 * unsteadiness(rng, 8 * t, 1, _WAVES)[:, 0]
    return np.stack([look_at(*place) for place in zip(positions, aims, roll, strict=True)])


def _flow(world: World, eye: Eye, path: Array) -> tuple[Array, float] | None:
    """How far (N,) the image has moved along a path, and the part due to its steps alone, as shares of the longer
    side; None for a path through things, or where there is hardly anything to see."""
    if world.scenery.shapes.holds(path[:, :3, 3], CLEAR * world.stage.reach[0]).any():
        return None
    places = np.arange(0, len(path), _LOOK)
    seen = [world.scenery.cast(Eye(eye.K, path[at], eye.width, eye.height)) for at in places]
    if min(worth_of(world, one) for one in seen) < _LEAST_WORTH:
        return None
    depth = np.interp(np.arange(len(path)), places, [np.median(one.depth[np.isfinite(one.depth)]) for one in seen])
    R = Rotation.from_matrix(path[:, :3, :3])
    angles, steps = (R[:-1].inv() * R[1:]).magnitude(), np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1)
    unit = eye.focal / max(eye.width, eye.height)
    parallax = unit * steps / depth[1:]
    return np.concatenate([[0.0], np.cumsum(unit * angles + parallax)]), float(parallax.sum())


def possible_path(
    rng: np.random.Generator, world: World, eye: Eye, parallax: float, least: float = 0.0
) -> tuple[str, Array, Array]:
    """A random motion, its poses (N, 4, 4), and how far (N,) the image of ``eye`` moves along it, in its longer side.

    By ``least`` in all, of which more than ``parallax`` is due to steps. Raises ``InputError`` if none of many paths is
    possible.
    """
    for _ in range(_TRIES):
        motion = str(rng.choice(list(_MOTIONS)))
        path = _path(rng, world, motion)
        flow = _flow(world, eye, path)
        if flow is not None and flow[0][-1] >= least and flow[1] > parallax:
            return motion, path, flow[0]
    raise InputError(f"a {world.layout} has no room for a walk: {_TRIES} paths were tried")


def resampled(path: Array, at: Array) -> Array:
    """The poses at places (M,) of a path."""
    places, found = np.arange(len(path)), np.tile(np.eye(4), (len(at), 1, 1))
    found[:, :3, :3] = Slerp(places, Rotation.from_matrix(path[:, :3, :3]))(at).as_matrix()
    found[:, :3, 3] = np.stack([np.interp(at, places, path[:, axis, 3]) for axis in range(3)], axis=1)
    return found


def eye_of(width: int, height: int, focal: float, w_T_c: Array) -> Eye:
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    return Eye(K, w_T_c, width, height)


def make_walk(number: int, pace: str, camera: str = PINHOLE, rate_hz: float = _RATE_HZ, seconds: float = 0.0) -> Walk:
    """Walk ``number``, through a pinhole or as with a phone: as fast at any rate, and of so many ``seconds`` at least.

    Raises ``InputError`` if none of many paths is possible in its world.
    """
    rng = np.random.default_rng([*_SEED, number])
    world = make_world(_SEED, number, LAYOUT_NAMES[number % len(LAYOUT_NAMES)])
    width, height = _SIZES[int(rng.integers(len(_SIZES)))]
    focal = max(width, height) / 2 / np.tan(np.radians(rng.uniform(*_FIELD)) / 2)
    small = eye_of(width // 4, height // 4, focal / 4, np.eye(4))
    motion, path, flow = possible_path(rng, world, small, _LEAST_PARALLAX, seconds * _RATE_HZ * _PACES[pace][1])
    count = int(np.clip(flow[-1] / rng.uniform(*_PACES[pace]), *_IMAGES) * rate_hz / _RATE_HZ)
    exposure, eye = draw_exposure(rng), eye_of(width, height, focal, np.eye(4))
    phone = _draw_phone(rng, eye) if camera == PHONE else Phone(0.0, np.zeros(2), 0.0)
    wide, sources = phone.sources(eye) if camera == PHONE else (eye, None)
    bands = (np.arange(_BANDS) + 0.5) / _BANDS - 0.5 if phone.readout else np.zeros(1)
    # Each band at its own place: a camera that moves evenly, in its images, from each to the next
    read = np.arange(count)[:, None] + bands * phone.readout * rate_hz
    moved = np.clip(read, 0, count - 1) * flow[-1] / (count - 1)
    places = resampled(path, np.interp(moved.ravel(), flow, np.arange(len(path)))).reshape(count, -1, 4, 4)
    middles = np.linspace(0, flow[-1], count)
    poses = resampled(path, np.interp(middles, flow, np.arange(len(path))))
    images = []
    for w_T_c in places:
        view = read_out(world, wide.K, wide.width, wide.height, w_T_c)
        view = view if sources is None else cv2.remap(view, sources, None, cv2.INTER_LINEAR)
        images.append(photograph(view, exposure, rng))
    return Walk(world.layout, motion, images, poses, float(focal))


def _pace(number: int) -> str:
    return list(_PACES)[number // len(LAYOUT_NAMES) % len(_PACES)]


def _camera(number: int) -> str:
    return (PINHOLE, PHONE)[number // (len(LAYOUT_NAMES) * len(_PACES)) % 2]


def kind_of(number: int) -> str:
    return LAYOUT_NAMES[number % len(LAYOUT_NAMES)].replace("_", " ")


def measure(number: int) -> tuple[Row, Image]:
    """The row of walk ``number``, and its middle image, small."""
    cv2.setNumThreads(1)
    walk = make_walk(number, _pace(number), _camera(number))
    run = mapped(walk.images, walk.w_T_c, _STEP_NS)
    camera = run.mapper.cameras["camera"]
    row = Row(
        f"{number} {kind_of(number)}",
        kind_of(number),
        walk.motion,
        _pace(number),
        _camera(number),
        len(walk.images),
        run.mapper.counts.keyframes,
        len(run.found) / len(walk.images),
        error_of(run.truth, run.found),
        camera.focal / walk.focal - 1.0,
        camera.focal_std / camera.focal,
        bool(run.mapper.doubts),
        run.seconds,
    )
    return row, cv2.resize(walk.images[len(walk.images) // 2], (160, 120), interpolation=cv2.INTER_AREA)


def table(rows: list[Row], about: dict[str, object]) -> str:
    """Markdown, by camera, by pace and by kind of world; then the walks that went wrong."""
    head = ("walks", "number", "images with a pose, least", "error, median", "within 1 %", "above 5 %")
    head += ("of these said", "focal, median error", *Z_HEAD)
    groups = [(camera, [row for row in rows if row.camera == camera]) for camera in (PINHOLE, PHONE)]
    groups += [(pace, [row for row in rows if row.pace == pace]) for pace in _PACES]
    groups += [(kind, [row for row in rows if row.layout == kind]) for kind in dict.fromkeys(r.layout for r in rows)]
    cells = []
    for name, own in [*groups, ("all", rows)]:
        if not own:
            continue
        error = np.nan_to_num([row.error for row in own], nan=np.inf)
        bent = error > _BENT
        cells.append(
            (
                name,
                len(own),
                f"{min(row.posed for row in own):.0%}",
                f"{np.median(error):.2%}",
                f"{(error <= _RIGHT).mean():.0%}",
                int(bent.sum()),
                sum(row.said for row, wrong in zip(own, bent, strict=True) if wrong),
                f"{np.median(np.abs([row.focal for row in own])):.2%}",
                *z_cells(np.array([row.z for row in own])),
            )
        )
    lines = table_lines(head, cells)
    wrong = [row for row in rows if not row.error <= _RIGHT]
    lines += [""] if wrong else []
    for row in sorted(wrong, key=lambda row: -np.nan_to_num(row.error, nan=np.inf)):
        lines.append(
            f"- {row.name}, {row.motion}, {row.pace}, {row.camera}: error {row.error:.1%}, "
            f"focal {row.focal:+.1%} ± {row.std:.1%}, {row.posed:.0%} posed{', said' if row.said else ''}"
        )
    return "\n".join([*lines, "", f"`dense=false`; {where_and_when(about)}."])


def show_images(shown: list[tuple[Image, str, float]], path: Path, columns: int = 8) -> None:
    """Images beside each other, each below its title, in the colour of its error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.25 * -(-len(shown) // columns)), layout="constrained")
    axes = figure.subplots(-(-len(shown) // columns), columns, squeeze=False).ravel()
    for place in axes:
        place.set_axis_off()
    for place, (image, title, error) in zip(axes, shown, strict=False):
        place.imshow(image)
        color = "k" if error <= _RIGHT else "C1" if error <= _BENT else "C3"
        place.set_title(title, fontsize=6.5, color=color, pad=2)
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 58, "optimize": True})


def plot(shown: list[tuple[Row, Image]], path: Path) -> None:
    """An image of every walk, with its error."""
    show_images([(image, f"{row.motion}, {row.pace}: {row.error:.2%}", row.error) for row, image in shown], path)


def _measured(measure: Callable[[int], tuple[R, Image]], numbers: list[int]) -> Iterator[tuple[R, Image]]:
    with get_context("spawn").Pool(min(cpu_count() or 1, len(numbers)), maxtasksperchild=8) as pool:
        yield from pool.imap(measure, numbers)


def run_shown(
    arguments: Namespace,
    numbers: dict[str, int],
    measure: Callable[[int], tuple[R, Image]],
    said: Callable[[R], str],
    table: Callable[[list[R], dict[str, object]], str],
    markers: tuple[str, str],
    plot: Callable[[list[tuple[R, Image]], Path], None],
) -> None:
    """``run_cases`` by their ``numbers``, in as many processes as there are cores, each a row with an image."""
    run_cases(
        arguments,
        numbers,
        lambda names: _measured(measure, [numbers[name] for name in names]),
        lambda measured: said(measured[0]),
        lambda shown, about: table([row for row, _ in shown], about),
        markers=markers,
        plot=plot,
        picture=".jpg",
        as_row=lambda measured: asdict(measured[0]),  # type: ignore[call-overload]
    )


def walk_options(description: str | None, benchmark: str, count: int) -> tuple[Namespace, dict[str, int]]:
    """The arguments of a benchmark of walks, and the numbers of the walks there are, by name."""
    parser = case_options(description, benchmark)
    parser.add_argument("--count", type=int, default=count, help="how many walks, if no cases are named")
    arguments = parser.parse_args()
    return arguments, {f"{number} {kind_of(number)}": number for number in range(max(arguments.count, 1))}


@errors_said("walks")
def main() -> int:
    """Exit code: 1 if a walk could not be measured, else 0."""
    arguments, walks = walk_options(__doc__, "walks", _COUNT)

    def said(row: Row) -> str:
        return (
            f"{row.name}, {row.motion}, {row.pace}, {row.camera}: {row.posed:.0%} of {row.images} images, "
            f"{row.keyframes} keyframes, error {row.error:.2%}{' said' if row.said else ''}, "
            f"focal {row.focal:+.2%}, {row.z:.1f} deviations, {row.seconds:.0f} s"
        )

    run_shown(arguments, walks, measure, said, table, (BEGIN, END), plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
