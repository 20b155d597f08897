"""The kind of a recording follows from how its camera moved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.evaluation.scene import (
    AROUND,
    FORWARD,
    LITTLE,
    LONG,
    LOOPS,
    OTHER,
    WIDE,
    Scene,
    kinds_of,
    kinds_of_motion,
)
from dust3r_ros.scenes.export import write_folder
from dust3r_ros.scenes.sequence import render_sequence, walk
from dust3r_ros.types import Array, StampedPose


def scene(w_T_c: Array, metric: bool = True) -> Scene:
    truth = tuple(StampedPose(number, "camera", pose) for number, pose in enumerate(w_T_c))
    return Scene("a", Path("a"), truth, np.diag([500.0, 500.0, 1.0]), 640, 480, metric, 1000.0, {})


@pytest.mark.parametrize(
    ("walked", "kinds"),
    [
        (walk("corridor", 60, rate_hz=6.0), [FORWARD]),
        (walk("orbit", 60, rate_hz=6.0, laps=0.6), [AROUND]),
        (walk("orbit", 100, rate_hz=6.0, laps=1.5), [AROUND, LOOPS]),
        (walk("orbit", 20, laps=0.9), [WIDE, AROUND]),
        (walk("sweep", 60, rate_hz=6.0), [OTHER]),
        (walk("sweep", 40, rate_hz=30.0), [LITTLE]),
        (walk("sweep", 150, laps=0.9), [LONG]),
    ],
)
def test_walks_are_what_they_are_called(walked: Array, kinds: list[str]) -> None:
    assert kinds_of_motion(scene(walked), len(walked)) == kinds


def test_motion_is_little_in_metres_only_and_a_few_stills_are_no_recording() -> None:
    short = walk("sweep", 40, rate_hz=30.0)
    assert kinds_of_motion(scene(short, metric=False), 40) == kinds_of_motion(scene(short), 10) == [OTHER]
    assert kinds_of_motion(scene(np.tile(np.eye(4), (30, 1, 1))), 30) == [OTHER]


def test_changed_images_are_the_kind_of_their_scene(tmp_path: Path) -> None:
    path = tmp_path / "walk"
    write_folder(render_sequence("corridor", 4, 64, 48, supersample=1), path)
    assert kinds_of(path) == [FORWARD]
    intrinsics = json.loads((path / "intrinsics.json").read_text())
    (path / "intrinsics.json").write_text(json.dumps(intrinsics | {"variant": "half the size"}))
    assert kinds_of(path) == ["half the size"]
