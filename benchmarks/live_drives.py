"""Robots that drive and turn on the spot, live: does every image get a pose, also where each turn shows new ground?

    python benchmarks/live_drives.py [--count 8] [--out results/live_drives] [--page docs/live.md]

Drives through the worlds of ``walks.py``, other ones of each kind: forward, a turn on the spot by 60 to 130 degrees at
50 degrees per second, and on, four times. The camera is a pinhole, 70 degrees wide, and looks ahead. It is mounted
before the axis of the wheels, by a twentieth of how far things are at the beginning (15 cm where they are 3 m away),
so that turns hardly move it. Played to the real node at 15 Hz over DDS on two cores; errors are as in
``live_walks.py``. Writes live_drives.json, and a table into ``--page``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test/support"), str(Path(__file__).resolve().parent)]

from live_cases import TOPIC, Made, Recorded, kept, without_depth  # noqa: E402
from live_walks import RATE_HZ, run_live  # noqa: E402
from rolling import read_out  # noqa: E402
from targets import errors_said  # noqa: E402
from walks import LAYOUT_NAMES, PINHOLE, eye_of, walk_options  # noqa: E402

from dust3r_ros.errors import InputError  # noqa: E402
from dust3r_ros.scenes.endless.photography import draw_exposure, photograph  # noqa: E402
from dust3r_ros.scenes.endless.viewpoints import CLEAR, free_place, worth_of  # noqa: E402
from dust3r_ros.scenes.endless.worlds import World, make_world  # noqa: E402
from dust3r_ros.scenes.sequence import look_at, stamps  # noqa: E402
from dust3r_ros.types import Array  # noqa: E402

_COUNT, _SEED, _TRIES = 8, (4242, 1), 3000
_WIDTH, _HEIGHT, _FIELD_DEG = 640, 480, 70.0
_LEGS, _TURN_S = 5, 50.0  # straight ones; degrees per second
# By the distance of things: a second's way; that of a leg; of the camera from the axis.
_SPEED, _LENGTH, _BEFORE_AXIS = 0.15, (0.35, 0.7), 0.05
_TURN_DEG, _BENDS, _RAMP_S, _NOD = (60.0, 130.0), 0.15, 0.3, 0.03
_LOOK, _LEAST_WORTH, _NEAREST = 5, 0.25, 0.1  # images; of what they show; by the distance of things
BEGIN, END = "<!-- live drives: begin, made by benchmarks/live_drives.py -->", "<!-- live drives: end -->"


def _ramped(seconds: float) -> Array:
    """(N,) shares of a motion that takes so many seconds, and begins and ends gently."""
    count = max(int(seconds * RATE_HZ), 1) + 1
    at = np.arange(count)
    shares = np.minimum(1.0, np.minimum(at + 1, count - at) / (_RAMP_S * RATE_HZ))
    return np.asarray(shares / shares.sum())


def _drive(rng: np.random.Generator, world: World) -> tuple[Array, float]:
    """(N, 4, 4) poses ``w_T_c`` of a camera on a robot, anywhere; how far things were at the beginning."""
    at, aim = free_place(world, rng)
    far, yaw = float(np.hypot(*(aim - at)[:2])), float(np.arctan2(*(aim - at)[1::-1]))
    poses = []

    def stand() -> None:
        ahead = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        shake = 0.004 * far * np.sin(2.2 * np.pi * len(poses) / RATE_HZ) * np.array([0.0, 0.0, 1.0])
        camera = at + _BEFORE_AXIS * far * ahead + shake
        poses.append(look_at(camera, camera + ahead - [0.0, 0.0, _NOD]))

    for leg in range(_LEGS):
        length, bend = far * rng.uniform(*_LENGTH), rng.normal(0.0, _BENDS) / far
        for share in _ramped(length / (_SPEED * far)):
            at, yaw = at + share * length * np.array([np.cos(yaw), np.sin(yaw), 0.0]), yaw + bend * share * length
            stand()
        turn = rng.uniform(*_TURN_DEG)
        for share in _ramped(turn / _TURN_S) * np.radians(turn) * rng.choice([-1, 1]) if leg < _LEGS - 1 else ():
            yaw += share
            stand()
    return np.stack(poses), far


def _is_free(world: World, poses: Array, far: float) -> bool:
    """Whether a robot can drive there, and there is something to see."""
    places, (low, high) = poses[:, :3, 3], np.array(world.stage.room)
    if not np.all((places[:, :2] > low[:2]) & (places[:, :2] < high[:2])):
        return False
    if world.scenery.shapes.holds(places, CLEAR * world.stage.reach[0]).any():
        return False
    for pose in poses[::_LOOK]:
        seen = world.scenery.cast(eye_of(_WIDTH // 4, _HEIGHT // 4, _focal() / 4, pose))
        if worth_of(world, seen) < _LEAST_WORTH or np.median(seen.depth[np.isfinite(seen.depth)]) < _NEAREST * far:
            return False
    return True


def _focal() -> float:
    return float(_WIDTH / 2 / np.tan(np.radians(_FIELD_DEG) / 2))


def prepared(number: int, folder: Path) -> tuple[Recorded, dict[str, Any]]:
    """A drive as a bag, rendered unless it is there, and what is known of it."""

    def make() -> Made:
        rng = np.random.default_rng([*_SEED, 77, number])
        world = make_world(_SEED, number, LAYOUT_NAMES[number % len(LAYOUT_NAMES)])
        drives = (_drive(rng, world) for _ in range(_TRIES))
        poses = next((poses for poses, far in drives if _is_free(world, poses, far)), None)
        if poses is None:
            raise InputError(f"a {world.layout} has no room for a drive: {_TRIES} were tried")
        exposure, K = draw_exposure(rng), eye_of(_WIDTH, _HEIGHT, _focal(), np.eye(4)).K
        images = [photograph(read_out(world, K, _WIDTH, _HEIGHT, pose[None]), exposure, rng) for pose in poses]
        shown = without_depth("drive", stamps(len(poses), RATE_HZ), np.stack(images), poses)
        return {TOPIC: shown}, {"motion": "driving", "focal": _focal(), "camera": PINHOLE}

    found = kept(folder / str(number), make)
    assert found is not None
    return found


@errors_said("live_drives")
def main() -> int:
    """Exit code: 1 if a drive could not be measured, else 0."""
    arguments, drives = walk_options(__doc__, "live_drives", _COUNT)
    run_live(arguments, drives, prepared, (BEGIN, END))
    return 0


if __name__ == "__main__":
    sys.exit(main())
