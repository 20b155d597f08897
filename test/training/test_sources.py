"""Rendered pairs: deterministic, exact, of the overlap asked for, shared worlds, apart from those held out."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from small_worlds import NoisyRoom

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.endless.viewpoints import DepthView, overlaps

pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.training.batches import Sampling
from dust3r_ros.training.recipe import read_recipe
from dust3r_ros.training.sources import WORLDS, RenderedPairs, choose_pair, open_sources
from dust3r_ros.training.views import TrainingView, ViewPair, length

pytestmark = pytest.mark.usefixtures("quick_worlds")


def small(**changes) -> RenderedPairs:
    """Pairs of 48 pixels, two worlds at once."""
    options = {"short_side": 48, "lanes": 1, "mixed": 2, "batch": 4, "per_world": 8, "views": 16} | changes
    return RenderedPairs(**options)


@pytest.fixture(scope="module")
def pairs(quick_worlds: None) -> list[ViewPair]:
    source = small(seed=3)
    return [source.pair(index, np.random.default_rng(index)) for index in range(24)]


def same(first: ViewPair, second: ViewPair) -> bool:
    """Whether two pairs are equal to the last bit."""
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in ((first.first, second.first), (first.second, second.second))
        for name in ("image", "depth", "K", "w_T_c")
    )


def test_pairs_are_what_training_takes(pairs: list[ViewPair]) -> None:
    assert length(small()) is None
    for pair in pairs:
        pair.check()
        assert min(pair.first.depth.shape) == 48 and pair.first.depth.dtype == np.float32
        assert pair.source.startswith("rendered worlds: ")


def test_seed_index_and_random_numbers_decide_a_pair_wherever_it_is_made(pairs: list[ViewPair]) -> None:
    """Another process gets a pickled copy, and may ask in another order."""
    source = pickle.loads(pickle.dumps(small(seed=3)))
    for index in (17, 0, 5):
        assert same(source.pair(index, np.random.default_rng(index)), pairs[index])
    assert not same(source.pair(5, np.random.default_rng(99)), pairs[5])
    assert not same(small(seed=4).pair(5, np.random.default_rng(5)), pairs[5])


def test_points_of_both_views_are_one_world(pairs: list[ViewPair]) -> None:
    """What the second view sees of the first's points lies where its own depth says."""
    checked = 0
    for pair in pairs:
        points = pair.first.points_c()[pair.first.depth > 0]
        local = transform(invert(pair.second.w_T_c) @ pair.first.w_T_c, points)
        with np.errstate(divide="ignore", invalid="ignore"):
            pixel = local[:, :2] / local[:, 2:] * np.diag(pair.second.K)[:2] + pair.second.K[:2, 2]
        height, width = pair.second.depth.shape
        inside = (local[:, 2] > 0) & (pixel > 0).all(axis=1) & (pixel < [width - 1, height - 1]).all(axis=1)
        column, row = np.round(pixel[inside]).astype(int).T
        # Somewhere in the pixel or one beside it, where surfaces are steep or end.
        nearest, farthest = (grey(pair.second.depth, np.ones((3, 3)))[row, column] for grey in (cv2.erode, cv2.dilate))
        close = (local[inside, 2] > 0.98 * nearest) & (local[inside, 2] < 1.02 * farthest)
        hidden = (nearest > 0) & (nearest < 0.98 * local[inside, 2])
        if inside.sum() > 200:
            checked += 1
            assert (close | hidden).mean() > 0.97 and (close.mean() > 0.2 or hidden.mean() > 0.2)
    assert checked > 12


def test_overlaps_are_within_the_limits_and_all_over_them() -> None:
    source = small(seed=3, overlap=(0.3, 0.9), per_world=16)
    found, twice = [], 0
    for index in range(32):
        pair = source.pair(index, np.random.default_rng(index))
        if np.array_equal(pair.first.w_T_c, pair.second.w_T_c):
            twice += 1
            continue
        views = [DepthView(view.depth, view.K, view.w_T_c) for view in (pair.first, pair.second)]
        found.append(float((overlaps(views, 1) + np.eye(2)).min()))
    # The limits hold for the sample of pixels that pairs are chosen by.
    assert 0.22 < min(found) < 0.45 and 0.7 < max(found) < 0.97 and twice < 8


def test_the_pair_nearest_to_the_overlap_drawn_is_chosen_and_one_image_comes_twice_at_times() -> None:
    shared = np.full((6, 6), 0.05)
    shared[0, 1] = shared[1, 0] = 0.5
    shared[2, 3], shared[3, 2] = 0.9, 0.4
    np.fill_diagonal(shared, 1.0)
    rng = np.random.default_rng(0)
    chosen = [choose_pair(shared, (0.3, 0.8), rng) for _ in range(400)]
    twice = sum(a == b for a, b in chosen)
    assert {tuple(sorted(pair)) for pair in chosen if pair[0] != pair[1]} == {(0, 1), (2, 3)}
    assert {(0, 1), (1, 0)} <= set(chosen) and 2 < twice < 40
    nothing = np.eye(3)
    assert all(a == b for a, b in (choose_pair(nothing, (0.3, 0.8), rng) for _ in range(20)))


def test_worlds_of_the_two_splits_have_nothing_in_common() -> None:
    train = small(seed=3)
    held_out = train.held_out()
    assert held_out.split == "held_out" and train.split == "train"
    a, b = train.pair(0, np.random.default_rng(0)), held_out.pair(0, np.random.default_rng(0))
    assert not same(a, b) and b.source.startswith("rendered worlds, held out: ")
    assert train.seed != held_out.seed


def test_runs_of_all_seeds_are_evaluated_on_the_same_worlds() -> None:
    one, other = (small(seed=seed).held_out().pair(0, np.random.default_rng(0)) for seed in (3, 4))
    assert same(one, other)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_no_two_processes_build_the_same_world(workers: int) -> None:
    source = RenderedPairs(batch=8, lanes=4, mixed=2, per_world=32)
    built = [set[int]() for _ in range(workers)]
    for number in range(200):
        built[number % workers] |= {source.world_of(8 * number + k) for k in range(8)}
    worlds = set.union(*built)
    assert sum(map(len, built)) == len(worlds)
    assert 1600 / 32 <= len(worlds) < 1600 / 32 + 16
    taken = [source.world_of(index) for index in range(1600)]
    counts = np.bincount(taken)
    assert counts.max() == 32
    # A world that was left does not come again.
    last = {world: index for index, world in enumerate(taken)}
    first = {world: index for index, world in reversed(list(enumerate(taken)))}
    assert max(last[world] - first[world] for world in last) < 32 * 8


def test_no_world_is_built_twice_beside_another_source() -> None:
    """Of each, as many pairs are taken as without the other source."""
    recipe = read_recipe("micro", {"workers": 2, "pairs": 16, "per_world": 32, "worlds_at_once": 4})
    worlds = open_sources([WORLDS, WORLDS], recipe, 1)[0]
    sampling, pairs = Sampling([worlds, NoisyRoom("other", 50)], 1000, 0), recipe.stages[0].pairs
    built: list[list[int]] = [[], []]
    for number in range(600):
        places = map(sampling.place, range(number * pairs, (number + 1) * pairs))
        built[number % 2] += [worlds.world_of(place.index) for place in places if place.source == 0]
    assert not set(built[0]) & set(built[1])
    taken = np.bincount(built[0] + built[1])
    assert np.median(taken[taken > 0]) == pytest.approx(32, abs=3)


def test_effects_can_be_left_out() -> None:
    source = small(seed=3, photographic=False)
    pair = source.pair(0, np.random.default_rng(0))
    again = source.pair(0, np.random.default_rng(0))
    assert same(pair, again) and isinstance(pair.first, TrainingView)
    pair.first.image[:] = 0  # a copy: nobody else's picture
    assert source.pair(0, np.random.default_rng(0)).first.image.any()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"split": "test"}, "unknown split 'test'"),
        ({"short_side": 8}, "16 pixels"),
        ({"batch": 0}, "batches of 0"),
        ({"overlap": (0.9, 0.2)}, "0.9 to 0.2"),
    ],
)
def test_impossible_sources_are_refused(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        RenderedPairs(**options)


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(InputError, match="begin at 0"):
        small().pair(-1, np.random.default_rng(0))
