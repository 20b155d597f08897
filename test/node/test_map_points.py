"""~/map holds never more points than it may, whatever comes."""

import numpy as np
import pytest

from dust3r_ros.node.conversions import POINT
from dust3r_ros.node.map_changes import Changed, MapPoints

SIZE = 1000


class Source:
    """Keyframes are stood for by their index; point k of keyframe i has x = i, y = k."""

    def __init__(self):
        self.index = self.asked = 0

    def __call__(self, keyframe, every):
        self.asked += 1
        part = np.zeros(SIZE, POINT)
        part["x"], part["y"] = keyframe.index, np.arange(SIZE)
        return part[::every]


class Stand:
    def __init__(self, index):
        self.index = index


def stands(*indices):
    return tuple(Stand(index) for index in indices)


def test_all_points_as_long_as_they_fit():
    points, source = MapPoints(), Source()
    points.update(Changed(stands(3, 1), (), True), source, 10 * SIZE)
    assert [part["x"][0] for part in points.parts] == [1, 3]
    assert (len(points), points.every) == (2 * SIZE, 1)
    points.update(Changed(stands(1), (3,)), source, 10 * SIZE)
    assert (len(points), source.asked) == (SIZE, 3), "only what changed is computed"


@pytest.mark.parametrize("whole", [True, False])
def test_every_second_goes_and_all_keyframes_are_alike(whole):
    points, source = MapPoints(), Source()
    for index in range(20):
        points.update(Changed(stands(*range(20)) if whole else stands(index), (), whole), source, 5500)
        assert len(points) <= 5500
    assert points.every == 4
    for part in points.parts:
        np.testing.assert_array_equal(part["y"], np.arange(0, SIZE, 4))


def test_room_is_noticed():
    points, source = MapPoints(), Source()
    points.update(Changed(stands(*range(8)), (), True), source, 4 * SIZE)
    assert points.every == 2 and not points.too_thin(4 * SIZE)
    points.update(Changed((), tuple(range(1, 8))), source, 4 * SIZE)
    assert points.too_thin(4 * SIZE)
    points.update(Changed(stands(0), (), True), source, 4 * SIZE)
    assert (len(points), points.every, points.too_thin(4 * SIZE)) == (SIZE, 1, False)
