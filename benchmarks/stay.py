"""A camera that stays in one place: a walk played back and forth. Does the map stop growing, and stay as good?

    python benchmarks/stay.py [--scene FOLDER | rendered] [--passes 20] [--set NAME=VALUE ...]
        [--data ../shared/data] [--out results/stay] [--page docs/reliability.md]

Every other pass plays the images backwards; all go through the mapper, live as the node runs it (what an image does
not need is done after it, whole maps are adjusted in a child), or ``--offline`` as ``dust3r-map`` does. Without
``--scene``, a rendered room and every recorded scene in ``--data``, both ways, each in a process of its own, so that
its memory is its own. Writes NAME.json and NAME.png for each, and their table into ``--page``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from mapped import errors_of  # noqa: E402
from targets import Machine, errors_said, leave, measured_shown, show_on_page, target, where_and_when  # noqa: E402

from dust3r_ros.cli.command import settings  # noqa: E402
from dust3r_ros.config import MapperConfig, from_mapping  # noqa: E402
from dust3r_ros.evaluation.report.metrics import table_lines  # noqa: E402
from dust3r_ros.evaluation.scene import read_scene  # noqa: E402
from dust3r_ros.geometry.processes import memory_held  # noqa: E402
from dust3r_ros.io.files import make_folder  # noqa: E402
from dust3r_ros.io.image_sources import open_source  # noqa: E402
from dust3r_ros.mapping.mapper import Mapper  # noqa: E402
from dust3r_ros.node.image_losses import release_memory  # noqa: E402
from dust3r_ros.scenes.rooms import room  # noqa: E402
from dust3r_ros.scenes.sequence import render_path, walk  # noqa: E402
from dust3r_ros.types import Array, Image, StampedPose  # noqa: E402

_STEP_NS = 33_333_333
_FRAMES, _SIZE = 120, (320, 240)  # of the rendered room
_SETTLED = 4  # passes: memory must not grow after these
BEGIN, END = "<!-- stay: begin, made by benchmarks/stay.py -->", "<!-- stay: end -->"


@dataclass(frozen=True)
class Pass:
    """What one pass left. ``ate``: of its own frames, in the unit of the truth.

    ``median_ms``: of an image; ``worst_ms``: of what keeps the next one waiting, an image or, live, a piece of work.
    """

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
    scene = read_scene(folder)
    images = [(frame.image, scene.pose(frame.stamp_ns)) for frame in open_source(folder)]
    for number in range(passes):
        yield images if number % 2 == 0 else images[::-1]


def rendered(passes: int) -> Iterator[list[tuple[Image, Array | None]]]:
    """Once around a table, back and forth; the hand that holds the camera sways differently on the way back."""
    ways = []
    for seed in range(2):
        made = render_path(
            "orbit", room(), walk("orbit", _FRAMES, laps=1.0, seed=seed), width=_SIZE[0], height=_SIZE[1]
        )
        ways.append(list(zip(made.images, made.w_T_c, strict=True))[:: -1 if seed else 1])
    for number in range(passes):
        yield ways[number % 2]


def stay(
    mapper: Mapper, walks: Iterable[list[tuple[Image, Array | None]]]
) -> tuple[list[Pass], list[list[StampedPose]]]:
    """One row for each walk, printed as it is done, and the true poses of each; work is done when it is due."""
    rows: list[Pass] = []
    truths: list[list[StampedPose]] = []
    stamp_ns = 0
    for images in walks:
        truth, times, pauses, lost = [], [], [], 0
        start = time.perf_counter()
        for image, w_T_c in images:
            stamp_ns += _STEP_NS
            began = time.perf_counter()
            lost += mapper.process(stamp_ns, "camera", image).w_T_c is None
            times.append(1e3 * (time.perf_counter() - began))
            while kind := mapper.due:
                began = time.perf_counter()
                mapper.work(kind)
                pauses.append(1e3 * (time.perf_counter() - began))
            if w_T_c is not None:
                truth.append(StampedPose(stamp_ns, "camera", w_T_c))
        seconds = time.perf_counter() - start
        focal = next(iter(mapper.cameras.values())).focal
        ate = _ate(truth, mapper)
        truths.append(truth)
        release_memory()  # as the node's mapping process does every five minutes
        row = Pass(
            mapper.counts.keyframes,
            lost,
            seconds,
            float(np.median(times)),
            max(times + pauses),
            memory_held() / 2**20,
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
    return rows, truths


def _ate(truth: list[StampedPose], mapper: Mapper) -> float | None:
    errors = errors_of(truth, mapper.trajectory())
    return errors and errors.ate


def finished(mapper: Mapper, truths: list[list[StampedPose]]) -> list[float | None]:
    """ATE of each pass in the finished map."""
    mapper.finish()
    return [_ate(truth, mapper) for truth in truths]


def _worst(first: float | None, later: Iterable[float | None]) -> float | None:
    """The largest of the later errors over the first."""
    known = [ate for ate in later if ate is not None]
    return max(known) / first if known and first else None


def targets(
    rows: list[Pass], alone: float | None = None, together: Sequence[float | None] = (), live: bool = True
) -> list[dict[str, Any]]:
    """Rows of a table: the map stops growing, stays as good, and, ``live``, never stalls: offline nobody waits.

    ``alone``: the first pass's ATE in a finished map of nothing else; ``together``: every pass's in that of all.
    """
    short = len(rows) < 2 * _SETTLED
    why = f"needs {2 * _SETTLED} passes or more" if short else ""
    growth = rows[-1].keyframes / rows[1].keyframes if len(rows) > 1 else None
    memory = None if short else 100 * (rows[-1].mib / rows[_SETTLED - 1].mib - 1)
    worse, at_last = _worst(rows[0].ate, [row.ate for row in rows[1:]]), _worst(alone, together)
    pause = None if short else max(row.worst_ms for row in rows[_SETTLED:])
    lost = sum(row.lost for row in rows[1:])
    return [
        target("keyframes / those after two passes", growth, "<= 1.3", None if growth is None else growth <= 1.3),
        target("memory after pass 4", memory, "< 5 %", None if memory is None else memory < 5, why, "%"),
        target("ATE of the worst pass / the first's", worse, "<= 1", None if worse is None else worse <= 1),
        target("the same, maps finished", at_last, "<= 1", None if at_last is None else at_last <= 1),
        target("longest pause after pass 4", pause, "<= 500 ms", pause <= 500 if pause and live else None, why, "ms"),
        target("images lost after pass 1", str(lost), "0", lost == 0),
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


def table(reports: list[dict[str, Any]]) -> str:
    """Markdown: a row for each scene, with what was missed in bold."""
    cells = []
    for report in reports:
        counts = " → ".join(str(report["passes"][at]["keyframes"]) for at in (0, 1, -1))
        cells.append((f"{report['scene']}: {counts} keyframes", *map(measured_shown, report["targets"])))
    head = ("scene", *(f"{row['name']} ({row['target']})" for row in reports[0]["targets"]))
    lines = table_lines(head, cells)
    machine, how = reports[0]["machine"], "".join(f", `{setting}`" for setting in reports[0]["settings"])
    return "\n".join([*lines, "", f"{len(reports[0]['passes'])} passes{how}; {where_and_when(machine)}."])


def _name(scene: str, live: bool) -> str:
    name = scene if scene == "rendered" else Path(scene).resolve().name
    return f"{name}, {'live' if live else 'offline'}"


def measure(scene: str, live: bool, passes: int, given: list[str], out: Path) -> None:
    """One scene, into files of its name. Raises ``Dust3rRosError`` for one that cannot be read."""
    machine = Machine()
    name = _name(scene, live)
    config = from_mapping(MapperConfig, settings(given))

    def walks(count: int) -> Iterator[list[tuple[Image, Array | None]]]:
        return rendered(count) if scene == "rendered" else recorded(Path(scene), count)

    def mapped(count: int) -> tuple[list[Pass], list[float | None]]:
        mapper = Mapper(config)
        if live:
            cv2.setNumThreads(1)  # this process forks
            mapper.go_live(beside=True)
        rows, truths = stay(mapper, walks(count))
        return rows, finished(mapper, truths)

    rows, together = mapped(passes)
    print("The first pass alone:")
    alone = mapped(1)[1][0]
    found = targets(rows, alone, together, live)
    said = [f"{row['name']}: {row['measured']} (target {row['target']})" for row in found]
    report = {"scene": name, "settings": given, "passes": [asdict(row) for row in rows], "targets": found}
    report["finished"] = {"first alone": alone, "passes": together}
    report["machine"] = machine.about()
    leave(out / f"{name}.json", report, "\n".join(said))
    plot(rows, out / f"{name}.png", f"{name}, back and forth")


@errors_said("stay", subprocess.CalledProcessError)
def main() -> int:
    """Exit code: 1 for a scene that could not be measured, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", help="folder of a recorded scene with truth, or: rendered; without it, all of them")
    parser.add_argument("--offline", action="store_true", help="one scene as dust3r-map maps it, not as the node does")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data", help="folder of recorded scenes")
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the mapper")
    parser.add_argument("--out", type=Path, default=ROOT / "results/stay")
    parser.add_argument("--page", type=Path, help="page whose table is replaced")
    arguments = parser.parse_args()
    from_mapping(MapperConfig, settings(arguments.set))
    out = make_folder(arguments.out)
    if arguments.scene:
        measure(arguments.scene, not arguments.offline, arguments.passes, arguments.set, out)
        return 0
    scenes = ["rendered", *sorted(str(path.parent) for path in arguments.data.glob("*/groundtruth.txt"))]
    options = ["--passes", str(arguments.passes), "--out", str(out)]
    options += [word for setting in arguments.set for word in ("--set", setting)]
    names = []
    for scene, live in itertools.product(scenes, (True, False)):
        names.append(_name(scene, live))
        print(f"== {names[-1]}", flush=True)
        way = [] if live else ["--offline"]
        subprocess.run([sys.executable, __file__, "--scene", scene, *way, *options], check=True)
    found = table([json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in names])
    print(found)
    if arguments.page:
        show_on_page(arguments.page, (BEGIN, END), found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
