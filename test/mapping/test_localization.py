"""Frames that a keyframe shows already: the camera goes on from that one, and the map does not grow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from branches import branch
from sequences import SMALL, walk

from dust3r_ros.geometry.similarity import Similarity, rms_apart
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Image, MapUpdate

FRAMES = 36
STEP_NS = 10**9 // 8


@pytest.fixture(scope="module")
def there() -> tuple[RenderedSequence, Mapper]:
    """A map of one way through a room."""
    sequence = walk("orbit", FRAMES)
    mapper = Mapper(replace(SMALL, dense=False, focal=sequence.focal))
    for index in range(FRAMES):
        mapper.process(stamp(index), "camera", sequence.images[index])
    return sequence, mapper


def stamp(frame: int) -> int:
    return (1 + frame) * STEP_NS


def go(mapper: Mapper, images: list[Image], first: int) -> list[MapUpdate]:
    return [mapper.process(stamp(first + at), "camera", image) for at, image in enumerate(images)]


def test_a_camera_that_goes_back_and_forth_adds_hardly_any_keyframes(there: tuple[RenderedSequence, Mapper]) -> None:
    sequence, grown = there
    mapper, images = branch(grown), list(sequence.images)
    first = len(mapper.keyframes)
    counts = []
    for number in range(1, 6):
        updates = go(mapper, images[::-1] if number % 2 else images, FRAMES * number)
        assert all(update.w_T_c is not None for update in updates)
        counts.append(len(mapper.keyframes))
    assert counts[0] <= first + SMALL.window, "only where it turned round"
    assert counts[-1] <= counts[1], "and none any more"
    last = {stamp(FRAMES * 5 + at): index for at, index in enumerate(range(FRAMES)[::-1])}
    poses = [pose for pose in mapper.trajectory() if pose.stamp_ns in last]
    true = np.stack([sequence.w_T_c[last[pose.stamp_ns]] for pose in poses])
    assert len(poses) == FRAMES and spread(np.stack([pose.w_T_c for pose in poses]), true) < 0.01


def spread(found: np.ndarray, true: np.ndarray) -> float:
    """Root mean square distance in metres after the best similarity."""
    return rms_apart(found[:, :3, 3], true[:, :3, 3])


def test_later_passes_are_as_exact_as_the_first(there: tuple[RenderedSequence, Mapper]) -> None:
    sequence, grown = there
    mapper, images = branch(grown), list(sequence.images)
    errors = []
    for number in range(3):
        order = list(range(FRAMES))[:: -1 if number % 2 else 1]
        if number:
            go(mapper, [images[index] for index in order], FRAMES * number)
        frames = {stamp(FRAMES * number + at): index for at, index in enumerate(order)}
        poses = [pose for pose in mapper.trajectory() if pose.stamp_ns in frames]
        true = np.stack([sequence.w_T_c[frames[pose.stamp_ns]] for pose in poses])
        errors.append(spread(np.stack([pose.w_T_c for pose in poses]), true))
    assert max(errors[1:]) < 1.5 * errors[0]


def test_the_pose_told_is_the_pose_kept(there: tuple[RenderedSequence, Mapper]) -> None:
    sequence, grown = there
    mapper = branch(grown)
    for at, image in enumerate(sequence.images[::-1]):
        update = mapper.process(stamp(FRAMES + at), "camera", image)
        assert update.w_T_c is not None
        np.testing.assert_allclose(mapper.trajectory()[-1].w_T_c, update.w_T_c, atol=1e-9)


def test_corners_that_drifted_do_not_shift_a_frame_beside_a_keyframe(there: tuple[RenderedSequence, Mapper]) -> None:
    sequence, grown = there
    mapper = branch(grown)
    stream, submap = mapper.stream("camera"), mapper.submap
    shifts, alone = [], 0
    for at, image in enumerate(sequence.images[::-1][:16]):
        update = mapper.process(stamp(FRAMES + at), "camera", image)
        gray, tracks = stream.gray(image), stream.tracks
        off = Tracks(tracks.ids, tracks.pixels + np.array([1.5, 0.0]))
        right, wrong = (submap.finder.locate(stream, seen).w_T_c for seen in (tracks, off))
        exact, measured = submap.measure(stream, gray, tracks, right), submap.measure(stream, gray, off, wrong)
        if update.keyframe is not None:
            older = [np.linalg.norm(submap.pose(k)[:3, 3] - update.w_T_c[:3, 3]) for k in range(len(submap) - 1)]
            if min(older) > 1e-6:  # otherwise an older keyframe, of the same image, has the same pose
                assert submap.measure(stream, gray, tracks, update.w_T_c) is None, "its corners come from there"
                alone += 1
        elif exact is not None and measured is not None:
            left = exact[0].w_T_c - measured[0].w_T_c
            shifts.append(np.linalg.norm(left[:3, 3]) / np.linalg.norm((right - wrong)[:3, 3]))
    assert len(shifts) >= 3 and max(shifts) < 0.3
    assert alone >= 2


def test_a_changed_scene_gets_keyframes(there: tuple[RenderedSequence, Mapper]) -> None:
    """Half of every image shows something else than before."""
    sequence, grown = there
    mapper = branch(grown)
    before = len(mapper.keyframes)
    images = [changed(image) for image in sequence.images[::-1]]
    assert sum(update.keyframe is not None for update in go(mapper, images, FRAMES)) >= 8
    assert len(mapper.keyframes) > before


def changed(image: Image) -> Image:
    """Another room beside a part of this one."""
    half = image.shape[1] // 2
    return np.ascontiguousarray(np.concatenate([image[:, :half], image[::-1, half:]], axis=1))


def test_a_map_that_drifted_needs_a_keyframe(there: tuple[RenderedSequence, Mapper]) -> None:
    """Where the landmarks that were followed lie elsewhere than those that a keyframe shows."""
    sequence, grown = there
    mapper = branch(grown)
    stream, submap, image = mapper.stream("camera"), mapper.submap, sequence.images[FRAMES - 1]
    found = submap.finder.locate(stream, stream.tracks)
    submap.state.visits += SMALL.window
    working, tracks = stream.resize.apply(image), stream.tracks
    again = submap.finder.seen_before(stream, working, tracks, found.w_T_c)
    assert again is not None and again[0] >= len(submap) - 3
    np.testing.assert_allclose(again[1].w_T_c, found.w_T_c, atol=0.01)
    off = Tracks(tracks.ids, tracks.pixels + np.array([4.0, 0.0]))
    assert submap.finder.seen_before(stream, working, off, found.w_T_c) is None


def test_an_image_of_which_the_map_has_two_places_is_not_recognised(there: tuple[RenderedSequence, Mapper]) -> None:
    """As one of a wallpaper, whose pattern is there many times; beside the last keyframes it is known which it is."""
    sequence, grown = there
    mapper = branch(grown)
    stream, submap = mapper.stream("camera"), mapper.submap
    trail = list(submap.state.trail)
    here, elsewhere = sequence.images[4], sequence.images[14]

    def recognised(share: float, last: list[int]) -> bool:
        """Whether an image is that has a share of its columns from elsewhere."""
        cut = round((1.0 - share) * here.shape[1])
        image = np.ascontiguousarray(np.concatenate([here[:, :cut], elsewhere[:, cut:]], axis=1))
        submap.state.trail[:] = last
        return submap.finder.relocalise(stream, stream.gray(image), stream.resize.apply(image)) is not None

    assert [recognised(share, trail[-1:]) for share in (0.0, 0.2, 0.5, 0.8, 1.0)] == [True, True, False, True, True]
    assert recognised(0.5, trail)


def test_another_map_is_recognised_where_it_is_and_nowhere_else(there: tuple[RenderedSequence, Mapper]) -> None:
    """Its keyframes are found in this one, each by itself: what all of them seem to see may be one of many copies."""
    state, finder = there[1].submap.state, there[1].submap.finder
    assert finder.recognises(state, [4, 5], Similarity.identity())
    aside = Similarity(1.0, np.eye(3), np.array([0.2, 0.0, 0.0]))
    assert not finder.recognises(state, [4, 5], aside) and not finder.recognises(state, [], Similarity.identity())
