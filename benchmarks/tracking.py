"""Frames per second of tracking between keyframes at 640 x 480, beside plain OpenCV on the same frames.

    python benchmarks/tracking.py [--data DIR] [--frames 200] [--out results/tracking.json]

Frames: the 30 Hz sequence in --data where there is one, else a rendered walk. Ours: the mapper's
stage "track" (corners followed, pose with covariance) over frames that are tracked and become no
keyframe. Baseline "opencv": 500 corners of the last keyframe followed from frame to frame by
pyramidal Lucas-Kanade, forth and back, and solvePnPRansac against their points in the map; the same
keyframes, focal and depth.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dust3r_ros.evaluation.depth import resample  # noqa: E402
from dust3r_ros.geometry.pinhole import center_of, rays  # noqa: E402
from dust3r_ros.io.files import make_folder, write_text  # noqa: E402
from dust3r_ros.io.frames import open_source  # noqa: E402
from dust3r_ros.mapper import Mapper  # noqa: E402
from dust3r_ros.scenes.sequence import render_sequence  # noqa: E402
from dust3r_ros.types import Image, Keyframe, TrackingState  # noqa: E402

_SEQUENCE, _TARGET, _CORNERS = "7scenes_redkitchen_30hz", 60.0, 500


@dataclass
class FrameTimer:
    """A stage timer that keeps the seconds per stage of the frame at hand."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - start


def load(data: Path, count: int) -> tuple[str, list[tuple[int, Image]]]:
    """Name and frames (stamp, RGB 480 x 640)."""
    if (data / _SEQUENCE).is_dir():
        return _SEQUENCE, [(frame.stamp_ns, frame.image) for frame in islice(open_source(data / _SEQUENCE), count)]
    sequence = render_sequence("orbit", count, 640, 480, rate_hz=30.0, supersample=1)
    return "rendered orbit", list(zip(sequence.stamps_ns.tolist(), sequence.images, strict=True))


def ours(frames: list[tuple[int, Image]]) -> tuple[Mapper, list[float], list[float]]:
    """The mapper, seconds of stage "track" and of the whole call for frames between keyframes."""
    timer = FrameTimer()
    mapper = Mapper(stage=timer)
    track, whole = [], []
    for stamp, image in frames:
        timer.seconds.clear()
        start = perf_counter()
        update = mapper.process(stamp, "camera", image)
        if update.state is TrackingState.TRACKING and update.keyframe is None:
            whole.append(perf_counter() - start)
            track.append(timer.seconds["track"])
    return mapper, track, whole


def opencv(frames: list[tuple[int, Image]], mapper: Mapper) -> list[float]:
    """The baseline, seconds per frame between keyframes."""
    keyframes = {keyframe.stamp_ns: keyframe for keyframe in mapper.keyframes if (keyframe.depth > 0).any()}
    focal = mapper.cameras["camera"].focal
    K = np.diag([focal, focal, 1.0])
    height, width = frames[0][1].shape[:2]
    K[:2, 2] = center_of(height, width)
    seconds: list[float] = []
    before = corners = points = None
    for stamp, image in frames:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if stamp in keyframes:
            corners, points = _corners(gray, keyframes[stamp], focal)
        elif before is not None and corners is not None and points is not None and len(corners) >= 20:
            start = perf_counter()
            forth, found, _ = cv2.calcOpticalFlowPyrLK(before, gray, corners, None)
            back, found_back, _ = cv2.calcOpticalFlowPyrLK(gray, before, forth, None)
            near = np.linalg.norm((back - corners).reshape(-1, 2), axis=1) < 0.7
            keep = (found.ravel() == 1) & (found_back.ravel() == 1) & near
            corners, points = forth[keep], points[keep]
            known = points[:, 2] > 0
            if known.sum() >= 6:
                cv2.solvePnPRansac(points[known], corners[known], K, None, reprojectionError=3.0)
            seconds.append(perf_counter() - start)
        before = gray
    return seconds


def _corners(gray: Image, keyframe: Keyframe, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """Corners (N, 1, 2) float32 and their points (N, 3) in the keyframe, z = 0 where it has no depth."""
    corners = cv2.goodFeaturesToTrack(gray, _CORNERS, 0.003, 9)
    at = np.rint(corners.reshape(-1, 2)).astype(int)
    z = resample(keyframe.depth, *gray.shape)[at[:, 1], at[:, 0]].astype(np.float64)
    directions = rays(corners.reshape(-1, 2).astype(np.float64), focal, center_of(*gray.shape))
    return corners, directions * z[:, None]


def summary(seconds: list[float]) -> dict[str, float]:
    """Frames per second over all, latency of most and of the slow ones."""
    p50, p95 = (1e3 * float(np.percentile(seconds, share)) for share in (50, 95))
    return {"frames": len(seconds), "fps": len(seconds) / sum(seconds), "p50_ms": p50, "p95_ms": p95}


def main() -> int:
    """Exit code: 0 measured, 1 when no frame was tracked between keyframes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2, help="threads OpenCV may use")
    parser.add_argument("--out", type=Path, default=ROOT / "results/tracking.json")
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    name, frames = load(options.data, options.frames)
    mapper, track, whole = ours(frames)
    baseline = opencv(frames, mapper)
    if not track or not baseline:
        print(f"tracking: no frame of {len(frames)} was tracked between keyframes", file=sys.stderr)
        return 1
    height, width = frames[0][1].shape[:2]
    rows = {"track": summary(track), "whole call": summary(whole), "opencv": summary(baseline)}
    print(f"{name}, {len(frames)} frames of {width}x{height}, {len(mapper.keyframes)} keyframes, "
          f"{options.threads} threads, target {_TARGET:g} frames/s for 'track'")  # fmt: skip
    for row, found in rows.items():
        ratio = found["fps"] / rows["opencv"]["fps"]
        print(f"{row:11s} {found['fps']:7.1f} frames/s  p50 {found['p50_ms']:6.2f} ms  p95 {found['p95_ms']:6.2f} ms"
              f"  {ratio:5.2f} x opencv  ({found['frames']} frames)")  # fmt: skip
    verdict = rows["track"]["fps"] >= _TARGET
    print(f"target {'met' if verdict else 'missed'}")
    about = {"sequence": name, "cores": os.cpu_count(), "threads": options.threads, "target_fps": _TARGET}
    make_folder(options.out.parent)
    write_text(options.out, json.dumps(about | {"met": verdict, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
