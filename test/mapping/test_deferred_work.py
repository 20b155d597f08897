"""A live map puts off what the next image does not need, and comes to the same in the end."""

from dataclasses import replace

import numpy as np
import pytest
from branches import branch
from sequences import SMALL, walk

from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.submap import BEGIN, DEPTH, PREVIEW, TAKE

CONFIG = replace(SMALL, keyframe_motion_young=0.01)


def feed(mapper, sequence, first, last):
    for index in range(first, last):
        mapper.process(int(sequence.stamps_ns[index]), "camera", sequence.images[index])


@pytest.fixture(scope="module")
def sequence():
    return walk("orbit")


@pytest.fixture(scope="module")
def live(sequence):
    """Live mappers that were fed so many images, without a pause once there were first poses."""
    fresh = Mapper(CONFIG)
    fresh.go_live(False)
    fed = [fresh]

    def until(count):
        while len(fed) <= count:
            mapper = branch(fed[-1])
            feed(mapper, sequence, len(fed) - 1, len(fed))
            while not mapper.keyframes and mapper.due:
                mapper.work(mapper.due)
            fed.append(mapper)
        return branch(fed[count])

    return until


def test_the_first_poses_are_found_beside(sequence):
    mapper, index = Mapper(CONFIG), 0
    mapper.go_live(False)
    while mapper.due != BEGIN:
        feed(mapper, sequence, index, index + 1)
        index += 1
    mapper.work(BEGIN)
    feed(mapper, sequence, index, index + 4)
    assert mapper.due == TAKE and not mapper.keyframes
    update = mapper.work(TAKE)
    assert mapper.counts.keyframes == len(update.changed) > 3, "those that came meanwhile have poses, too"
    feed(mapper, sequence, index + 4, index + 6)
    assert mapper.counts.lost == 0


def test_depth_waits_and_the_newest_keyframe_gets_it_first(live):
    mapper = live(8)
    assert mapper.counts.keyframes > 3 and mapper.backlog >= mapper.counts.keyframes
    assert all((keyframe.depth == 0).all() for keyframe in mapper.keyframes)
    while mapper.due in (BEGIN, TAKE):
        mapper.work(mapper.due)
    assert mapper.due == PREVIEW
    update = mapper.work(PREVIEW)
    assert [keyframe.index for keyframe in update.changed] == [mapper.keyframes[-1].index]
    previewed = (mapper.keyframes[-1].depth > 0).mean()
    assert previewed > 0.2
    while mapper.due != DEPTH:
        mapper.work(mapper.due)
    newest, backlog = mapper.keyframes[-1].index, mapper.backlog
    update = mapper.work(DEPTH)
    assert mapper.backlog == backlog, "it is done in parts"
    while mapper.backlog == backlog:
        update = mapper.work(DEPTH)
    assert newest in {keyframe.index for keyframe in update.changed}
    assert (mapper.keyframes[-1].depth > 0).mean() > max(0.3, previewed)


def test_adjustments_of_the_whole_map_are_brought_in_while_it_grows(sequence, live):
    mapper, index = live(4), 4
    while mapper.due != BEGIN:
        feed(mapper, sequence, index, index + 1)
        index += 1
    mapper.work(BEGIN)
    assert mapper.due == TAKE
    feed(mapper, sequence, index, index + 3)
    mapper.work(TAKE)
    feed(mapper, sequence, index + 3, index + 6)
    assert mapper.counts.lost == 0
    errors = [np.linalg.det(keyframe.w_T_c[:3, :3]) - 1.0 for keyframe in mapper.keyframes]
    assert np.abs(errors).max() < 1e-9


def test_nothing_waits_at_the_end_and_the_map_is_as_good(sequence, live):
    offline, mapper = Mapper(CONFIG), live(12)
    feed(offline, sequence, 0, 12)
    for each in (offline, mapper):
        each.finish()
    assert mapper.backlog == 0 and mapper.due == ""
    assert all((keyframe.depth > 0).any() for keyframe in mapper.keyframes)
    assert mapper.cameras["camera"].focal == pytest.approx(sequence.focal, rel=0.03)
    assert mapper.counts.tracked >= 0.9 * offline.counts.tracked
    shares = [np.mean([(k.depth > 0).mean() for k in each.keyframes]) for each in (mapper, offline)]
    assert shares[0] > 0.9 * shares[1]


def test_a_map_of_few_keyframes_is_calibrated_when_the_camera_rests(sequence, live):
    """While it moves, it goes on with the focal it began with; depth is of the focal that it ends with."""
    mapper = live(8)
    assert mapper.cameras["camera"].focal == sequence.width and 5 <= len(mapper.keyframes) < 12
    assert not np.isfinite(mapper.cameras["camera"].focal_std)
    kinds = []
    while mapper.due:
        kinds.append(mapper.due)
        mapper.work(mapper.due)
    assert kinds.index(BEGIN) > kinds.index(DEPTH)
    assert mapper.backlog == 0 and mapper.cameras["camera"].focal == pytest.approx(sequence.focal, rel=0.15)


def test_keyframes_without_depth_are_reported(live):
    """How many wait, and how far the newest with a preview is behind; depth that is under way counts as waiting."""
    mapper = live(12)
    while mapper.due in (BEGIN, TAKE):
        mapper.work(mapper.due)
    count, behind_ns = mapper.depth_backlog
    stamps = [keyframe.stamp_ns for keyframe in mapper.keyframes]
    assert count >= len(stamps) > 1 and behind_ns == stamps[-1] - stamps[0]
    mapper.work(PREVIEW)
    assert mapper.depth_backlog == (count, 0), "the newest shows some"
    while mapper.due != DEPTH:
        mapper.work(mapper.due)
    mapper.work(DEPTH)
    assert mapper.depth_backlog == (count, 0), "it is done in parts"
    while mapper.due:
        mapper.work(mapper.due)
    assert mapper.depth_backlog == (0, 0)
    assert all((keyframe.depth > 0).any() for keyframe in mapper.keyframes)


def test_a_correction_of_the_whole_map_raises_its_revision(sequence, live):
    """The first poses are none, nor is depth."""
    mapper, index, taken = live(4), 4, []
    assert mapper.revision == 0
    while index < len(sequence) or mapper.due in (BEGIN, TAKE):
        if mapper.due in (BEGIN, TAKE):
            known, kind, before = bool(mapper.keyframes), mapper.due, mapper.revision
            mapper.work(kind)
            assert (mapper.revision > before) == (kind == TAKE and known)
            taken += [kind] * known
        else:
            feed(mapper, sequence, index, index + 1)
            index += 1
    assert taken.count(TAKE) > 0 and mapper.due == PREVIEW
    before = mapper.revision
    while mapper.due != DEPTH:
        mapper.work(mapper.due)
    mapper.work(DEPTH)
    assert mapper.revision == before
