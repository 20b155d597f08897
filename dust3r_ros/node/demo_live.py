"""Whether the demo's poses came live: how many images got one, how late, how far from the truth when they came."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dust3r_ros.geometry.similarity import weighted_similarity
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.node.live_poses import Got, LiveTiming, Sent, first_poses, timing
from dust3r_ros.types import Array

if TYPE_CHECKING:
    from dust3r_ros.node.recorder import Recorder

# What a node that keeps up with the camera reaches; the docs' page of live mapping has the same for more cases.
TARGET_SHARE_PERCENT, TARGET_P95_MS, TARGET_CAUSAL = 99.0, 33.0, 1.5
# What the demo fails at, on a machine that has other things to do as well. The error is not judged: before the focal
# length is known, poses as they come are several times as far off as afterwards.
LEAST_SHARE_PERCENT, MOST_P95_MS, MOST_CAUSAL = 60.0, 250.0, math.inf


@dataclass(frozen=True)
class LiveScore:
    """Timing of the poses as published, and their root mean square error (m) after one similarity.

    ``causal`` is that error as a multiple of the final trajectory's, over the same images.
    """

    timing: LiveTiming
    error: float
    causal: float

    @property
    def wrong(self) -> list[str]:
        """What is not good enough, in sentences."""
        share, late = 100 * self.timing.share, self.timing.p95_ms
        judged = (
            (share < LEAST_SHARE_PERCENT, f"only {share:.0f} % of the images got a pose"),
            (late > MOST_P95_MS, f"poses came {late:.0f} ms after their images (p95)"),
            (self.causal > MOST_CAUSAL, f"poses as they came are off {self.causal:.1f} times the final trajectory"),
        )
        return [words for bad, words in judged if bad]

    def as_mapping(self) -> dict[str, Any]:
        """For the summary."""
        return {**asdict(self.timing), "error_m": self.error, "causal": self.causal}


def published(log: Path) -> list[Sent]:
    """The images that the player says it published, in order."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [Sent((item["topic"], item["stamp"]), item["stamp"], item["published"]) for item in lines]


def received(recorder: Recorder, topic: str) -> list[Got]:
    """The poses that came, of the images on ``topic``."""
    from dust3r_ros.node.conversions import pose_matrix, stamp_to_ns

    heard = zip(recorder.all["pose"], recorder.times["pose"], strict=True)
    return [Got((topic, stamp_to_ns(item.header.stamp)), at, pose_matrix(item.pose.pose)) for item, at in heard]


def judge_live(sent: Sequence[Sent], got: Sequence[Got], out: Path) -> LiveScore | None:
    """Against truth.txt and the final trajectory.txt in ``out``; None for fewer than three poses to compare."""
    times = timing(sent, got, sent[0].at) if sent else None
    truth, final = (
        {item.stamp_ns: item.w_T_c[:3, 3] for item in read_tum(out / f"{name}.txt")} for name in ("truth", "trajectory")
    )
    came = {stamp: item.w_T_c[:3, 3] for (_, stamp), item in first_poses(got).items()}
    common = sorted(came.keys() & truth.keys() & final.keys())
    if times is None or len(common) < 3:
        return None
    right = np.stack([truth[stamp] for stamp in common])
    live, after = (_error(np.stack([poses[stamp] for stamp in common]), right) for poses in (came, final))
    return LiveScore(times, live, live / max(after, 1e-9))


def _error(found: Array, right: Array) -> float:
    """Root mean square distance of positions (N, 3) after a similarity."""
    residuals = weighted_similarity(found, right).apply(found) - right
    return float(np.sqrt(np.mean(np.sum(residuals**2, axis=1))))


def report_live(score: LiveScore) -> None:
    """On the terminal, each figure with its target."""
    times = score.timing
    print("\nlive, as the poses came")
    for name, value in (
        ("share", f"{100 * times.share:.1f} % of the images since the first pose (target {TARGET_SHARE_PERCENT:g} %)"),
        ("latency", f"p50 {times.p50_ms:.0f} ms, p95 {times.p95_ms:.0f} ms (target {TARGET_P95_MS:g} ms)"),
        ("first pose", f"{times.first:.1f} s after the first image; longest gap {times.gap:.2f} s"),
        ("error", f"{score.causal:.2f} times that of the final trajectory (target {TARGET_CAUSAL:g})"),
    ):
        print(f"  {name:<12}{value}")
