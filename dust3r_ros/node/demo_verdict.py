"""Whether the demo did what it should: what was received, what was written, how near it is to the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.similarity import weighted_similarity
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.node.demo_scene import Scene

if TYPE_CHECKING:
    from dust3r_ros.node.recorder import Recorder

ESTIMATE = "/camera/estimated/camera_info"
FILES = (
    "trajectory.txt",
    "keyframes.txt",
    "map.ply",
    "cameras.yaml",
    "map.db",
    "summary.json",
    "preview.png",
    "report.html",
)
TRAJECTORY_PERCENT = 2.0
FOCAL_PERCENT = 5.0


@dataclass(frozen=True)
class Score:
    """The result against the truth: root mean square error (m) after a Sim3, length of the path (m), focals (px)."""

    error: float
    length: float
    matched: int
    focal: float
    true_focal: float

    @property
    def trajectory_percent(self) -> float:
        """Error in percent of the path's length."""
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
    """The files in ``out`` against the truth there; ``InputError`` when they cannot be compared."""
    summary = json.loads((out / "summary.json").read_text())
    truth = {item.stamp_ns: item.w_T_c[:3, 3] for item in read_tum(out / "truth.txt")}
    estimate = [item for item in read_tum(out / "trajectory.txt") if item.stamp_ns in truth]
    if len(estimate) < 3 or not summary["focal"]:
        raise InputError(f"'{out}/trajectory.txt' has {len(estimate)} poses of the sequence; 3 are needed to compare")
    found = np.stack([item.w_T_c[:3, 3] for item in estimate])
    right = np.stack([truth[item.stamp_ns] for item in estimate])
    residuals = weighted_similarity(found, right).apply(found) - right
    return Score(
        error=float(np.sqrt(np.mean(np.sum(residuals**2, axis=1)))),
        length=float(np.linalg.norm(np.diff(np.stack(list(truth.values())), axis=0), axis=1).sum()),
        matched=len(estimate),
        focal=float(next(iter(summary["focal"].values()))),
        true_focal=float(json.loads((out / "scene.json").read_text())["focal"]),
    )


def missing(recorder: Recorder, out: Path, scene: Scene, every: bool) -> list[str]:
    """What was expected on the topics and in the folder and is not there, in sentences; ``every``: each image, too."""
    last = recorder.last
    expected = {"map": "~/map", "camera_info": ESTIMATE, "pose": "~/pose", "tf": "/tf", "path": "~/path"}
    wrong = [f"nothing was received on {topic}" for key, topic in expected.items() if key not in last]
    wrong += [f"{name} was not written" for name in FILES if not (out / name).is_file()]
    if "map" in last and (last["map"].width < 1000 or last["map"].header.frame_id != "map"):
        wrong.append(f"the map has {last['map'].width} points in frame '{last['map'].header.frame_id}'")
    if "camera_info" in last and (last["camera_info"].width, last["camera_info"].height) != (scene.width, scene.height):
        wrong.append(f"the estimated camera has {last['camera_info'].width}x{last['camera_info'].height} pixels")
    if every and last["status"].frames != scene.frames:
        wrong.append(f"{last['status'].frames} of {scene.frames} frames reached the mapper")
    return wrong


def report(recorder: Recorder, score: Score) -> None:
    """What came and how good it is, on the terminal."""
    counts, last = recorder.counts, recorder.last
    status, info, pose = last["status"], last["camera_info"], last["pose"]
    position, transform = pose.pose.pose.position, last["tf"].transforms[0]
    print("\nreceived by a subscriber, over DDS")
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
    print("\nagainst the truth")
    print(f"  trajectory  {score.trajectory_percent:.2f} % of {score.length:.2f} m (at most {TRAJECTORY_PERCENT:g} %)")
    print(
        f"  focal       {score.focal:.1f} px for {score.true_focal:.1f} px: {score.focal_percent:+.2f} %"
        f" (at most {FOCAL_PERCENT:g} %)"
    )
