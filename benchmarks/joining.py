"""Joined maps: do recordings of one place become one map, and does what only looks alike stay apart?

    python benchmarks/joining.py [--draws 20] [--out results/joining] [--page docs/fleet.md]

Each draw maps three walks round one rendered room, at random, and one round another room, which in every second draw
has the same table with the same things on it. Then all four are joined. Writes joining.json, and the table into
``--page``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test/support"), str(Path(__file__).resolve().parent)]

from places import CONFIG, around, write_map  # noqa: E402
from targets import Machine, errors_said, leave, target, target_lines, where_and_when  # noqa: E402

from dust3r_ros.cli.command import positive  # noqa: E402
from dust3r_ros.geometry.similarity import rms_apart  # noqa: E402
from dust3r_ros.io.files import make_folder  # noqa: E402
from dust3r_ros.scenes.sequence import RenderedSequence  # noqa: E402
from dust3r_ros.session.joined import join_maps  # noqa: E402

BEGIN, END = "<!-- joining: begin, made by benchmarks/joining.py -->", "<!-- joining: end -->"
_SHORT, _LONG, _LATEST = 20, 36, 30  # frames of a walk, and the last one that it may begin with
_CM = 5.0  # root mean square distance of a joined trajectory from the truth


def walked(rng: np.random.Generator, place: int, table_of: int | None = None) -> RenderedSequence:
    """A walk round the table of a room: from anywhere, as far as it goes, by any hand."""
    start, frames = int(rng.integers(_LATEST)), int(rng.integers(_SHORT, _LONG))
    return around(place, int(rng.integers(2**31)), start, table_of, frames)


def draw(number: int, folder: Path) -> dict[str, Any]:
    """One draw: which were joined, the error of the joined trajectory in metres, and the seconds that joining took."""
    rng = np.random.default_rng([number, 20])
    here, there = rng.choice(1000, 2, replace=False).tolist()
    twin = number % 2 == 0
    walks = {name: walked(rng, here) for name in "123"}
    walks["4"] = walked(rng, there, table_of=here if twin else None)
    for name, sequence in walks.items():
        write_map(sequence, folder / f"{name}.db")
    begin = time.process_time()
    joined = list(join_maps({name: folder / f"{name}.db" for name in walks}, CONFIG))
    seconds = time.process_time() - begin
    groups = [list(one.names) for one in joined]
    wrong = any("4" in group for group in groups)
    found, true = [], []
    for one in joined[:1]:
        for name in set(one.names) - {"4"}:
            place = dict(zip(walks[name].stamps_ns.tolist(), walks[name].w_T_c[:, :3, 3], strict=True))
            found += [pose.w_T_c[:3, 3] for pose in one.trajectory(name)]
            true += [place[pose.stamp_ns] for pose in one.trajectory(name)]
    error = rms_apart(found, true) if found else None
    return {"groups": groups, "wrong": wrong, "twin": twin, "error_m": error, "seconds": seconds}


def targets(draws: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table."""
    count, wrong = len(draws), sum(one["wrong"] for one in draws)
    whole = sum(["1", "2", "3"] in one["groups"] for one in draws)
    seconds = float(np.mean([one["seconds"] for one in draws]))
    worst = max((one["error_m"] for one in draws if one["error_m"] is not None), default=None)
    return [
        target("wrong joins", str(wrong), "0", wrong == 0),
        target("all three of one room in one map", f"{whole} of {count}", f"{count}", whole == count),
        target(
            "worst trajectory of a joined map, RMSE", None if worst is None else 100 * worst, f"<= {_CM:g} cm",
            worst is not None and 100 * worst <= _CM, unit="cm",
        ),
        target("joining four maps, processor time", seconds, "", None, unit="s"),
    ]  # fmt: skip


def table(rows: Sequence[dict[str, Any]], draws: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Markdown, with what was missed in bold."""
    twins = sum(one["twin"] for one in draws)
    text = f"{len(draws)} draws; in {twins} of them, the fourth recording is of a room with the same table."
    return "\n".join([*target_lines(rows), "", text, f"{where_and_when(about)}."])


@errors_said("joining")
def main() -> int:
    """Exit code: 1 for an error or a wrong join, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=positive, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "results/joining")
    parser.add_argument("--page", type=Path, help="page whose table is replaced")
    arguments = parser.parse_args()
    out, machine, draws = make_folder(arguments.out), Machine(), []
    for number in range(arguments.draws):
        draws.append(draw(number, make_folder(out / f"draw-{number}")))
        print(number, draws[-1], flush=True)
    rows, about = targets(draws), machine.about()
    report = {"draws": draws, "targets": rows, "machine": about}
    leave(out / "joining.json", report, table(rows, draws, about), arguments.page, (BEGIN, END))
    return int(any(one["wrong"] for one in draws))


if __name__ == "__main__":
    sys.exit(main())
