"""Incremental alignment over a long rendered run with loops: cost and memory per keyframe, accuracy, wrong loops.

    python benchmarks/incremental.py [--keyframes 1000] [--out results]

Keyframes of a corridor walked in laps, with 256 x 192 pointmaps and simulated network errors, which are
made outside the measured time. The run is repeated with wrong loop pairs among the right ones, and compared
with a batch solution of the same moments. Wall-clock time is judged; processor time, which depends less
on other programs, is also given. Writes incremental.json and incremental.png.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from incremental_report import Accuracy, figures, plot, table  # noqa: E402
from lap_world import HEIGHT, WIDTH, LapWorld  # noqa: E402
from targets import Machine, leave  # noqa: E402

from dust3r_ros.alignment.moments import DOF, closed_form, inverse  # noqa: E402
from dust3r_ros.alignment.online.incremental import IncrementalAligner  # noqa: E402
from dust3r_ros.alignment.online.keyframe_start import rigid  # noqa: E402
from dust3r_ros.alignment.similarity_graph import SimilarityGraph  # noqa: E402
from dust3r_ros.geometry.processes import memory_held  # noqa: E402
from dust3r_ros.geometry.similarity import rms_apart, weighted_similarity  # noqa: E402
from dust3r_ros.types import Array  # noqa: E402

NEIGHBOURS = 3
WRONG_SHARE = 0.3  # of the loop pairs


@dataclass
class Run:
    """Results of one run, per keyframe: wall and processor milliseconds, MiB of the aligner and of the process."""

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
    """All keyframes of ``world`` one by one, with pairs to the previous ones and to those found by retrieval."""
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
        result.process_mib.append(memory_held() / 2**20)
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
    return rms_apart(w_T_c[:, :3, 3], world.w_T_c[: len(w_T_c), :3, 3])


def batch(aligner: IncrementalAligner) -> tuple[Array, float]:
    """(poses, seconds) of solving the same edges from scratch: a chain of closed forms, then all at once."""
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
    with np.errstate(all="ignore"):  # the first steps from such a distant start may overflow; they are rejected
        for _ in range(40):
            before, S = S, graph.solve(S, iterations=50).S
            if np.abs(S[:, :3, 3] - before[:, :3, 3]).max() < 1e-4:
                break
    return rigid(S), time.perf_counter() - start


def accuracy(world: LapWorld, clean: Run, dirty: Run) -> Accuracy:
    """Accuracy of both runs, and of a batch solution of the first, against the ground truth."""
    found = clean.aligner.poses
    poses, seconds = batch(clean.aligner)
    scale = weighted_similarity(found[:, :3, 3], world.w_T_c[:, :3, 3]).scale
    apart = scale * float(np.sqrt(np.mean(np.sum((found[:, :3, 3] - poses[:, :3, 3]) ** 2, axis=1))))
    wrong = ate(dirty.aligner.poses, world)
    return Accuracy(world.path, clean.live_ate, ate(found, world), wrong, ate(poses, world), apart, seconds)


def main() -> int:
    """Exit code 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keyframes", type=int, default=1000, help="number of keyframes, at least 120")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of incremental.json and .png")
    options = parser.parse_args()
    if options.keyframes < 120:
        parser.error(f"--keyframes is {options.keyframes}; a run with loops needs at least 120")
    machine, world = Machine(), LapWorld(options.keyframes)
    world.render_all()  # before memory and time are measured
    clean, dirty = run(world, 0.0, "right loops"), run(world, WRONG_SHARE, "wrong loops")
    rows = figures(clean, dirty, accuracy(world, clean, dirty))
    size = f"{options.keyframes} keyframes of {WIDTH}x{HEIGHT}, {world.path:.0f} m"
    curves = {
        name: {
            key: np.round(getattr(result, key), 3).tolist()
            for key in ("wall_ms", "cpu_ms", "aligner_mib", "process_mib")
        }
        for name, result in (("clean", clean), ("wrong", dirty))
    }
    targets = [row.target for row in rows if row.limit is not None]
    facts = {"keyframes": options.keyframes, "path_m": world.path, "solved_at": clean.solved, "targets": targets}
    facts |= {"about": machine.about(), "rows": [asdict(row) for row in rows]}
    said = f"{size}, {os.cpu_count()} cores\n\n{table(rows)}"
    leave(options.out / "incremental.json", facts | {"curves": curves}, said)
    plot(options.out / "incremental.png", clean, dirty)
    return int(any(row["met"] is False for row in targets))


if __name__ == "__main__":
    sys.exit(main())
