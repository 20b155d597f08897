"""Many recordings: how much faster are two processes than one after the other, and what does a second request cost?

    python benchmarks/fleet.py [--parts recordings networks] [--data FOLDER] [--max-frames N] [--out results/fleet]
                               [--page docs/fleet.md]

Twelve rendered walks, or the scenes in ``--data``, are mapped three times with the same options: by one process with
one thread, one after the other; by two such processes that share them, without Ray, which is what the machine can give;
and by ``dust3r-fleet --workers 2``, its start included. Then ``dust3r-fleet`` is asked for the same again. What the
machine can give at best is measured with one walk: alone and twice at the same time, the quickest of three.

The part ``networks`` maps some of them with the network that ships: each process with its own, and all with one.
Writes fleet.json and networks.json, and the tables into ``--page``.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from targets import Machine, errors_said, leave, processor_s, target, target_lines, where_and_when  # noqa: E402

from dust3r_ros.cli import map as one  # noqa: E402
from dust3r_ros.cli.command import positive  # noqa: E402
from dust3r_ros.errors import InputError  # noqa: E402
from dust3r_ros.geometry.processes import use_one_thread  # noqa: E402
from dust3r_ros.io.files import make_folder  # noqa: E402
from dust3r_ros.scenes.export import write_folder  # noqa: E402
from dust3r_ros.scenes.rooms import corridor, room  # noqa: E402
from dust3r_ros.scenes.sequence import render_path, walk  # noqa: E402

BEGIN, END = "<!-- fleet: begin, made by benchmarks/fleet.py -->", "<!-- fleet: end -->"
BEGIN_NETWORKS, END_NETWORKS = "<!-- networks: begin, made by benchmarks/fleet.py -->", "<!-- networks: end -->"
_PARTS = ("recordings", "networks")
_SHARING = 4  # recordings that are mapped with a network
_WALKS = ("orbit", "sweep", "forward", "corridor")
_SEEDS, _FRAMES, _SIZE = 3, 40, (320, 240)
_QUIET = 0.2  # cores of other programs beside which the machine can be judged
_PAUSE_S = 3.0
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


def bound(recording: Path, out: Path, options: Sequence[str], times: int = 3) -> dict[str, Any]:
    """What the machine gives: throughput of two plain mappers at once over one's, on one recording, each the quickest
    of ``times``; and the cores that other programs used meanwhile."""

    def command(number: int) -> list[str]:
        place = str(out / f"bound-{number}")
        return [sys.executable, __file__, "--alone", str(recording), "--out", place, "--", *options]

    machine = Machine()
    pairs = [(seconds(command(0)), seconds(command(0), command(1))) for _ in range(times)]
    ratio = 2 * min(one for one, _ in pairs) / min(two for _, two in pairs)
    return {"bound": ratio, "bound_others": machine.about()["others_cores"]}


def watched(words: Sequence[str]) -> tuple[float, float, subprocess.CompletedProcess[str]]:
    """Seconds and processor seconds until a command has ended, those of all processes below it among them."""
    start, used = time.perf_counter(), {}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, cwd=ROOT, stdout=said, stderr=errors, text=True)
        while process.poll() is None:
            used |= {pid: own for pid, (own, _) in processor_s(process.pid).items()}
            time.sleep(0.2)
        took = time.perf_counter() - start
        texts = [(file.seek(0), file.read())[1] for file in (said, errors)]
    return took, sum(used.values()), subprocess.CompletedProcess(words, process.returncode, *texts)


def measure_networks(recordings: Sequence[Path], out: Path, options: Sequence[str], times: int = 2) -> dict[str, Any]:
    """Two mappers with their own networks, and with one that they share: seconds (the quicker of ``times``), memory.

    Raises ``InputError`` when a recording was not mapped.
    """
    machine = Machine()
    time.sleep(_PAUSE_S)  # who else is busy? Later nobody can tell Ray's processes from those of others
    found: dict[str, Any] = {"recordings": len(recordings), "machine": machine.about()}
    found |= {f"{kind}_{what}": [] for kind in ("own", "shared") for what in ("s", "cpu_s")}
    for _ in range(times):
        for kind, more in (("own", []), ("shared", ["--networks", "1"])):
            words = [sys.executable, "-m", "dust3r_ros.cli.fleet", *map(str, recordings), "--out", str(out / kind)]
            words += ["--workers", "2", "--again", "--backend", "both", "--checkpoint", "mini", *more, *options]
            took, used, done = watched(words)
            found[f"{kind}_s"].append(took)
            found[f"{kind}_cpu_s"].append(used)
            if done.returncode:
                raise InputError(f"'{kind}': {done.stderr.strip().splitlines()[-1]}")
            for name, count in re.findall(r"(\d+) (pairs|requests|batches|MB)", done.stdout):
                found[count] = int(name)
    for kind in ("own", "shared"):
        with open(out / kind / "index.csv", newline="") as file:
            found[f"{kind}_mb"] = max(float(row["peak_memory_mb"]) for row in csv.DictReader(file))
    found["differ"] = sum(
        (out / "own" / path.name / file).read_bytes() != (out / "shared" / path.name / file).read_bytes()
        for path in recordings
        for file in _SAME
    )
    return found


def network_targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table about networks."""
    unknown = "needs a GPU; there: dust3r-fleet with and without --networks, on the same recordings"
    ratio = min(found["own_s"]) / min(found["shared_s"])
    used = min(found["shared_cpu_s"]) / min(found["own_cpu_s"])
    return [
        _if_quiet("throughput, one shared network / one per process", ratio, found["machine"]["others_cores"]),
        target("processor time, one shared network / one per process", used, "", None),
        target("pairs in a batch, on average", found["pairs"] / max(found["batches"], 1), "", None),
        target("requests in a batch, on average", found["requests"] / max(found["batches"], 1), "", None),
        target("memory of a mapper with its own network", found["own_mb"], "", None, unit="MB"),
        target("memory of a mapper that shares one", found["shared_mb"], "", None, unit="MB"),
        target("memory of the shared network", float(found["MB"]), "", None, unit="MB"),
        target("files that differ", str(found["differ"]), "0", not found["differ"]),
        target("GPU: mappers that one network of 571 M weights serves", None, "", None, unknown),
    ]  # fmt: skip


def network_table(found: dict[str, Any], rows: Sequence[dict[str, Any]], what: str) -> str:
    """Markdown."""
    sentences = [
        f"{found['recordings']} {what} in two processes, backend both, weights mini: each with its own network "
        f"{min(found['own_s']):.0f} s ({min(found['own_cpu_s']):.0f} s of processors), one network in a third process "
        f"{min(found['shared_s']):.0f} s ({min(found['shared_cpu_s']):.0f} s), the least of {len(found['own_s'])}, "
        "with the start of Ray.",
        *(f"{row['name'][:1].upper()}{row['name'][1:]}: {row['note']}." for row in rows if row["note"]),
    ]
    return _lines(found, rows, sentences)


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table."""
    ratio, most = found["alone_s"] / found["fleet_s"], found["alone_s"] / found["pair_s"]
    again = found["again_s"] / found["recordings"]
    why = f"two plain processes do not reach {_RATIO:g} here either, as other programs use the cores or they share one"
    few = "" if most >= _RATIO else why
    return [
        target("throughput, two processes / one", ratio, f">= {_RATIO:g} on two cores", ratio >= _RATIO, few),
        target("the same with two plain processes, without Ray", most, "", None),
        _if_quiet("what the machine gives: two plain mappers at once / one", found["bound"], found["bound_others"]),
        target("asked for again, per recording", again, f"<= {_AGAIN_S:g} s", again <= _AGAIN_S, unit="s"),
        target("files that differ from those of dust3r-map", str(found["differ"]), "0", not found["differ"]),
        target("frames per second, two processes", found["frames"] / found["fleet_s"], "", None),
    ]


def _if_quiet(name: str, ratio: float, others: float | None) -> dict[str, Any]:
    """A row of throughputs of different numbers of processes: beside other programs, more processes get a larger share
    of the machine, which says nothing of it."""
    if (others or 0.0) > _QUIET:
        return target(name, None, "", None, f"other programs used {others:.1f} cores; measure again without them")
    return target(name, ratio, "", None)


def table(found: dict[str, Any], rows: Sequence[dict[str, Any]], what: str) -> str:
    """Markdown, with what was missed in bold."""
    sentences = [
        f"{found['recordings']} {what}, {found['frames']} frames: one process {found['alone_s']:.0f} s, two plain "
        f"processes {found['pair_s']:.0f} s, dust3r-fleet {found['fleet_s']:.0f} s.",
        *(f"{row['name'].capitalize()}: {row['note']}." for row in rows if row["note"]),
    ]
    return _lines(found, rows, sentences)


def _lines(found: dict[str, Any], rows: Sequence[dict[str, Any]], sentences: Sequence[str]) -> str:
    others = found["machine"]["others_cores"]
    end = [f"{where_and_when(found['machine'])}."]
    end += [] if others is None else [f"Cores used by other programs: {others:.1f}."]
    return "\n".join([*target_lines(rows), "", *sentences, *end])


@errors_said("fleet")
def main() -> int:
    """Exit code: 1 for recordings that could not be measured, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of recorded scenes, in place of rendered walks")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure (default: all)")
    parser.add_argument("--max-frames", type=positive, metavar="N", help="only the first frames of each")
    parser.add_argument("--out", type=Path, default=ROOT / "results/fleet")
    parser.add_argument("--page", type=Path, help="page whose table is replaced")
    parser.add_argument("--alone", nargs="+", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help="options of dust3r-map, after --")
    arguments = parser.parse_args()
    if arguments.alone:
        map_alone(arguments.alone, arguments.out, arguments.options)
        return 0
    out = make_folder(arguments.out)
    scenes = sorted(path.parent for path in arguments.data.glob("*/groundtruth.txt")) if arguments.data else []
    if arguments.data and not scenes:
        raise InputError(f"--data '{arguments.data}' holds no scene with a groundtruth.txt")
    options = list(arguments.options)
    options += ["--max-frames", str(arguments.max_frames)] if arguments.max_frames else []
    recordings = scenes or rendered(out / "recordings")
    what = "recorded scenes" if scenes else f"rendered walks of {_SIZE[0]} x {_SIZE[1]} pixels"
    if "recordings" in arguments.parts:
        found = measure(recordings, out, options)
        found |= bound(recordings[0], out, options)
        rows = targets(found)
        shown = table(found, rows, what)
        leave(out / "fleet.json", {**found, "targets": rows}, shown, arguments.page, (BEGIN, END))
    if "networks" in arguments.parts:
        found = measure_networks(recordings[:: max(len(recordings) // _SHARING, 1)], out, options)
        rows = network_targets(found)
        shown = network_table(found, rows, what)
        report, markers = {**found, "targets": rows}, (BEGIN_NETWORKS, END_NETWORKS)
        leave(out / "networks.json", report, shown, arguments.page, markers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
