"""A camera that stays in one place: a walk played back and forth. Does the map stop growing, and stay as good?

    python benchmarks/stay.py [--scene FOLDER] [--passes 20] [--set NAME=VALUE ...] [--out results]

Every other pass plays the images backwards; all go through the mapper as ``dust3r-map`` runs it. Without ``--scene``,
a rendered room, each pass through which is a little different: the camera sways as a hand does.
Writes stay.json and stay.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from incremental import resident_mib  # noqa: E402
from targets import Machine, target  # noqa: E402

from dust3r_ros.cli.command import settings  # noqa: E402
from dust3r_ros.config import MapperConfig, from_mapping  # noqa: E402
from dust3r_ros.errors import Dust3rRosError, GeometryError, InputError  # noqa: E402
from dust3r_ros.evaluation.errors import trajectory_errors  # noqa: E402
from dust3r_ros.evaluation.scene import read_scene  # noqa: E402
from dust3r_ros.io.files import make_folder, write_text  # noqa: E402
from dust3r_ros.io.image_sources import open_source  # noqa: E402
from dust3r_ros.mapping.mapper import Mapper  # noqa: E402
from dust3r_ros.scenes.rooms import room  # noqa: E402
from dust3r_ros.scenes.sequence import render_path, walk  # noqa: E402
from dust3r_ros.types import Array, Image, StampedPose  # noqa: E402

_STEP_NS = 33_333_333
_MATCH_NS = 10_000_000  # a true pose is that of an image no farther away in time
_FRAMES, _SIZE = 120, (320, 240)  # of the rendered room
_SETTLED = 4  # passes: memory must not grow after these


@dataclass(frozen=True)
class Pass:
    """What one pass left. ``ate``: of its own frames, in the unit of the truth; ``worst_ms``: of one image."""

    keyframes: int
    lost: int
    seconds: float
    median_ms: float
    worst_ms: float
    mib: float
    focal: float
    ate: float | None


def recorded(folder: Path, passes: int) -> Iterator[list[tuple[Image, Array | None]]]:
    """The images of a scene with their true poses, back and forth."""
    truth = {pose.stamp_ns: pose.w_T_c for pose in read_scene(folder).truth}
    stamps = np.array(sorted(truth))

    def pose(stamp_ns: int) -> Array | None:
        nearest = int(stamps[np.argmin(np.abs(stamps - stamp_ns))])
        return truth[nearest] if abs(nearest - stamp_ns) <= _MATCH_NS else None

    images = [(frame.image, pose(frame.stamp_ns)) for frame in open_source(folder)]
    for number in range(passes):
        yield images if number % 2 == 0 else images[::-1]


def rendered(passes: int) -> Iterator[list[tuple[Image, Array | None]]]:
    """One way through a room, back and forth."""
    for number in range(passes):
        poses = walk("orbit", _FRAMES, laps=1.0, seed=number)
        made = render_path("orbit", room(0), poses, width=_SIZE[0], height=_SIZE[1])
        images: list[tuple[Image, Array | None]] = list(zip(made.images, made.w_T_c, strict=True))
        yield images if number % 2 == 0 else images[::-1]


def stay(mapper: Mapper, walks: Iterator[list[tuple[Image, Array | None]]]) -> list[Pass]:
    """One row for each walk, printed as it is done."""
    rows: list[Pass] = []
    stamp_ns = 0
    for images in walks:
        truth, times, lost = [], [], 0
        start = time.perf_counter()
        for image, w_T_c in images:
            stamp_ns += _STEP_NS
            began = time.perf_counter()
            lost += mapper.process(stamp_ns, "camera", image).w_T_c is None
            times.append(1e3 * (time.perf_counter() - began))
            if w_T_c is not None:
                truth.append(StampedPose(stamp_ns, "camera", w_T_c))
        seconds = time.perf_counter() - start
        focal = next(iter(mapper.cameras.values())).focal
        of_pass = [pose for pose in mapper.trajectory() if pose.stamp_ns > stamp_ns - len(images) * _STEP_NS]
        try:
            ate: float | None = trajectory_errors(truth, of_pass).ate
        except GeometryError:
            ate = None
        row = Pass(
            mapper.counts.keyframes,
            lost,
            seconds,
            float(np.median(times)),
            max(times),
            resident_mib(),
            focal,
            ate,
        )
        rows.append(row)
        shown = "-" if ate is None else f"{ate:.4f}"
        print(
            f"pass {len(rows)}: {row.keyframes} keyframes, {lost} of {len(images)} lost, {row.median_ms:.0f} ms, "
            f"at most {row.worst_ms:.0f} ms, {row.mib:.0f} MiB, focal {focal:.1f} px, ATE {shown}, {seconds:.0f} s",
            flush=True,
        )
    return rows


def targets(rows: list[Pass]) -> list[dict[str, object]]:
    """Rows of a table: the map stops growing, stays as good, and never stalls."""
    short = len(rows) < 2 * _SETTLED
    why = f"needs {2 * _SETTLED} passes or more" if short else ""
    growth = rows[-1].keyframes / rows[1].keyframes if len(rows) > 1 else None
    memory = None if short else 100 * (rows[-1].mib / rows[_SETTLED - 1].mib - 1)
    later = [row.ate for row in rows[1:] if row.ate is not None]
    worse = max(later) / rows[0].ate if later and rows[0].ate else None
    pause = max(row.worst_ms for row in rows[_SETTLED:]) if len(rows) > _SETTLED else None
    return [
        target("keyframes, of those after two passes", growth, "<= 1.3", None if growth is None else growth <= 1.3),
        target("memory, growth after four passes", memory, "< 5 %", None if memory is None else memory < 5, why, "%"),
        target("ATE of the worst pass, of the first's", worse, "<= 1", None if worse is None else worse <= 1),
        target(
            "longest image after four passes", pause, "<= 500 ms", None if pause is None else pause <= 500, "", "ms"
        ),
    ]


def plot(rows: list[Pass], path: Path, title: str) -> None:
    """Keyframes, memory and errors over the passes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    numbers = range(1, len(rows) + 1)
    curves = (
        ("keyframes", [row.keyframes for row in rows]),
        ("memory (MiB)", [row.mib for row in rows]),
        ("ATE", [np.nan if row.ate is None else row.ate for row in rows]),
    )
    for axes, (name, values) in zip(figure.subplots(1, 3), curves, strict=True):
        axes.plot(numbers, values, marker="o", markersize=3)
        axes.set(xlabel="pass", title=name, ylim=(0, None))
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scene", type=Path, help="folder of a recorded scene with truth; without it, a rendered room")
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the mapper")
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    arguments = parser.parse_args()
    machine = Machine()
    try:
        config = from_mapping(MapperConfig, settings(arguments.set))
        walks = rendered(arguments.passes) if arguments.scene is None else recorded(arguments.scene, arguments.passes)
        rows = stay(Mapper(config), walks)
    except (Dust3rRosError, InputError) as error:
        print(f"stay: error: {error}", file=sys.stderr)
        return 1
    table = targets(rows)
    for row in table:
        print(f"{row['name']}: {row['measured']} (target {row['target']})")
    out, name = make_folder(arguments.out), "a rendered room" if arguments.scene is None else arguments.scene.name
    report = {"scene": name, "passes": [asdict(row) for row in rows], "targets": table, "machine": machine.about()}
    write_text(out / "stay.json", json.dumps(report, indent=1))
    plot(rows, out / "stay.png", f"{name}, back and forth")
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
