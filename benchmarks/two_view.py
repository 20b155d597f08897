"""Pairs per second of the backend two_view, compared with a chain of OpenCV on the same pairs in the same run.

    python benchmarks/two_view.py [--pairs 60] [--out results/two_view.json]

Baseline "opencv": DIS flow both ways, consistency check, fundamental matrix, essential matrix and pose,
``cv2.triangulatePoints`` of the consistent pixels, as one would write it without this package.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from targets import leave  # noqa: E402

from dust3r_ros.backends.two_view import TwoViewBackend  # noqa: E402
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence  # noqa: E402
from dust3r_ros.types import View  # noqa: E402

_STEP, _NEIGHBOURS, _TARGET = 3, 3, 30.0


def pairs_of(sequence: RenderedSequence, count: int) -> list[tuple[int, int]]:
    """(older, newer) frames, paired as a mapper pairs keyframes."""
    frames = range(0, len(sequence.images), _STEP)
    pairs = [(new - _STEP * back, new) for new in frames for back in range(1, _NEIGHBOURS + 1)]
    return [(old, new) for old, new in pairs if old >= 0][:count]


def ours(sequence: RenderedSequence, pairs: list[tuple[int, int]], posed: bool) -> None:
    """The backend, with or without the poses that a mapper knows."""
    backend = TwoViewBackend()
    poses = dict(enumerate(sequence.w_T_c)) if posed else None
    for old, new in pairs:
        for index in (old, new):
            if not backend.has(index):
                backend.add(View(index, "camera", sequence.images[index]))
        backend.predict([(old, new)], {"camera": sequence.focal}, poses)
        backend.forget(new - _STEP * (_NEIGHBOURS + 1))


def opencv(sequence: RenderedSequence, pairs: list[tuple[int, int]]) -> None:
    """The baseline."""
    height, width = sequence.images[0].shape[:2]
    K = np.array([[sequence.focal, 0, (width - 1) / 2], [0, sequence.focal, (height - 1) / 2], [0, 0, 1.0]])
    v, u = np.mgrid[:height, :width].astype(np.float32)
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for old, new in pairs:
        a, b = (cv2.cvtColor(sequence.images[i], cv2.COLOR_RGB2GRAY) for i in (old, new))
        forth, back = flow.calc(a, b, None), flow.calc(b, a, None)
        there = forth + cv2.remap(back, u + forth[..., 0], v + forth[..., 1], cv2.INTER_LINEAR)
        good = np.hypot(there[..., 0], there[..., 1]) < 1.0
        at = np.stack([u[good], v[good]], axis=-1).astype(np.float64)
        to = at + forth[good]
        keep = np.linspace(0, len(at) - 1, min(2000, len(at))).astype(int)
        F, _ = cv2.findFundamentalMat(at[keep], to[keep], cv2.USAC_MAGSAC, 1.0, 0.999, 2000)
        _, R, t, _ = cv2.recoverPose(K.T @ F @ K, at[keep], to[keep], K)
        cv2.triangulatePoints(K @ np.eye(3, 4), K @ np.hstack([R, t]), at.T, to.T)


def rate(work: Callable[[], None], pairs: int, rounds: int = 3) -> float:
    """Pairs per second, the median of some rounds after a warm-up."""
    work()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return pairs / float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("results/two_view.json"))
    options = parser.parse_args()
    sequence = render_sequence("orbit", frames=_STEP * (options.pairs // _NEIGHBOURS + 3), width=320, height=240)
    pairs = pairs_of(sequence, options.pairs)
    baseline = rate(lambda: opencv(sequence, pairs), len(pairs))
    rows = {
        "opencv": baseline,
        "two_view, poses known": rate(lambda: ours(sequence, pairs, True), len(pairs)),
        "two_view, poses unknown": rate(lambda: ours(sequence, pairs, False), len(pairs)),
    }
    said = [f"{len(pairs)} pairs of 320x240, target for known poses {_TARGET:g} pairs/s"]
    said += [f"{name:26s} {value:6.1f} pairs/s  {value / baseline:5.2f} x opencv" for name, value in rows.items()]
    leave(options.out, {"pairs_per_second": rows, "target": _TARGET}, "\n".join(said))


if __name__ == "__main__":
    main()
