"""Many recordings: how much faster are two processes than one after the other, and what does a second request cost?

    python benchmarks/fleet.py [--data FOLDER] [--max-frames N] [--out results/fleet] [--page docs/fleet.md]

Twelve rendered walks, or the scenes in ``--data``, are mapped three times with the same options: by one process with
one thread, one after the other; by two such processes that share them, without Ray, which is what the machine can give;
and by ``dust3r-fleet --workers 2``, its start included. Then ``dust3r-fleet`` is asked for the same again.
Writes fleet.json, and the table into ``--page``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from targets import Machine, target, where_and_when  # noqa: E402

from dust3r_ros.cli import map as one  # noqa: E402
from dust3r_ros.cli.command import positive  # noqa: E402
from dust3r_ros.errors import Dust3rRosError, InputError  # noqa: E402
from dust3r_ros.fleet.cluster import use_one_thread  # noqa: E402
from dust3r_ros.io.files import make_folder, replace_between, write_text  # noqa: E402
from dust3r_ros.scenes.export import write_folder  # noqa: E402
from dust3r_ros.scenes.rooms import corridor, room  # noqa: E402
from dust3r_ros.scenes.sequence import render_path, walk  # noqa: E402

BEGIN, END = "<!-- fleet: begin, made by benchmarks/fleet.py -->", "<!-- fleet: end -->"
_WALKS = ("orbit", "sweep", "forward", "corridor")
_SEEDS, _FRAMES, _SIZE = 3, 40, (320, 240)
_RATIO, _AGAIN_S = 1.7, 2.0  # targets
_SAME = ("trajectory.txt", "keyframes.txt", "map.ply", "cameras.yaml")


def rendered(folder: Path, frames: int = _FRAMES) -> list[Path]:
    """The walks, in folders that are made unless they are there."""
    found = []
    for kind in _WALKS:
        for seed in range(_SEEDS):
            path = folder / f"{kind}-{seed}-{frames}"
            if not path.exists():
                world = corridor() if kind == "corridor" else room()
                poses = walk(kind, frames, seed=seed)
                write_folder(render_path(kind, world, poses, width=_SIZE[0], height=_SIZE[1]), path)
            found.append(path)
    return found


def map_alone(recordings: Sequence[Path], out: Path, options: Sequence[str]) -> None:
    """All of them in this process, with one thread."""
    use_one_thread()
    for path in recordings:
        one.main([str(path), "--out", str(out / path.name), "--quiet", *options])


def seconds(*commands: Sequence[str]) -> float:
    """Until all commands, begun together, have ended."""
    start = time.perf_counter()
    processes = [subprocess.Popen(words, cwd=ROOT) for words in commands]
    for process in processes:
        process.wait()
    return time.perf_counter() - start


def measure(recordings: Sequence[Path], out: Path, options: Sequence[str]) -> dict[str, Any]:
    """Seconds of each way, and how many files differ. Raises ``InputError`` when a recording was not mapped."""
    names = [str(path) for path in recordings]

    def alone(part: Sequence[str], folder: str) -> list[str]:
        return [sys.executable, __file__, "--alone", *part, "--out", str(out / folder), "--", *options]

    for name in ("alone", "pair", "fleet"):
        shutil.rmtree(out / name, ignore_errors=True)
    fleet = [sys.executable, "-m", "dust3r_ros.cli.fleet", *names, "--out", str(out / "fleet"), "--workers", "2"]
    fleet += ["--quiet", *options]
    machine = Machine()
    found: dict[str, Any] = {"recordings": len(names)}
    found["alone_s"] = seconds(alone(names, "alone"))
    found["pair_s"] = seconds(alone(names[::2], "pair"), alone(names[1::2], "pair"))
    found["machine"] = machine.about()  # before Ray's processes, which nobody counts as ours
    found["fleet_s"] = seconds(fleet)
    found["again_s"] = seconds(fleet)
    pairs = [(out / "alone" / path.name / file, out / "fleet" / path.name / file)
             for path in recordings for file in _SAME]  # fmt: skip
    missing = sorted({str(path.parent) for pair in pairs for path in pair if not path.is_file()})
    if missing:
        raise InputError(f"{len(missing)} results are missing, for example '{missing[0]}'; see the messages above")
    found["differ"] = sum(first.read_bytes() != second.read_bytes() for first, second in pairs)
    found["frames"] = sum(json.loads((first.parent / "summary.json").read_text())["frames"]
                          for first, _ in pairs[:: len(_SAME)])  # fmt: skip
    return found


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table."""
    ratio, most = found["alone_s"] / found["fleet_s"], found["alone_s"] / found["pair_s"]
    again = found["again_s"] / found["recordings"]
    why = f"two plain processes do not reach {_RATIO:g} here either, as other programs use the cores or they share one"
    few = "" if most >= _RATIO else why
    return [
        target("throughput, two processes / one", ratio, f">= {_RATIO:g} on two cores", ratio >= _RATIO, few),
        target("the same with two plain processes, without Ray", most, "", None),
        target("asked for again, per recording", again, f"<= {_AGAIN_S:g} s", again <= _AGAIN_S, unit="s"),
        target("files that differ from those of dust3r-map", str(found["differ"]), "0", not found["differ"]),
        target("frames per second, two processes", found["frames"] / found["fleet_s"], "", None),
    ]


def table(found: dict[str, Any], rows: Sequence[dict[str, Any]], what: str) -> str:
    """Markdown, with what was missed in bold."""
    lines = ["| figure | measured | target |", "| --- | ---: | ---: |"]
    for row in rows:
        shown = f"**{row['measured']}**" if row["met"] is False else row["measured"]
        lines.append(f"| {row['name']} | {shown} | {row['target'] or '–'} |")
    others = found["machine"]["others_cores"]
    sentences = [
        f"{found['recordings']} {what}, {found['frames']} frames: one process {found['alone_s']:.0f} s, two plain "
        f"processes {found['pair_s']:.0f} s, dust3r-fleet {found['fleet_s']:.0f} s.",
        *(f"{row['name'].capitalize()}: {row['note']}." for row in rows if row["note"]),
        f"{where_and_when(found['machine'])}.",
        "" if others is None else f"Cores used by other programs while plain processes ran: {others:.1f}.",
    ]
    return "\n".join([*lines, "", *filter(None, sentences)])


def main() -> int:
    """Exit code: 1 for recordings that could not be measured, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of recorded scenes, in place of rendered walks")
    parser.add_argument("--max-frames", type=positive, metavar="N", help="only the first frames of each")
    parser.add_argument("--out", type=Path, default=ROOT / "results/fleet")
    parser.add_argument("--page", type=Path, help="page whose table is replaced")
    parser.add_argument("--alone", nargs="+", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help="options of dust3r-map, after --")
    arguments = parser.parse_args()
    if arguments.alone:
        map_alone(arguments.alone, arguments.out, arguments.options)
        return 0
    try:
        out = make_folder(arguments.out)
        scenes = sorted(path.parent for path in arguments.data.glob("*/groundtruth.txt")) if arguments.data else []
        if arguments.data and not scenes:
            raise InputError(f"--data '{arguments.data}' holds no scene with a groundtruth.txt")
        options = list(arguments.options)
        options += ["--max-frames", str(arguments.max_frames)] if arguments.max_frames else []
        found = measure(scenes or rendered(out / "recordings"), out, options)
        rows = targets(found)
        what = "recorded scenes" if scenes else f"rendered walks of {_SIZE[0]} x {_SIZE[1]} pixels"
        shown = table(found, rows, what)
        write_text(out / "fleet.json", json.dumps({**found, "targets": rows}, indent=1) + "\n")
        print(shown)
        if arguments.page:
            replace_between(arguments.page, BEGIN, END, shown)
    except Dust3rRosError as error:
        print(f"fleet: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
