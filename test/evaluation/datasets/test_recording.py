"""Poses by time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.evaluation.datasets.recording import Track, nearest, nominal
from dust3r_ros.geometry.rigid import pose


@pytest.fixture
def track() -> Track:
    turned = pose(Rotation.from_euler("z", 90, degrees=True).as_matrix(), [4, 0, 0])
    return Track([(100, turned), (0, np.eye(4))])  # in any order


def test_a_quarter_of_the_way(track: Track) -> None:
    found = track.at(25, 100)
    assert found is not None
    np.testing.assert_allclose(found[:3, 3], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found[:3, :3], Rotation.from_euler("z", 22.5, degrees=True).as_matrix(), atol=1e-12)


def test_at_a_pose_it_is_that_one_whatever_is_around(track: Track) -> None:
    found = track.at(100, 0)
    assert found is not None and found[0, 3] == 4


def test_nothing_outside_or_in_a_gap(track: Track) -> None:
    assert track.at(-1, 10**9) is None and track.at(101, 10**9) is None
    assert track.at(25, 74) is None and track.at(25, 75) is not None
    assert Track([]).at(0, 1) is None


def test_nearest_stamp() -> None:
    assert nearest([0, 10, 20], 14, 5) == 1
    assert nearest([0, 10, 20], 14, 3) is None
    assert nearest([0, 10, 20], 99, 100) == 2
    assert nearest([], 0, 100) is None


def test_nominal_stamps_are_whole_nanoseconds() -> None:
    assert [nominal(index) for index in (0, 1, 3)] == [0, 33_333_333, 100_000_000]
