"""Live mapping at the camera's rate: real processes over DDS on two cores, each figure with its target.

    python benchmarks/live.py [--cases kitchen-30,walk-30] [--data DIR] [--frames N] [--out results/live.json]
                              [--page docs/live.md]

The node has its default parameters except for topics and output files. A player in its own process publishes raw
images at the camera's rate, as a driver with default settings does. For comparison, ``dust3r-map`` maps the same
images in the same run. Recordings are prepared in results/live.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from live_cases import CASES, Case, Recorded, prepare, selected  # noqa: E402
from live_figures import (  # noqa: E402
    OF_KILLS,
    OF_LOCALIZATION,
    OF_MAPPING,
    OF_STAYING,
    against_offline,
    clouds,
    in_recorded_time,
    moving_since,
    rows,
    timings,
)
from live_kill import Killer  # noqa: E402
from live_page import into_page, table  # noqa: E402
from live_replay import replay  # noqa: E402
from live_run import LiveRun, isolated, live, offline  # noqa: E402
from targets import Machine, errors_said  # noqa: E402

from dust3r_ros.errors import Dust3rRosError  # noqa: E402
from dust3r_ros.io.files import make_folder, write_text  # noqa: E402
from dust3r_ros.io.trajectory import read_tum  # noqa: E402
from dust3r_ros.node.tools.verdict import Got, Sent  # noqa: E402
from dust3r_ros.types import StampedPose  # noqa: E402

_COUNTS = ("frames", "tracked", "keyframes", "lost", "dropped", "lost_in_transport", "rejected", "waiting", "revision")


class Bench:
    """Runs cases; each recording is mapped offline once. ``work`` keeps recordings and the runs' output."""

    def __init__(self, work: Path, data: Path, frames: int, reliability: str) -> None:
        self._work, self._data, self._frames, self._reliability = work, data, frames, reliability
        self._offline: dict[str, float] = {}

    def run(self, case: Case) -> dict[str, Any]:
        """The entry of a case in the JSON file; ``skipped`` or ``failed`` with the reason instead of figures."""
        facts = {"name": case.name, "title": case.title, "localize": case.localize}
        recorded = prepare(case.recording, self._work / "recordings", self._data, self._frames)
        if recorded is None:
            return {**facts, "skipped": f"its data is not in {self._data.name}/"}
        try:
            measure = self._killed if case.kills else self._stayed if case.passes > 1 else self._measure
            return {**facts, **measure(case, recorded)}
        except Dust3rRosError as error:
            return {**facts, "failed": str(error)}

    def _measure(self, case: Case, recorded: Recorded) -> dict[str, Any]:
        reference = self._work / "offline" / case.recording
        if case.recording not in self._offline:
            self._offline[case.recording] = offline(recorded, reference)
        parameters = {"load_map": str(reference / "map.db"), "mode": "localization"} if case.localize else {}
        out, replayed = self._work / case.name, self._work / f"{case.name}-replayed"
        if not case.localize:
            parameters["manifest"] = str(out / "run.jsonl")
        run = live(recorded, out, case.slower, parameters, self._reliability)
        sent, got = run.published, got_by(run)
        values = timings(sent, got, moving_since(sent, recorded.truth))
        values |= {"cloud_p95": clouds(sent, run.heard.tiles), "cores": run.cores}
        mapped = read_tum(reference / "trajectory.txt")
        errors = {
            "causal": against_offline(recorded.truth, in_recorded_time(sent, got), mapped),
            "final": against_offline(recorded.truth, final_poses(out, sent), mapped),
        }
        values |= {name: found and found[0] / found[1] for name, found in errors.items()}
        differ = [] if case.localize else replay(recorded.bag, run.published, out, replayed)
        values["replay"] = len(differ)
        return {
            "figures": rows(values, OF_LOCALIZATION if case.localize else OF_MAPPING),
            "replay_differs": differ,
            "images": len(sent),
            "poses": len({item.key for item in got}),
            "seconds": (sent[-1].at - sent[0].at) * 1e-9,
            "offline_seconds": self._offline[case.recording],
            "errors_m": errors,
            **_status(run),
        }

    def _killed(self, case: Case, recorded: Recorded) -> dict[str, Any]:
        out = self._work / case.name
        map_file = make_folder(out) / "growing.db"
        map_file.unlink(missing_ok=True)
        killer = Killer(map_file, case.kills)
        parameters = {"map_db": str(map_file)}
        run = live(recorded, out, case.slower, parameters, self._reliability, case.passes, killer)
        sent = run.published
        return {
            "figures": rows(killer.figures(run.heard, sent[-1].at), OF_KILLS),
            "images": len(sent),
            "poses": len({item.key for item in got_by(run)}),
            "seconds": (sent[-1].at - sent[0].at) * 1e-9,
            "kills": len(killer.kills),
            **_status(run),
        }

    def _stayed(self, case: Case, recorded: Recorded) -> dict[str, Any]:
        run = live(recorded, self._work / case.name, case.slower, {}, self._reliability, case.passes)
        sent, got = run.published, got_by(run)
        each = len(sent) // case.passes
        after = [_status_at(run, sent[(number + 1) * each - 1].at) for number in range(case.passes)]
        values = timings(sent, got, moving_since(sent, recorded.truth)) | {
            "cores": run.cores,
            "grown": after[-1].keyframes / max(1, after[1].keyframes),
            "memory": after[-1].memory_mb / max(1.0, after[3].memory_mb),
        }
        return {
            "figures": rows(values, OF_STAYING),
            "images": len(sent),
            "poses": len({item.key for item in got}),
            "seconds": (sent[-1].at - sent[0].at) * 1e-9,
            "passes": [{"keyframes": status.keyframes, "memory_mb": status.memory_mb} for status in after],
            **_status(run),
        }


def _status_at(run: LiveRun, at: int) -> Any:
    """The last status until then."""
    return [status for when, status in run.heard.statuses if when <= at][-1]


def got_by(run: LiveRun) -> list[Got]:
    """The poses that came."""
    return [Got((topic, stamp), at, w_T_c) for topic, stamp, at, w_T_c in run.heard.poses]


def final_poses(out: Path, sent: Sequence[Sent]) -> list[StampedPose]:
    """The trajectory that the node wrote at its end, with the stamps of the recording."""
    path = out / "trajectory.txt"
    recorded = {item.key[1]: item.recorded for item in sent}
    poses = read_tum(path) if path.is_file() else []
    return [StampedPose(recorded[p.stamp_ns], p.camera, p.w_T_c) for p in poses if p.stamp_ns in recorded]


def _status(run: LiveRun) -> dict[str, Any]:
    """The node's last status: counts, and milliseconds of each stage."""
    last = run.heard.statuses[-1][1]
    stages = {
        stage.name: {"p50_ms": stage.p50_ms, "p95_ms": stage.p95_ms, "max_ms": stage.max_ms} for stage in last.stages
    }
    return {"counts": {name: getattr(last, name) for name in _COUNTS}, "state": last.state, "stages": stages}


@errors_said("live")
def main() -> int:
    """Exit code: 0 all targets met, 1 one was missed or a run failed, 2 wrong arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(case.name for case in CASES)
    parser.add_argument("--cases", default="", help=f"comma-separated names (default: all): {names}")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data")
    parser.add_argument("--frames", type=int, default=0, help="number of images per camera (default: all)")
    parser.add_argument("--reliability", choices=("reliable", "best_effort"), default="reliable", help="of the player")
    parser.add_argument("--out", type=Path, default=ROOT / "results/live.json")
    parser.add_argument("--page", type=Path, default=None, help="page for the table of a run of all cases")
    options = parser.parse_args()
    try:
        cases = selected(options.cases)
    except ValueError as error:
        parser.error(str(error))
    machine, cores = Machine(), isolated()
    bench = Bench(make_folder(options.out.parent / "live"), options.data, options.frames, options.reliability)
    done = []
    for case in cases:
        print(f"{case.name}: {case.title}", flush=True)
        done.append(bench.run(case))
        print(table(done[-1:]), flush=True)
    report = {"cases": done, "cores": len(cores), "reliability": options.reliability, "about": machine.about()}
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    if options.page is not None and len(cases) == len(CASES) and not options.frames:
        into_page(options.page, report)
        print(f"written: {options.page}")
    judged = [row["met"] for case in done for row in case.get("figures", ())]
    print(f"{judged.count(True)} of {len(judged)} targets met, {len(judged) - judged.count(True)} missed")
    return int(not all(judged) or any("failed" in case for case in done))


if __name__ == "__main__":
    sys.exit(main())
