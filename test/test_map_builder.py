"""The map under construction, driven frame by frame."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from scoring import alignment, path_length
from sequences import SMALL, walk

from dust3r_ros.backends import make_backend
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.map_builder import MapBuilder
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.streams import CameraStream
from dust3r_ros.timing import no_timer
from dust3r_ros.tracking import no_tracks


class Driver:
    """A builder and one stream of known focal; every frame that is added becomes a keyframe."""

    def __init__(self, sequence: RenderedSequence) -> None:
        self.sequence = sequence
        self.builder = MapBuilder(SMALL, make_backend(SMALL), no_timer)
        self.stream = CameraStream("camera", 0, sequence.width, sequence.height, SMALL)
        self.builder.add_camera(self.stream, sequence.focal)

    def add(self, frames: Iterable[int]) -> None:
        for frame in frames:
            image = self.sequence.images[frame]
            gray = self.stream.gray(image)
            tracks = self.stream.follow(gray)
            found = self.builder.locate(self.stream, tracks) if self.builder.initialised else None
            w_T_c = None if found is None else found.w_T_c
            stamp = int(self.sequence.stamps_ns[frame])
            self.builder.add(stamp, self.stream, self.stream.resize.apply(image), gray, tracks, w_T_c)

    def keyframes(self) -> list:
        return [self.builder.keyframe(i) for i in range(len(self.builder))]


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return walk("orbit")


@pytest.fixture(scope="module")
def built(sequence: RenderedSequence) -> Driver:
    driver = Driver(sequence)
    driver.add(range(0, 16, 3))
    return driver


def test_keyframes_stand_where_they_were(built: Driver) -> None:
    assert built.builder.initialised and len(built.builder) == 6
    _, distances = alignment(built.keyframes(), built.sequence)
    assert np.sqrt(np.mean(distances**2)) < 0.01 * path_length(built.sequence)
    for keyframe in built.keyframes():
        assert (keyframe.depth > 0).mean() > 0.2


def test_the_pair_graph_holds_its_pairs(built: Driver) -> None:
    pairs = {(first, second) for first, second, _ in built.builder.graph.edges}
    expected = {(i, j) for j in range(6) for i in range(max(0, j - SMALL.pair_neighbours), j)}
    assert expected <= pairs
    assert all(j - i > SMALL.pair_neighbours for i, j in pairs - expected), "older ones that look alike"


def test_a_frame_without_tracks_is_found_by_its_features(built: Driver) -> None:
    for frame in (14, 16, 17):
        image = built.sequence.images[frame]
        found = built.builder.relocalise(built.stream, built.stream.gray(image), built.stream.resize.apply(image))
        assert found is not None
        last = built.keyframes()[-1]
        similarity, _ = alignment(built.keyframes(), built.sequence)
        expected = invert(built.sequence.w_T_c[15]) @ built.sequence.w_T_c[frame]
        moved = invert(last.w_T_c) @ found[0].w_T_c
        np.testing.assert_allclose(similarity.scale * moved[:3, 3], expected[:3, 3], atol=0.03)


def test_a_strange_frame_is_not_found(built: Driver) -> None:
    rng = np.random.default_rng(0)
    shape = built.stream.gray(built.sequence.images[0]).shape
    for gray in (np.zeros(shape, np.uint8), rng.integers(0, 256, shape, dtype=np.uint8)):
        image = np.repeat(gray[:, :, None], 3, axis=2)
        assert built.builder.relocalise(built.stream, gray, built.stream.resize.apply(image)) is None
    assert built.builder.locate(built.stream, no_tracks()) is None


def test_changes_are_taken_once(sequence: RenderedSequence) -> None:
    driver = Driver(sequence)
    driver.add(range(0, 10, 3))
    first = driver.builder.take_changed()
    assert [keyframe.index for keyframe in first] == list(range(4))
    assert driver.builder.take_changed() == ()
    driver.add([12])
    second = driver.builder.take_changed()
    assert 4 in {keyframe.index for keyframe in second}
    known = {keyframe.index: keyframe.version for keyframe in first}
    assert all(keyframe.version > known.get(keyframe.index, 0) for keyframe in second)


def test_first_keyframes_that_lead_nowhere(sequence: RenderedSequence) -> None:
    driver = Driver(sequence)
    for _ in range(40):
        if driver.builder.stuck:
            break
        driver.add([0])
    assert driver.builder.stuck and not driver.builder.initialised
    assert driver.builder.take_changed() == ()
    driver.builder.finish()


def test_the_last_refinement_moves_little_and_breaks_nothing(built: Driver) -> None:
    before = [keyframe.w_T_c for keyframe in built.keyframes()]
    built.builder.finish()
    for keyframe, w_T_c in zip(built.keyframes(), before, strict=True):
        np.testing.assert_allclose(keyframe.w_T_c, w_T_c, atol=0.02)
        assert (keyframe.depth > 0).mean() > 0.2
    _, distances = alignment(built.keyframes(), built.sequence)
    assert np.sqrt(np.mean(distances**2)) < 0.01 * path_length(built.sequence)
