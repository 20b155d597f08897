"""What a reader of the map is told to have changed."""

from dataclasses import replace

import numpy as np

from dust3r_ros.node.map_changes import Changes, Rebuilding
from dust3r_ros.types import Keyframe, MapUpdate, TrackingState

PLAIN = Keyframe(0, 1, 0, "c", np.eye(4), 1.0, np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1)), np.zeros((1, 1)))


def keyframe(index, version=1):
    return replace(PLAIN, index=index, version=version)


def update(*changed, removed=()):
    return MapUpdate(0, "c", TrackingState.TRACKING, changed=changed, removed=removed)


def shown(changed):
    return {k.index: k.version for k in changed.keyframes}, set(changed.removed), changed.whole


def begun(*keyframes, **more):
    changes = Changes(**more)
    assert shown(changes.take(lambda: keyframes)) == ({k.index: k.version for k in keyframes}, set(), True)
    return changes


def refuse():
    raise AssertionError("the whole map was asked for")


def test_the_first_time_it_is_everything_then_what_changed():
    changes = begun(keyframe(0))
    assert not changes.any
    assert not changes.take(refuse)
    changes.note(update(keyframe(1)))
    changes.note(update(keyframe(1, 2), keyframe(0, 5)))
    assert changes.any
    assert shown(changes.take(refuse)) == ({0: 5, 1: 2}, set(), False)
    assert not changes.any


def test_what_is_removed_and_comes_back():
    changes = begun(keyframe(0), keyframe(1))
    changes.note(update(keyframe(0, 2), removed=(1,)))
    changes.note(update(removed=(0,)))
    assert shown(changes.take(refuse)) == ({}, {0, 1}, False)
    changes.note(update(removed=(1,)))
    changes.note(update(keyframe(1, 9)))
    assert shown(changes.take(refuse)) == ({1: 9}, set(), False)


def test_an_update_that_takes_away_one_map_and_brings_another():
    """A map that wakes: the numbers of the old one go, those of the new one come in the same update."""
    changes = begun(keyframe(0))
    changes.note(update(keyframe(7), keyframe(8), removed=(0,)))
    assert shown(changes.take(refuse)) == ({7: 1, 8: 1}, {0}, False)


def test_nobody_reads_so_nothing_is_kept():
    changes = begun(keyframe(0))
    changes.skip()
    changes.note(update(keyframe(1)))
    assert changes._changed == {}
    assert shown(changes.take(lambda: [keyframe(0), keyframe(1)])) == ({0: 1, 1: 1}, set(), True)


def test_memory_is_bounded():
    changes = begun(most=5)
    for index in range(50):
        changes.note(update(keyframe(index)))
        assert len(changes._changed) <= 5
    assert changes.take(lambda: [keyframe(index) for index in range(50)]).whole
    for index in range(50):
        changes.note(update(keyframe(index)))
        changes.note(update(removed=(index,)))
        assert len(changes._removed) <= 5, "keyframes come and go"
    assert changes.take(list).whole


def test_a_map_whose_depth_is_computed_anew_is_held_back():
    def with_depth(*indices):
        return [replace(keyframe(index), depth=np.ones((1, 1), np.float32)) for index in indices]

    rebuilding = Rebuilding(most_s=3.0)
    rebuilding.note(update(*map(keyframe, range(4))), 0.0)
    assert not rebuilding(0.0), "the first depth is still to come"
    rebuilding.note(update(*with_depth(0, 1, 2)), 1.0)
    rebuilding.note(update(keyframe(0), keyframe(1)), 2.0)
    assert not rebuilding(2.0), "there is some left"
    rebuilding.note(update(*with_depth(0, 1)), 2.5)
    rebuilding.note(update(*map(keyframe, range(4))), 3.0)
    rebuilding.note(update(*with_depth(2)), 4.0)
    assert rebuilding(4.0) and rebuilding(5.9)
    assert not rebuilding(6.1), "held back for long enough"
    rebuilding.note(update(*with_depth(1)), 5.0)
    assert not rebuilding(5.0), "half of it is there"
    rebuilding.note(update(keyframe(1), keyframe(2)), 6.0)
    rebuilding.clear()
    assert not rebuilding(6.0), "another map"
    rebuilding.note(update(*with_depth(1, 2)), 7.0)
    rebuilding.note(update(keyframe(7), removed=(1, 2)), 8.0)
    assert not rebuilding(8.0), "the map is gone, and must be seen to be"
