"""Several maps of one walk: what a lost camera leaves, and how it recovers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from branches import branch
from oracle import Oracle
from scoring import alignment, path_length
from sequences import SMALL, walk

from dust3r_ros.geometry.similarity import rms_apart
from dust3r_ros.mapping.atlas import Atlas
from dust3r_ros.mapping.culling import Culling
from dust3r_ros.mapping.loop_closing import LoopClosing, Meetings
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.types import MapUpdate, PairPrediction, TrackingState, View

CONFIG = replace(SMALL, dense=False, lost_patience_s=1.0, keyframe_motion=0.02, keyframe_motion_young=0.02)
SECOND = 10**9


def feed(mapper: Mapper, sequence: RenderedSequence, frames: range, start_ns: int) -> list[MapUpdate]:
    """Frames of a sequence, 0.125 s apart from ``start_ns`` on."""
    return [
        mapper.process(start_ns + i * SECOND // 8, "camera", sequence.images[frame]) for i, frame in enumerate(frames)
    ]


def darkness(mapper: Mapper, sequence: RenderedSequence, start_ns: int) -> list[MapUpdate]:
    """Two seconds of it."""
    dark = np.zeros_like(sequence.images[0])
    return [mapper.process(start_ns + i * SECOND // 2, "camera", dark) for i in range(5)]


class Shown:
    """The keyframes that a listener has, who believes every update."""

    def __init__(self) -> None:
        self.keyframes: dict[int, np.ndarray] = {}

    def hear(self, updates: list[MapUpdate]) -> None:
        for update in updates:
            for index in update.removed:
                del self.keyframes[index]
            for keyframe in update.changed:
                self.keyframes[keyframe.index] = keyframe.w_T_c


@pytest.fixture(scope="module")
def orbit() -> RenderedSequence:
    return walk("orbit", 48)


@pytest.fixture(scope="module")
def config(orbit: RenderedSequence):
    return replace(CONFIG, focal=orbit.focal)


def check(mapper: Mapper, sequence: RenderedSequence, frame_of: dict[int, int], limit: float) -> None:
    """The trajectory is near the truth; ``frame_of``: frames by stamp."""
    poses = mapper.trajectory()
    truth = np.stack([sequence.w_T_c[frame_of[pose.stamp_ns]][:3, 3] for pose in poses])
    found = np.stack([pose.w_T_c[:3, 3] for pose in poses])
    assert rms_apart(found, truth) < limit * path_length(sequence)


@pytest.fixture(scope="module")
def lost(orbit: RenderedSequence, config) -> tuple[Mapper, list[MapUpdate], list[MapUpdate]]:
    """Once round; then darkness. Others go on from there."""
    mapper = Mapper(config)
    return mapper, feed(mapper, orbit, range(30), 0), darkness(mapper, orbit, 10 * SECOND)


def test_a_large_map_sleeps_when_its_camera_stays_lost(lost) -> None:
    _, first, dark = lost
    known = {keyframe.index for update in first for keyframe in update.changed}
    assert len(known) > 18
    assert [update.state for update in dark[:2]] == [TrackingState.LOST] * 2
    gone = [index for update in dark for index in update.removed]
    assert sorted(gone) == sorted(known), "what cannot be shown in one frame with the next map is taken away"


def test_two_maps_become_one_where_they_meet(lost, orbit) -> None:
    """On from where nothing looks as before, and back to where the first map began."""
    mapper, first, dark = branch(lost)
    mapper._atlas.asleep[0].meetings[mapper._atlas.active] = Meetings()
    back = range(47, 12, -2)
    second = feed(mapper, orbit, back, 20 * SECOND)
    stamps = {i * SECOND // 8: i for i in range(30)}
    stamps |= {20 * SECOND + i * SECOND // 8: frame for i, frame in enumerate(back)}
    shown = Shown()
    shown.hear(first)
    before = dict(shown.keyframes)
    shown.hear(dark)
    assert shown.keyframes == {}
    shown.hear(second)
    assert mapper.counts.maps == 1 and not mapper._atlas.active.meetings, "nothing is left of the other map"
    assert set(before) < set(shown.keyframes) and len(shown.keyframes) > len(before) + 2
    assert set(shown.keyframes) == {keyframe.index for keyframe in mapper.keyframes}
    assert {edge for first, second, _ in mapper.edges for edge in (first, second)} <= set(shown.keyframes)
    shown.hear([mapper.finish()])
    check(mapper, orbit, stamps, 0.03)
    assert len(mapper.trajectory()) > 0.9 * len(stamps)


def test_a_map_joined_at_the_end_brings_no_keyframe_that_was_found_again(lost, orbit, monkeypatch) -> None:
    """Its images are posed in the larger map one by one, until they tie the two together."""
    mapper, _, _ = branch(lost)
    with monkeypatch.context() as patch:
        for name in ("join", "find"):
            patch.setattr(Atlas, name, lambda *_: None)
        feed(mapper, orbit, range(47, 12, -2), 20 * SECOND)
    assert mapper.counts.maps == 2
    monkeypatch.setattr(Culling, "cull", lambda *_, **__: None)  # as in a map that is not sure of its focal yet
    mapper.finish()
    assert mapper.counts.maps == 1
    stamps = [keyframe.stamp_ns for keyframe in mapper.keyframes]
    assert len(set(stamps)) == len(stamps)


def test_a_map_whose_images_all_get_a_pose_in_the_larger_one_goes(lost, orbit, monkeypatch) -> None:
    """It was said that two maps could not be joined, though the files showed every image."""
    mapper, _, _ = branch(lost)
    for name in ("join", "find"):
        monkeypatch.setattr(Atlas, name, lambda *_: None)
    feed(mapper, orbit, range(29, 12, -3), 20 * SECOND)
    (asleep,), active = mapper._atlas.asleep, mapper._atlas.active
    assert len(active.frames) == len(active.submap) < len(asleep.submap), "only keyframes"
    mapper.finish()
    assert mapper.counts.maps == 1 and mapper._atlas.active.frames.show(active.frames)


def test_maps_of_things_that_look_alike_stay_apart(lost, orbit, monkeypatch) -> None:
    """Nor are images of one posed in the other one by one, which would fold it just as well."""
    mapper, _, _ = branch(lost)
    monkeypatch.setattr(Atlas, "find", lambda *_: None)
    tried: list[int] = []
    monkeypatch.setattr(LoopClosing, "folds", lambda *_: tried.append(mapper.counts.maps) or True)
    feed(mapper, orbit, range(47, 12, -2), 20 * SECOND)
    (asleep,), active = mapper._atlas.asleep, mapper._atlas.active
    assert tried == [2] and asleep.submap.state in active.submap.state.apart
    own = {pose.stamp_ns for pose in active.frames.trajectory()}
    mapper.finish()
    assert mapper.counts.maps == 2 and not own & {pose.stamp_ns for pose in mapper.trajectory()}
    assert tried == [2], "once"


def test_the_map_that_is_seen_again_wakes(lost, orbit: RenderedSequence) -> None:
    mapper, begun, dark = branch(lost)
    shown = Shown()
    shown.hear(begun)
    first = dict(shown.keyframes)
    shown.hear(dark)
    back = feed(mapper, orbit, range(29, 20, -1), 20 * SECOND)
    shown.hear(back)
    assert back[0].state is TrackingState.TRACKING and mapper.counts.maps == 1
    assert set(first) <= set(shown.keyframes)


def test_the_largest_of_separate_maps_stays(lost, orbit: RenderedSequence) -> None:
    mapper, begun, _ = branch(lost)
    kept = len({keyframe.index for update in begun for keyframe in update.changed})
    elsewhere = walk("corridor", 24)
    feed(mapper, elsewhere, range(8), 20 * SECOND)
    assert mapper.counts.maps == 2 and 0 < len(mapper.keyframes) < kept
    names = {keyframe.index for keyframe in mapper.keyframes}
    update = mapper.finish()
    assert set(update.removed) == names
    assert len(mapper.keyframes) == kept and names.isdisjoint(k.index for k in mapper.keyframes)
    _, distances = alignment(mapper.keyframes, replace(orbit, stamps_ns=np.arange(48) * (SECOND // 8)))
    assert np.sqrt(np.mean(distances**2)) < 0.02 * path_length(orbit)


def test_images_of_another_size_begin_a_map_once_the_first_are_over(orbit: RenderedSequence, config) -> None:
    """Two sets of photographs in one folder: what the second shows, the first map does not know."""
    mapper, elsewhere = Mapper(config), walk("corridor", 24)
    feed(mapper, orbit, range(4), 0)
    assert mapper.keyframes
    for i, image in enumerate(elsewhere.images):
        mapper.process(SECOND + i * SECOND // 30, "upright", np.rot90(image).copy())
    mapper.finish()
    assert {pose.camera for pose in mapper.trajectory()} == {"upright"}
    assert len(mapper.trajectory()) == 24, "those too that came before the map began"


class Blind(Oracle):
    """An oracle that knows nothing of black images, and of pairs of two worlds: the first has 48 frames."""

    def add(self, view: View) -> None:
        if view.image.any():
            super().add(view)
        else:
            self._frames[view.index] = -1

    def _pair(self, first: int, second: int) -> PairPrediction:
        frames = self._frames[first], self._frames[second]
        if -1 not in frames and (frames[0] < 48) == (frames[1] < 48):
            return super()._pair(first, second)
        shape = (self._resize.height, self._resize.width)
        nothing = np.zeros((*shape, 3), np.float32), np.ones(shape, np.float32)
        return PairPrediction(first, second, *nothing, *nothing)


def test_a_map_of_pointmaps_sleeps_and_wakes(orbit: RenderedSequence, config) -> None:
    """Another map begins elsewhere; keyframes of both have the same numbers in the backend, and are not mixed up."""
    elsewhere = walk("corridor", 24)
    both = replace(
        orbit,
        images=np.concatenate([orbit.images, elsewhere.images]),
        depths=np.concatenate([orbit.depths, elsewhere.depths]),
        w_T_c=np.concatenate([orbit.w_T_c, elsewhere.w_T_c]),
    )
    mapper = Mapper(config, backend=Blind(both, config.working_size))
    shown = Shown()
    shown.hear(feed(mapper, orbit, range(30), 0))
    first = dict(shown.keyframes)
    assert len(first) > 18
    shown.hear(darkness(mapper, orbit, 10 * SECOND))
    assert shown.keyframes == {}
    shown.hear(feed(mapper, elsewhere, range(16), 20 * SECOND))  # the first ones meet a keyframe made in the dark
    assert shown.keyframes and first.keys().isdisjoint(shown.keyframes)
    back = feed(mapper, orbit, range(29, 20, -1), 30 * SECOND)
    shown.hear(back)
    assert back[-1].state is TrackingState.TRACKING
    assert first.keys() <= shown.keyframes.keys()
    stamps = {i * SECOND // 8: i for i in range(30)} | {30 * SECOND + i * SECOND // 8: 29 - i for i in range(9)}
    mapper.finish()
    check(mapper, orbit, stamps, 0.02)


@pytest.fixture(scope="module")
def broken(orbit: RenderedSequence) -> list[np.ndarray]:
    """A walk that something else breaks: five images that show nothing known, in between, of a place of their own."""
    other = walk("corridor", 16).images[:5]
    return [*orbit.images[:14], *other, *orbit.images[14:]]


def test_a_recording_that_breaks_is_mapped_from_both_ends(broken, orbit: RenderedSequence, config) -> None:
    """Offline nobody waits: what follows the break is mapped at once, however its stamps are."""
    mapper = Mapper(replace(config, lost_patience_s=1e5))
    for i, image in enumerate(broken):
        mapper.process(i, "camera", image)
    lost = mapper.counts.lost
    mapper.finish()
    assert 0 < lost == mapper.counts.lost <= 5, "only what shows another place"
    poses = mapper.trajectory()
    frame_of = {stamp: frame for stamp, frame in zip([*range(14), *range(19, len(broken))], range(48), strict=True)}
    assert {pose.stamp_ns for pose in poses} == set(frame_of)
    check(mapper, orbit, frame_of, 0.02)


def test_images_that_were_lost_are_found_in_the_map_that_they_led_to(config) -> None:
    """Three images from farther down the corridor come too early: nothing known shows what they do."""
    corridor = walk("corridor", 48)
    frames = [*range(0, 8), 28, 29, 30, *range(8, 48)]
    mapper = Mapper(replace(config, focal=corridor.focal))
    updates = [mapper.process(i * SECOND // 8, "camera", corridor.images[frame]) for i, frame in enumerate(frames)]
    assert TrackingState.TRACKING not in [update.state for update in updates[8:11]] and mapper.counts.lost > 0
    mapper.finish()
    frame_of = {i * SECOND // 8: frame for i, frame in enumerate(frames)}
    assert [pose.stamp_ns for pose in mapper.trajectory()] == sorted(frame_of), "once each, in order"
    assert mapper.counts.lost == 0
    check(mapper, corridor, frame_of, 0.02)


def test_a_live_map_waits_for_a_lost_camera_and_keeps_no_images(broken, config) -> None:
    mapper = Mapper(replace(config, lost_patience_s=1e5))
    mapper.go_live(beside=False)
    states = []
    for i, image in enumerate(broken[:19]):
        states.append(mapper.process(i * SECOND // 8, "camera", image).state)
        while mapper.due:
            mapper.work(mapper.due)
    assert states[-5:] == [TrackingState.LOST] * 5
    mapper.finish()
    assert mapper.counts.lost == 5 and max(pose.stamp_ns for pose in mapper.trajectory()) < 14 * SECOND // 8


def test_a_live_camera_does_not_jump_to_what_looks_like_a_place_far_away(orbit: RenderedSequence, config) -> None:
    """As the next house in a row does. One that was lost for long may have been carried."""
    mapper = Mapper(replace(config, focal=orbit.focal, lost_patience_s=1e5))
    mapper.go_live(beside=False)
    frames = [*range(44), *(2 for _ in range(20)), 42]
    states = []
    for i, frame in enumerate(frames):
        states.append(mapper.process(i * SECOND // 8, "camera", orbit.images[frame]).state)
        while mapper.due:
            mapper.work(mapper.due)
    assert set(states[20:44]) == {TrackingState.TRACKING}
    since = states[44:].index(TrackingState.TRACKING)
    assert set(states[44 : 44 + since]) == {TrackingState.LOST} and 3 <= since <= 13
    mapper.finish()
    frame_of = {i * SECOND // 8: frame for i, frame in enumerate(frames)}
    check(mapper, orbit, frame_of, 0.02)


def test_localising_only_stays_in_the_map_that_shows_the_images() -> None:
    """Which need not be the largest of those that were saved together."""
    room, hall = walk("orbit", 36), walk("corridor", 24)
    config = replace(SMALL, dense=False, lost_patience_s=1.0, keyframe_motion_young=0.02, focal=room.focal)
    mapper = Mapper(config)
    for index, image in enumerate(room.images):
        mapper.process(index * 10**9 // 8, "camera", image)
    for index in range(5):
        mapper.process((10 + index) * 10**9, "camera", np.zeros_like(room.images[0]))
    for index, image in enumerate(hall.images):
        mapper.process(30 * 10**9 + index * 10**9 // 8, "camera", image)
    mapper.mapping = False
    largest = mapper._atlas.largest()
    assert largest is not mapper._active
    mapper.finish()
    assert largest is not mapper._active
