"""A process that maps is killed in mid-run, again and again: nothing that it had said is lost, and the map goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import growing
import numpy as np
import pytest
from growing import DENSE, resumed
from scoring import alignment
from sequences import walk

from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.storage.loading import load_state
from dust3r_ros.storage.saved_map import load_map
from dust3r_ros.types import TrackingState

FRAMES = 30


def killed(images: Path, path: Path, begin: int, after: int, wait: float) -> tuple[int, list[int]]:
    """Map from frame ``begin`` on, killed ``wait`` s after ``after`` frames: the last frame, and the keyframes told."""
    command = [sys.executable, growing.__file__, str(images), str(path), str(begin)]
    paths = os.pathsep.join([str(Path(growing.__file__).parent), *sys.path])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths})
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(after)]
    time.sleep(wait)
    os.kill(process.pid, signal.SIGKILL)
    lines += process.stdout.read().splitlines()
    assert process.wait() == -signal.SIGKILL
    measured = [line.split() for line in lines if line.strip() and "end" not in line]
    return int(measured[-1][0]), [int(name) for _, name in measured if name != "none"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frames of a walk around the table, in a file."""
    path = tmp_path_factory.mktemp("images") / "walk.npz"
    sequence = walk("orbit", FRAMES)
    np.savez(path, images=sequence.images, focal=sequence.focal)
    return path


def follow(images: Path, path: Path, kills: int, seed: int) -> None:
    """Kill a process at random moments, look what is left, go on; at last everything must be there."""
    rng, sequence, known = np.random.default_rng(seed), walk("orbit", FRAMES), set()
    begin, config = 0, replace(DENSE, focal=walk("orbit", FRAMES).focal)
    per_session = max(2, (FRAMES - 4) // kills)
    for _ in range(kills):
        last, names = killed(images, path, begin, int(rng.integers(1, per_session + 1)), rng.uniform(0, 0.2))
        known |= set(names)
        state = load_state(path)
        saved = {name for submap in state.submaps for name in submap.names}
        assert known <= saved and len(saved - known) <= 1  # the one in flight
        stamps = [frame.stamp_ns // 10**8 for frame in state.submaps[0].frames]
        assert stamps == sorted(stamps) and set(range(begin, last + 1)) <= {*stamps}
        begin = max(stamps) + 1
        known = saved
    assert not [
        name for name in os.listdir(path.parent) if name not in ("map.db", "map.db-wal", "map.db-shm", "map.db-lock")
    ]
    mapper = resumed(path, config)
    assert len(mapper._atlas.asleep) == 0 and len(mapper.submap) == len(known)
    shown = [replace(k, stamp_ns=int(sequence.stamps_ns[k.stamp_ns // 10**8])) for k in load_map(path).keyframes]
    assert len(shown) == len(known) > 6  # how many it becomes depends on the moments of the kills
    similarity, away = alignment(shown, sequence)
    assert np.sqrt(np.mean(away**2)) < 0.02
    update = mapper.process(1, "camera", sequence.images[begin // 2])
    assert update.state is TrackingState.TRACKING and update.w_T_c is not None
    place = similarity.apply(update.w_T_c[:3, 3])
    assert np.linalg.norm(place - sequence.w_T_c[begin // 2][:3, 3]) < 0.03


def test_nothing_is_lost(images: Path, tmp_path: Path) -> None:
    follow(images, tmp_path / "map.db", 3, seed=1)


@pytest.mark.long
def test_nothing_is_lost_however_often(images: Path, tmp_path: Path) -> None:
    follow(images, tmp_path / "map.db", 10, seed=2)


def test_other_names_follow_in_the_next_session(images: Path, tmp_path: Path) -> None:
    """Killed before the map had any pose: it starts from what was seen."""
    begin = 0
    for _ in range(2):
        last, _ = killed(images, tmp_path / "map.db", begin, 1, 0.0)
        begin = last + 1
    state = load_state(tmp_path / "map.db")
    assert isinstance(resumed(tmp_path / "map.db", replace(DENSE, focal=walk("orbit", FRAMES).focal)), Mapper)
    assert state.session == 1 and len(state.submaps[0].names) >= 1
