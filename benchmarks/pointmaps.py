"""The path behind a network: true depth with a network's errors, alone and with geometry, beside geometry alone.

    python benchmarks/pointmaps.py [--cases NAME ...] [--data ../shared/data] [--noise 0.02 0.04 0.08]
        [--checkpoint mini] [--out results/pointmaps]

Rendered worlds, and recorded scenes with depth, go through the mapper with backend two_view, with pointmaps made of
their true depth, and with both. Depth is off by 2, 4 and 8 %, smoothly over each view of each pair, and by 0.3 % per
metre at each pixel; the second view's pose by 0.6 degrees and 2 % of the depth, the focal of each pair by 1 %. ``both``
with real weights that are not believed must cost next to nothing. Prints each figure beside its target; exit code 1 if
one is missed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from time import process_time

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test/support"), str(Path(__file__).resolve().parent)]

from calibration import recorded_with_depth  # noqa: E402
from oracle import Oracle  # noqa: E402
from targets import case_options, errors_said, run_cases, where_and_when  # noqa: E402

from dust3r_ros.backends import make_backend  # noqa: E402
from dust3r_ros.backends.base import Backend  # noqa: E402
from dust3r_ros.backends.both import BothBackend  # noqa: E402
from dust3r_ros.config import MapperConfig  # noqa: E402
from dust3r_ros.evaluation.report.metrics import table_lines  # noqa: E402
from dust3r_ros.evaluation.run import run_scene  # noqa: E402
from dust3r_ros.evaluation.scene import read_scene  # noqa: E402
from dust3r_ros.evaluation.suite.worlds import write_world  # noqa: E402

_WORLDS = ("rendered_orbit", "rendered_corridor")
_ERRORS = {"noise": 0.003, "zoom": (0.0, 0.01), "turn_deg": 0.6, "shift": 0.02, "relative": True}
_WORSE = {0.02: 1.1, 0.04: 1.5}  # largest ATE of the network alone over that of geometry, by noise
_MOST_Z, _MOST_TIME = 2.0, 1.05
_SLACK = 1.02  # of figures that must not be worse: they are printed with three digits


@dataclass(frozen=True)
class Row:
    """A scene through a system: two_view, network or both, with ``noise`` of depth; percent and metres."""

    scene: str
    system: str
    noise: float
    poses: float
    ate: float
    focal_error: float
    z: float
    pixels: float
    delta: float
    seconds: float  # of the processor, without loading weights


def measured(folder: Path, system: str, noise: float, checkpoint: str) -> Row:
    """Map a scene and compare; ``both`` with ``noise`` 0 uses the weights of ``checkpoint``."""
    scene, config, backend = read_scene(folder), MapperConfig(), None
    if system != "two_view" and noise:
        backend = _oracle(folder, config, noise)
    if system == "both":
        real = MapperConfig(backend="both", checkpoint=checkpoint)
        backend = BothBackend(backend, None, config.min_parallax_deg) if backend else make_backend(real)
    start = process_time()
    run = run_scene(scene, config, backend=backend)
    seconds, found = process_time() - start, run.result
    camera = next(iter(run.mapper.cameras.values()))
    error = np.nan if found.focal_error is None else found.focal_error
    return Row(
        scene.name, system, noise, found.tracked, _number(found.ate), error,
        float(np.log1p(error / 100) / (camera.focal_std / camera.focal)), found.density, _number(found.depth_delta),
        seconds,
    )  # fmt: skip


def _oracle(folder: Path, config: MapperConfig, noise: float) -> Backend:
    return Oracle(recorded_with_depth(folder), config.long_edge, warp=noise, **_ERRORS)  # type: ignore[arg-type]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def verdicts(rows: list[Row]) -> Iterator[tuple[str, bool]]:
    """Each target of a scene with what was measured, and whether it is met. The first row is geometry's."""
    alone = rows[0]
    for row in rows[1:]:
        name = f"{row.scene}, {row.system}, {row.noise:.0%}"
        if row.system == "network":
            times, limit = row.ate / alone.ate, _WORSE.get(row.noise)
            yield f"{name}: {row.poses:.0f} % poses, as geometry {alone.poses:.0f} %", row.poses >= min(alone.poses, 90)
            if limit:
                yield f"{name}: ATE {times:.2f} times geometry's, at most {limit}", times <= limit
            yield f"{name}: focal off by {abs(row.z):.1f} deviations, at most {_MOST_Z:g}", abs(row.z) <= _MOST_Z
        elif row.noise:
            gained = row.pixels - alone.pixels, row.delta - alone.delta
            yield f"{name}: ATE {row.ate / alone.ate:.2f} times geometry's, at most 1", row.ate <= _SLACK * alone.ate
            if row.noise in _WORSE:
                yield f"{name}: pixels {gained[0]:+.1f}, δ1.25 {gained[1]:+.1f} points, more than 0", min(gained) > 0
        else:
            times = row.seconds / alone.seconds
            free = times <= _MOST_TIME or row.delta > alone.delta
            yield f"{row.scene}, both, real weights: {times:.2f} times the time, at most {_MOST_TIME}", free


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = ("scene", "system", "depth noise", "poses %", "ATE m", "focal error %", "its deviations", "pixels %")
    cells = [
        (row.scene, row.system, f"{row.noise:.0%}", f"{row.poses:.0f}", f"{row.ate:.4f}", f"{row.focal_error:+.1f}",
         f"{row.z:+.1f}", f"{row.pixels:.1f}", f"{row.delta:.1f}", f"{row.seconds:.0f}")
        for row in rows
    ]  # fmt: skip
    return "\n".join(table_lines((*head, "δ1.25 %", "s"), cells, (0, 1)))


@errors_said("pointmaps")
def main() -> int:
    """Exit code: 1 if a target is missed or a scene cannot be measured, else 0."""
    parser = case_options(__doc__, "pointmaps")
    parser.add_argument("--noise", nargs="+", type=float, default=[0.02, 0.04, 0.08], help="of depth, relative")
    parser.add_argument("--checkpoint", default="mini", help="weights whose cost is measured")
    arguments = parser.parse_args()
    recorded = sorted(path.parent for path in arguments.data.glob("*/depth.txt"))
    folders = {path.name: path for path in recorded} | dict.fromkeys(_WORLDS)
    plan = [("two_view", 0.0), ("both", 0.0), *[(s, n) for n in arguments.noise for s in ("network", "both")]]

    def every(names: list[str]) -> Iterator[Row]:
        for name in names:
            folder = folders[name] or write_world(name, arguments.out / "worlds")
            yield from (measured(folder, system, noise, arguments.checkpoint) for system, noise in plan)

    rows = run_cases(
        arguments,
        folders,
        every,
        lambda row: table([row]).splitlines()[-1],
        lambda rows, about: f"{table(rows)}\n\n{where_and_when(about)}\n",
    )
    judged = [verdict for _, own in groupby(rows, lambda row: row.scene) for verdict in verdicts(list(own))]
    for line, met in judged:
        print("met   " if met else "MISSED", line)
    return int(not all(met for _, met in judged))


if __name__ == "__main__":
    sys.exit(main())
