"""Random walks through rendered worlds, live: does every image get a pose, and is it right from the first one on?

    python benchmarks/live_walks.py [--count 16] [--out results/live_walks] [--page docs/live.md]

Walks as of ``walks.py``, of the calmer pace and at least 5 s long, through pinholes and as with phones in turn, played
to the real node at 15 Hz over DDS on two cores. Errors are root mean square distances to the true camera position after
one similarity, as a share of the extent of the true path. Writes live_walks.json, and a table into ``--page``.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from live import final_poses, got_by  # noqa: E402
from live_cases import TOPIC, Made, Recorded, kept, without_depth  # noqa: E402
from live_figures import in_recorded_time, moving_since, timings  # noqa: E402
from live_run import isolated, live  # noqa: E402
from mapped import error_of  # noqa: E402
from targets import Machine, errors_said, run_cases, where_and_when  # noqa: E402
from walks import PHONE, PINHOLE, kind_of, make_walk, walk_options  # noqa: E402

from dust3r_ros.evaluation.report.metrics import table_lines  # noqa: E402
from dust3r_ros.scenes.sequence import stamps  # noqa: E402
from dust3r_ros.types import StampedPose  # noqa: E402

RATE_HZ = 15.0
_COUNT, _LEAST_S = 16, 5.0
BEGIN, END = "<!-- live walks: begin, made by benchmarks/live_walks.py -->", "<!-- live walks: end -->"


@dataclass(frozen=True, eq=False)
class Row:
    """What came of a walk: seconds until the ``first`` pose, ``share`` of the images since with one; ``published`` and
    ``final``: errors as shares of the path's extent, NaN without poses; ``focal``: relative error, and its claimed
    deviation.
    """

    name: str
    motion: str
    camera: str
    images: int
    first: float
    share: float
    published: float
    final: float
    focal: float
    std: float


def prepared(number: int, folder: Path) -> tuple[Recorded, dict[str, Any]]:
    """A walk as a bag, rendered unless it is there, and what is known of it."""
    camera = (PINHOLE, PHONE)[(number + number // 8) % 2]

    def make() -> Made:
        walk = make_walk(number, "calm", camera, RATE_HZ, _LEAST_S)
        images = np.stack(walk.images)
        shown = without_depth("walk", stamps(len(images), RATE_HZ), images, walk.w_T_c)
        return {TOPIC: shown}, {"motion": walk.motion, "focal": walk.focal, "camera": camera}

    found = kept(folder / str(number), make)
    assert found is not None
    return found


Prepare = Callable[[int, Path], tuple[Recorded, dict[str, Any]]]


def measure(number: int, out: Path, prepare: Prepare) -> Row:
    """The row of a walk, prepared before."""
    recorded, about = prepare(number, out / "recordings")
    run = live(recorded, out / str(number), 1.0, {}, "reliable")
    sent, got = run.published, got_by(run)
    found = timings(sent, got, moving_since(sent, recorded.truth))
    camera = json.loads((out / str(number) / "summary.json").read_text())["cameras"]["camera"]
    return Row(
        f"{number} {kind_of(number)}",
        about["motion"],
        about["camera"],
        recorded.images,
        *(np.nan if found[key] is None else found[key] for key in ("first", "share")),
        _error(recorded, in_recorded_time(sent, got)),
        _error(recorded, final_poses(out / str(number), sent)),
        camera["focal"] / about["focal"] - 1.0,
        camera["focal_std"] / camera["focal"],
    )


def _error(recorded: Recorded, poses: list[StampedPose]) -> float:
    truth, found = (sorted(some, key=lambda pose: pose.stamp_ns) for some in (recorded.truth.values(), poses))
    return error_of(truth, found)


def table(rows: list[Row], about: dict[str, object]) -> str:
    """Markdown, a line for each walk and one for all."""
    head = ("walk", "images", "first pose", "images with a pose since", "error as published", "final", "focal, error")
    cells = []
    for row in rows:
        name, focal = f"{row.name}, {row.motion}, {row.camera}", f"{row.focal:+.1%} ± {row.std:.1%}"
        cells.append((name, row.images, *_figures(row.first, row.share, row.published, row.final), focal))
    middle = [np.nanmedian([getattr(row, name) for row in rows]) for name in ("first", "share", "published", "final")]
    focal, images = np.median([abs(row.focal) for row in rows]), sum(row.images for row in rows)
    cells.append(("**all, median**", images, *_figures(*middle), f"{focal:.1%}"))
    lines = table_lines(head, cells)
    return "\n".join([*lines, "", f"Played in real time at {RATE_HZ:g} Hz; {where_and_when(about)}."])


def _figures(first: float, share: float, published: float, final: float) -> tuple[str, ...]:
    return f"{first:.2f} s", f"{share:.1f} %", f"{published:.2%}", f"{final:.2%}"


def _measured(numbers: list[int], out: Path, prepare: Prepare) -> Iterator[Row]:
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(prepare, folder=out / "recordings"), numbers))
    isolated()
    yield from (measure(number, out, prepare) for number in numbers)


def run_live(arguments: Namespace, walks: dict[str, int], prepare: Prepare, markers: tuple[str, str]) -> None:
    """``run_cases`` by their numbers: all are prepared, then played one after the other."""
    run_cases(
        arguments,
        walks,
        lambda names: _measured([walks[name] for name in names], arguments.out, prepare),
        lambda row: table([row], Machine().about()).splitlines()[2],
        table,
        markers=markers,
    )


@errors_said("live_walks")
def main() -> int:
    """Exit code: 1 if a walk could not be measured, else 0."""
    arguments, walks = walk_options(__doc__, "live_walks", _COUNT)
    run_live(arguments, walks, prepared, (BEGIN, END))
    return 0


if __name__ == "__main__":
    sys.exit(main())
