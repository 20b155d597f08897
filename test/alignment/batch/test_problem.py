from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dust3r_ros.alignment import align
from dust3r_ros.alignment.batch.problem import check_problem
from dust3r_ros.errors import ConfigError, GeometryError, InputError
from dust3r_ros.types import PairPrediction

H, W = 6, 8


def pair(first: int, second: int, size: tuple[int, int] = (H, W)) -> PairPrediction:
    rng = np.random.default_rng([first + 100, second + 100])
    points = rng.uniform(1, 4, (2, *size, 3)).astype(np.float32)
    confidence = np.full((2, *size), 3.0, np.float32)
    return PairPrediction(first, second, points[0], confidence[0], points[1], confidence[1])


PAIRS = [pair(0, 1), pair(1, 0), pair(1, 2)]


def changed(which: int, name: str, change: Callable[[np.ndarray], None]) -> list[PairPrediction]:
    """The pairs with one array of one of them edited."""
    array = getattr(PAIRS[which], name).copy()
    change(array)
    return [replace(p, **{name: array}) if index == which else p for index, p in enumerate(PAIRS)]


def test_a_good_problem_passes_unchanged() -> None:
    problem = check_problem(PAIRS)
    assert problem.shapes == [(H, W)] * 3
    assert problem.cameras is problem.focals is problem.poses is None
    for given, kept in zip(PAIRS, problem.pairs, strict=True):
        assert kept.points_first is given.points_first  # no copy of what is right


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "at least one pair, not 0"),
        ([pair(0, 0)], r"pair \(0, 0\) joins an image with itself"),
        ([pair(0, 1), pair(1, 3)], r"3 images from 0 to 3 but not 2; .* numbered from 0 without gaps"),
        ([pair(1, 2)], "2 images from 1 to 2 but not 0"),
        ([pair(-1, 0)], "from -1 to 0"),
        ([pair(0, 1), pair(1, 2, (H, 7))], "image 1 is 7x6 in pair .* and 8x6 in another"),
        (changed(1, "confidence_second", lambda c: c.fill(np.nan)), r"pair \(1, 0\), second view, has 48 of 48 conf"),
        (
            changed(0, "confidence_first", lambda c: c.fill(0.0)),
            "48 of 48 confidences below 1 or not finite, such as 0",
        ),
        (changed(0, "confidence_first", lambda c: c.put(3, np.inf)), "1 of 48 confidences below 1 or not finite"),
        (changed(2, "points_first", lambda x: x[2, 3].fill(np.nan)), r"pair \(1, 2\), first view, has 1 of 48 points"),
        (
            [replace(PAIRS[0], points_first=np.zeros((H, W, 2), np.float32))],
            r"points \(6, 8, 2\) and confidence \(6, 8\)",
        ),
        ([replace(PAIRS[0], confidence_second=np.ones((H, 5), np.float32))], r"confidence \(6, 5\)"),
        ([pair(0, 1, (0, 4))], r"points \(0, 4, 3\)"),
    ],
)
def test_arrays_that_are_no_pairs_are_refused_with_numbers(pairs: list[PairPrediction], message: str) -> None:
    with pytest.raises(InputError, match=message):
        align(pairs)


def test_images_without_a_connection_are_named_part_by_part() -> None:
    with pytest.raises(GeometryError, match=r"3 pairs leave 6 images in 3 parts .*: 0, 1 \| 2, 5 \| 3, 4; align each"):
        align([pair(0, 1), pair(3, 4), pair(5, 2)])


def test_a_pair_that_says_nothing_is_named() -> None:
    with pytest.raises(GeometryError, match=r"pair \(1, 2\) has no information: 0 of 48 pixels of its second view"):
        align(changed(2, "confidence_second", lambda c: c.fill(1.0)))


def test_points_without_confidence_may_be_no_numbers() -> None:
    X, C = PAIRS[0].points_first.copy(), PAIRS[0].confidence_first.copy()
    X[0], X[1], C[:2] = np.nan, np.inf, 1.0
    kept = check_problem([replace(PAIRS[0], points_first=X, confidence_first=C)]).pairs[0].points_first
    assert (kept[:2] == 0).all() and (kept[2:] == X[2:]).all()


def test_other_number_types_are_taken() -> None:
    half = [replace(p, points_first=p.points_first.astype(np.float16), first=np.int32(p.first)) for p in PAIRS]
    kept = check_problem(half).pairs[0]
    assert kept.points_first.dtype == np.float32 and type(kept.first) is int


def test_a_focal_given_for_one_image_holds_for_its_camera() -> None:
    found = check_problem(PAIRS, [4, 9, 4], [np.nan, np.nan, 55.0]).focals
    np.testing.assert_array_equal(found, [55.0, np.nan, 55.0])


@pytest.mark.parametrize(
    ("cameras", "focals", "message"),
    [
        ([0, 0], None, r"'cameras' is int64 \(2,\); it must hold 3 integers"),
        ([0.0, 0.0, 1.0], None, r"'cameras' is float64 \(3,\)"),
        (None, [50.0], r"'focals' has shape \(1,\); it must be \(3,\)"),
        (None, [50.0, -3.0, np.nan], "'focals' has -3; a focal must be positive"),
        (None, [50.0, np.inf, np.nan], "'focals' has inf"),
        ([0, 0, 0], [50.0, 60.0, np.nan], "'focals' has 50.0, 60.0 for camera 0; one camera has one focal"),
    ],
)
def test_wrong_cameras_and_focals_are_refused(cameras: object, focals: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        align(PAIRS, cameras=cameras, focals=focals)  # type: ignore[arg-type]


def test_images_of_one_camera_have_one_size() -> None:
    with pytest.raises(InputError, match=r"camera 0 have sizes \[\(6, 8\), \(7, 5\)\]"):
        check_problem([replace(pair(0, 1, (7, 5)), points_first=PAIRS[0].points_first,
                               confidence_first=PAIRS[0].confidence_first)], [0, 0])  # fmt: skip


def test_wrong_poses_are_refused() -> None:
    with pytest.raises(InputError, match=r"'poses' has shape \(2, 4, 4\); it must be \(3, 4, 4\)"):
        align(PAIRS, poses=np.stack([np.eye(4)] * 2))
    bad = {
        "rigid motion: rotation with determinant -1": np.diag([1.0, 1.0, -1.0, 1.0]),
        "rigid motion: rotation with determinant 8": np.diag([2.0, 2.0, 2.0, 1.0]),
        r"last row \[0.0, 0.0, 0.0, 2.0\]": np.diag([1.0, 1.0, 1.0, 2.0]),
        "not finite; unknown poses must be NaN throughout": np.where(np.eye(4) > 0, 1.0, np.nan),
    }
    for message, broken in bad.items():
        with pytest.raises(InputError, match=f"pose of image 1 .*{message}"):
            align(PAIRS, poses=np.stack([np.eye(4), broken, np.full((4, 4), np.nan)]))


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'adam' is unknown; it must be one of moments, gradient"):
        align(PAIRS, method="adam")


def test_only_gradient_loads_torch() -> None:
    code = "import sys, dust3r_ros.alignment; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
