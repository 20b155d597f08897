"""The two views that a map starts from."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import arc, turning, unposed

from dust3r_ros.alignment.first_pair import PairFromLandmarks
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import angle_deg, invert


def test_the_first_pair_has_parallax() -> None:
    scene = arc(views=4, points=150, focal=330.0)
    scene.w_T_c[1] = scene.w_T_c[0]
    sparse = unposed(scene)
    first, second, first_T_second = PairFromLandmarks()(sparse, range(4), 330.0)
    assert {first, second} != {0, 1}
    true = invert(scene.w_T_c[first]) @ scene.w_T_c[second]
    assert angle_deg(first_T_second[:3, :3].T @ true[:3, :3]) < 1.5
    direction = true[:3, 3] / np.linalg.norm(true[:3, 3])
    assert direction @ first_T_second[:3, 3] > 0.99
    with pytest.raises(GeometryError, match="parallax"):
        PairFromLandmarks()(sparse, [0, 1], 330.0)


def test_turning_on_the_spot_gives_no_pair() -> None:
    with pytest.raises(GeometryError, match="5 views"):
        PairFromLandmarks()(unposed(turning()), range(5), 330.0)


def test_the_second_focal_finds_the_same_pair() -> None:
    """Only the first focal looks at every pair; what it found serves the others, each with its own pose."""
    scene = arc(views=4, points=150, focal=330.0)
    scene.w_T_c[1] = scene.w_T_c[0]
    sparse = unposed(scene)
    finder = PairFromLandmarks()
    finder(sparse, range(4), 250.0)
    first, second, first_T_second = finder(sparse, range(4), 330.0)
    again = PairFromLandmarks()(sparse, range(4), 330.0)
    assert (first, second) == again[:2]
    np.testing.assert_allclose(first_T_second, again[2], atol=1e-9)


def test_pairs_that_fail_at_a_focal_make_room_for_others() -> None:
    scene = arc(views=4, points=150, focal=330.0)
    sparse = unposed(scene)
    finder = PairFromLandmarks()
    first, second, _ = finder(sparse, range(4), 330.0)
    # From here on the views that were best see nothing in common with any other.
    for view in (first, second):
        sparse.views[view].seen = sparse.views[view].seen.select(np.zeros(len(sparse.views[view].seen.ids), bool))
    left = set(range(4)) - {first, second}
    assert set(finder(sparse, range(4), 330.0)[:2]) == left
