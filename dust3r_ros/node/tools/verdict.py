"""The demo's verdict: live poses, files written, and accuracy against ground truth."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.similarity import rms_apart
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.products.report import FILES as BESIDE_REPORT
from dust3r_ros.types import Array

if TYPE_CHECKING:
    from dust3r_ros.node.tools.recorder import Recorder


# Topic and stamp (ns) of an image, and of its pose.
Key = tuple[str, int]


@dataclass(frozen=True)
class Sent:
    """An image published at ``at`` (ns of the monotonic clock); ``recorded`` is its stamp in the recording (ns)."""

    key: Key
    recorded: int
    at: int


@dataclass(frozen=True, eq=False)
class Got:
    """A pose ``w_T_c`` (4, 4) received at ``at`` (ns of the monotonic clock)."""

    key: Key
    at: int
    w_T_c: Array


@dataclass(frozen=True)
class LiveTiming:
    """Timing of the poses as seen by a subscriber.

    ``share``: fraction of the images with a pose, from the first pose on. Latencies (ms) are from publishing the image
    to receiving the pose. ``gap``: longest time (s) without a new pose, including the end of the run. ``first``: time
    (s) to the first pose.
    """

    share: float
    p50_ms: float
    p95_ms: float
    max_ms: float
    gap: float
    first: float


def first_poses(got: Sequence[Got]) -> dict[Key, Got]:
    """The first pose of each image, in the order of arrival."""
    poses: dict[Key, Got] = {}
    for item in sorted(got, key=lambda item: item.at):
        poses.setdefault(item.key, item)
    return poses


def timing(sent: Sequence[Sent], got: Sequence[Got], begin_ns: int) -> LiveTiming | None:
    """Timing of images in the order sent; ``first`` counts from ``begin_ns``. None without any pose."""
    at = {item.key: item.at for item in sent}
    poses = {key: item for key, item in first_poses(got).items() if key in at}
    if not poses:
        return None
    p50, p95, most = np.percentile([1e-6 * (item.at - at[key]) for key, item in poses.items()], [50, 95, 100])
    since = min(stamp for _, stamp in poses)
    due = [key for key in at if key[1] >= since]
    times = [item.at for item in poses.values()]
    times.append(max(times[-1], sent[-1].at))  # poses that end before the images leave a gap
    return LiveTiming(
        share=sum(key in poses for key in due) / len(due),
        p50_ms=float(p50),
        p95_ms=float(p95),
        max_ms=float(most),
        gap=1e-9 * float(np.max(np.diff(times))),
        first=1e-9 * (times[0] - begin_ns),
    )


def silence(poses: Sequence[int], states: Sequence[tuple[int, str]], begin_ns: int, end_ns: int) -> float:
    """Longest time (s) for which the node reported tracking but gave no pose.

    ``poses``: their arrival times, ``states``: when each was reported (ns of the monotonic clock).
    """
    tracking, quiet_since, longest = True, begin_ns, 0
    for at, state in sorted([*((at, "") for at in poses), *states, (end_ns, "end")]):
        if at > end_ns:
            break
        if tracking and at > begin_ns:
            longest = max(longest, at - max(quiet_since, begin_ns))
        if state in ("", "end"):  # a pose restarts the count
            quiet_since = at
        elif state != "tracking":
            tracking = False
        elif not tracking:
            tracking, quiet_since = True, at
    return longest * 1e-9


# Figures of a node that keeps up with the camera; docs/live.md has more cases.
TARGET_SHARE_PERCENT, TARGET_P95_MS, TARGET_CAUSAL = 99.0, 33.0, 1.5
# Limits of the demo, loose enough for a busy machine. The error has none: before the focal length is known, live
# poses are several times less accurate than afterwards.
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
        """What is not good enough, a sentence each."""
        share, late = 100 * self.timing.share, self.timing.p95_ms
        judged = (
            (share < LEAST_SHARE_PERCENT, f"only {share:.0f} % of the images got a pose"),
            (late > MOST_P95_MS, f"poses arrived {late:.0f} ms after their images (p95)"),
            (self.causal > MOST_CAUSAL, f"live poses have {self.causal:.1f} times the error of the final trajectory"),
        )
        return [words for bad, words in judged if bad]

    def as_mapping(self) -> dict[str, Any]:
        """For the summary."""
        return {**asdict(self.timing), "error_m": self.error, "causal": self.causal}


def published(log: Path) -> list[Sent]:
    """The images in the player's log, in order."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [Sent((item["topic"], item["stamp"]), item["recorded"], item["published"]) for item in lines]


def received(recorder: Recorder, topic: str) -> list[Got]:
    """The received poses of the images on ``topic``."""
    from dust3r_ros.node.conversions import pose_matrix, stamp_to_ns

    heard = zip(recorder.all["pose"], recorder.times["pose"], strict=True)
    return [Got((topic, stamp_to_ns(item.header.stamp)), at, pose_matrix(item.pose.pose)) for item, at in heard]


def judge_live(sent: Sequence[Sent], got: Sequence[Got], out: Path) -> LiveScore | None:
    """Compare with truth.txt and the final trajectory.txt in ``out``; None for fewer than three comparable poses."""
    times = timing(sent, got, sent[0].at) if sent else None
    truth, final = (
        {item.stamp_ns: item.w_T_c[:3, 3] for item in read_tum(out / f"{name}.txt")} for name in ("truth", "trajectory")
    )
    came = {stamp: item.w_T_c[:3, 3] for (_, stamp), item in first_poses(got).items()}
    common = sorted(came.keys() & truth.keys() & final.keys())
    if times is None or len(common) < 3:
        return None
    right = np.stack([truth[stamp] for stamp in common])
    live, after = (rms_apart(np.stack([poses[stamp] for stamp in common]), right) for poses in (came, final))
    return LiveScore(times, live, live / max(after, 1e-9))


def report_live(score: LiveScore) -> None:
    """Print each figure with its target."""
    times, share = score.timing, 100 * score.timing.share
    missed = share < TARGET_SHARE_PERCENT, times.p95_ms > TARGET_P95_MS, score.causal > TARGET_CAUSAL
    met = ["missed" if over else "met" for over in missed]
    print("\nlive poses")
    for name, value in (
        ("share", f"{share:.1f} % of the images since the first pose (target {TARGET_SHARE_PERCENT:g} %: {met[0]})"),
        ("latency", f"p50 {times.p50_ms:.0f} ms, p95 {times.p95_ms:.0f} ms (target {TARGET_P95_MS:g} ms: {met[1]})"),
        ("first pose", f"{times.first:.1f} s after the first image; longest gap {times.gap:.2f} s"),
        (
            "error",
            f"{1000 * score.error:.1f} mm, {score.causal:.2f} times that of the final trajectory "
            f"(target {TARGET_CAUSAL:g}: {met[2]})",
        ),
    ):
        print(f"  {name:<12}{value}")
    if any(missed):
        print("  (targets are for two cores with nothing else to do; the final map is judged apart from them)")


ESTIMATE = "/camera/estimated/camera_info"
FILES = (*BESIDE_REPORT, "report.html")
TRAJECTORY_PERCENT = 2.0
FOCAL_PERCENT = 5.0


@dataclass(frozen=True)
class Score:
    """The result against ground truth: root mean square error (m) after a Sim3, path length (m), focals (px)."""

    error: float
    length: float
    matched: int
    focal: float
    true_focal: float

    @property
    def trajectory_percent(self) -> float:
        """Error in percent of the path length."""
        return 100 * self.error / self.length

    @property
    def focal_percent(self) -> float:
        """Error of the focal length in percent, signed."""
        return 100 * (self.focal / self.true_focal - 1)

    @property
    def good(self) -> bool:
        """Whether both errors are within their limits."""
        return self.trajectory_percent <= TRAJECTORY_PERCENT and abs(self.focal_percent) <= FOCAL_PERCENT


def judge(out: Path) -> Score:
    """Compare the results in ``out`` with the ground truth there; ``InputError`` if that is impossible."""
    summary = json.loads((out / "summary.json").read_text())
    truth = {item.stamp_ns: item.w_T_c[:3, 3] for item in read_tum(out / "truth.txt")}
    estimate = [item for item in read_tum(out / "trajectory.txt") if item.stamp_ns in truth]
    if len(estimate) < 3 or not summary["focal"]:
        raise InputError(f"'{out}/trajectory.txt' has {len(estimate)} poses of the sequence; at least 3 are needed")
    return Score(
        error=rms_apart([item.w_T_c[:3, 3] for item in estimate], [truth[item.stamp_ns] for item in estimate]),
        length=float(np.linalg.norm(np.diff(np.stack(list(truth.values())), axis=0), axis=1).sum()),
        matched=len(estimate),
        focal=float(next(iter(summary["focal"].values()))),
        true_focal=float(json.loads((out / "scene.json").read_text())["focal"]),
    )


def missing(recorder: Recorder, out: Path, size: tuple[int, int], frames: int | None) -> list[str]:
    """What is missing on the topics and in the folder, a sentence each; ``size``: the camera's (width, height),
    ``frames``: how many images the mapper must have got, None for any number.
    """
    last = recorder.last
    expected = {"map": "~/map", "camera_info": ESTIMATE, "pose": "~/pose", "tf": "/tf", "path": "~/path"}
    wrong = [f"nothing was received on {topic}" for key, topic in expected.items() if key not in last]
    wrong += [f"{name} was not written" for name in FILES if not (out / name).is_file()]
    if "map" in last and (last["map"].width < 1000 or last["map"].header.frame_id != "map"):
        wrong.append(f"the map has {last['map'].width} points in frame '{last['map'].header.frame_id}'")
    if "camera_info" in last and (last["camera_info"].width, last["camera_info"].height) != size:
        wrong.append(f"the estimated camera has {last['camera_info'].width}x{last['camera_info'].height} pixels")
    if frames is not None and last["status"].frames != frames:
        wrong.append(f"{last['status'].frames} of {frames} frames reached the mapper")
    return wrong


def report(recorder: Recorder, score: Score) -> None:
    """Print what was received and how accurate it is."""
    counts, last = recorder.counts, recorder.last
    status, info, pose = last["status"], last["camera_info"], last["pose"]
    position, transform = pose.pose.pose.position, last["tf"].transforms[0]
    print("\nreceived over DDS")
    rows = (
        ("map cloud", "map", f"{last['map'].width:,} points in frame '{last['map'].header.frame_id}'"),
        ("camera info", "camera_info", f"{info.width}x{info.height}, fx {info.k[0]:.1f} px"),
        ("pose", "pose", f"({position.x:.2f}, {position.y:.2f}, {position.z:.2f}) in frame '{pose.header.frame_id}'"),
        ("transforms", "tf", f"{transform.header.frame_id} -> {transform.child_frame_id}"),
        ("path", "path", f"{len(last['path'].poses)} poses"),
        ("status", "status", f"{status.state}, {status.keyframes} keyframes, {status.pairs} pairs"),
    )
    for name, key, content in rows:
        print(f"  {name:<12}{counts[key]:>5} x   last: {content}")
    print("\nagainst the ground truth")
    print(f"  trajectory  {score.trajectory_percent:.2f} % of {score.length:.2f} m (at most {TRAJECTORY_PERCENT:g} %)")
    print(
        f"  focal       {score.focal:.1f} px for {score.true_focal:.1f} px: {score.focal_percent:+.2f} %"
        f" (at most {FOCAL_PERCENT:g} %)"
    )
