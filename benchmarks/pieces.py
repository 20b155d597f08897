"""A long recording in pieces: is the map that of one piece, whatever the number of processes, and what does it cost?

    python benchmarks/pieces.py [--cases kitchen walk] [--images 3000] [--out results/pieces] [--page docs/fleet.md]

Each recording is mapped by ``dust3r-map`` in one piece, then with ``--workers 1`` and ``--workers 4``, without depth
and with one thread. Runs that are in ``--out`` already are not repeated. Writes pieces.json, and the table into
``--page``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from targets import Machine, case_options, chosen_cases, errors_said, leave, target, target_lines, where_and_when  # noqa: E402

from dust3r_ros.cli.command import positive  # noqa: E402
from dust3r_ros.errors import InputError  # noqa: E402
from dust3r_ros.evaluation.errors import trajectory_errors  # noqa: E402
from dust3r_ros.io.files import make_folder, write_text  # noqa: E402
from dust3r_ros.io.trajectory import read_tum  # noqa: E402
from dust3r_ros.scenes.export import write_folder  # noqa: E402
from dust3r_ros.scenes.rooms import corridor  # noqa: E402
from dust3r_ros.scenes.sequence import look_at, render_path  # noqa: E402
from dust3r_ros.types import Array  # noqa: E402

BEGIN, END = "<!-- pieces: begin, made by benchmarks/pieces.py -->", "<!-- pieces: end -->"
_KITCHEN = "7scenes_redkitchen_30hz"
_RUNS = {"whole": [], "1 process": ["--workers", "1"], "4 processes": ["--workers", "4"]}
_SAME = ("trajectory.txt", "keyframes.txt", "map.ply", "cameras.yaml")
_SIZE = (240, 176)
_HALF, _SIDE, _LEFT = 9.5, 0.6, np.radians(35.0)  # metres; the camera looks ahead and to the left
_ATE, _COST = 1.2, 1.15  # targets


def there_and_back(images: int) -> Array:
    """(N, 4, 4) poses of a walk along a corridor on its right, round at both ends; it closes after 3,000."""
    length = 2 * (2 * _HALF + np.pi * _SIDE)
    poses = []
    for along in np.arange(images) * length / 2999:
        half, at = divmod(along, length / 2)
        bend = max(0.0, at - 2 * _HALF) / _SIDE
        heading = np.pi * half + bend
        x, y = min(at, 2 * _HALF) - _HALF + _SIDE * np.sin(bend), -_SIDE * np.cos(bend)
        sign = 1.0 if half % 2 == 0 else -1.0
        sway = 0.01 * np.sin(3.0 * along), 0.01 * np.sin(2.1 * along + 1.0)
        position = np.array([sign * x, sign * y + sway[0], 1.35 + sway[1]])
        ahead = np.array([np.cos(heading + _LEFT), np.sin(heading + _LEFT), -0.06])
        poses.append(look_at(position, position + ahead))
    return np.stack(poses)


def walk(folder: Path, images: int) -> Path:
    """The folder of the rendered walk, made unless it is there."""
    path = folder / f"walk-{images}"
    if not (path / "groundtruth.txt").exists():
        write_folder(render_path("walk", corridor(), there_and_back(images), width=_SIZE[0], height=_SIZE[1]), path)
    return path


def mapped(recording: Path, folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Map a recording, unless that was done before; processor and wall time in seconds."""
    if (folder / "run.json").exists():
        found: dict[str, Any] = json.loads((folder / "run.json").read_text())
        return found
    command = [sys.executable, "-m", "dust3r_ros.cli.map", str(recording), "--out", str(folder), *options]
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                          check=False)  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise InputError(f"'{recording}' with {' '.join(options)} was not mapped: {done.stderr.strip()[-300:]}")
    found = {
        "processor_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "seconds": time.perf_counter() - begin,
        "said": done.stdout + done.stderr,
    }
    write_text(folder / "run.json", json.dumps(found, indent=1) + "\n")
    return found


def measure(recording: Path, out: Path) -> dict[str, Any]:
    """All runs of one recording: errors in metres, times, and how many files differ between 1 and 4 processes."""
    options = ["--quiet", "--set", "dense=false"]
    truth, found = read_tum(recording / "groundtruth.txt"), dict[str, Any]()
    for name, more in _RUNS.items():
        folder = out / name.replace(" ", "-")
        run = mapped(recording, folder, [*options, *more])
        summary = json.loads((folder / "summary.json").read_text())
        errors = trajectory_errors(truth, read_tum(folder / "trajectory.txt"))
        found[name] = {
            **run, "frames": summary["frames"], "tracked": summary["tracked"], "keyframes": summary["keyframes"],
            "ate_m": errors.ate,
        }  # fmt: skip
        print(recording.name, name, {key: value for key, value in found[name].items() if key != "said"}, flush=True)
    found["differ"] = sum(
        (out / "1-process" / name).read_bytes() != (out / "4-processes" / name).read_bytes() for name in _SAME
    )
    return found


def targets(case: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table."""
    whole, pieces = found["whole"], found["1 process"]
    ate, cost = pieces["ate_m"] / whole["ate_m"], pieces["processor_s"] / whole["processor_s"]
    errors = f"{100 * pieces['ate_m']:.2f} cm / {100 * whole['ate_m']:.2f} cm"
    return [
        target(f"{case}: files that differ, 1 and 4 processes", str(found["differ"]), "0", not found["differ"]),
        target(f"{case}: images with a pose", f"{pieces['tracked']} of {pieces['frames']}", "", None),
        target(f"{case}: trajectory error, pieces / one ({errors})", ate, f"<= {_ATE:g}", ate <= _ATE),
        target(f"{case}: processor time, pieces / one", cost, f"<= {_COST:g}", cost <= _COST),
    ]


@errors_said("pieces")
def main() -> int:
    """Exit code: 1 for a recording that could not be measured, else 0."""
    parser = case_options(__doc__, "pieces")
    parser.add_argument("--images", type=positive, default=3000, metavar="N", help="of the rendered walk")
    arguments = parser.parse_args()
    out, machine, rows, found = make_folder(arguments.out), Machine(), [], {}
    for case in chosen_cases(arguments.cases, ("kitchen", "walk")):
        recording = arguments.data / _KITCHEN if case == "kitchen" else walk(out, arguments.images)
        found[case] = measure(recording, make_folder(out / recording.name.replace("walk", "map")))
        rows += targets(case, found[case])
    about = machine.about()
    text = "\n".join([*target_lines(rows), "", f"Without depth, one thread a process. {where_and_when(about)}."])
    report = {**found, "targets": rows, "machine": about}
    leave(out / "pieces.json", report, text, arguments.page, (BEGIN, END))
    return 0


if __name__ == "__main__":
    sys.exit(main())
