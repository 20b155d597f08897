"""Focal lengths of recordings, two seconds of them, and variants: how far off, and do their deviations mean it?

    python benchmarks/calibration.py [--cases NAME ...] [--data ../shared/data] [--out results/calibration]
        [--page docs/my-calibration.md]

Every recorded scene, windows of 60 images of those at 30 Hz, variants of the others (``variants.py``), parts of
rendered walks with variants, and walks through a fisheye go through the mapper as ``dust3r-map`` runs it, with an
unknown camera, without dense depth. Where depth is known, so do pointmaps with the errors of a network, which is off by
3 % on a whole scene. Writes calibration.json and calibration.png, and their tables into ``--page``.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from scipy.stats import norm

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test/support"), str(Path(__file__).resolve().parent)]

from fisheyes import through_fisheye  # noqa: E402
from mapped import errors_of, mapped  # noqa: E402
from oracle import Oracle  # noqa: E402
from targets import (  # noqa: E402
    Z_HEAD,
    case_options,
    errors_said,
    run_cases,
    target,
    target_lines,
    where_and_when,
    z_cells,
)
from variants import VARIANTS, Variant  # noqa: E402

from dust3r_ros.config import MapperConfig  # noqa: E402
from dust3r_ros.evaluation.report.metrics import table_lines  # noqa: E402
from dust3r_ros.evaluation.scene import Scene, image_files, read_scene  # noqa: E402
from dust3r_ros.io.image_sources import open_source  # noqa: E402
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence, walk  # noqa: E402
from dust3r_ros.types import Array, Image, StampedPose  # noqa: E402

BEGIN, END = "<!-- calibration: begin, made by benchmarks/calibration.py -->", "<!-- calibration: end -->"
_WINDOW, _FIRST, _STEP = 60, 20, 25  # images
_LIVE_HZ = 25.0  # recordings at lower rates have no windows
_WALKS = ("orbit", "sweep", "forward", "corridor")
_FRAMES, _SIZE = 90, (640, 480)
_STEP_NS = 33_333_333
_POINTMAPS, _WORKING_SIZE, _RATE_HZ = 30, 320, 5.0  # images, pixels; of rendered walks
_NETWORK = {"warp": 0.05, "zoom": (0.03, 0.02)}  # see ``Oracle``
_SEEDS = 2
_PARTS = (0, 15, 30)  # first images of the parts of rendered walks
_FISHEYES, _FISHEYE_HZ = (110, 125), 10.0  # degrees across the image
_UNKNOWN = (float("nan"), float("nan"))
_WORSE = 1.5  # times the error of the plain recording that a variant may have
# Targets: shares of the errors below one and two deviations; deviations at most; of windows, errors of the focal.
_BELOW, _MOST_Z = {1: (0.60, 0.75), 2: (0.93, 0.98)}, 4.0
_WINDOW_MEDIAN, _WINDOW_MEAN, _WINDOW_MOST = 0.05, 0.02, 0.15


@dataclass(frozen=True, eq=False)
class Case:
    """``images`` of one camera, and its true focal, pixels; ``kind``: recording, window, rendered, fisheye, variant or
    pointmaps.

    ``poses``: true ``w_T_c`` by image, None where unknown. ``network`` makes the pointmaps, if any. ``plain`` names the
    case of which this is a ``variant``.
    ``center``: principal point (2,), pixels; None: the middle of the images.
    """

    kind: str
    images: Callable[[], Iterator[Image]]
    focal: float
    poses: Sequence[Array | None] = ()
    network: Callable[[], Oracle] | None = None
    plain: str = ""
    variant: str = ""
    center: Array | None = None


@dataclass(frozen=True)
class Row:
    """What came of a case: relative error and standard deviation of the focal, both NaN without a map.

    ``posed``: the share of images with a pose, of those whose true one is known; ``ate``: root mean square error of
    these, as a share of the path; NaN where unknown. ``plain``, ``variant``: as in ``Case``.
    """

    name: str
    kind: str
    error: float
    std: float
    seconds: float
    posed: float = float("nan")
    ate: float = float("nan")
    plain: str = ""
    variant: str = ""

    @property
    def z(self) -> float:
        """The error of the logarithm in standard deviations."""
        return float(np.log1p(self.error) / self.std)


def _recorded(folder: Path, first: int = 0, count: int | None = None) -> Callable[[], Iterator[Image]]:
    return lambda: (frame.image for frame in islice(open_source(folder), first, count and first + count))


@lru_cache(maxsize=1)
def _walk(kind: str) -> RenderedSequence:
    return render_sequence(kind, _FRAMES, *_SIZE)


def _rendered(kind: str, first: int) -> Callable[[], Iterator[Image]]:
    return lambda: iter(_walk(kind).images[first : first + _WINDOW])


@lru_cache(maxsize=1)
def _with_depth(source: Path | str, first: int) -> RenderedSequence:
    """Images of a recorded scene, or of a rendered walk, with their depth and poses."""
    if isinstance(source, str):
        return render_sequence(source, _POINTMAPS, *_SIZE, rate_hz=_RATE_HZ)
    return recorded_with_depth(source, first, _POINTMAPS)


def recorded_with_depth(folder: Path, first: int = 0, count: int | None = None) -> RenderedSequence:
    """Those of ``count`` images of a scene that have depth, with it and their poses."""
    scene = read_scene(folder)
    images, depths, poses = [], [], []
    for frame in islice(open_source(folder), first, count and first + count):
        depth, pose = scene.depth(frame.stamp_ns), scene.pose(frame.stamp_ns)
        if depth is not None and pose is not None:
            images.append(frame.image)
            depths.append(depth)
            poses.append(pose)
    arrays = np.stack(images), np.stack(depths), np.stack(poses)
    return RenderedSequence(scene.name, np.arange(len(images)), *arrays, scene.width, scene.height, scene.focal)


def _pointmaps(source: Path | str, first: int, focal: float) -> dict[str, Case]:
    """Networks with errors of their own, by the names of their cases."""
    name = source if isinstance(source, str) else source.name

    def case(seed: int) -> Case:
        return Case(
            "pointmaps",
            lambda: iter(_with_depth(source, first).images),
            focal,
            network=lambda: Oracle(_with_depth(source, first), _WORKING_SIZE, seed=seed, **_NETWORK),  # type: ignore[arg-type]
        )

    return {f"{name} {first} network {k}": case(zlib.crc32(f"{name} {first} {k}".encode())) for k in range(_SEEDS)}


def _fisheye(kind: str, degrees: float) -> Case:
    poses, focal = walk(kind, _WINDOW, rate_hz=_FISHEYE_HZ), _SIZE[0] / 2 / np.radians(degrees / 2)
    images = lambda: iter(through_fisheye(kind, _WINDOW, *_SIZE, degrees, _FISHEYE_HZ).images)  # noqa: E731
    return Case("fisheye", images, focal, list(poses))


def _poses(scene: Scene) -> list[Array | None]:
    """The true pose of each image of a recorded scene, in order of time."""
    return [scene.pose(stamp_ns) for stamp_ns in sorted(image_files(scene.path))]


def _variants(name: str, plain: Case) -> dict[str, Case]:
    """The variants of a case, by name."""

    def case(kind: str, variant: Variant) -> Case:
        images = lambda: variant.images(list(plain.images()), plain.focal, plain.center)  # noqa: E731
        focal, poses = variant.scale * plain.focal, variant.poses(plain.poses)
        return Case("variant", images, focal, poses, plain=name, variant=kind)

    return {f"{name}, {kind}": case(kind, variant) for kind, variant in VARIANTS.items()}


def cases(data: Path) -> dict[str, Case]:
    """All there are, by name. Raises ``Dust3rRosError`` for a scene that cannot be read."""
    focal, found = render_sequence("orbit", 1, *_SIZE).focal, dict[str, Case]()
    for kind in _WALKS:
        poses = walk(kind, _FRAMES)
        for first in _PARTS:
            part = list(poses[first : first + _WINDOW])
            found[f"{kind} {first}"] = Case("rendered", _rendered(kind, first), focal, part)
        found |= _variants(f"{kind} {_PARTS[0]}", found[f"{kind} {_PARTS[0]}"])
        found |= {f"{kind}, fisheye of {degrees} degrees": _fisheye(kind, degrees) for degrees in _FISHEYES}
        found |= _pointmaps(kind, 0, focal)
    for folder in sorted(path.parent for path in data.glob("*/groundtruth.txt")):
        scene = read_scene(folder)
        center, poses = scene.K[:2, 2], _poses(scene)
        found[folder.name] = whole = Case("recording", _recorded(folder), scene.focal, poses, center=center)
        stamps = [pose.stamp_ns for pose in scene.truth]
        for first in range(0, len(stamps) - _POINTMAPS + 1, _POINTMAPS) if scene.depth_files else ():
            found |= _pointmaps(folder, first, scene.focal)
        if np.median(np.diff(stamps)) > 1e9 / _LIVE_HZ:
            found |= _variants(folder.name, whole)
            continue
        for first in range(_FIRST, len(stamps) - _WINDOW, _STEP):
            window = whole.poses[first : first + _WINDOW]
            found[f"{folder.name} {first}"] = Case("window", _recorded(folder, first, _WINDOW), scene.focal, window)
    return found


def measure(name: str, case: Case) -> Row:
    """Map a case, and compare its focal."""
    network = case.network() if case.network else None
    config = MapperConfig(dense=False, working_size=_WORKING_SIZE) if network else MapperConfig(dense=False)
    run = mapped(case.images(), case.poses, _STEP_NS, config, network)
    camera, known = run.mapper.cameras.get("camera"), run.mapper.submap.initialised
    error, std = (camera.focal / case.focal - 1, camera.focal_std / camera.focal) if camera and known else _UNKNOWN
    placed = _placed(run.truth, run.found if known else [])
    return Row(name, case.kind, float(error), float(std), run.seconds, *placed, case.plain, case.variant)


def _placed(truth: Sequence[StampedPose], found: Sequence[StampedPose]) -> tuple[float, float]:
    """``posed`` and ``ate`` of a ``Row``."""
    if not truth:
        return _UNKNOWN
    posed = len({pose.stamp_ns for pose in truth} & {pose.stamp_ns for pose in found}) / len(truth)
    errors = errors_of(truth, found)
    return posed, errors.ate / errors.path if errors else float("nan")


def table(rows: Sequence[Row], about: dict[str, object]) -> str:
    """Markdown: a row for each kind, and one of all."""
    cells = []
    for kind in (*dict.fromkeys(row.kind for row in rows), "all"):
        own = [row for row in rows if kind in (row.kind, "all")]
        error = np.array([row.error for row in own if np.isfinite(row.error)])
        if not len(error):
            cells.append((kind, len(own), "no map", *[""] * 5))
            continue
        largest = error[np.argmax(np.abs(error))]
        middle = f"{np.median(np.abs(error)):.1%}", f"{error.mean():+.1%}", f"{largest:+.1%}"
        z = np.abs([row.z for row in own if np.isfinite(row.error)])
        cells.append((kind, len(own), *middle, *z_cells(z)))
    lines = table_lines(("kind", "cases", "median error", "mean", "largest", *Z_HEAD), cells)
    judged = [*target_lines(_targets(rows)), "", "Bold: missed."]
    return "\n".join([*lines, "", *_table_of_variants(rows), *judged, "", f"`dense=false`; {where_and_when(about)}."])


def _targets(rows: Sequence[Row]) -> list[dict[str, object]]:
    """What was to be reached."""
    known = [row for row in rows if np.isfinite(row.error)]
    found = []
    for what, own in (("all", known), ("not rendered", [row for row in known if not row.name.startswith(_WALKS)])):
        z = np.abs([row.z for row in own])
        for limit, (least, most) in _BELOW.items():
            share = float((z < limit).mean()) if len(z) else None
            met = share is None or least <= round(share, 2) <= most
            name = f"errors below {limit} deviation{'s' * (limit > 1)}, {what}"
            found.append(target(name, None if share is None else f"{share:.0%}", f"{least:.0%} to {most:.0%}", met))
        largest = float(z.max()) if len(z) else None
        found.append(target(f"largest, in deviations, {what}", largest, f"≤ {_MOST_Z:g}", (largest or 0) <= _MOST_Z))
    windows = np.array([row.error for row in known if row.kind == "window"])
    for name, function, limit in (
        ("median error of windows", lambda errors: np.median(np.abs(errors)), _WINDOW_MEDIAN),
        ("mean error of windows, whatever its sign", lambda errors: abs(np.mean(errors)), _WINDOW_MEAN),
        ("largest error of windows", lambda errors: np.max(np.abs(errors)), _WINDOW_MOST),
    ):
        value = float(function(windows)) if len(windows) else None
        shown = None if value is None else f"{value:.1%}"
        found.append(target(name, shown, f"≤ {limit:.0%}", value is None or value <= limit))
    return [*found, *_targets_of_variants(rows)]


def _targets_of_variants(rows: Sequence[Row]) -> list[dict[str, object]]:
    own = _beside_plain(rows)
    enough = sum(row.posed >= VARIANTS[row.variant].posed for row, _ in own)
    exact = sum(ratio <= _WORSE for _, ratio in own)
    asked = f"{len(own)} variants"
    return [
        target("variants with enough poses", f"{enough} of {asked}" if own else None, "all", enough == len(own)),
        target(
            f"variants with at most {_WORSE:g} times the plain ATE",
            f"{exact} of {asked}" if own else None,
            "all",
            exact == len(own),
        ),
    ]


def _beside_plain(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """The variants whose plain recordings were measured, too, each with its ATE as a multiple of that one's."""
    plain = {row.name: row.ate for row in rows}
    own = [row for row in rows if row.variant and row.plain in plain]
    return [(row, float(np.nan_to_num(row.ate / plain[row.plain], nan=np.inf))) for row in own]


def _table_of_variants(rows: Sequence[Row]) -> list[str]:
    """Markdown: poses and errors of each variant beside those of the plain recordings."""
    found, cells = _beside_plain(rows), []
    head = ("variant", "cases", "poses, least", "cases with enough (95 %, every second image 90 %)")
    head += ("ATE / plain, median", f"cases with at most {_WORSE:g}", "focal error, median")
    for variant in dict.fromkeys(row.variant for row, _ in found):
        own, ratios = zip(*((row, ratio) for row, ratio in found if row.variant == variant), strict=True)
        posed, ratio = np.array([row.posed for row in own]), np.array(ratios)
        enough, error = int((posed >= VARIANTS[variant].posed).sum()), np.median(np.abs([row.error for row in own]))
        near = f"{np.median(ratio):.2f}", int((ratio <= _WORSE).sum())
        cells.append((variant, len(own), f"{posed.min():.0%}", enough, *near, f"{error:.1%}"))
    return [*table_lines(head, cells), ""] if cells else []


def plot(rows: Sequence[Row], path: Path) -> None:
    """Errors with their deviations, and the distribution of one in the other beside the normal one."""
    from matplotlib.figure import Figure

    known = sorted((row for row in rows if np.isfinite(row.error)), key=lambda row: row.error)
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    for color, kind in zip(
        ("C0", "C1", "C2", "C4", "C5", "C8"), dict.fromkeys(row.kind for row in known), strict=False
    ):
        at = [place for place, row in enumerate(known) if row.kind == kind]
        error, std = (100 * np.array([getattr(known[k], name) for k in at]) for name in ("error", "std"))
        left.errorbar(at, error, std, fmt="o", color=color, label=kind, markersize=4, linewidth=1)
    left.axhline(0, color="k", linewidth=0.5)
    left.set(title="error of the focal length (%) and its standard deviation", xlabel="case", ylim=(-20, 20))
    left.legend()
    z, x = np.sort([row.z for row in known]), np.linspace(-3, 3, 100)
    right.plot(x, norm.cdf(x), "k-", linewidth=0.8, label="normal")
    right.step(np.clip(z, -3, 3), (np.arange(len(z)) + 0.5) / len(z), "C3", where="mid", label="found")
    right.set(title="share below", xlabel="error in standard deviations")
    right.legend()
    figure.savefig(path, dpi=90)


@errors_said("calibration")
def main() -> int:
    """Exit code: 1 if a case could not be measured, else 0."""
    arguments = case_options(__doc__, "calibration").parse_args()
    found = cases(arguments.data)
    run_cases(
        arguments,
        found,
        lambda names: (measure(name, found[name]) for name in names),
        lambda row: (
            f"{row.name}: {row.error:+.2%}, deviation {row.std:.2%}: {row.z:+.1f}; {row.posed:.0%} posed, "
            f"ATE {row.ate:.2%}; {row.seconds:.0f} s"
        ),
        table,
        markers=(BEGIN, END),
        plot=plot,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
