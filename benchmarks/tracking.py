"""Frames per second of tracking between keyframes at 640 x 480, compared with plain OpenCV on the same frames.

    python benchmarks/tracking.py [--data DIR] [--frames 200] [--out results/tracking.json]

Frames: the 30 Hz sequence in --data if there is one, else a rendered walk. Ours: the mapper's stage
"track" (corner tracking, pose with covariance) over frames that do not become keyframes. Baseline
"opencv": 500 corners of the last keyframe tracked from frame to frame by pyramidal Lucas-Kanade,
forwards and backwards, and solvePnPRansac against their points in the map, with the same keyframes,
focal length and depth.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from targets import Machine, leave, target  # noqa: E402

from dust3r_ros.geometry.pinhole import center_of, rays  # noqa: E402
from dust3r_ros.io.files import atomic_path  # noqa: E402
from dust3r_ros.io.image_sources import open_source  # noqa: E402
from dust3r_ros.mapping.mapper import Mapper  # noqa: E402
from dust3r_ros.scenes.sequence import render_sequence  # noqa: E402
from dust3r_ros.timing import Stopwatch  # noqa: E402
from dust3r_ros.types import Image, Keyframe, TrackingState  # noqa: E402

_SEQUENCE, _TARGET, _CORNERS = "7scenes_redkitchen_30hz", 60.0, 500


def load(data: Path, count: int) -> tuple[str, list[tuple[int, Image]]]:
    """Name and frames (stamp, RGB 480 x 640)."""
    if (data / _SEQUENCE).is_dir():
        return _SEQUENCE, [(frame.stamp_ns, frame.image) for frame in islice(open_source(data / _SEQUENCE), count)]
    sequence = render_sequence("orbit", count, 640, 480, rate_hz=30.0, supersample=1)
    return "rendered orbit", list(zip(sequence.stamps_ns.tolist(), sequence.images, strict=True))


def ours(frames: list[tuple[int, Image]]) -> tuple[Mapper, list[float], list[float]]:
    """The mapper, seconds of stage "track" and of the whole call for frames between keyframes."""
    watch = Stopwatch()
    mapper = Mapper(stage=watch)
    track, whole = [], []
    for stamp, image in frames:
        before, start = watch.total("track"), perf_counter()
        update = mapper.process(stamp, "camera", image)
        if update.state is TrackingState.TRACKING and update.keyframe is None:
            whole.append(perf_counter() - start)
            track.append(watch.total("track") - before)
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
    depth = cv2.resize(keyframe.depth, gray.shape[::-1], interpolation=cv2.INTER_NEAREST)
    z = depth[at[:, 1], at[:, 0]].astype(np.float64)
    directions = rays(corners.reshape(-1, 2).astype(np.float64), focal, center_of(*gray.shape))
    return corners, directions * z[:, None]


def summary(seconds: list[float]) -> dict[str, float]:
    """Frames per second over all frames, and latency percentiles."""
    p50, p95 = (1e3 * float(np.percentile(seconds, share)) for share in (50, 95))
    return {"frames": len(seconds), "fps": len(seconds) / sum(seconds), "p50_ms": p50, "p95_ms": p95}


def targets(rows: dict[str, dict[str, float]]) -> list[dict[str, object]]:
    """Rows of the common table: the stage, and the mapper's whole call for a tracked frame."""
    notes = {row: f"{found['fps'] / rows['opencv']['fps']:.2f} x plain OpenCV on the same frames; "
                  f"p95 {found['p95_ms']:.1f} ms" for row, found in rows.items()}  # fmt: skip
    return [
        target(name, rows[row]["fps"], f">= {_TARGET:g}", rows[row]["fps"] >= _TARGET, notes[row], "frames/s")
        for row, name in (("track", "stage `track`"), ("whole call", "whole call for a tracked frame"))
    ]


def table(rows: dict[str, dict[str, float]]) -> str:
    """A line per row, with its ratio to the baseline."""
    return "\n".join(
        f"{row:11s} {found['fps']:7.1f} frames/s  p50 {found['p50_ms']:6.2f} ms  p95 {found['p95_ms']:6.2f} ms"
        f"  {found['fps'] / rows['opencv']['fps']:5.2f} x opencv  ({found['frames']} frames)"
        for row, found in rows.items()
    )


def plot(path: Path, seconds: dict[str, list[float]]) -> None:
    """Cumulative distribution of the time per frame."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, values in seconds.items():
        axes.step(1e3 * np.sort(values), 100 * np.arange(1, len(values) + 1) / len(values), label=name)
    axes.axvline(1e3 / _TARGET, color="gray", linewidth=0.8)
    axes.set(xlabel="ms per frame between keyframes", ylabel="% of frames, at most", xscale="log")
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


def main() -> int:
    """Exit code: 0 measured, 1 when no frame was tracked between keyframes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2, help="threads OpenCV may use")
    parser.add_argument("--out", type=Path, default=ROOT / "results/tracking.json", help="JSON file; a plot beside it")
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    machine, (name, frames) = Machine(), load(options.data, options.frames)
    mapper, track, whole = ours(frames)
    seconds = {"track": track, "whole call": whole, "opencv": opencv(frames, mapper)}
    if not all(seconds.values()):
        print(f"tracking: no frame of {len(frames)} was tracked between keyframes", file=sys.stderr)
        return 1
    height, width = frames[0][1].shape[:2]
    rows = {row: summary(values) for row, values in seconds.items()}
    judged = targets(rows)
    said = [
        f"{name}, {len(frames)} frames of {width}x{height}, {len(mapper.keyframes)} keyframes, "
        f"{options.threads} threads, target {_TARGET:g} frames/s\n{table(rows)}",
        *(f"{row['name']}: {'met' if row['met'] else 'missed'}" for row in judged),
    ]
    facts = {"sequence": name, "threads": options.threads, "target_fps": _TARGET, "rows": rows}
    leave(options.out, facts | {"targets": judged, "about": machine.about()}, "\n".join(said))
    plot(options.out.with_suffix(".png"), seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
