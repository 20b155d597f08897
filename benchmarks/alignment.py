"""Compares global alignment by `moments` with `gradient`, the published scheme, on the same pairs in the same run.

    python benchmarks/alignment.py [--sizes dev,6,10,16,24,10x512] [--out results/alignment.json]

Sizes: complete graphs with that many images at 160x120, or of the width after "x"; "dev" is the problem in
../shared/fixtures, which also has the result of the original program. Each method runs in its own process:
`gradient` once, with torch on two threads and a malloc that does not return memory (which makes it a third
faster); `moments` fifteen times, reporting the median. Memory is what a method needs besides its input.
Processor time is also given: on a busy machine it is more reliable than wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test/support"), str(Path(__file__).resolve().parent)]

from alignment_table import TARGETS, met, plot, table, targets  # noqa: E402
from pairs import PairProblem, errors, fixture_problem, pair_problem  # noqa: E402
from targets import errors_said, leave  # noqa: E402

from dust3r_ros.alignment import align  # noqa: E402
from dust3r_ros.errors import Dust3rRosError  # noqa: E402
from dust3r_ros.geometry.processes import memory_held  # noqa: E402

FIXTURES = ROOT / "../shared/fixtures"
SIZES = "dev,6,10,16,24,10x512"
RUNS = {"moments": 15, "gradient": 1}
BASELINE_MALLOC = (
    "glibc.malloc.mmap_threshold=4000000000:glibc.malloc.trim_threshold=8000000000:glibc.malloc.mmap_max=0"
)


def problem_of(size: str) -> PairProblem:
    """The problem of a given size; the same in every process."""
    if size == "dev":
        return fixture_problem(FIXTURES / "ga_dev.npz")
    images, _, width = size.partition("x")
    return pair_problem(int(images), int(width or 160))


def measure(method: str, size: str) -> dict[str, float]:
    """One method on one problem, in this process."""
    if method == "gradient":
        import torch

        torch.set_num_threads(2)
    problem = problem_of(size)
    before = memory_held()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    seconds, processor = [], []
    for _ in range(RUNS[method]):
        start, used = time.perf_counter(), time.process_time()
        result = align(problem.pairs, method=method)
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    peak = memory_held("VmHWM")
    return {
        "seconds": float(np.median(seconds)),
        "first_seconds": seconds[0],
        "cpu_seconds": float(np.median(processor)),
        "memory": peak - before,
        "input_memory": sum(
            array.nbytes
            for pair in problem.pairs
            for array in (pair.points_first, pair.points_second, pair.confidence_first, pair.confidence_second)
        ),
        "objective": result.objective,
        **asdict(errors(result, problem)),
    }


def run(method: str, size: str) -> dict[str, float]:
    """``measure`` in its own process."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    if method == "gradient":
        environment["GLIBC_TUNABLES"] = BASELINE_MALLOC
    command = [sys.executable, __file__, "--measure", method, size]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Dust3rRosError(f"{method} on {size} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(size: str) -> dict[str, Any]:
    """Both methods on one problem, and their ratios."""
    moments, gradient = run("moments", size), run("gradient", size)
    ratio = {name: moments[name] / max(gradient[name], 1e-300) for name in TARGETS if name != "speed"}
    ratio["speed"] = gradient["seconds"] / moments["seconds"]
    row: dict[str, Any] = {"size": size, "moments": moments, "gradient": gradient, "ratio": ratio}
    row["cpu_speed"] = gradient["cpu_seconds"] / moments["cpu_seconds"]
    reference = FIXTURES / "ga_dev_reference.json"
    if size == "dev" and reference.is_file():
        stored = json.loads(reference.read_text())
        original = {
            "seconds": stored["t_init"] + stored["t_opt"],
            "objective": stored["loss_final"],
            "ate": stored["final"]["ate_m"],
            "depth": stored["final"]["depth_absrel_mean"],
            "focal": stored["final"]["focal_err_pct_mean"] / 100,
        }
        row["original"] = original
        row["ratio_to_original"] = {
            name: moments[name] / original[name] for name in ("objective", "ate", "depth", "focal")
        }
        row["ratio_to_original"]["speed"] = original["seconds"] / moments["seconds"]
    return row


@errors_said("alignment")
def main() -> int:
    """Exit code: 0 when every target is met, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=SIZES, help=f"comma-separated, default {SIZES}")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "results/alignment.json", help="JSON file; a plot is written beside it"
    )
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return 0
    sizes = [size for size in options.sizes.split(",") if size != "dev" or (FIXTURES / "ga_dev.npz").is_file()]
    rows = []
    for size in sizes:
        rows.append(compare(size))
        print(table(rows[-1:]), flush=True)
    if not rows:
        print("alignment: error: no problem to run: ../shared/fixtures does not exist", file=sys.stderr)
        return 2
    leave(options.out, {"targets": targets(rows), "cores": os.cpu_count(), "rows": rows}, "\n" + table(rows))
    plot(rows, options.out.with_suffix(".png"))
    print(f"written: {options.out}, {options.out.with_suffix('.png')}")
    return int(not all(met(row, name) for row in rows for name in TARGETS))


if __name__ == "__main__":
    sys.exit(main())
