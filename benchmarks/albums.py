"""Photographs of as many cameras: each of its own size and focal length, some zoomed. Are they mapped?

    python benchmarks/albums.py [--cases NAME ...] [--count 24] [--out results/albums] [--page docs/reliability.md]
        [--pycolmap ENVIRONMENT]

Worlds of the endless series (of a seed of their own), the kinds in turn. Along a random path (see ``walks.py``), 6 to
20 photographs are taken in wide steps, of 6 to 18 % of the longer side, each with another camera: its own shape,
upright or not, 480 to 1000 pixels long, its own exposure, and a view of 50 to 75 degrees or, in half of the albums, of
25 to 85. Half of them are shuffled. Every album goes through the mapper as ``dust3r-map`` runs it, without dense depth,
and through pycolmap: incremental mapping of exhaustive matches, a camera for each image, with pycolmap's own options.
Writes albums.json and albums.jpg, and their table into ``--page``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test/support"), str(Path(__file__).resolve().parent)]

from mapped import error_of, mapped  # noqa: E402
from rolling import read_out  # noqa: E402
from targets import Z_HEAD, case_options, errors_said, where_and_when, z_cells  # noqa: E402
from walks import LAYOUT_NAMES, eye_of, kind_of, possible_path, resampled, run_shown, show_images  # noqa: E402

from dust3r_ros.evaluation.report.metrics import table_lines  # noqa: E402
from dust3r_ros.evaluation.suite.peers import SCRIPT, colmap_python  # noqa: E402
from dust3r_ros.scenes.endless.photography import draw_exposure, photograph  # noqa: E402
from dust3r_ros.scenes.endless.worlds import make_world  # noqa: E402
from dust3r_ros.types import Array, Image, StampedPose  # noqa: E402

_SEED = (7177, 5)
_COUNT = 24
_SHAPES = ((4, 3), (3, 2), (16, 9), (1, 1), (5, 4))
_LONG, _UPRIGHT = (480, 1000), 0.35
_FIELDS = {"plain": (50.0, 75.0), "zoomed": (25.0, 85.0)}  # degrees along the longer side
_STEP, _IMAGES = (0.06, 0.18), (6, 20)
_LEAST_PARALLAX = 0.5  # of the longer side, over the whole path
_STEP_NS = 10**8
_LIMIT_S = 300.0
BEGIN, END = "<!-- albums: begin, made by benchmarks/albums.py -->", "<!-- albums: end -->"


@dataclass(frozen=True, eq=False)
class Album:
    """``images`` with their true poses and focals, pixels, in a world of kind ``layout``."""

    layout: str
    motion: str
    lenses: str
    images: list[Image]
    w_T_c: Array
    focals: Array


@dataclass(frozen=True, eq=False)
class Found:
    """What came of an album: the images with a pose, the ATE as a share of the extent of the true places (NaN: too few
    have one), and the logs of the found focals over the true ones."""

    posed: int
    error: float
    focals: list[float]

    @property
    def focal(self) -> float:
        """The median error of focals; NaN without any."""
        return float(np.median(np.abs(self.focals))) if self.focals else float("nan")


@dataclass(frozen=True, eq=False)
class Row:
    """An album, what we and pycolmap found (None: it was not run), and our focals' errors in their deviations."""

    name: str
    motion: str
    lenses: str
    images: int
    ours: Found
    z: list[float]
    said: bool
    seconds: float
    peer: Found | None


def make_album(number: int) -> Album:
    """Album ``number``. Raises ``InputError`` if its world has no room for a path."""
    rng = np.random.default_rng([*_SEED, number])
    world = make_world(_SEED, number, LAYOUT_NAMES[number % len(LAYOUT_NAMES)])
    motion, path, flow = possible_path(rng, world, eye_of(160, 120, 128.0, np.eye(4)), _LEAST_PARALLAX)
    count = int(np.clip(flow[-1] / rng.uniform(*_STEP), *_IMAGES))
    places = resampled(path, np.interp(np.linspace(0, flow[-1], count), flow, np.arange(len(path))))
    lenses = str(rng.choice(list(_FIELDS)))
    images, focals = [], []
    for w_T_c in places:
        across, down = _SHAPES[int(rng.integers(len(_SHAPES)))]
        width = int(rng.uniform(*_LONG))
        height = width * down // across
        width, height = (height, width) if rng.random() < _UPRIGHT else (width, height)
        focal = max(width, height) / 2 / np.tan(np.radians(rng.uniform(*_FIELDS[lenses])) / 2)
        eye = eye_of(width, height, focal, w_T_c)
        images.append(photograph(read_out(world, eye.K, width, height, w_T_c[None]), draw_exposure(rng), rng))
        focals.append(focal)
    order = rng.permutation(count) if rng.random() < 0.5 else np.arange(count)
    return Album(world.layout, motion, lenses, [images[k] for k in order], places[order], np.array(focals)[order])


def ours_of(album: Album) -> tuple[Found, list[float], bool, float]:
    """What the mapper finds, its focals' errors in their deviations, whether it doubts the map, and seconds."""
    names = [f"camera_{k}" for k in range(len(album.images))]
    run = mapped(album.images, album.w_T_c, _STEP_NS, cameras=names)
    cameras, posed = run.mapper.cameras, {pose.camera for pose in run.found}
    off = [float(np.log(cameras[name].focal / album.focals[k])) for k, name in enumerate(names) if name in posed]
    std = [cameras[name].focal_std / cameras[name].focal for name in names if name in posed]
    found = Found(len(run.found), error_of(run.truth, run.found), off)
    z = [abs(each) / own for each, own in zip(off, std, strict=True)]
    return found, z, bool(run.mapper.doubts), run.seconds


def peers_of(album: Album, python: Path) -> Found:
    """What pycolmap finds, with a camera for each image."""
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder) / "images", Path(folder) / "models.json"
        images.mkdir()
        for k, image in enumerate(album.images):
            cv2.imwrite(str(images / f"{k:04d}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        command = [str(python), str(SCRIPT), str(images), str(out), "--own", "--limit", f"{_LIMIT_S:g}"]
        subprocess.run(command, capture_output=True, check=False, timeout=4 * _LIMIT_S)
        found: dict[str, Any] = next(iter(json.loads(out.read_text(encoding="utf-8"))["methods"].values()))
    poses, focals = found.get("poses", {}), found.get("focals", {})
    placed = [
        StampedPose(int(Path(name).stem) + 1, "camera", np.vstack([np.reshape(rows, (3, 4)), [0, 0, 0, 1]]))
        for name, rows in sorted(poses.items())
    ]
    truth = [StampedPose(k + 1, "camera", pose) for k, pose in enumerate(album.w_T_c)]
    off = [float(np.log(focals[name] / album.focals[int(Path(name).stem)])) for name in sorted(poses)]
    return Found(len(placed), error_of(truth, placed), off)


def measure(number: int, python: Path | None = None) -> tuple[Row, Image]:
    """The row of album ``number``, and its images, small, beside each other."""
    cv2.setNumThreads(1)
    album = make_album(number)
    ours, z, said, seconds = ours_of(album)
    peer = None if python is None else peers_of(album, python)
    name = f"{number} {kind_of(number)}"
    row = Row(name, album.motion, album.lenses, len(album.images), ours, z, said, seconds, peer)
    chosen = np.linspace(0, len(album.images) - 1, 4).round().astype(int)
    return row, np.hstack([cv2.resize(album.images[k], (80, 80), interpolation=cv2.INTER_AREA) for k in chosen])


def _cells(found: Found | None, images: int) -> tuple[str, str, str]:
    if found is None:
        return ("not measured",) * 3
    return f"{found.posed / images:.0%}", _said(found.error, 2), _said(found.focal, 1)


def _said(share: float, digits: int) -> str:
    return f"{share:.{digits}%}" if np.isfinite(share) else "–"


def table(rows: list[Row], about: dict[str, object]) -> str:
    """Markdown: every album, and all together."""
    head = ("album", "photographs", "with a pose", "pycolmap", "error", "pycolmap", "focal, median error", "pycolmap")
    cells: list[tuple[object, ...]] = []
    for row in rows:
        ours, peer = _cells(row.ours, row.images), _cells(row.peer, row.images)
        name = f"{row.name}, {row.motion}, {row.lenses}{', doubted' if row.said else ''}"
        cells.append((name, row.images, *(cell for pair in zip(ours, peer, strict=True) for cell in pair)))
    count = sum(row.images for row in rows)
    all_of = [_together([row.ours for row in rows], count), _together([row.peer for row in rows], count)]
    cells.append(("**all**", count, *(cell for pair in zip(*all_of, strict=True) for cell in pair)))
    z = np.array([each for row in rows for each in row.z])
    lines = [*table_lines(head, cells), "", *table_lines(("focals", *Z_HEAD), [(len(z), *z_cells(z))])]
    return "\n".join(
        [*lines, "", f"The median error counts an album without a map as the worst; {where_and_when(about)}."]
    )


def _together(found: Sequence[Found | None], images: int) -> tuple[str, str, str]:
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return ("not measured",) * 3
    error = float(np.median(np.nan_to_num([each.error for each in known], nan=np.inf)))
    off = [abs(off) for each in known for off in each.focals]
    focal = float(np.median(off)) if off else float("nan")
    return f"{sum(each.posed for each in known) / images:.0%}", _said(error, 2), _said(focal, 1)


@errors_said("albums")
def main() -> int:
    """Exit code: 1 if an album could not be measured, else 0."""
    parser = case_options(__doc__, "albums")
    parser.add_argument("--count", type=int, default=_COUNT, help="how many albums, if no cases are named")
    parser.add_argument("--pycolmap", type=Path, default=ROOT / "results/pycolmap", help="its environment")
    arguments = parser.parse_args()
    albums = {f"{number} {kind_of(number)}": number for number in range(max(arguments.count, 1))}
    python, why = colmap_python(arguments.pycolmap)
    if why:
        print(why)

    def said(row: Row) -> str:
        ours, peer = (", ".join(_cells(found, row.images)) for found in (row.ours, row.peer))
        return f"{row.name}, {row.motion}, {row.lenses}: {ours} ({row.seconds:.0f} s); pycolmap {peer}"

    def plot(measured: list[tuple[Row, Image]], path: Path) -> None:
        show_images([(image, f"{row.name}: {row.ours.error:.2%}", row.ours.error) for row, image in measured], path, 6)

    run_shown(arguments, albums, partial(measure, python=python), said, table, (BEGIN, END), plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
