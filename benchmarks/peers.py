"""Our mapper beside pycolmap's incremental and global mapping, exhaustive and sequential matches, by kind of recording.

    python benchmarks/peers.py [--cases NAME ...] [--data ../shared/data] [--out results/peers] [--page docs/peers.md]
        [--pycolmap ENVIRONMENT] [--timeout 600] [--again | --ours]

Recorded scenes and rendered worlds, parts of them and changed forms (``variants.py``), each as a folder of at most 120
images that all programs are given, through the evaluation's suite: ours without dense depth, then pycolmap's four
methods, each in a process of its own, the focal unknown to all. A case that run.json in ``--out`` holds is not measured
again, so a run that was broken off goes on; ``--again`` measures it anew, ``--ours`` only our part of it. Writes
run.json and peers.png, and their table into ``--page``.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from targets import Machine, case_options, chosen_cases, errors_said, show_on_page, where_and_when  # noqa: E402
from variants import VARIANTS, Variant  # noqa: E402

from dust3r_ros.evaluation.report.metrics import is_number  # noqa: E402
from dust3r_ros.evaluation.report.peers import (  # noqa: E402
    ENOUGH,
    by_kind,
    kind_target_table,
    method_tables,
    methods_of,
    ratio,
    runs_by_scene,
)
from dust3r_ros.evaluation.report.published import COLMAP, POSES, scene_table  # noqa: E402
from dust3r_ros.evaluation.report.run_file import Row, RunFile, about, key_of, read_run, write_run  # noqa: E402
from dust3r_ros.evaluation.scene import read_scene  # noqa: E402
from dust3r_ros.evaluation.suite.peers import colmap_python  # noqa: E402
from dust3r_ros.evaluation.suite.suite import Plan, measured  # noqa: E402
from dust3r_ros.evaluation.suite.worlds import RATE_HZ, WORLDS  # noqa: E402
from dust3r_ros.io.files import atomic_folder, atomic_path, make_folder  # noqa: E402
from dust3r_ros.io.image_sources import open_source  # noqa: E402
from dust3r_ros.io.trajectory import stamp_to_text, write_tum  # noqa: E402
from dust3r_ros.scenes.export import write_folder  # noqa: E402
from dust3r_ros.scenes.rooms import room  # noqa: E402
from dust3r_ros.scenes.sequence import RenderedSequence, render_path, walk  # noqa: E402
from dust3r_ros.types import StampedPose  # noqa: E402

BEGIN, END = "<!-- peers: begin, made by benchmarks/peers.py -->", "<!-- peers: end -->"
SYSTEMS = (POSES, COLMAP)
_SIZE = (400, 300)  # of the rendered loop


@dataclass(frozen=True)
class Case:
    """``count`` images of a scene from ``first`` on, every ``step``-th one, as ``variant`` has them."""

    scene: str
    first: int = 0
    step: int = 1
    count: int | None = None
    variant: str = ""


def two_laps() -> RenderedSequence:
    """Round a table, and half a lap more."""
    poses = walk("orbit", 60, rate_hz=RATE_HZ, laps=1.5, seed=25)
    return render_path("loop", room(25), poses, width=_SIZE[0], height=_SIZE[1], rate_hz=RATE_HZ)


RENDERED: dict[str, Callable[[], RenderedSequence]] = {**WORLDS, "rendered_loop": two_laps}
_KITCHEN, _LIVE, _RING, _CAR, _SHELF = (
    "7scenes_redkitchen", "7scenes_redkitchen_30hz", "middlebury_templering", "kitti_01", "princeton_shelfbox",
)  # fmt: skip
# The changed forms are of short recordings, one of each kind that has them; the first cases are the most telling.
CASES: dict[str, Case] = {
    "ring": Case(_RING),
    "car": Case(_CAR),
    "shelf": Case(_SHELF),
    "two seconds, 20": Case(_LIVE, 20, 2, 30),
    "cabinet": Case("tum_fr3_cabinet"),
    "door": Case("lund_door"),
    "kitchen, every second": Case(_KITCHEN, step=2),
    "rendered loop": Case("rendered_loop"),
    "rendered corridor": Case("rendered_corridor", step=2),
    "two seconds, 145": Case(_LIVE, 145, 2, 30),
    "car, start": Case(_CAR, count=30),
    "shelf, every second": Case(_SHELF, step=2),
    "ring, half the size": Case(_RING, variant="half the size"),
    "ring, blur and noise": Case(_RING, variant="blur and noise"),
    "car, half the size": Case(_CAR, count=30, variant="half the size"),
    "car, blur and noise": Case(_CAR, count=30, variant="blur and noise"),
    "shelf, half the size": Case(_SHELF, step=2, variant="half the size"),
    "shelf, blur and noise": Case(_SHELF, step=2, variant="blur and noise"),
    "ring, every second": Case(_RING, step=2),
    "rendered passer-by": Case("rendered_passer_by", step=2),
    "two seconds, 395": Case(_LIVE, 395, 2, 30),
    "shelf, exposure flickers": Case(_SHELF, step=2, variant="exposure flickers"),
    "car, exposure flickers": Case(_CAR, count=30, variant="exposure flickers"),
    "rendered street": Case("rendered_street", step=2),
    "kitchen, long": Case(_LIVE, step=3),
    "rendered orbit": Case("rendered_orbit", step=2),
    "kitchen": Case(_KITCHEN),
}


def folder_of(name: str, case: Case, data: Path, out: Path) -> Path:
    """The folder of a case, below ``out``, made where it is missing. Raises ``InputError`` without its scene."""
    path = out / "cases" / name.replace(", ", "_").replace(" ", "-")
    if path.is_dir():
        return path
    source = data / case.scene
    if case.scene in RENDERED:
        source = out / "worlds" / case.scene
        if not source.is_dir():
            make_folder(source.parent)
            write_folder(RENDERED[case.scene](), source)
    write_case(source, case, path)
    return path


def write_case(source: Path, case: Case, path: Path) -> None:
    """The images of a case, with their poses and intrinsics, as a scene. Raises ``InputError``, ``OutputError``."""
    scene = read_scene(source)
    variant = VARIANTS[case.variant] if case.variant else Variant()
    stop = None if case.count is None else case.first + case.count * case.step
    frames = list(islice(open_source(source), case.first, stop, case.step))
    make_folder(path.parent)
    with atomic_folder(path) as folder:
        (folder / "rgb").mkdir()
        listing, truth = [], []
        stamps = [frame.stamp_ns for frame in frames]
        images = variant.images([frame.image for frame in frames], scene.focal, scene.K[:2, 2])
        for number, (stamp_ns, image) in enumerate(zip(stamps, images, strict=True)):
            listing.append(f"{stamp_to_text(stamp_ns)} rgb/{number:06d}.png")
            cv2.imwrite(str(folder / f"rgb/{number:06d}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            if (w_T_c := scene.pose(stamp_ns)) is not None:
                truth.append(StampedPose(stamp_ns, "camera", w_T_c))
        (folder / "rgb.txt").write_text("\n".join(listing) + "\n", encoding="utf-8")
        write_tum(folder / "groundtruth.txt", truth)
        height, width = image.shape[:2]
        intrinsics = {"fx": variant.scale * scene.focal, "fy": variant.scale * scene.focal, "width": width}
        intrinsics |= {"height": height, "pose_scale": "metric" if scene.metric else "arbitrary"}
        (folder / "intrinsics.json").write_text(json.dumps(intrinsics | {"variant": case.variant}), encoding="utf-8")


def text_of(run: RunFile) -> str:
    """Markdown: the targets and the methods by kind, every case, the machine."""
    tables = [kind_target_table(run.rows), *method_tables(run.rows), scene_table(run.rows, _SHOWN, "Cases", _CASES)]
    facts = run.about["hardware"]
    others = facts.get("others_cores")
    load = "" if others is None else f" Other programs kept {others:.1f} cores busy: compare processor seconds."
    versions = sorted({row["version"] for row in run.rows if row.get("version")})
    where = f"pycolmap {', '.join(versions) or 'not installed'}; {where_and_when(facts)}.{load}"
    return "\n".join([*(table.markdown() for table in tables), where])


def plot(rows: Sequence[Row], path: Path) -> None:
    """By kind and method: poses, ATE, focal error, time; small marks for the cases, a large one for their median."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullLocator

    found = runs_by_scene(rows)
    methods, kinds = methods_of(found.values()), list(by_kind(found).items())[::-1]
    figure = Figure(figsize=(11, 1.4 + 0.62 * len(kinds)), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (title, figure_of) in zip(panels, _PANELS.items(), strict=True):
        for number, method in enumerate(methods):
            for place, (_, scenes) in enumerate(kinds):
                at = place + 0.15 * (len(methods) // 2 - number)
                pairs = [(found[scene].get(method, {}), found[scene].get(methods[0], {})) for scene in scenes]
                values = [value for pair in pairs if (value := figure_of(*pair)) is not None]
                axes.plot(values, [at] * len(values), ".", color=f"C{number}", markersize=4, alpha=0.5)
                if values:
                    axes.plot(np.median(values), at, "o", color=f"C{number}", markersize=6)
        axes.set_title(title, fontsize="small")
        axes.grid(axis="x", alpha=0.3)
        if axes is panels[0]:
            axes.set_xlim(0, 105)
        else:
            axes.set_xscale("log", base=10 if "%" in title else 2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
    panels[0].set_yticks(range(len(kinds)), [f"{kind} ({len(scenes)})" for kind, scenes in kinds])
    marks = [Line2D([], [], color=f"C{number}", marker="o", linestyle="") for number in range(len(methods))]
    figure.legend(marks, methods, loc="outside lower center", ncols=3, fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)


def _enough(row: Row, name: str) -> bool:
    return (row.get("tracked") or 0.0) >= ENOUGH and is_number(row.get(name))


def _times_ours(name: str) -> Callable[[Row, Row], float | None]:
    """A figure over ours, where both pose enough images."""
    return lambda row, ours: ratio(row, ours, name) if _enough(row, name) and _enough(ours, name) else None


_LEAST = 0.02  # percent: what a logarithmic axis shows of a focal error
_PANELS: dict[str, Callable[[Row, Row], float | None]] = {
    "images with a pose, %": lambda row, _: row.get("tracked") or 0.0,
    "ATE / ours": _times_ours("ate"),
    "focal error, %": lambda row, _: max(abs(row["focal_error"]), _LEAST) if _enough(row, "focal_error") else None,
    "processor time / ours": _times_ours("processor_seconds"),
}
_SHOWN = ("tracked", "ate_percent", "focal_error", "seconds", "processor_seconds", "peak_memory_mb")
_CASES = "Names as `benchmarks/peers.py --cases list` prints them; ATE is of the images that have a pose."


@errors_said("peers")
def main() -> int:
    """Exit code: 1 if nothing can be measured, else 0."""
    parser = case_options(__doc__, "peers")
    parser.add_argument("--pycolmap", type=Path, default=ROOT / "results/pycolmap", help="pycolmap's environment")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds of one method on one case")
    parser.add_argument("--again", action="store_true", help="measure cases that are there already")
    parser.add_argument("--ours", action="store_true", help="of cases that are there already, measure ours again")
    arguments = parser.parse_args()
    if arguments.cases == ["list"]:
        print("\n".join(CASES))
        return 0
    file, machine = arguments.out / "run.json", Machine()
    rows = {} if arguments.again or not file.is_file() else read_run(file).by_key()
    python, missing = colmap_python(arguments.pycolmap)
    if missing:
        print(missing, file=sys.stderr)
    for name in chosen_cases(arguments.cases, CASES):
        path = folder_of(name, CASES[name], arguments.data, arguments.out)
        known = path.name in {key[1] for key in rows}
        if known and not arguments.ours:
            continue
        systems = (POSES,) if known else SYSTEMS
        plan = Plan([path.resolve()], systems, timeout=arguments.timeout, budget=math.inf, pycolmap=python)
        own = list(measured(plan, lambda line: print(line, flush=True)))
        rows |= {key_of(row): row for row in own}
        commit = os.environ.get("DUST3R_EVAL_COMMIT", "")
        write_run(file, RunFile(about(commit=commit, hardware=machine.about()), list(rows.values())))
    run = read_run(file)
    text, picture = text_of(run), arguments.out / "peers.png"
    plot(run.rows, picture)
    print(text)
    if arguments.page:
        show_on_page(arguments.page, (BEGIN, END), text, picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
