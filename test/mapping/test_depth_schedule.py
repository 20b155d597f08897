"""Which keyframe gets depth next."""

import pytest

from dust3r_ros.mapping.depth_schedule import DepthQueue


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
