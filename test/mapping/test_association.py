"""What ties images together, and a map of plain boxes that have neither features nor texture."""

from __future__ import annotations

import numpy as np
import pytest
from plain_box import CORNERS, FOCAL, GROUP, HEIGHT, WIDTH, picture, pixels_of, viewpoint

from dust3r_ros.config import MapperConfig
from dust3r_ros.features.features import Features, matched
from dust3r_ros.geometry.similarity import rms_apart
from dust3r_ros.mapping.association import JunctionLinks, Linker, coverage
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import Image, TrackingState


def corner_of(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """(N,) which corner of the box each pixel shows, -1 for none."""
    apart = np.linalg.norm(pixels[:, None] - pixels_of(CORNERS, viewpoint(degrees))[None], axis=2)
    return np.where(apart.min(axis=1) < 2.0, apart.argmin(axis=1), -1)


def before(index: int) -> list[int]:
    return list(range(index - 1, max(-1, index - 4), -1))


@pytest.fixture
def stream() -> CameraStream:
    return CameraStream("camera", 0, WIDTH, HEIGHT, MapperConfig())


@pytest.fixture
def sparse() -> SparseMap:
    result = SparseMap(1.0)
    result.intrinsics.append(Intrinsics(FOCAL, FOCAL, std=0.0, fixed=True))
    return result


def test_a_corner_keeps_its_landmark_around_the_box(sparse: SparseMap, stream: CameraStream) -> None:
    links, corners = JunctionLinks(sparse), {}
    for k, degrees in enumerate(range(20, 80, 6)):
        sparse.add(0, no_tracks(), None)
        count = links.add(k, stream, picture(viewpoint(degrees), seed=k), before(k))
        assert count >= 5 if k else count == 0
        seen = sparse.views[k].seen
        assert len(np.unique(seen.ids)) == len(seen.ids)
        which = corner_of(seen.pixels - stream.centred(np.zeros(2)), degrees)
        for landmark, corner in zip(seen.ids[which >= 0].tolist(), which[which >= 0].tolist(), strict=True):
            corners.setdefault(landmark, []).append(corner)
    lasting = [seen for seen in corners.values() if len(seen) >= 5]
    assert len(lasting) >= 5
    assert all(len(set(seen)) == 1 for seen in lasting), "a landmark is one corner"


def test_an_image_is_linked_without_becoming_a_view(sparse: SparseMap, stream: CameraStream) -> None:
    links = JunctionLinks(sparse)
    assert len(links.find(stream, picture(viewpoint(20.0))).ids) == 0
    sparse.add(0, no_tracks(), None)
    links.add(0, stream, picture(viewpoint(20.0)), [])
    count = len(sparse.points)
    found = links.find(stream, picture(viewpoint(29.0), seed=1))
    assert len(sparse.points) == count and len(sparse.views) == 1
    first = sparse.views[0].seen
    at = {landmark: pixel for landmark, pixel in zip(first.ids.tolist(), first.pixels, strict=True)}
    old = np.array([at[landmark] for landmark in found.ids.tolist()]) - stream.centred(np.zeros(2))
    same = corner_of(old, 20.0) == corner_of(found.pixels - stream.centred(np.zeros(2)), 29.0)
    assert len(found.ids) >= 5 and same.mean() > 0.8


def test_nothing_is_linked_in_tiny_images(sparse: SparseMap) -> None:
    links, tiny = JunctionLinks(sparse), CameraStream("tiny", 0, 1, 1, MapperConfig())
    for index in range(2):
        sparse.add(0, no_tracks(), None)
        assert links.add(index, tiny, np.zeros((1, 1), np.uint8), before(index)) == 0


def test_only_the_last_views_are_known(sparse: SparseMap, stream: CameraStream) -> None:
    links = JunctionLinks(sparse)
    sparse.add(0, no_tracks(), None)
    links.add(0, stream, picture(viewpoint(20.0)), [])
    old = sparse.views[0].seen.ids
    assert np.isin(links.find(stream, picture(viewpoint(23.0), seed=1)).ids, old).sum() >= 5
    sparse.add(0, no_tracks(), None)
    assert links.add(1, stream, np.full((HEIGHT, WIDTH), 128, np.uint8), [0]) == 0
    assert len(links.find(stream, picture(viewpoint(23.0), seed=1)).ids) >= 5
    sparse.add(0, no_tracks(), None)
    links.add(2, stream, np.full((HEIGHT, WIDTH), 128, np.uint8), [1])
    assert len(links.find(stream, picture(viewpoint(23.0), seed=1)).ids) == 0


def test_junctions_of_another_map_are_known_by_their_new_names(sparse: SparseMap, stream: CameraStream) -> None:
    other = SparseMap(1.0)
    theirs, mine = JunctionLinks(other), JunctionLinks(sparse)
    other.add(0, no_tracks(), None)
    theirs.add(0, stream, picture(viewpoint(20.0)), [])
    names = 7 + np.arange(len(other.points))
    sparse.landmarks.new(7 + len(names))
    mine.absorb(theirs, 4, names)
    found = mine.find(stream, picture(viewpoint(23.0), seed=1))
    expected = theirs.find(stream, picture(viewpoint(23.0), seed=1))
    assert len(found.ids) >= 5 and np.array_equal(found.ids, names[expected.ids])


class Bench:
    """Keyframes whose links are looked at, without a map that poses them."""

    def __init__(self) -> None:
        self.config = MapperConfig()
        self.state = Reconstruction(self.config)
        self.sparse, self.records = self.state.sparse, self.state.records
        self.sparse.intrinsics.append(Intrinsics(FOCAL, FOCAL, std=0.0, fixed=True))
        self.stream = CameraStream("camera", 0, WIDTH, HEIGHT, self.config)
        self.linker = Linker(self.state)

    def add(self, gray: Image, features: Features | None = None) -> int:
        """A keyframe linked to the one before, its corners followed from there; how many links it has."""
        index = self.sparse.add(0, no_tracks(), None)
        tracks = self.stream.follow(gray)
        features = features or self.linker.features(self.stream, gray)
        ids = self.sparse.landmarks.new(len(features.pixels))
        self.records.append(KeyframeRecord(index, self.stream, np.zeros((1, 1, 3), np.uint8), features, ids))
        self.sparse.observe(index, Tracks(ids, features.pixels))
        links = self.linker.connect(index, gray, tracks, list(range(index - 1, max(-1, index - 4), -1)))
        self.linker.follow_from(index)
        return links


def spread(part: float, count: int = 300) -> Features:
    """Features all over ``part`` of the image's width and height that each match themselves only."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-0.5, 0.5, (count, 2)) * part * [WIDTH, HEIGHT]
    return Features(pixels, rng.integers(0, 90, (count, 128)).astype(np.uint8))


def test_a_corner_keeps_its_landmark_while_it_is_followed() -> None:
    bench = Bench()
    for k in range(4):
        bench.add(picture(viewpoint(20.0 + 2 * k), k, GROUP), Features(np.zeros((0, 2)), np.zeros((0, 128), np.uint8)))
    observations = np.concatenate([view.seen.ids for view in bench.sparse.views])
    assert np.count_nonzero(np.bincount(observations) == 4) >= 15


def test_what_is_followed_is_spread_over_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine of ten features lie in the left quarter and come first; the rest of the image is followed too."""
    bench, rng, anchors = Bench(), np.random.default_rng(0), []
    monkeypatch.setattr(bench.stream, "anchor", lambda _, tracks: anchors.append(tracks))
    left = rng.uniform([-0.5, -0.5], [-0.25, 0.5], (1800, 2)) * [WIDTH, HEIGHT]
    right = rng.uniform([-0.25, -0.5], [0.5, 0.5], (200, 2)) * [WIDTH, HEIGHT]
    pixels = np.concatenate([left, right])
    bench.add(picture(viewpoint(20.0), 0, GROUP), Features(pixels, np.zeros((2000, 128), np.uint8)))
    followed = anchors[0].pixels
    assert len(followed) == bench.config.track_corners
    assert np.count_nonzero(followed[:, 0] > -0.25 * WIDTH) >= 180


@pytest.mark.parametrize("followed", [200, 20], ids=["followed", "hardly followed"])
def test_features_that_contradict_what_was_followed_are_no_matches(followed: int) -> None:
    """Most features of a wall with a repeated pattern match those one period away."""
    bench, rng = Bench(), np.random.default_rng(0)
    wall = np.column_stack([rng.uniform(-1.4, 1.4, (400, 2)), rng.uniform(3.0, 6.0, 400)])
    period, step = 40.0, np.array([0.15, 0.0, 0.0])
    for k in range(2):
        w_T_c = np.eye(4)
        w_T_c[:3, 3] = k * step
        pixels = FOCAL * (wall - k * step)[:, :2] / wall[:, 2:]
        shifted = pixels + (k * period * np.array([0.6, 0.8])) * (np.arange(400) >= 100)[:, None]
        features = Features(shifted, np.random.default_rng(1).integers(0, 90, (400, 128)).astype(np.uint8))
        ids = bench.sparse.landmarks.new(400)
        bench.records.append(KeyframeRecord(k, bench.stream, np.zeros((1, 1, 3), np.uint8), features, ids))
        bench.sparse.observe(bench.sparse.add(0, no_tracks(), w_T_c), Tracks(ids, shifted))
    # Every other landmark has a position; the rest can be told by epipolar lines only.
    bench.sparse.points[np.arange(0, 400, 2)] = wall[::2]
    tracks = Tracks(np.arange(0, 2 * followed, 2), pixels[: 2 * followed : 2])
    bench.linker.link([0], 1, tracks)
    linked = np.isin(bench.sparse.landmarks.resolved(bench.records[1].feature_ids), np.arange(400))
    right, wrong = np.count_nonzero(linked[:100]), np.count_nonzero(linked[100:])
    assert (right >= 90 and wrong == 0) if followed > 100 else wrong >= 250


def test_several_are_linked_as_one_after_the_other() -> None:
    features, benches = spread(1.0), (Bench(), Bench())
    for bench in benches:
        for k in range(3):
            moved = Features(features.pixels * 0.99**k, features.descriptors)
            ids = bench.sparse.landmarks.new(len(moved.pixels))
            bench.records.append(KeyframeRecord(k, bench.stream, np.zeros((1, 1, 3), np.uint8), moved, ids))
            bench.sparse.observe(bench.sparse.add(0, no_tracks(), None), Tracks(ids, moved.pixels))
    one, other = (bench.linker for bench in benches)
    counts = one.link([1, 0], 2, no_tracks())
    assert counts == other.link([1], 2, no_tracks()) + other.link([0], 2, no_tracks()) and min(counts) > 200
    for a, b in zip(benches[0].sparse.views, benches[1].sparse.views, strict=True):
        np.testing.assert_array_equal(a.seen.ids, b.seen.ids)
    assert one.link([], 2, no_tracks()) == []
    assert [len(pairs) for pairs in one.pairs([0], 2, 10_000)] == [0], "fewer than asked for are none"


@pytest.mark.parametrize("part, joined", [(1.0, False), (0.25, True)])
def test_followed_corners_help_where_features_say_little(part: float, joined: bool) -> None:
    bench, features = Bench(), spread(part)
    bench.add(picture(viewpoint(20.0), 0, GROUP), features)
    ids, others = bench.records[0].feature_ids, bench.sparse.landmarks.new(5)
    bench.sparse.points[:] = 1.0
    moved = Features(features.pixels * 0.99, features.descriptors)
    tracks = Tracks(np.concatenate([ids[:5], others]), np.full((10, 2), 7.0))
    found = bench.linker.measured(0, moved, (HEIGHT, WIDTH), tracks)
    assert np.isin(others, found.ids).all() == joined
    _, there, here = np.intersect1d(ids, found.ids, return_indices=True)
    np.testing.assert_array_equal(found.pixels[here], moved.pixels[there], "features come first")
    assert len(here) > 200


@pytest.mark.parametrize("part, share", [(1.0, 1.0), (0.25, 0.1)])
def test_coverage_is_the_part_of_the_image_with_features(part: float, share: float) -> None:
    covered = coverage(spread(part).pixels, (HEIGHT, WIDTH))
    assert covered == pytest.approx(share, abs=0.05)
    assert coverage(np.zeros((0, 2)), (HEIGHT, WIDTH)) == 0.0
    assert coverage(np.array([[WIDTH, 0.0]]), (HEIGHT, WIDTH)) == 0.0, "outside"


@pytest.mark.parametrize("part, more", [(1.0, False), (0.3, True)])
def test_junctions_help_where_all_features_are_on_one_poster(part: float, more: bool) -> None:
    bench, features = Bench(), spread(part)
    # The first sees nothing again; a camera that moved sideways shifts what it sees.
    shifted = Features(features.pixels * 0.97 + np.random.default_rng(1).normal(0, 0.1, (300, 2)), features.descriptors)
    bench.add(picture(viewpoint(20.0), 0, GROUP), features)
    alone = len(matched(features, shifted))
    links = bench.add(picture(viewpoint(22.0), 1, GROUP), shifted)
    assert alone > 200
    assert (links > alone) == more


@pytest.mark.parametrize("focal", [FOCAL, pytest.param(0.0, marks=pytest.mark.long)], ids=["known", "unknown"])
def test_plain_boxes_are_mapped(focal: float) -> None:
    mapper = Mapper(MapperConfig(dense=False, focal=focal))
    views = [viewpoint(20.0 + 4 * k, 2.6 + 0.3 * np.sin(k / 3), 1.4 + 0.3 * np.sin(k / 4)) for k in range(12)]
    states = []
    for k, w_T_c in enumerate(views):
        image = np.repeat(picture(w_T_c, k, GROUP)[..., None], 3, axis=2)
        states.append(mapper.process(k * 100_000_000, "camera", image).state)
    mapper.finish()
    assert states[3:] == [TrackingState.TRACKING] * 9
    poses = mapper.trajectory()
    found = np.array([pose.w_T_c[:3, 3] for pose in poses])
    true = np.array([views[pose.stamp_ns // 100_000_000][:3, 3] for pose in poses])
    assert len(poses) == 12
    assert rms_apart(found, true) < 0.04, "of two metres"
    assert mapper.cameras["camera"].focal == pytest.approx(FOCAL, rel=0.1)
