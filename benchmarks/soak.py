"""A long day in two rooms: does the node keep its memory, its latency, its handles and its maps?

    python benchmarks/soak.py [--images 100000] [--rate 30] [--frames 0] [--set NAME=VALUE ...]
        [--out results/soak] [--page docs/reliability.md]

The real node gets images over DDS in rounds: walks to and fro in a room, under a light that dims and returns, with a
hand on the lens, with the cable pulled; then the camera is carried covered into another room, walks there, and is
carried back. A sample every few seconds: memory (PSS), handles and threads of both processes, keyframes, map.db.
Writes soak.json, soak.png, and the table and picture for ``--page``. Exit code 1 if a target was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from live_cases import TOPIC, Recorded, prepare  # noqa: E402
from live_run import START_S, Heard, LiveError, LiveRun, isolated, live  # noqa: E402
from mapped import errors_of  # noqa: E402
from targets import Machine, errors_said, measured_shown, target, where_and_when  # noqa: E402

from dust3r_ros.cli.command import settings  # noqa: E402
from dust3r_ros.evaluation.report.metrics import table_lines  # noqa: E402
from dust3r_ros.io.files import make_folder, replace_between, write_text  # noqa: E402
from dust3r_ros.types import StampedPose  # noqa: E402

BEGIN, END = "<!-- soak: begin, made by benchmarks/soak.py -->", "<!-- soak: end -->"
_ROOMS = ("loop", "walk")  # recordings of ``live_cases``
_DIM = 0.4  # of the light
_COVERED_S, _PULLED_S, _CARRIED_S = 3.0, 4.0, 2.0
_SAMPLE_S = 5.0


@dataclass(frozen=True)
class Shot:
    """One image of the script: ``room``, ``index`` of the recording's image, ``light`` (0: covered); None: not sent."""

    room: str
    index: int | None
    light: float = 1.0


def script(frames: dict[str, int], rate_hz: float) -> Iterator[tuple[int, str, Shot]]:
    """Round, name of the scene and image, for ever; ``frames``: the number of images of each room."""
    here, there = _ROOMS

    def walked(room: str, name: str, times: int, backwards: bool = False) -> Iterator[tuple[str, Shot]]:
        for number in range(times):
            way = range(frames[room])
            yield from ((name, Shot(room, index)) for index in (way[::-1] if (number + backwards) % 2 else way))

    def still(name: str, seconds: float, shot: Shot) -> Iterator[tuple[str, Shot]]:
        yield from ((name, shot) for _ in range(round(seconds * rate_hz)))

    for number in count():
        first, last = frames[here] // 3, frames[here] - 1
        dims = 1 - (1 - _DIM) * np.sin(np.linspace(0, np.pi, frames[here])) ** 2
        for name, shot in (
            *walked(here, "walk", 2),
            *(("dim light", Shot(here, index, float(light))) for index, light in enumerate(dims)),
            *still("covered", _COVERED_S, Shot(here, last, 0.0)),
            *(("walk", Shot(here, index)) for index in range(last, first, -1)),
            *still("cable pulled", _PULLED_S, Shot(here, None)),
            *(("walk", Shot(here, index)) for index in range(first, -1, -1)),
            *still("carried", _CARRIED_S, Shot(here, 0, 0.0)),
            *walked(there, "other room", 4),
            *still("carried", _CARRIED_S, Shot(here, 0, 0.0)),
        ):
            yield number, name, shot


def play(recordings: dict[str, Recorded], log: Path, images: int, rate_hz: float) -> None:
    """Publish the script in this process; ``log`` gets a JSON line per image. Raises ``TimeoutError``."""
    import rclpy
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import Image

    from dust3r_ros.node.tools.player import messages, restamped, serialised_stamp, wait_for_listeners

    raws = {room: [raw for *_, raw in messages(recorded.bag)] for room, recorded in recordings.items()}
    size = 640 * 480 * 3
    rclpy.init(args=[])
    node = rclpy.create_node("soak_player")
    publisher = node.create_publisher(Image, TOPIC, QoSProfile(depth=5))
    wait_for_listeners([publisher], START_S, every=True)
    begin, base, sent = time.monotonic() + 0.5, time.time_ns() + 500_000_000, 0
    with log.open("w") as lines:
        for tick, (number, name, shot) in enumerate(script({room: len(raw) for room, raw in raws.items()}, rate_hz)):
            if sent == images:
                break
            after = tick / rate_hz
            time.sleep(max(0.0, begin + after - time.monotonic()))
            if shot.index is None:
                continue
            raw, stamp_ns = raws[shot.room][shot.index], base + round(1e9 * after)
            message: bytes | bytearray = restamped(raw, stamp_ns)
            if shot.light < 1:
                message = bytearray(message)
                pixels = np.frombuffer(message, np.uint8, size, len(message) - size)
                pixels[:] = (shot.light * pixels.astype(np.float32)).astype(np.uint8)
            line = {
                "topic": TOPIC,
                "recorded": serialised_stamp(raw),
                "stamp": stamp_ns,
                "published": time.monotonic_ns(),
            }
            publisher.publish(bytes(message))
            lines.write(json.dumps({**line, "round": number, "scene": name, "room": shot.room}) + "\n")
            sent += 1
    time.sleep(1.0)
    node.destroy_node()
    rclpy.try_shutdown()


class Sampler:
    """Runs beside the node and looks at its processes every few seconds."""

    def __init__(self, map_file: Path) -> None:
        self.samples: list[dict[str, Any]] = []
        self._map_file = map_file

    def __call__(self, node: subprocess.Popen[bytes], heard: Heard, over: threading.Event) -> None:
        begin = time.monotonic()
        while not over.wait(_SAMPLE_S) and node.poll() is None:
            family = _family(node.pid)
            last = heard.statuses[-1][1]
            files = [self._map_file, self._map_file.with_name(self._map_file.name + "-wal")]
            sample = {
                "at": time.monotonic_ns(),
                "seconds": time.monotonic() - begin,
                "mib": sum(map(_pss_mib, family)),
                "handles": sum(len(_listed(f"/proc/{pid}/fd")) for pid in family),
                "threads": sum(len(_listed(f"/proc/{pid}/task")) for pid in family),
                "keyframes": last.keyframes,
                "maps": last.maps,
                "frames": last.frames,
                "map_mib": sum(file.stat().st_size for file in files if file.exists()) / 2**20,
            }
            self.samples.append(sample)
            if len(self.samples) % 6 == 0:
                print(
                    "{seconds:6.0f} s: {frames} images, {keyframes} keyframes, {maps} maps, {mib:.0f} MiB, "
                    "{handles} handles, {threads} threads, map.db {map_mib:.0f} MiB".format(**sample),
                    flush=True,
                )


def _family(pid: int) -> list[int]:
    """A process and its children, without those that adjust the map for a moment."""
    children = []
    for task in _listed(f"/proc/{pid}/task"):
        with suppress(OSError):
            children += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return [pid, *children]


def _listed(folder: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(folder)
    return []


def _pss_mib(pid: int) -> float:
    """Proportional memory of a process: what it shares with others is divided among them."""
    with suppress(OSError, StopIteration):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in text if line.startswith("Pss:")).split()[1]) / 1024
    return 0.0


def figures(
    lines: Sequence[dict[str, Any]], run: LiveRun, samples: list[dict[str, Any]], truths: Any
) -> dict[str, Any]:
    """What is judged, and what is told besides."""
    poses: dict[int, tuple[int, Any]] = {}
    for _, stamp, at, w_T_c in run.heard.poses:
        poses.setdefault(stamp, (at, w_T_c))
    seen = [line for line in lines if line["scene"] not in ("covered", "carried")]
    ms = np.array([1e-6 * (poses[line["stamp"]][0] - line["published"]) for line in seen if line["stamp"] in poses])
    tenth = max(1, len(ms) // 10)
    rounds: dict[int, dict[str, Any]] = {}
    for number in sorted({line["round"] for line in lines}):
        own = [line for line in seen if line["round"] == number]
        rounds[number] = {
            "images": len(own),
            "with_pose": sum(line["stamp"] in poses for line in own),
            "ate": {room: _ate([line for line in own if line["room"] == room], poses, truths[room]) for room in _ROOMS},
        }
    half = samples[len(samples) // 2 :]
    eighth = max(1, len(half) // 4)
    begin, end = (float(np.median([item["mib"] for item in part])) for part in (half[:eighth], half[-eighth:]))
    return {
        "p95_first": float(np.percentile(ms[:tenth], 95)),
        "p95_last": float(np.percentile(ms[-tenth:], 95)),
        "longest_ms": float(ms.max()),
        "memory_mib": max(item["mib"] for item in samples),
        "growth": 100 * (end / begin - 1),
        "rounds": rounds,
    }


def _ate(lines: Sequence[dict[str, Any]], poses: dict[int, tuple[int, Any]], truth: Any) -> float | None:
    """Error (m) of the poses as published, of one room in one round."""
    found = [line for line in lines if line["stamp"] in poses]
    true = [StampedPose(line["stamp"], "camera", truth[line["recorded"]].w_T_c) for line in found]
    got = [StampedPose(line["stamp"], "camera", poses[line["stamp"]][1]) for line in found]
    errors = errors_of(true, got)
    return errors and errors.ate


def targets(found: dict[str, Any], samples: list[dict[str, Any]], images: int, asked: int) -> list[dict[str, Any]]:
    """Rows of the table."""
    ratio = found["p95_last"] / found["p95_first"]
    rounds = list(found["rounds"].values())
    whole = [row for row in rounds if row["images"] >= rounds[0]["images"]]
    shares = [row["with_pose"] / row["images"] for row in whole]
    errors = [[row["ate"][room] for row in whole if row["ate"][room] is not None] for room in _ROOMS]
    handles, threads = ([item[name] for item in samples] for name in ("handles", "threads"))
    quarter = max(1, len(samples) // 4)
    rows = [
        target("images", f"{images}", f"{asked}", images == asked),
        target("memory of both processes", found["memory_mib"], "<= 1024 MiB", found["memory_mib"] <= 1024, unit="MiB"),
        target("its growth over the last half", found["growth"], "< 1 %", found["growth"] < 1, unit="%"),
        target("latency p95 of the last tenth / the first's", ratio, "<= 1.1", ratio <= 1.1),
        target("images in sight with a pose, worst later round", 100 * min(shares[1:] or shares), "", None, unit="%"),
        target("longest latency", found["longest_ms"], "", None, unit="ms"),
    ]
    for room, values in zip(_ROOMS, errors, strict=True):
        if len(values) > 1:
            rows.append(target(f"error in room {room}, last round / first", values[-1] / values[0], "", None))
    for name, values in (("handles", handles), ("threads", threads)):
        grown = max(values[-quarter:]) - max(values[quarter : 2 * quarter])
        rows.append(target(f"{name} more at the end than in the second quarter", str(grown), "0", grown <= 0))
    last = samples[-1]
    rows.append(target("keyframes, maps", f"{last['keyframes']}, {last['maps']}", "", None))
    rows.append(target("map.db", float(last["map_mib"]), "", None, unit="MiB"))
    return rows


def plot(samples: list[dict[str, Any]], path: Path) -> None:
    """Memory, keyframes, file, handles and threads over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3), layout="constrained")
    minutes = [sample["seconds"] / 60 for sample in samples]
    curves = (("memory (MiB)", "mib"), ("keyframes", "keyframes"), ("map.db (MiB)", "map_mib"), ("handles", "handles"))
    for axes, (title, name) in zip(figure.subplots(1, 4), curves, strict=True):
        axes.plot(minutes, [sample[name] for sample in samples])
        axes.set(title=title, xlabel="minutes", ylim=(0, None))
    figure.savefig(path, dpi=90)


def table(report: dict[str, Any]) -> str:
    """Markdown: the figures of a run, missed ones in bold."""
    cells = [(row["name"], row["target"], measured_shown(row)) for row in report["targets"]]
    lines = table_lines(("figure", "target", "measured"), cells)
    where = where_and_when(report["machine"])
    return "\n".join([*lines, "", f"{report['images']} images at {report['rate_hz']:g} Hz, 640 x 480; {where}."])


def measure(options: argparse.Namespace, out: Path, given: dict[str, str]) -> dict[str, Any]:
    """Run, and write the report. Raises ``Dust3rRosError``."""
    machine = Machine()
    isolated()
    recordings = {}
    for room in _ROOMS:
        found = prepare(room, ROOT / "results/live/recordings", Path(), options.frames)
        assert found is not None, "rendered recordings need no data"
        recordings[room] = found
    map_file = out / "map.db"
    for file in out.glob("map.db*"):
        file.unlink()
    sampler = Sampler(map_file)
    command = [
        __file__, "--play", str(out / "published.jsonl"), "--images", str(options.images),
        "--rate", str(options.rate), "--frames", str(options.frames),
    ]  # fmt: skip
    run = live(recordings[_ROOMS[0]], out, 1.0, {"map_db": str(map_file), **given}, "reliable", 1, sampler, command)
    lines = [json.loads(line) for line in (out / "published.jsonl").read_text().splitlines()]
    if not sampler.samples:
        raise LiveError(f"the run was over before the first sample, after {_SAMPLE_S:g} s")
    truths = {room: recorded.truth for room, recorded in recordings.items()}
    found = figures(lines, run, sampler.samples, truths)
    report = {"images": len(lines), "rate_hz": options.rate, "machine": machine.about(), "settings": options.set}
    report |= {"figures": found, "samples": sampler.samples, "cores_used": run.cores}
    report["targets"] = targets(found, sampler.samples, len(lines), options.images)
    write_text(out / "soak.json", json.dumps(report, indent=1))
    plot(sampler.samples, out / "soak.png")
    return report


@errors_said("soak", TimeoutError)
def main() -> int:
    """Exit code: 1 if a target was missed or the run failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=30.0, help="images a second")
    parser.add_argument("--frames", type=int, default=0, help="images of each room (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the node")
    parser.add_argument("--out", type=Path, default=ROOT / "results/soak")
    parser.add_argument("--page", type=Path, help="page whose table is replaced")
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        found = {room: prepare(room, ROOT / "results/live/recordings", Path(), options.frames) for room in _ROOMS}
        play({room: item for room, item in found.items() if item}, options.play, options.images, options.rate)
        return 0
    report = measure(options, make_folder(options.out), settings(options.set))
    print(table(report))
    if options.page:
        replace_between(options.page, BEGIN, END, table(report))
        plot(report["samples"], options.page.parent / "pictures/soak.png")
    return int(any(row["met"] is False for row in report["targets"]))


if __name__ == "__main__":
    sys.exit(main())
