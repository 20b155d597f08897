"""Geometry and a network together, on rendered pairs: the network helps where it is right and harms nowhere."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from stand_in import StandIn

from dust3r_ros.backends.both import BothBackend, NetworkDepths, network_size
from dust3r_ros.backends.flow import StereoDepth
from dust3r_ros.backends.prior import NetworkDepth, TrackRecord, counts, with_prior
from dust3r_ros.backends.two_view import TwoViewBackend
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import RenderedSequence, look_at, render_path
from dust3r_ros.types import PairPrediction, View


@pytest.mark.parametrize(
    ("shape", "trained", "size"),
    [
        ((240, 320), (224, 224), (192, 256)),
        ((320, 240), (224, 224), (256, 192)),
        ((176, 320), (224, 224), (160, 288)),
        ((240, 320), (384, 512), (240, 320)),
        ((240, 320), None, (240, 320)),
        ((512, 512), (224, 224), (224, 224)),
        ((16, 1024), (16, 512), (16, 512)),
    ],
)
def test_sizes(shape, trained, size) -> None:
    assert network_size(shape, trained) == size


@pytest.mark.parametrize("seed", range(30))
def test_sizes_stay_within_training_and_keep_the_aspect(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(side) * 16 for side in rng.integers(5, 40, 2))
    height, width = network_size(shape, (224, 224))
    assert height % 16 == width % 16 == 0 and height * width <= 224**2
    if max(shape) < 3 * min(shape):
        assert abs(np.log(width / height) - np.log(shape[1] / shape[0])) < 0.1
    assert height * width > 0.4 * min(224**2, shape[0] * shape[1])


def depths(budget: int = 1 << 20) -> tuple[NetworkDepths, StandIn]:
    rng = np.random.default_rng(0)
    true = 2 + rng.random((4, 32, 48)).cumsum(axis=1) / 16
    stand_in = StandIn(true.astype(np.float32), np.stack([np.eye(4)] * 4), 40.0, noise=0.0, warp=0.0)
    found = NetworkDepths(stand_in, None, budget)
    for index in range(4):
        found.add(View(index, "front", rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)))
    return found, stand_in


def test_depth_is_each_views_own_up_to_scale() -> None:
    found, stand_in = depths()
    of_both = found.of_orders([(0, 1), (1, 0)])
    for (index, _), view in of_both.items():
        ratio = view.depth / stand_in._depths[index]
        np.testing.assert_allclose(ratio, np.median(ratio), rtol=2e-3)
        np.testing.assert_allclose(view.confidence, 5, rtol=1e-3)


def test_beyond_the_budget_the_oldest_answers_go() -> None:
    found, stand_in = depths(budget=3 * 32 * 48 * 4)
    found.of_orders([(0, 1), (1, 0), (2, 3), (3, 2)])
    stand_in.asked.clear()
    found.of_orders([(2, 3), (3, 2)])
    assert stand_in.asked == []
    found.of_orders([(0, 1), (1, 0)])
    assert stand_in.asked == [(0, 1)], "the other order was kept"


WIDTH, HEIGHT = 320, 240
TARGET = np.array([0.0, 0.3, 0.9])
STEPS = (0.0, 0.06, 0.4, 0.005)  # metres to the side
LITTLE, WIDE, NONE = (0, 1), (0, 2), (0, 3)


@pytest.fixture(scope="module")
def views() -> RenderedSequence:
    at = np.array([1.9, -0.2, 1.4])
    poses = np.stack([look_at(at + np.array([0.0, step, 0.1 * step]), TARGET) for step in STEPS])
    return render_path("pairs", room(0), poses, width=WIDTH, height=HEIGHT)


def network(views: RenderedSequence, **what) -> StandIn:
    return StandIn(views.depths, views.w_T_c, views.focal, **what)


def predict(backend, views: RenderedSequence, pairs: list, posed: bool = True) -> list[PairPrediction]:
    for index, image in enumerate(views.images):
        backend.add(View(index, "front", image))
    return backend.predict(pairs, {"front": views.focal}, dict(enumerate(views.w_T_c)) if posed else None)


def of_both(views: RenderedSequence, pair: tuple[int, int], **what) -> PairPrediction:
    return predict(BothBackend(network(views, **what), (224, 224)), views, [pair])[0]


def errors(found: PairPrediction, views: RenderedSequence) -> np.ndarray:
    """(H, W) of log depth of the first view."""
    return np.abs(np.log(found.points_first[..., 2] / views.depths[found.first]))


@pytest.fixture(scope="module")
def alone(views: RenderedSequence) -> dict[tuple[int, int], PairPrediction]:
    pairs = [LITTLE, WIDE, NONE]
    return dict(zip(pairs, predict(TwoViewBackend(), views, pairs), strict=True))


@pytest.mark.parametrize(("pair", "gain"), [(LITTLE, 1.25), (WIDE, 1.35)])
def test_a_right_network_adds_depth(views, alone, pair, gain) -> None:
    found = of_both(views, pair)
    for own, both in (
        (alone[pair].confidence_first, found.confidence_first),
        (alone[pair].confidence_second, found.confidence_second),
    ):
        assert (both > 1.5).mean() > gain * (own > 1.5).mean()
    added = (alone[pair].confidence_first == 1) & (found.confidence_first > 1.5)
    assert np.median(errors(found, views)[added]) < 0.03
    true = views.depths[pair[1]]
    in_second = transform(invert(views.w_T_c[pair[1]]) @ views.w_T_c[0], found.points_second)[..., 2]
    sure = found.confidence_second > 1.5
    assert np.median(np.abs(np.log(in_second / true))[sure]) < 0.02


@pytest.mark.parametrize("warp", [0.0, 0.02, 0.05])
def test_its_confidence_is_honest(views, alone, warp) -> None:
    """What a pixel is off by is what its confidence says."""
    found = of_both(views, WIDE, warp=warp)
    added = (alone[WIDE].confidence_first == 1) & (found.confidence_first > 1)
    assert added.mean() > 0.1
    off = errors(found, views)[added] * np.sqrt(found.confidence_first[added] - 1) / 0.03
    assert np.median(off) < 1 and np.quantile(off, 0.9) < 2.5


def test_a_worse_network_is_less_sure_until_it_says_nothing(views, alone) -> None:
    shares = [(of_both(views, WIDE, warp=warp).confidence_first > 1.5).mean() for warp in (0.02, 0.05, 0.2)]
    assert shares[0] > 1.2 * shares[1] and shares[1] > shares[2]
    assert shares[2] < 1.02 * (alone[WIDE].confidence_first > 1.5).mean()


def test_a_smoothly_bent_view_is_bent_back_where_geometry_is_near(views, alone) -> None:
    """By 5 % over the view, which is too much for one scale to say anything surely."""
    found = of_both(views, WIDE, warp=0.05, noise=0.0)
    added = (alone[WIDE].confidence_first == 1) & (found.confidence_first > 1)
    assert added.mean() > 0.1
    assert np.median(errors(found, views)[added]) < 0.025


def test_outlines_that_a_network_smears_are_not_believed(views, alone) -> None:
    """Geometry ends at them: that is where a network would be asked."""
    smear = lambda true, rng: np.exp(cv2.GaussianBlur(np.log(true), (0, 0), 8.0))  # noqa: E731
    found = of_both(views, WIDE, wrong=smear)
    added = (alone[WIDE].confidence_first <= 1.5) & (found.confidence_first > 1.25)
    assert added.mean() > 0.2 and (errors(found, views)[added] > 0.1).mean() < 0.08


WRONG = {
    "nonsense": lambda true, rng: rng.lognormal(0.0, 1.0, true.shape),
    "upside down": lambda true, rng: np.ascontiguousarray(true[::-1]),
    "flat": lambda true, rng: np.ones_like(true),
    "half of it nearer": lambda true, rng: np.where(np.arange(true.shape[1]) < true.shape[1] // 2, 1.5, 1.0) * true,
    "not finite": lambda true, rng: np.full_like(true, np.nan),
    "behind the camera": lambda true, rng: -true,
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("pair", [LITTLE, WIDE])
def test_a_wrong_network_does_no_harm(views, alone, pair, kind) -> None:
    found = of_both(views, pair, wrong=WRONG[kind])
    own = alone[pair].confidence_first
    assert np.isfinite(found.points_first).all() and np.isfinite(found.points_second).all()
    sure = found.confidence_first > 1.5
    assert (sure & (own <= 1.5)).mean() < 0.01, "nothing is sure that was not"
    assert (~sure & (own > 1.5)).mean() < 0.01, "and nothing less"
    both = sure & (own > 1.5)
    assert np.median(errors(found, views)[both]) < 1.1 * np.median(errors(alone[pair], views)[both])


def test_a_network_that_says_nothing_changes_nothing() -> None:
    """Its depth, the same everywhere or a plane's, can be bent to that of walls, and smooths what hangs there."""
    height, width = 120, 160
    true = (2.0 + 0.6 * np.arange(width, dtype=np.float32) / width) * np.ones((height, 1), np.float32)
    for row, column in ((20, 30), (60, 90), (80, 20), (30, 120)):
        true[row : row + 24, column : column + 24] *= 0.93
    plane = true[:1] * np.linspace(1.1, 0.9, height, dtype=np.float32)[:, None]
    true[:, width // 2 :] *= 1.3  # what no plane tells
    geometry = StereoDepth(true.copy(), np.full_like(true, 4.0))
    geometry.confidence[:, ::3] = 1.0  # what geometry does not know
    geometry.depth[:, ::3] = 0.0
    for nothing in (np.ones_like(true), plane):
        assert with_prior(geometry, NetworkDepth(nothing, np.full_like(true, 3.0)), TrackRecord()) is geometry
    found = with_prior(geometry, NetworkDepth(0.3 * true, np.full_like(true, 3.0)), TrackRecord())
    assert (found.confidence[:, ::3] > 1.5).mean() > 0.9
    np.testing.assert_allclose(found.depth[:, ::3], true[:, ::3], rtol=0.03)


def test_a_network_is_judged_by_all_views_it_was_asked_for() -> None:
    """One that is right by luck is not believed after many wrong views, one that turns out right is believed again."""
    rng = np.random.default_rng(0)
    true = np.exp(cv2.resize(rng.normal(0, 0.3, (6, 8)), (160, 120))).astype(np.float32)
    geometry = StereoDepth(true.copy(), np.full_like(true, 4.0))
    geometry.confidence[:, ::3] = 1.0
    geometry.depth[:, ::3] = 0.0

    def believed(depth: np.ndarray, record: TrackRecord) -> bool:
        return with_prior(geometry, NetworkDepth(depth, np.full_like(true, 3.0)), record) is not geometry

    record = TrackRecord()
    assert record.left == 1
    assert believed(true, record)
    for _ in range(20):
        assert not believed(np.ones_like(true), record)
    assert record.left > 0.8
    assert not believed(true, record)
    views = next(views for views in range(1000) if believed(true, record))
    assert 10 < views < 100
    assert believed(true, record)
    assert not believed(np.ones_like(true), record), "a good name does not make a wrong view right"


def test_where_geometry_knows_no_scale_nobody_is_asked(views) -> None:
    stand_in = network(views)
    (found,) = predict(BothBackend(stand_in), views, [NONE])
    assert (found.confidence_first == 1).all() and (found.confidence_second == 1).all()
    assert stand_in.asked == stand_in.encoded == []


def test_without_poses_the_unit_is_geometrys(views) -> None:
    (own,) = predict(TwoViewBackend(), views, [WIDE], posed=False)
    (found,) = predict(BothBackend(network(views)), views, [WIDE], posed=False)
    known = own.confidence_first > 2
    ratio = found.points_first[..., 2][known] / own.points_first[..., 2][known]
    assert abs(np.median(ratio) - 1) < 0.01
    assert (found.confidence_first > 1.5).sum() > 1.2 * (own.confidence_first > 1.5).sum()


def test_images_are_encoded_once_and_shrunk_to_the_size_of_training(views) -> None:
    stand_in = network(views)
    backend = BothBackend(stand_in, (224, 224))
    predict(backend, views, [LITTLE, WIDE])
    assert sorted(stand_in.encoded) == [0, 1, 2] and set(stand_in.sizes.values()) == {(192, 256)}
    assert sorted(stand_in.asked) == [(0, 2), (1, 0), (2, 0)], "each view in one pair"


def test_what_a_pair_gave_is_not_asked_again(views) -> None:
    stand_in = network(views)
    backend = BothBackend(stand_in, (224, 224))
    (first,) = predict(backend, views, [WIDE])
    for index in range(len(STEPS)):
        backend.forget(index)
    assert not backend.has(0) and not stand_in.sizes
    (again, turned) = predict(backend, views, [WIDE, WIDE[::-1]])
    assert stand_in.asked == [(0, 2), (2, 0)] and stand_in.encoded == [0, 2]
    np.testing.assert_array_equal(again.points_first, first.points_first)
    np.testing.assert_array_equal(turned.confidence_second, first.confidence_first)
    backend.add(View(2, "front", views.images[1]))  # another image by this number
    backend.predict([WIDE], {"front": views.focal}, {0: views.w_T_c[0], 2: views.w_T_c[1]})
    assert stand_in.asked[2:] == [(0, 2), (2, 0)]
    backend.clear()
    assert not backend.has(0)


def test_a_view_is_asked_for_once_for_all_its_pairs(views) -> None:
    stand_in = network(views)
    backend = BothBackend(stand_in, (224, 224))
    found = predict(backend, views, [LITTLE, WIDE])
    of_first = [order for order in stand_in.asked if order[0] == 0]
    assert of_first == [(0, 2)], "geometry knows most surely with the wide pair"
    for own, both in zip(predict(TwoViewBackend(), views, [LITTLE, WIDE]), found, strict=True):
        assert (both.confidence_first > 1.5).mean() > 1.2 * (own.confidence_first > 1.5).mean()
    asked = stand_in.asked.copy()
    again = backend.predict([LITTLE, WIDE], {"front": views.focal}, dict(enumerate(views.w_T_c)))
    assert stand_in.asked == asked, "what it said is kept"
    for before, after in zip(found, again, strict=True):
        np.testing.assert_array_equal(after.confidence_first > 1.5, before.confidence_first > 1.5)


def test_a_view_outlives_the_one_it_was_asked_for_with(views) -> None:
    """What the network said is kept while there is room; then it is asked in another pair."""
    for budget, asked in ((128 << 20, [(0, 2)]), (1, [(0, 2), (0, 1)])):
        stand_in = network(views)
        backend = BothBackend(stand_in, (224, 224))
        backend._network = NetworkDepths(stand_in, (224, 224), budget)
        predict(backend, views, [WIDE])
        backend.forget(2)
        backend.predict([LITTLE], {"front": views.focal}, dict(enumerate(views.w_T_c)))
        assert [order for order in stand_in.asked if order[0] == 0] == asked


def test_same_calls_give_the_same_bytes(views) -> None:
    a, b = (of_both(views, WIDE) for _ in range(2))
    for name in ("points_first", "confidence_first", "points_second", "confidence_second"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def some_view(known: float) -> tuple[np.ndarray, StereoDepth]:
    """True depth (H, W) of hills, and what geometry knows of it: about the share ``known`` of the pixels."""
    rng = np.random.default_rng(1)
    true = np.exp(cv2.resize(rng.normal(0, 0.3, (6, 8)), (160, 120))).astype(np.float32)
    lost = rng.random(true.shape) >= known
    return true, StereoDepth(np.where(lost, 0, true), np.where(lost, 1, 4).astype(np.float32))


def ask(record: TrackRecord, geometry: StereoDepth, network: NetworkDepth) -> bool:
    """Whether a network is asked for a view of one pair; then it has done what it can for it."""
    if not record.asks(geometry, counts(geometry)):
        return False
    found = with_prior(geometry, network, record)
    record.add_gained(float(np.mean(counts(found) & ~counts(geometry))))
    return True


def asked(network_of, views: int, known: float = 0.7) -> list[int]:
    """The numbers of the views for which a network is asked; ``network_of`` makes its depth of the true one."""
    record, (true, geometry) = TrackRecord(), some_view(known)
    return [view for view in range(views) if ask(record, geometry, network_of(true))]


def test_a_network_that_is_not_believed_is_asked_ever_more_rarely() -> None:
    for nothing in (
        lambda true: NetworkDepth(np.ones_like(true), np.full_like(true, 3.0)),
        lambda true: NetworkDepth(true, np.ones_like(true)),  # it says itself that it knows nothing
    ):
        assert asked(nothing, 400) == [0, 3, 12, 39, 120, 248, 376]


def test_a_network_that_is_believed_is_asked_wherever_geometry_leaves_something() -> None:
    def right(true: np.ndarray) -> NetworkDepth:
        return NetworkDepth(0.3 * true, np.full_like(true, 3.0))

    assert asked(right, 40) == list(range(40))
    assert asked(right, 40, known=1.0) == [0, 3, 19, 35], "only to judge it"
    assert asked(right, 40, known=0.02) == [], "nobody can judge it"


def test_a_network_that_is_believed_and_fills_nothing_is_asked_ever_more_rarely() -> None:
    """It knows the scene, but too roughly for its depth to count anywhere; once it is right it is asked for again."""
    record, (true, geometry) = TrackRecord(), some_view(0.7)
    rough = cv2.resize(np.random.default_rng(2).normal(0, 0.15, (12, 16)), true.shape[::-1]).astype(np.float32)
    good, found = 400, []
    for view in range(800):
        depth = true * np.exp(rough) if view < good else true
        if ask(record, geometry, NetworkDepth(depth, np.full_like(true, 3.0))):
            found.append(view)
        assert view < 9 or record.believed
    before = [view for view in found if view < good]
    assert before == [0, 3, 4, 5, 21, 69, 197, 325]
    assert found[-50:] == list(range(750, 800))


def test_views_that_more_pairs_may_come_of_say_how_much_a_network_fills() -> None:
    """It is heard before they leave, many views later."""
    record, (true, geometry) = TrackRecord(), some_view(0.7)
    for _ in range(5):
        with_prior(geometry, NetworkDepth(true, np.full_like(true, 3.0)), record)
    assert record.helps
    record.hoped = dict.fromkeys(range(4), 0.01)
    assert record.believed and not record.helps
    record.hoped[4] = 0.4
    assert record.helps, "one may be of use again"


def test_it_is_asked_again_and_believed_once_it_is_right() -> None:
    record = TrackRecord()
    true, geometry = some_view(0.7)
    for view in range(3000):
        depth = np.ones_like(true) if view < 30 else true
        ask(record, geometry, NetworkDepth(depth, np.full_like(true, 3.0)))
        if record.believed:
            break
    assert 60 < view < 1000


def test_one_view_with_wrong_geometry_does_not_outweigh_many_others() -> None:
    """That of a young map, say: a right network is believed a few probes later."""
    record, (true, geometry) = TrackRecord(), some_view(0.7)
    plane = np.broadcast_to(np.linspace(1.0, 1.1, true.shape[1], dtype=np.float32), true.shape)
    wrong = StereoDepth(np.where(geometry.confidence > 1, plane, 0).astype(np.float32), geometry.confidence)
    right = NetworkDepth(true, np.full_like(true, 3.0))
    with_prior(wrong, NetworkDepth(true**4, right.confidence), record)
    assert record.left > 1
    for _ in range(5):
        with_prior(geometry, right, record)
    assert record.believed
