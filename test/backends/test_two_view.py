"""Pointmaps from two-view geometry on rendered pairs."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.backends.two_view import TwoViewBackend
from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import angle_deg, invert, transform
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import RenderedSequence, look_at, render_path, walk
from dust3r_ros.types import PairPrediction, View

WIDTH, HEIGHT = 224, 160
TARGET = np.array([0.0, 0.3, 0.9])


@pytest.fixture(scope="module")
def views() -> RenderedSequence:
    """0 to 3: steps of 15 cm to the side; 4: 0 turned by 6 degrees; 5: a wide step; 6: the other way."""
    at = np.array([1.9, -0.2, 1.4])
    poses = [look_at(at + np.array([0.0, 0.15 * k, 0.02 * k]), TARGET) for k in range(4)]
    turned = poses[0].copy()
    a = np.radians(6)
    turned[:3, :3] = turned[:3, :3] @ np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    poses += [turned, look_at(at + np.array([-0.3, 0.9, 0.1]), TARGET), look_at(at, np.array([3.0, -2.0, 1.4]))]
    return render_path("pairs", room(0), np.stack(poses), width=WIDTH, height=HEIGHT)


@pytest.fixture
def backend(views: RenderedSequence) -> TwoViewBackend:
    made = TwoViewBackend()
    for index, image in enumerate(views.images):
        made.add(View(index, "front", image))
    return made


def focals(views: RenderedSequence) -> dict[str, float]:
    return {"front": views.focal}


def poses_of(views: RenderedSequence, *indices: int) -> dict[int, np.ndarray]:
    return {i: views.w_T_c[i] for i in indices}


def check_form(prediction: PairPrediction, shapes: tuple = ((HEIGHT, WIDTH), (HEIGHT, WIDTH))) -> None:
    """As the network's: a point for every pixel, float32, finite, confidence at least 1."""
    for points, confidence, shape in (
        (prediction.points_first, prediction.confidence_first, shapes[0]),
        (prediction.points_second, prediction.confidence_second, shapes[1]),
    ):
        assert points.shape == (*shape, 3) and confidence.shape == shape
        assert points.dtype == confidence.dtype == np.float32
        assert np.isfinite(points).all() and np.isfinite(confidence).all() and (confidence >= 1).all()
    assert (prediction.points_first[..., 2] > 0).all()


def median_error(found: np.ndarray, true: np.ndarray, confidence: np.ndarray) -> float:
    good = confidence > 1.5
    return float(np.median(np.abs(found[good] / true[good] - 1)))


@pytest.mark.parametrize("pair", [(0, 2), (2, 0), (1, 3)])
def test_known_poses_give_depth_in_metres(backend, views, pair) -> None:
    first, second = pair
    (found,) = backend.predict([pair], focals(views), poses_of(views, *pair))
    check_form(found)
    assert (found.first, found.second) == pair
    assert (found.confidence_first > 1.5).mean() > 0.3
    assert median_error(found.points_first[..., 2], views.depths[first], found.confidence_first) < 0.03
    in_second = transform(invert(views.w_T_c[second]) @ views.w_T_c[first], found.points_second)
    assert median_error(in_second[..., 2], views.depths[second], found.confidence_second) < 0.03


def test_higher_confidence_is_smaller_error(backend, views) -> None:
    (found,) = backend.predict([(0, 2)], focals(views), poses_of(views, 0, 2))
    error = np.abs(found.points_first[..., 2] / views.depths[0] - 1)
    confidence = found.confidence_first
    assert np.median(error[confidence > 2]) < 0.5 * np.median(error[(confidence > 1) & (confidence < 1.2)])


def test_without_poses_depth_is_right_up_to_one_unit(backend, views) -> None:
    (found,) = backend.predict([(0, 2)], focals(views))
    check_form(found)
    good = found.confidence_first > 1.5
    assert good.mean() > 0.2
    ratio = found.points_first[..., 2][good] / views.depths[0][good]
    assert np.median(np.abs(ratio / np.median(ratio) - 1)) < 0.05
    # Both views share that unit and the frame of the first: the second's points fall onto its depth.
    unit = np.median(ratio)
    first_T_second = invert(views.w_T_c[0]) @ views.w_T_c[2]
    in_second = transform(invert(first_T_second), found.points_second / unit)
    assert median_error(in_second[..., 2], views.depths[2], found.confidence_second) < 0.06


def test_both_orders_tell_the_same(backend, views) -> None:
    known = poses_of(views, 0, 2)
    ab, ba = backend.predict([(0, 2), (2, 0)], focals(views), known)
    second_T_first = invert(known[2]) @ known[0]
    both = (ab.confidence_first > 1) & (ba.confidence_second > 1)
    assert both.mean() > 0.3
    np.testing.assert_allclose(transform(second_T_first, ab.points_first)[both], ba.points_second[both], atol=1e-3)
    np.testing.assert_array_equal(ab.confidence_first, ba.confidence_second)
    ab, ba = backend.predict([(0, 2), (2, 0)], focals(views))
    np.testing.assert_array_equal(ab.confidence_first, ba.confidence_second)


def silent(prediction: PairPrediction) -> float:
    """Part of the pixels of both views of which the pair says nothing."""
    return float(np.mean([(c == 1).mean() for c in (prediction.confidence_first, prediction.confidence_second)]))


@pytest.mark.parametrize("pair", [(0, 4), (0, 0)])
@pytest.mark.parametrize("posed", [True, False])
def test_turning_or_standing_still_says_nothing(backend, views, pair, posed) -> None:
    (found,) = backend.predict([pair], focals(views), poses_of(views, *pair) if posed else None)
    check_form(found)
    assert silent(found) > 0.99


def test_no_overlap_says_nothing(backend, views) -> None:
    for poses in (None, poses_of(views, 3, 6)):
        (found,) = backend.predict([(3, 6)], focals(views), poses)
        check_form(found)
        assert silent(found) > 0.93


def test_black_images_say_nothing(backend) -> None:
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    backend.add(View(20, "front", black))
    backend.add(View(21, "front", black))
    for found in backend.predict([(20, 21), (0, 20)], {}):
        check_form(found)
        assert silent(found) > 0.99


def test_a_black_image_at_a_known_pose_says_nothing(backend, views) -> None:
    backend.add(View(20, "front", np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    (found,) = backend.predict([(0, 20)], focals(views), {0: views.w_T_c[0], 20: views.w_T_c[1]})
    assert silent(found) > 0.99


def test_a_wide_step_is_carried_by_features(backend, views) -> None:
    (found,) = backend.predict([(0, 5)], focals(views), poses_of(views, 0, 5))
    check_form(found)
    assert (found.confidence_first > 1.5).mean() > 0.1
    assert median_error(found.points_first[..., 2], views.depths[0], found.confidence_first) < 0.05
    relative = (invert(views.w_T_c[0]) @ views.w_T_c[5])[:3, :3]
    assert angle_deg(relative) > 15, "the step is wide"


def test_views_of_different_sizes_and_cameras(backend, views) -> None:
    crop = views.images[2][24:136, 32:192].copy()  # centred, so the focal stays
    backend.add(View(30, "side", crop))
    known = {0: views.w_T_c[0], 30: views.w_T_c[2]}
    (found,) = backend.predict([(0, 30)], {"front": views.focal, "side": views.focal}, known)
    check_form(found, ((HEIGHT, WIDTH), crop.shape[:2]))
    in_second = transform(invert(known[30]) @ known[0], found.points_second)
    true = views.depths[2][24:136, 32:192]
    assert (found.confidence_second > 1.5).mean() > 0.2
    assert median_error(in_second[..., 2], true, found.confidence_second) < 0.03


def test_an_unknown_focal_is_guessed(backend, views) -> None:
    (found,) = backend.predict([(0, 2)], {})
    check_form(found)
    assert silent(found) < 0.9


def test_views_come_and_go(backend, views) -> None:
    assert backend.has(0) and not backend.has(99)
    before = backend.predict([(0, 1)], focals(views), poses_of(views, 0, 1))[0]
    backend.forget(1)
    backend.forget(99)
    assert not backend.has(1) and backend.has(0)
    backend.add(View(1, "front", views.images[3]))  # another image by the same name: nothing old is left
    after = backend.predict([(0, 1)], focals(views), {0: views.w_T_c[0], 1: views.w_T_c[3]})[0]
    assert np.abs(after.confidence_first - before.confidence_first).max() > 0.1
    backend.forget(1)
    backend.add(View(1, "front", views.images[1]))
    again = backend.predict([(0, 1)], focals(views), poses_of(views, 0, 1))[0]
    np.testing.assert_array_equal(again.points_first, before.points_first)
    assert backend.predict([], {}) == []


def test_replacing_a_view_without_forgetting_it(backend, views) -> None:
    """A second image by the same index counts; the flow of the first one does not linger."""
    known = {0: views.w_T_c[0], 1: views.w_T_c[3]}
    backend.predict([(0, 1)], focals(views), poses_of(views, 0, 1))
    backend.add(View(1, "front", views.images[3]))
    replaced = backend.predict([(0, 1)], focals(views), known)[0]
    (fresh,) = backend.predict([(0, 3)], focals(views), {0: known[0], 3: known[1]})
    np.testing.assert_array_equal(replaced.confidence_first, fresh.confidence_first)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)]
)
def test_images_of_another_kind(backend, image) -> None:
    with pytest.raises(InputError, match="view 7"):
        backend.add(View(7, "front", image))


def test_a_walk_of_pure_rotation_says_nothing_of_depth() -> None:
    poses = walk("rotation", 4, rate_hz=4.0)
    turned = render_path("turn", room(0), poses, width=WIDTH, height=HEIGHT)
    backend = TwoViewBackend()
    for index, image in enumerate(turned.images):
        backend.add(View(index, "front", image))
    for found in backend.predict([(0, 1), (1, 2), (2, 3)], {"front": turned.focal}):
        assert silent(found) > 0.95
