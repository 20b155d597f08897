"""Finished maps in one mapper: joined over what two of them share, apart where they share nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from places import CONFIG, write_map
from scoring import trajectory_error
from sequences import cut, walk

from dust3r_ros.mapping.joining import Gathered, gather
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.state import MapState
from dust3r_ros.storage.loading import load_state

PARTS = {"first": slice(0, 14), "middle": slice(8, 24), "last": slice(18, 32)}


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MapState]:
    """Maps of parts of one walk: the first and the last have no image in common."""
    folder: Path = tmp_path_factory.mktemp("parts")
    sequence = walk("orbit", 32)
    return {name: load_state(write_map(cut(sequence, part), folder / f"{name}.db")) for name, part in PARTS.items()}


def together(states: dict[str, MapState], *names: str) -> tuple[Mapper, Gathered, list[list[int]]]:
    """A mapper with some of them, joined; and which became one."""
    found = gather([states[name] for name in names], names, CONFIG, one_clock=True)
    mapper = Mapper(CONFIG)
    mapper.resume(found.state)
    return mapper, found, mapper.join()


def test_a_map_between_two_others_ties_them_together(states: dict[str, MapState]) -> None:
    mapper, found, groups = together(states, "first", "last", "middle")
    assert groups == [[0, 1, 2]] and found.members == (0, 1, 2)
    assert mapper.counts.maps == 1 and mapper.counts.frames == 14 + 14 + 16
    mapper.finish()
    assert trajectory_error(mapper, walk("orbit", 32)) < 0.005


def test_keyframes_of_one_image_can_leave_and_no_pose_changes(states: dict[str, MapState]) -> None:
    """A map joined with its own copy has every keyframe twice."""
    mapper, found, groups = together(states, "first", "first")
    assert groups == [[0, 1]]
    count = Counter(keyframe.stamp_ns for keyframe in mapper.keyframes)
    assert set(count.values()) == {2}
    twins, before = found.state.submaps[1].names, mapper.trajectory()
    mapper.drop(twins)
    assert {keyframe.index for keyframe in mapper.keyframes} == set(found.state.submaps[0].names)
    after = mapper.trajectory()
    assert [pose.stamp_ns for pose in after] == [pose.stamp_ns for pose in before]
    np.testing.assert_allclose([pose.w_T_c for pose in after], [pose.w_T_c for pose in before], atol=1e-9)


def test_frames_of_each_session_are_found_by_it(states: dict[str, MapState]) -> None:
    found = gather([states["first"], states["last"]], ["a", "b"], CONFIG)
    assert found.sessions == (range(0, 1), range(1, 2)) and found.state.session == 1
    names = [name for submap in found.state.submaps for name in submap.names]
    assert len(set(names)) == len(names)
    mapper = Mapper(CONFIG)
    mapper.resume(found.state)
    assert [len(mapper.trajectory(sessions=session)) for session in found.sessions] == [14, 0], "one map is shown"
