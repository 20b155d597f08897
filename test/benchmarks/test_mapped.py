"""benchmarks/mapped.py: a trajectory is compared with the truth where it is known, or the comparison is none."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sequences import SMALL, walk

from dust3r_ros.types import StampedPose
from scripts import script

pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script(Path(__file__).resolve().parents[2] / "benchmarks/mapped.py", "mapped_benchmark")


def test_images_are_mapped_and_compared_where_their_poses_are_known(bench: ModuleType) -> None:
    sequence = walk("orbit", 20)
    truth = [None, *sequence.w_T_c[1:]]
    run = bench.mapped(sequence.images, truth, 10**8, SMALL)
    assert [pose.stamp_ns for pose in run.truth] == [10**8 * number for number in range(2, 21)]
    assert run.seconds > 0 and len(run.found) > 15 and not run.mapper.due
    extent = bench.extent_of(sequence.w_T_c[1:, :3, 3])
    assert bench.error_of(run.truth, run.found) == bench.errors_of(run.truth, run.found).ate / extent < 0.05


def test_too_few_poses_have_no_error(bench: ModuleType) -> None:
    poses = [StampedPose(k, "camera", np.eye(4)) for k in range(2)]
    assert bench.errors_of(poses, poses) is None and np.isnan(bench.error_of(poses, poses))
    assert bench.extent_of(np.array([[1.0, 2, 3], [1, 2, 5]])) == 1.0
