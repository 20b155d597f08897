"""What a lens that bends the image would do to the focal."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import WIDTH, arc, past_a_wall, unposed

from dust3r_ros.sparse.initialization import Options, bootstrap
from dust3r_ros.sparse.refinement import focal_shift, refine
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks

FOCAL = 330.0


def built(bend: float = 0.0) -> SparseMap:
    """A map of what a lens shows that bends by ``-bend``, as a camera without distortion explains it."""
    sparse = unposed(past_a_wall(), noise=0.1)
    for view in sparse.views:
        offsets = view.seen.pixels
        bent = offsets * (1 + bend * np.sum(offsets**2, axis=1, keepdims=True) / (WIDTH / 2) ** 2)
        view.seen = Tracks(view.seen.ids, bent)
    assert bootstrap(sparse, range(8), 0, [0.8 * WIDTH, 1.2 * WIDTH], Options()).starts
    refine(sparse, free_focal=True, iterations=30)
    return sparse


@pytest.fixture(scope="module")
def unbent() -> SparseMap:
    return built()


@pytest.mark.parametrize("bend", [-0.02, 0.02])
def test_it_foretells_how_far_such_a_lens_puts_the_focal_off(unbent: SparseMap, bend: float) -> None:
    off = np.log(built(bend).intrinsics[0].focal / unbent.intrinsics[0].focal)
    assert abs(off) > 0.01, "the lens is to be felt"
    assert off == pytest.approx(bend * focal_shift(unbent, 0, WIDTH / 2), rel=0.15)


def test_the_map_is_left_as_it_was(unbent: SparseMap) -> None:
    sparse = unbent
    before = sparse.snapshot()
    assert focal_shift(sparse, 0, WIDTH / 2) != 0.0
    after = sparse.snapshot()
    for old, new in zip(before[0], after[0], strict=True):  # type: ignore[call-overload]
        np.testing.assert_array_equal(old, new)
    for (old, _), (new, _) in zip(before[1], after[1], strict=True):  # type: ignore[call-overload]
        np.testing.assert_array_equal(old.ids, new.ids)
        np.testing.assert_array_equal(old.pixels, new.pixels)
    assert before[2] == after[2]
    np.testing.assert_array_equal(before[3], after[3])


def test_a_known_focal_is_not_shifted() -> None:
    sparse = built()
    sparse.intrinsics[0].fixed = True
    assert focal_shift(sparse, 0, WIDTH / 2) == 0.0


def test_no_poses_say_nothing() -> None:
    assert focal_shift(unposed(arc()), 0, WIDTH / 2) == 0.0
