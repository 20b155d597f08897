"""How long may a keyframe take? Robots that turn on the spot, with front end and back end in lock step.

    python benchmarks/paced_drives.py [--count 8] [--out results/paced_drives] [--page docs/live.md]

The drives of ``live_drives.py``, without the node: the front end follows every image, the back end takes the newest
image that is handed over once it is free, and what it says of the map arrives as many images later as a keyframe takes;
a link between two of them takes one. Adjustments of the whole map take longer, and are brought in meanwhile. So results
are the same on any machine, whatever its speed; depth is not computed. Errors are as in ``live_walks.py``. Writes
paced_drives.json, and a table into ``--page``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test/support"), str(Path(__file__).resolve().parent)]

from live_cases import Recorded  # noqa: E402
from live_drives import prepared  # noqa: E402
from live_walks import RATE_HZ  # noqa: E402
from mapped import error_of  # noqa: E402
from targets import errors_said, run_cases, where_and_when  # noqa: E402
from walks import walk_options  # noqa: E402

from dust3r_ros.config import MapperConfig  # noqa: E402
from dust3r_ros.evaluation.report.metrics import table_lines  # noqa: E402
from dust3r_ros.io.image_sources import open_source  # noqa: E402
from dust3r_ros.mapping.submap import BEGIN as ADJUST  # noqa: E402
from dust3r_ros.mapping.submap import TAKE  # noqa: E402
from dust3r_ros.session.back_end import BackEnd  # noqa: E402
from dust3r_ros.session.session import Session  # noqa: E402
from dust3r_ros.tracking.exchange import KeyframeRequest, MapSnapshot, Outbox  # noqa: E402
from dust3r_ros.tracking.front_end import FrontEnd  # noqa: E402
from dust3r_ros.types import Frame, StampedPose  # noqa: E402

_COUNT, _TAKES = 8, (1, 3, 5, 8)  # images that come while a keyframe is made
_LINK, _WHOLE, _SAID = 1, 12, 2  # the same of a link, of an adjustment of the whole map, of telling that it is done
BEGIN, END = "<!-- paced drives: begin, made by benchmarks/paced_drives.py -->", "<!-- paced drives: end -->"


@dataclass(frozen=True, eq=False)
class Row:
    """A drive of so many ``images``: by how many come while a keyframe is made, the ``share`` of them with a pose since
    the first one (%), and the errors of poses as ``published`` and ``final`` ones, shares of the path's extent.
    """

    name: str
    images: int
    share: dict[int, float] = field(default_factory=dict)
    published: dict[int, float] = field(default_factory=dict)
    final: dict[int, float] = field(default_factory=dict)


def paced(recorded: Recorded, takes: int) -> tuple[list[StampedPose], list[StampedPose]]:
    """Poses as the front end found them, and those of the finished map, where a keyframe takes so many images."""
    config = MapperConfig(dense=False)
    session = Session(config, logging.getLogger("paced"))
    session.go_live(beside=False)
    back_end, front = BackEnd(session), FrontEnd(config)
    stamps, found = sorted(recorded.truth), list[StampedPose]()
    waiting = Outbox[KeyframeRequest](1, links=lambda request: request.link)
    coming, free, rested = list[tuple[int, MapSnapshot]](), 0, 0
    for number, (stamp_ns, shown) in enumerate(zip(stamps, open_source(recorded.bag), strict=True)):
        for _, snapshot in (entry for entry in coming if entry[0] <= number):
            front.take(snapshot)
        coming = [entry for entry in coming if entry[0] > number]
        frame = Frame(stamp_ns, "camera", shown.image)
        tracked = front.track(stamp_ns, frame.image)
        front.pick_up()
        if tracked.w_T_c is not None:
            found.append(StampedPose(stamp_ns, "camera", tracked.w_T_c))
        passed = [tracked.followed]
        if tracked.wanted:
            request = KeyframeRequest(frame, tracked.followed, tracked.ids, tracked.pixels, tracked.link)
            passed = [gone.followed for gone, _ in waiting.offer(request, tracked.followed is not None)]
            front.hand_over(stamp_ns)
        back_end.keep([pose for pose in passed if pose is not None])
        if number >= free and (entry := waiting.take()) is not None:
            request = replace(entry[0], link=entry[0].link and len(waiting) > 0)
            taken, free = back_end.take(request), number + (_LINK if request.link else takes)
            coming += [(free, taken.snapshot)] if taken.snapshot else []
        if number >= rested and session.due in (TAKE, ADJUST):
            while session.due in (TAKE, ADJUST):
                back_end.work()
            rested = number + _WHOLE
            coming += [(number + _SAID, snapshot) for snapshot in back_end.snapshots()]
    session.mapper.finish(depth=False)
    final = [StampedPose(pose.stamp_ns, "camera", pose.w_T_c) for pose in session.mapper.trajectory()]
    return found, final


def measure(drive: tuple[str, int], folder: Path) -> Row:
    """The row of a drive, by name and number."""
    cv2.setNumThreads(1)
    name, number = drive
    recorded, _ = prepared(number, folder)
    truth = [recorded.truth[stamp] for stamp in sorted(recorded.truth)]
    row = Row(name, recorded.images)
    for takes in _TAKES:
        found, final = paced(recorded, takes)
        since = [pose for pose in truth if found and pose.stamp_ns >= found[0].stamp_ns]
        row.share[takes] = 100.0 * len(found) / len(since) if since else 0.0
        row.published[takes], row.final[takes] = (
            error_of(truth, sorted(some, key=lambda pose: pose.stamp_ns)) for some in (found, final)
        )
    return row


def table(rows: list[Row], about: dict[str, Any]) -> str:
    """Markdown, a line for each drive and one for all: errors as published / final."""
    head = ("drive", "images", *(f"{takes} images, {takes / RATE_HZ:.2g} s" for takes in _TAKES))
    cells = [(row.name, row.images, *(_errors(row.published[t], row.final[t]) for t in _TAKES)) for row in rows]
    middle = [[np.nanmedian([getattr(row, key)[t] for row in rows]) for key in ("published", "final")] for t in _TAKES]
    images = sum(row.images for row in rows)
    cells.append(("**all, median**", images, *(_errors(*map(float, errors)) for errors in middle)))
    shares = ", ".join(f"{np.median([row.share[t] for row in rows]):.1f} %" for t in _TAKES)
    lines = [*table_lines(head, cells), "", f"Images with a pose since the first one, median: {shares}."]
    return "\n".join([*lines, "", f"Errors of poses as published / final; {where_and_when(about)}."])


def _errors(published: float, final: float) -> str:
    return f"{published:.2%} / {final:.2%}"


def _measured(drives: dict[str, int], names: list[str], out: Path) -> Iterator[Row]:
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(measure, folder=out / "recordings"), [(name, drives[name]) for name in names])


@errors_said("paced_drives")
def main() -> int:
    """Exit code: 1 if a drive could not be measured, else 0."""
    arguments, drives = walk_options(__doc__, "paced_drives", _COUNT)
    run_cases(
        arguments,
        drives,
        lambda names: _measured(drives, names, arguments.out),
        lambda row: ", ".join([row.name, *(_errors(row.published[t], row.final[t]) for t in _TAKES)]),
        table,
        markers=(BEGIN, END),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
