"""Which keyframes look at the same place."""

from __future__ import annotations

import numpy as np

from dust3r_ros.alignment.overlap import overlapping
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.scenes.trajectory import look_at
from dust3r_ros.types import Keyframe

HEIGHT, WIDTH, FOCAL = 48, 64, 60.0


def keyframe(index: int, position: list[float], target: list[float], depth: float = 4.0) -> Keyframe:
    """A camera that sees a plane at ``depth``."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    full = np.full((HEIGHT, WIDTH), depth, np.float32)
    w_T_c = look_at(np.array(position), np.array(target))
    return Keyframe(index, 1, index, "camera", w_T_c, FOCAL, image, full, np.full_like(full, 5.0))


def test_a_moved_view_tells_more_than_a_repeated_one_and_one_that_looks_away_nothing() -> None:
    reference = keyframe(0, [-4, 0, 0], [0, 0, 0])
    same = keyframe(1, [-4, 0.01, 0], [0, 0, 0])
    moved = keyframe(2, [-4, 0.4, 0], [0, 0, 0])
    turned = keyframe(3, [-4, 0.4, 0], [-8, 0, 0])
    aside = keyframe(4, [-4, 1.0, 0], [0, 2.2, 0])
    found = overlapping(reference, [reference, same, moved, turned, aside], 10)
    assert [other.index for other in found] == [2, 4, 1]
    assert [other.index for other in overlapping(reference, [turned, aside, moved], 1)] == [2]


def test_equal_ones_keep_their_order_whatever_is_around_them() -> None:
    reference = keyframe(0, [-4, 0, 0], [0, 0, 0])
    twins = [keyframe(i, [-4, 0.5, 0], [0, 0, 0]) for i in (5, 3, 9)]
    assert [other.index for other in overlapping(reference, twins, 2)] == [5, 3]


def test_a_point_in_the_plane_of_another_camera_is_not_in_its_image() -> None:
    reference = keyframe(0, [-4, 0, 0], [0, 0, 0])
    within = Keyframe(1, 1, 1, "camera", pose(reference.w_T_c[:3, :3], [0, 0, 0]), FOCAL, reference.image,
                      reference.depth, reference.confidence)  # fmt: skip
    assert overlapping(reference, [within], 3) == []


def test_no_depth_is_no_overlap() -> None:
    empty = keyframe(0, [-4, 0, 0], [0, 0, 0], depth=0.0)
    other = keyframe(1, [-4, 0.4, 0], [0, 0, 0])
    assert overlapping(empty, [other], 3) == [] and overlapping(other, [], 3) == []
    assert [k.index for k in overlapping(other, [empty], 3)] == [0]
