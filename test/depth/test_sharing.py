"""What one keyframe's depth tells of another's pixels."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from sequences import walk

from dust3r_ros.depth.sharing import DepthShot, seen_from
from dust3r_ros.scenes.sequence import RenderedSequence


def shot(sequence: RenderedSequence, frame: int, confidence: float = 3.0) -> DepthShot:
    """A frame with its true depth."""
    depth = sequence.depths[frame].astype(np.float32)
    sure = np.where(depth > 0, confidence, 1).astype(np.float32)
    return DepthShot(sequence.images[frame], depth, sure, sequence.w_T_c[frame], sequence.focal)


def test_true_depth_is_true_from_elsewhere() -> None:
    sequence = walk("orbit")
    a, b = shot(sequence, 0), shot(sequence, 4)
    depth, confidence = seen_from(a, b)
    known = depth > 0
    assert known.mean() > 0.4 and ((confidence > 1) == known).all()
    off = np.abs(depth / b.depth - 1)[known]
    assert np.median(off) < 0.01 and np.mean(off < 0.05) > 0.95
    assert depth.dtype == confidence.dtype == np.float32
    assert confidence.max() <= 2.0, "half of what the other knows is passed on"


def test_what_is_hidden_is_not_seen_through_what_has_no_depth() -> None:
    """A far wall that is known, and before it, in the other keyframe, a board whose depth is not."""
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(100, 180, (30, 40, 3)).astype(np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
    far, sure = np.full((120, 160), 5, np.float32), np.full((120, 160), 3, np.float32)
    a = DepthShot(wall, far, sure, np.eye(4), 150.0)
    board = wall.copy()
    board[40:80, 60:100] = (20, 20, 20)
    b = replace(a, image=board, depth=0 * far, confidence=sure / 3)
    depth, _ = seen_from(a, b)
    assert (depth[42:78, 62:98] == 0).all()
    outside = np.ones_like(depth, bool)
    outside[36:84, 56:104] = False
    assert (depth[outside] == 5).all()


def test_a_thing_in_the_colours_of_the_wall_behind_is_not_the_wall() -> None:
    """Its pixels have the wall's colours here and there, by chance."""
    rng = np.random.default_rng(1)
    wall, thing = (
        cv2.resize(rng.integers(60, 200, (40, 54, 3)).astype(np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
        for _ in range(2)
    )
    far, sure = np.full((120, 160), 5, np.float32), np.full((120, 160), 3, np.float32)
    a = DepthShot(wall, far, sure, np.eye(4), 150.0)
    image = wall.copy()
    image[30:90, 50:110] = thing[30:90, 50:110]
    depth, _ = seen_from(a, replace(a, image=image, depth=0 * far, confidence=sure / 3))
    assert (depth[34:86, 54:106] > 0).mean() < 0.05
    assert (depth[:24] == 5).all() and (depth[96:] == 5).all()


def test_the_nearer_surface_wins_and_nothing_shines_through_its_gaps() -> None:
    """A near board whose points lie far apart when the camera goes towards it, before a far wall."""
    image = np.full((120, 160, 3), 128, np.uint8)
    depth = np.full((120, 160), 10, np.float32)
    depth[30:90, 40:120] = 1.0
    a = DepthShot(image, depth, np.full_like(depth, 3), np.eye(4), 150.0)
    nearer = np.eye(4)
    nearer[2, 3] = 0.4
    found, confidence = seen_from(a, replace(a, w_T_c=nearer))
    middle = found[25:95, 35:125]
    assert (middle[middle > 0] < 1).all() and (middle > 0).mean() > 0.3
    assert confidence[25:95, 35:125].max() <= 2.0
    back = nearer.copy()
    back[2, 3] = -1.0
    further, less = seen_from(a, replace(a, w_T_c=back))
    np.testing.assert_allclose(further[further > 0][:10], 11, rtol=1e-5)
    assert less.max() <= 2.0


def test_cameras_that_look_away_share_nothing() -> None:
    sequence = walk("orbit")
    a = shot(sequence, 0)
    turned = a.w_T_c @ np.diag([-1.0, 1, -1, 1])
    for depth, confidence in (seen_from(a, replace(a, w_T_c=turned)), seen_from(replace(a, depth=0 * a.depth), a)):
        assert (depth == 0).all() and (confidence == 1).all()
