"""Incremental alignment over a long rendered run with loops: cost and memory per keyframe, accuracy, wrong loops.

    python benchmarks/incremental.py [--keyframes 1000] [--out results]

Keyframes of a corridor walked in laps, 256 x 192 pointmaps with the errors of a network; making them
is not counted. The same run again with wrong loop pairs among the right ones, and a batch solution of
the same stored moments. Writes incremental.json and incremental.png.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from lap_world import HEIGHT, WIDTH, LapWorld  # noqa: E402

from dust3r_ros.alignment.incremental import IncrementalAligner  # noqa: E402
from dust3r_ros.alignment.keyframe_start import rigid  # noqa: E402
from dust3r_ros.alignment.moments import DOF, closed_form, inverse  # noqa: E402
from dust3r_ros.alignment.similarity_graph import SimilarityGraph  # noqa: E402
from dust3r_ros.geometry.similarity import weighted_similarity  # noqa: E402
from dust3r_ros.io.files import atomic_path, make_folder, write_text  # noqa: E402
from dust3r_ros.types import Array  # noqa: E402

NEIGHBOURS = 3
WRONG_SHARE = 0.3  # of the loop pairs
_PART = 100  # keyframes over which a percentile is taken


@dataclass
class Run:
    """What one run left: per keyframe wall and processor milliseconds, MiB of the aligner and of the process."""

    aligner: IncrementalAligner = field(default_factory=IncrementalAligner)
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    aligner_mib: list[float] = field(default_factory=list)
    process_mib: list[float] = field(default_factory=list)
    solved: list[int] = field(default_factory=list)
    wrong: set[tuple[int, int]] = field(default_factory=set)
    right: set[tuple[int, int]] = field(default_factory=set)
    refused: set[tuple[int, int]] = field(default_factory=set)
    live_ate: float = np.nan
    finish_ms: float = np.nan


def run(world: LapWorld, wrong_share: float, title: str) -> Run:
    """All keyframes of ``world`` one by one, with pairs to those before and to what retrieval finds."""
    result, rng = Run(), np.random.default_rng(1)
    for index in range(len(world.w_T_c)):
        pairs = world.predict([p for old in range(max(0, index - NEIGHBOURS), index) for p in both(old, index)])
        old = world.loop_candidate(index)
        loops = [] if old is None else world.predict(both(old, index))
        result.right |= {(pair.first, pair.second) for pair in loops}
        if old is not None and rng.uniform() < wrong_share / (1 - wrong_share):
            mistaken = world.mistake(index, int(rng.integers(index - 20)))
            result.wrong |= {(pair.first, pair.second) for pair in mistaken} - result.right
            loops += [pair for pair in mistaken if (pair.first, pair.second) in result.wrong]
        wall, cpu = time.perf_counter(), time.process_time()
        update = result.aligner.add("camera", HEIGHT, WIDTH, pairs, loops)
        result.aligner.depth(index)  # as a tracker needs it
        result.cpu_ms.append(1e3 * (time.process_time() - cpu))
        result.wall_ms.append(1e3 * (time.perf_counter() - wall))
        result.aligner_mib.append(result.aligner.nbytes / 2**20)
        result.process_mib.append(resident_mib())
        result.solved += [index] * update.solved
        result.refused |= {(edge.first, edge.second) for edge in update.switched_off}
        if index % 100 == 99:
            print(f"{title}: {index + 1} keyframes, {np.median(result.wall_ms[-100:]):.1f} ms", file=sys.stderr)
    result.live_ate = ate(result.aligner.poses, world)
    start = time.perf_counter()
    update = result.aligner.finish()
    result.finish_ms = 1e3 * (time.perf_counter() - start)
    result.refused |= {(edge.first, edge.second) for edge in update.switched_off}
    return result


def both(old: int, new: int) -> list[tuple[int, int]]:
    """Both orders of a pair."""
    return [(old, new), (new, old)]


def ate(w_T_c: Array, world: LapWorld) -> float:
    """Root mean square distance in metres after the best similarity."""
    found, true = w_T_c[:, :3, 3], world.w_T_c[: len(w_T_c), :3, 3]
    away = weighted_similarity(found, true).apply(found) - true
    return float(np.sqrt(np.mean(np.sum(away**2, axis=1))))


def batch(aligner: IncrementalAligner) -> tuple[Array, float]:
    """(poses, seconds) of a solution from scratch of the same edges: a chain of closed forms, then all at once."""
    start, edges = time.perf_counter(), aligner.map.edges
    numbers = np.flatnonzero(edges.on)
    first, second, M = edges.first[numbers], edges.second[numbers], edges.moments(numbers)
    S = np.tile(np.eye(4), (len(aligner), 1, 1))
    S[0] = aligner.map.similarities[0]
    at = {(int(i), int(j)): edge for edge, (i, j) in enumerate(zip(first, second, strict=True))}
    for index in range(1, len(S)):
        S[index] = S[index - 1] @ inverse(closed_form(M[at[index - 1, index]])[0])
    free = np.ones((len(S), DOF), dtype=bool)
    free[0] = False
    graph = SimilarityGraph(first, second, M, free)
    with np.errstate(all="ignore"):  # the first steps from a start this far off may overflow; they are not taken
        for _ in range(40):
            before, S = S, graph.solve(S, iterations=50).S
            if np.abs(S[:, :3, 3] - before[:, :3, 3]).max() < 1e-4:
                break
    return rigid(S), time.perf_counter() - start


def resident_mib() -> float:
    """Memory of this process; the peak where the system does not tell the present."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def percentile(values: list[float], end: int, q: float) -> float:
    """Of the keyframes around ``end``, or the last before it at the end of the run."""
    low = max(0, min(end - _PART // 2, len(values) - _PART))
    return float(np.percentile(values[low : low + _PART], q))


def figures(world: LapWorld, clean: Run, dirty: Run) -> list[dict[str, Any]]:
    """The rows of the table: what, value, limit, unit."""
    late, early = percentile(clean.wall_ms, len(clean.wall_ms), 95), percentile(clean.wall_ms, 100, 95)
    late_cpu, early_cpu = percentile(clean.cpu_ms, len(clean.cpu_ms), 95), percentile(clean.cpu_ms, 100, 95)
    after, wrong_after = ate(clean.aligner.poses, world), ate(dirty.aligner.poses, world)
    poses, seconds = batch(clean.aligner)
    apart = clean.aligner.poses[:, :3, 3] - poses[:, :3, 3]
    believed = {(int(i), int(j)) for i, j in dirty.aligner.map.edges.ends_on()}
    start = min(20, len(clean.process_mib) - 1)
    rows = [
        ("time per keyframe, p50", percentile(clean.wall_ms, len(clean.wall_ms), 50), None, "ms"),
        ("time per keyframe, p95", late, 50.0, "ms"),
        ("same, processor time", late_cpu, 50.0, "ms"),
        ("time per keyframe, max (whole graph)", max(clean.wall_ms), None, "ms"),
        ("finish: whole graph until nothing moves", clean.finish_ms, None, "ms"),
        ("p95 at the end / at keyframe 100", late / early, 1.2, "x"),
        ("same, processor time", late_cpu / early_cpu, 1.2, "x"),
        ("memory of the aligner's arrays", max(clean.aligner_mib), 1024.0, "MiB"),
        ("growth of the process since keyframe 20", max(clean.process_mib) - clean.process_mib[start], 1024.0, "MiB"),
        ("ATE / path, live", 100 * clean.live_ate / world.path, 0.5, "%"),
        ("ATE / path, finished", 100 * after / world.path, 0.5, "%"),
        ("difference of ATE to batch solution", 100 * abs(after / ate(poses, world) - 1), 1.0, "%"),
        (
            "distance to batch solution / ATE",
            100 * float(np.sqrt(np.mean(np.sum(apart**2, axis=1)))) / after,
            None,
            "%",
        ),
        ("batch solution", 1e3 * seconds, None, "ms"),
        ("ATE with wrong loops / without", wrong_after / after, 1.1, "x"),
        ("wrong loop pairs in the map", float(len(believed & dirty.wrong)), 0.0, f"of {len(dirty.wrong)}"),
        ("right loop pairs left out", float(len(dirty.right - believed)), None, f"of {len(dirty.right)}"),
        ("same without wrong ones", float(len(clean.right & clean.refused)), None, f"of {len(clean.right)}"),
    ]
    return [dict(zip(("what", "value", "limit", "unit"), row, strict=True)) for row in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown with the target beside each figure."""
    lines = ["| what | measured | target | |", "| --- | --- | --- | --- |"]
    for row in rows:
        limit = row["limit"]
        verdict = "" if limit is None else "met" if row["value"] <= limit else "MISSED"
        target = "" if limit is None else f"<= {limit:g}"
        lines.append(f"| {row['what']} | {row['value']:.3g} {row['unit']} | {target} | {verdict} |")
    return "\n".join(lines)


def plot(path: Path, clean: Run, dirty: Run) -> None:
    """Time and memory over the run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 7), sharex=True)
    for result, name in ((clean, "right loops only"), (dirty, f"{WRONG_SHARE:.0%} wrong loops")):
        starts = range(0, max(1, len(result.wall_ms) - 24), 25)
        for q, style in ((50, "-"), (95, "--"), (100, ":")):
            curve = [np.percentile(result.wall_ms[s : s + 50], q) for s in starts]
            color = "C0" if result is clean else "C1"
            above.plot(list(starts), curve, style, color=color, label=f"{name}, {'max' if q == 100 else f'p{q}'}")
    above.axhline(50.0, color="gray", linewidth=0.8)
    above.set(ylabel="ms per keyframe", yscale="log")
    above.legend(fontsize=7, ncols=2)
    below.plot(clean.aligner_mib, label="aligner's arrays")
    below.plot(np.array(clean.process_mib) - clean.process_mib[0], label="process, since the first keyframe")
    below.set(xlabel="keyframe", ylabel="MiB")
    below.legend(fontsize=7)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


def main() -> int:
    """Exit code 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keyframes", type=int, default=1000, help="length of the run, at least 120")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of incremental.json and .png")
    options = parser.parse_args()
    if options.keyframes < 120:
        parser.error(f"--keyframes is {options.keyframes}; a run with loops needs at least 120")
    world = LapWorld(options.keyframes)
    world.render_all()  # before memory and time are looked at
    clean, dirty = run(world, 0.0, "right loops"), run(world, WRONG_SHARE, "wrong loops")
    rows = figures(world, clean, dirty)
    size = f"{options.keyframes} keyframes of {WIDTH}x{HEIGHT}, {world.path:.0f} m"
    print(f"{size}, {os.cpu_count()} cores\n\n{table(rows)}")
    curves = {
        name: {
            key: np.round(getattr(result, key), 3).tolist()
            for key in ("wall_ms", "cpu_ms", "aligner_mib", "process_mib")
        }
        for name, result in (("clean", clean), ("wrong", dirty))
    }
    make_folder(options.out)
    facts = {"keyframes": options.keyframes, "path_m": world.path, "rows": rows, "solved_at": clean.solved}
    write_text(options.out / "incremental.json", json.dumps(facts | {"curves": curves}, indent=1) + "\n")
    plot(options.out / "incremental.png", clean, dirty)
    return int(any(row["limit"] is not None and not row["value"] <= row["limit"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
