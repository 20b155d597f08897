"""Which keyframe gets depth, and when."""

from dataclasses import replace

import numpy as np
import pytest
from growing import DENSE, grow, resumed
from sequences import walk

from dust3r_ros.mapping.depth_schedule import DepthQueue
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.storage.saved_map import save_map


def test_the_newest_keyframe_is_next_whenever_it_was_wanted():
    waiting = DepthQueue()
    waiting.want([(3, [1])])
    waiting.want([(1, [0]), (2, [0]), (3, [2])])
    assert waiting.depth == waiting.previews == [(1, [0]), (2, [0]), (3, [1])]


def test_what_nobody_has_seen_goes_before_what_is_looked_at_once_more():
    waiting = DepthQueue()
    waiting.want([(k, []) for k in range(4)])
    seen: set[int] = {1, 3}
    order = []
    while waiting.previews:
        order.append(waiting.next_preview(seen)[0])
    assert order == [2, 0, 3, 1]


def test_depth_that_fails_is_not_tried_again():
    waiting = DepthQueue()
    waiting.want([(1, [0]), (2, [1])])

    def fails(index, others):
        yield
        raise RuntimeError(f"keyframe {index}")

    waiting.some_depth(fails)
    assert waiting.without_depth == [(1, [0]), (2, [1])]
    with pytest.raises(RuntimeError, match="keyframe 2"):
        waiting.some_depth(fails)
    assert waiting.without_depth == [(1, [0])]


@pytest.fixture(scope="module")
def sequence():
    return walk("orbit", 12)


def predicted(mapper):
    """The pairs of which the mapper's backend is asked for depth, from now on."""
    backend, pairs = mapper._backend, []
    predict = backend.predict
    backend.predict = lambda asked, *given: pairs.extend(asked) or predict(asked, *given)
    return pairs


def known(mapper):
    """The mean share of pixels with depth."""
    return float(np.mean([(keyframe.confidence > 1.5).mean() for keyframe in mapper.keyframes]))


def test_offline_depth_comes_at_the_end_once_for_each_pair(sequence):
    mapper = Mapper(DENSE)
    pairs, ticks = predicted(mapper), []
    grow(mapper, None, sequence, range(12))
    previews = known(mapper)
    assert previews > 0.05 and not pairs
    mapper.finish(lambda *step: ticks.append(step))
    assert known(mapper) > 1.3 * previews and len(pairs) == len(set(pairs)) > 5
    count = len(mapper.keyframes)
    assert ticks == [(done, count) for done in range(1, count + 1)]
    pairs.clear()
    mapper.finish()
    assert not pairs, "nothing has changed"


def test_previews_of_a_map_that_was_saved_early_are_not_taken_for_depth(sequence, tmp_path):
    mapper = Mapper(DENSE)
    grow(mapper, None, sequence, range(12))
    save_map(tmp_path / "map.db", mapper)
    mapper.finish()
    again = resumed(tmp_path / "map.db")
    again.finish()
    assert known(again) > 0.95 * known(mapper)


def test_depth_that_fails_at_the_end_leaves_the_map(sequence):
    mapper = Mapper(DENSE)
    grow(mapper, None, sequence, range(12))
    previews, densify = known(mapper), mapper.submap._depth.dense.densify

    def fails(index, others):
        if index == 4:
            raise RuntimeError("out of memory")
        return densify(index, others)

    mapper.submap._depth.dense.densify = fails
    mapper.finish()
    assert known(mapper) > 1.2 * previews and mapper.keyframes[4].depth.any()
    said = f"depth failed for 1 of {len(mapper.keyframes)} keyframes (out of memory); these keep their previews"
    assert mapper.doubts == (said,)


def test_depth_comes_with_each_keyframe_where_nobody_waits_for_the_end(sequence):
    mapper = Mapper(replace(DENSE, depth_at_end=False))
    pairs = predicted(mapper)
    grow(mapper, None, sequence, range(12))
    assert {index for pair in pairs for index in pair} == set(range(len(mapper.keyframes)))


def test_what_waits_at_the_end_gets_depth_of_its_own():
    """Not that alone which it has as the partner of a later keyframe."""
    sequence = walk("orbit", 24)
    mapper = Mapper(replace(DENSE, focal=sequence.focal))
    mapper.go_live(False)
    for index, image in enumerate(sequence.images):
        mapper.process(int(sequence.stamps_ns[index]), "camera", image)
        done = 0
        while mapper.due and (mapper.due != "depth" or done < index % 2):
            done += mapper.due == "depth"
            mapper.work(mapper.due)
    assert mapper.backlog > 2
    mapper.finish()
    own = {second for _, second in mapper.submap._depth.dense.pairs.geometry}
    assert own >= set(mapper.submap.posed()[1:])
