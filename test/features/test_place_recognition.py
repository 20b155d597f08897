"""Which keyframes are paired."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sequences import walk

from dust3r_ros.config import MapperConfig
from dust3r_ros.features.features import Features, extract
from dust3r_ros.features.place_recognition import DIMENSIONS, Appearance, Overlaps, PairGraph
from dust3r_ros.geometry.pinhole import center_of, project, unproject
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.sequence import RenderedSequence

GAP = 3  # frames so close in time are no news


def gray_of(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def overlap(sequence: RenderedSequence, a: int, b: int) -> float:
    """Part of what frame a shows that frame b shows too, by depth and poses."""
    points = unproject(sequence.depths[a].astype(np.float64), sequence.focal)[::8, ::8].reshape(-1, 3)
    points = transform(invert(sequence.w_T_c[b]) @ sequence.w_T_c[a], points)
    height, width = sequence.depths.shape[1:]
    pixels = np.nan_to_num(project(points, sequence.focal, center_of(height, width)), nan=-1.0)
    u, v = np.round(pixels).astype(int).T
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (points[:, 2] > 0)
    depth = sequence.depths[b][np.clip(v, 0, height - 1), np.clip(u, 0, width - 1)]
    return float((inside & (np.abs(points[:, 2] - depth) < 0.05 * depth)).mean())


@pytest.fixture(scope="module")
def features() -> dict[str, list[Features]]:
    return {kind: [extract(gray_of(image)) for image in walk(kind).images] for kind in ("orbit", "sweep", "corridor")}


def described(features: list[Features], appearance: Appearance | None = None) -> np.ndarray:
    appearance = appearance or Appearance()
    return np.stack([appearance.describe(one) for one in features])


def test_unit_vectors_of_a_few_kilobytes(features: dict[str, list[Features]]) -> None:
    global_descriptors = described(features["orbit"])
    assert (
        global_descriptors.shape == (24, DIMENSIONS)
        and global_descriptors.dtype == np.float32
        and global_descriptors[0].nbytes <= 4096
    )
    np.testing.assert_allclose(np.linalg.norm(global_descriptors, axis=1), 1, rtol=1e-5)
    assert described(features["orbit"]).tobytes() == global_descriptors.tobytes(), "the same images give the same bytes"


def test_neighbours_are_the_most_alike(features: dict[str, list[Features]]) -> None:
    global_descriptors = described(features["orbit"])
    likeness = global_descriptors @ global_descriptors.T - 2 * np.eye(len(global_descriptors))
    assert (np.abs(likeness.argmax(axis=1) - np.arange(len(global_descriptors))) <= 2).all()


def test_what_overlaps_is_alike(features: dict[str, list[Features]]) -> None:
    """Two walks through one room and one through a corridor: what is most alike shows the same part of the room."""
    appearance = Appearance()
    global_descriptors = {kind: described(found, appearance) for kind, found in features.items()}
    room, sequence = global_descriptors["orbit"], walk("orbit")
    hits = 0
    for index in range(len(room)):
        far = np.abs(np.arange(len(room)) - index) > GAP
        scores = np.where(far, room @ room[index], -1.0)
        assert scores.max() > (global_descriptors["corridor"] @ room[index]).max(), (
            "nothing in the corridor is as alike"
        )
        best = int(scores.argmax())
        shared = [overlap(sequence, index, other) for other in np.flatnonzero(far)]
        hits += overlap(sequence, index, best) >= 0.5 * max(shared)
    assert hits >= 0.9 * len(room)


def test_light_noise_and_a_shifted_view(features: dict[str, list[Features]]) -> None:
    appearance = Appearance()
    global_descriptors = described(features["sweep"], appearance)
    rng = np.random.default_rng(0)
    for index in (2, 9, 17):
        gray = gray_of(walk("sweep").images[index])
        changed = np.clip(0.6 * gray[20:, 30:] + 25 + rng.normal(0, 4, gray[20:, 30:].shape), 0, 255).astype(np.uint8)
        best = int((global_descriptors @ appearance.describe(extract(changed))).argmax())
        assert abs(best - index) <= 1


def test_an_image_that_shows_nothing_is_like_nothing(features: dict[str, list[Features]]) -> None:
    nothing = extract(np.full((120, 160), 90, np.uint8))
    appearance = Appearance()
    assert not appearance.describe(nothing).any(), "before any other"
    first = appearance.describe(features["orbit"][0])
    assert not appearance.describe(nothing).any(), "and after"
    assert first @ Appearance().describe(features["orbit"][0]) == pytest.approx(1, abs=1e-6)
    assert np.isfinite(appearance.describe(Features(np.zeros((1, 2)), np.zeros((1, 128), np.uint8)))).all()


def graph(**config: float) -> PairGraph:
    return PairGraph(MapperConfig(**config))


def test_the_last_few() -> None:
    pairs = graph(pair_neighbours=3)
    assert [pairs.neighbours(i) for i in (0, 1, 2, 7)] == [[], [0], [1, 0], [6, 5, 4]]


def test_one_of_a_neighbourhood_and_the_best_first() -> None:
    pairs = graph(pair_lookalikes=2, pair_neighbours=3)
    place = global_descriptors(1)[0]
    others = global_descriptors(40, seed=1)[::4]
    blends = [0.6, 0.75, 0.9, 1.0, 0.9, 0.75, *[0.0] * 6, 0.85]
    for index, blend in enumerate(blends):
        global_descriptor = blend * place + np.sqrt(1.0 - blend**2) * others[index % len(others)]
        pairs.add((global_descriptor / np.linalg.norm(global_descriptor)).astype(np.float32))
    assert pairs.loop_candidates(place, len(blends)) == [3, 12]
    none = graph(pair_lookalikes=0)
    none.add(place)
    assert none.loop_candidates(place, 1) == []


def test_the_score_that_is_asked_for() -> None:
    """A part of how alike neighbours are: here they share three steps of four, the place asked for one."""
    walk = global_descriptors(6)
    for score, expected in ((0.2, [1]), (0.9, [])):
        pairs = graph(lookalike_score=score, pair_lookalikes=1)
        for global_descriptor in walk[:5]:
            pairs.add(global_descriptor)
        assert pairs.loop_candidates(walk[4], 2) == expected


def global_descriptors(count: int, dimensions: int = 512, common: float = 0.0, seed: int = 0) -> np.ndarray:
    """A walk: unit vectors of which neighbours share most; ``common`` is what all images have in common."""
    steps = np.random.default_rng(seed).standard_normal((count + 4, dimensions)).astype(np.float32)
    walk = steps[:-4] + steps[1:-3] + steps[2:-2] + steps[3:-1]
    walk /= np.linalg.norm(walk, axis=1, keepdims=True)
    walk[:, 0] += common
    return walk / np.linalg.norm(walk, axis=1, keepdims=True)


@pytest.mark.parametrize("common", [0.0, 0.6])
def test_vectors_of_any_kind(common: float) -> None:
    """What is alike enough follows from how alike neighbours are, whatever all images have in common."""
    pairs, walk = graph(pair_lookalikes=2), global_descriptors(100, common=common)
    for index, global_descriptor in enumerate(walk):
        assert pairs.add(global_descriptor) == index
    again = walk[40] + 0.5 * global_descriptors(1, common=common, seed=1)[0]
    again /= np.linalg.norm(again)
    assert pairs.loop_candidates(again, 97)[0] == 40
    assert pairs.loop_candidates(again, 40)[:1] != [40], "only what is older counts"
    if not common:
        assert pairs.loop_candidates(global_descriptors(1, seed=2)[0], 97) == []
    assert pairs.loop_candidates(np.zeros(512, np.float32), 97) == [], "nothing is like nothing"


def test_one_graph_after_another() -> None:
    """The keyframes and pairs of a second graph come after those of the first."""
    first, second, walk = graph(), graph(), global_descriptors(60)
    for global_descriptor in walk[:20]:
        first.add(global_descriptor)
    for global_descriptor in walk[20:]:
        second.add(global_descriptor)
    first.connect(0, 19, 1.0, ("left", "left"))
    second.connect(0, 3, 2.0, ("left", "left"))
    assert first.absorb(second) == 20
    assert first.edges == [(0, 19, 1.0), (20, 23, 2.0)] and first.count("left") == 2
    assert [first.loop_candidates(walk[index], 60)[0] for index in (5, 45)] == [5, 45]
    assert first.add(walk[0]) == 60
    assert second.edges == [(0, 3, 2.0)], "the second graph stays as it was"


def test_pairs_that_were_used() -> None:
    pairs = graph()
    pairs.connect(4, 2, 1.5, ("left", "left"))
    pairs.connect(0, 1, 0.5, ("left", "right"))
    pairs.connect(2, 4, 2.5, ("left", "left"))
    assert (pairs.count("left"), pairs.count("right")) == (1, 0), "a pair counts once, for its one camera"
    assert pairs.edges == [(0, 1, 0.5), (2, 4, 2.5)]


def test_pairs_are_reported_in_the_order_in_which_they_changed() -> None:
    pairs, other = graph(), graph()
    pairs.connect(4, 2, 1.5, ("left", "left"))
    pairs.connect(2, 4, 2.5, ("left", "left"))
    other.connect(0, 1, 0.5, ("left", "left"))
    pairs.absorb(other)
    assert pairs.connected == [(2, 4), (2, 4), (0, 1)] and pairs.weight((2, 4)) == 2.5


def test_keyframes_of_another_session() -> None:
    rng = np.random.default_rng(0)
    global_descriptors = [
        global_descriptor / np.linalg.norm(global_descriptor)
        for global_descriptor in rng.normal(size=(30, 16)).astype(np.float32)
    ]
    pairs, again = graph(), graph()
    for global_descriptor in global_descriptors:
        pairs.add(global_descriptor)
    again.restore(global_descriptors, pairs.likeness)
    assert again.likeness == pairs.likeness and again.add(global_descriptors[0]) == 30
    assert again.loop_candidates(global_descriptors[7], 30) == pairs.loop_candidates(global_descriptors[7], 30)


def test_recent_ones_of_several_cameras_are_not_alike() -> None:
    """What the caller pairs anyway is left out, wherever it stands; not strict, the best of the rest is given."""
    pairs, walk = graph(pair_lookalikes=1), global_descriptors(20)
    for global_descriptor in walk:
        pairs.add(global_descriptor)
    assert pairs.loop_candidates(walk[9], 20) == [9]
    assert 9 not in pairs.loop_candidates(walk[9], 20, [9, 18, 19], strict=False)
    assert len(pairs.loop_candidates(walk[9], 20, [9], strict=False)) == 1
    stranger = global_descriptors(1, seed=2)[0]
    assert pairs.loop_candidates(stranger, 20) == []


def test_a_thorough_search_passes_no_neighbour_by() -> None:
    """After the usual candidates come the others that are most alike, each once, none of those that are left out."""
    pairs, walk = graph(pair_lookalikes=1), global_descriptors(20)
    for global_descriptor in walk:
        pairs.add(global_descriptor)
    found = pairs.loop_candidates(walk[9], 20, [3, 19], thorough=True)
    assert found[:3] in ([9, 8, 10], [9, 10, 8]) and 8 < len(found) == len(set(found)) <= 12
    assert not {3, 19} & set(found)


def test_similarities_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dust3r_ros.features.place_recognition._LIKENESSES", 8)
    pairs, again, other = graph(), graph(), graph()
    for count, vector in enumerate(np.eye(30, dtype=np.float32)):
        pairs.add(vector)
        assert len(pairs.likeness) == min(count, 8)
    again.restore(list(np.eye(30, dtype=np.float32)), [1.0] * 20)
    assert again.likeness == [1.0] * 8
    assert again.absorb(pairs) == 30 and again.likeness == pairs.likeness
    other.absorb(pairs)
    assert other.likeness == pairs.likeness


def random_views(count: int, step: int, seed: int = 0) -> list[Features]:
    """Images that each see 300 places along a line, the next one ``step`` places further on."""
    random = np.random.default_rng(seed)
    places = random.integers(0, 120, (step * count + 300, 128)).astype(np.uint8)
    spots = random.uniform(0, 1, (len(places), 2)) * (0.0, 200.0) + (0.0, 20.0)
    depth = random.uniform(2.0, 6.0, len(places))
    views = []
    for at in range(count):
        seen = np.arange(step * at, step * at + 300)
        x = 320.0 + 400.0 * (seen - seen.mean()) / 300.0 / depth[seen] * 4.0
        views.append(Features(np.stack([x, spots[seen, 1] * 4.0 / depth[seen]], axis=1), places[seen]))
    return views


def test_images_in_no_order_are_placed_beside_those_that_show_the_same() -> None:
    views = random_views(12, 60)
    order = np.random.default_rng(1).permutation(len(views))
    placed: list[int] = []
    begun: list[int] = []

    def place(at: int) -> bool:
        placed.append(int(order[at]))
        return True

    left = Overlaps([views[at] for at in order]).place(place, lambda: begun.append(len(placed)))
    assert begun == [0] and sorted(placed) == list(range(12)) and not left.any()
    for at in range(1, 12):
        assert min(abs(placed[at] - one) for one in placed[:at]) <= 2, "it shows what one before it does"


def test_images_of_two_places_make_two_maps_and_what_shows_nothing_is_left() -> None:
    """What could not be placed is tried again once more of what it shows is there, and not for ever."""
    nothing = Features(np.zeros((0, 2)), np.zeros((0, 128), np.uint8))
    both = [*random_views(5, 60), *random_views(5, 60, seed=7), nothing]
    tried: list[int] = []
    begun: list[int] = []

    def place(at: int) -> bool:
        tried.append(at)
        return tried.count(at) > (at == 2)

    left = Overlaps(both).place(place, lambda: begun.append(len(tried)))
    assert np.flatnonzero(left).tolist() == [10] and tried.count(2) == 2 and tried.count(10) == 0
    first, second = tried[: begun[1]], tried[begun[1] :]
    assert len(begun) == 2
    assert {max(at // 5 for at in first), max(at // 5 for at in second)} == {0, 1}
    assert len({at // 5 for at in first}) == len({at // 5 for at in second}) == 1
