"""New versions of keyframes that moved."""

from __future__ import annotations

import numpy as np

from dust3r_ros.alignment.moments import retract
from dust3r_ros.alignment.online.keyframe_updates import ToldPoses

FOCALS = {index: 100.0 + index for index in range(200)}


def map_of(count: int) -> np.ndarray:
    return retract(np.tile(np.eye(4), (count, 1, 1)), 0.3 * np.random.default_rng(0).standard_normal((count, 7)))


def test_only_what_moved_is_told_and_versions_count() -> None:
    told, w_S = ToldPoses(), map_of(4)
    assert [(u.index, u.version) for u in told.tell(w_S, 0, FOCALS, {})] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert told.tell(w_S, 0, FOCALS, {}) == ()
    w_S = w_S.copy()
    w_S[2] = retract(w_S[2:3], np.array([[0, 0, 0, 0.01, 0, 0, 0]]))[0]
    (update,) = told.tell(w_S, 0, FOCALS, {})
    assert (update.index, update.version, update.focal) == (2, 2, 102.0)
    np.testing.assert_allclose(update.scale * update.w_T_c[:3, :3], w_S[2, :3, :3])
    np.testing.assert_allclose(update.w_T_c[:3, 3], w_S[2, :3, 3])


def test_small_steps_add_up() -> None:
    told, w_S = ToldPoses(), map_of(2)
    told.tell(w_S, 0, FOCALS, {})
    steps = []
    for _ in range(12):
        w_S = np.stack([w_S[0], retract(w_S[1:], np.array([[0, 0, 0, 0, 4e-4, 0, 0]]))[0]])
        steps.append(len(told.tell(w_S, 0, FOCALS, {})))
    assert sum(steps) == 4  # every third


def test_depth_is_told_whether_moved_or_not_and_older_ones_are_not_looked_at() -> None:
    told, w_S = ToldPoses(), map_of(130)
    told.tell(w_S, 0, FOCALS, {})
    depth = (np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32))
    (update,) = told.tell(w_S, 120, FOCALS, {122: depth})
    assert update.index == 122 and update.version == 2 and update.depth is depth[0] and update.confidence is depth[1]
    moved = retract(w_S, np.full((130, 7), 0.1))
    assert [u.index for u in told.tell(moved, 125, FOCALS, {})] == [125, 126, 127, 128, 129]
    assert [u.index for u in told.tell(moved, 0, FOCALS, {})] == list(range(125))
