"""Depth edges."""

from __future__ import annotations

import numpy as np

from dust3r_ros.geometry.cleaning import depth_edges


def test_edges_are_both_sides_of_a_jump_and_no_slope() -> None:
    depth = np.full((10, 12), 3.0)
    depth[:, 6:] = 2.0
    expected = np.zeros((10, 12), bool)
    expected[:, 5:7] = True
    np.testing.assert_array_equal(depth_edges(depth), expected)
    slope = np.broadcast_to(np.linspace(1, 2, 60), (10, 60))
    assert not depth_edges(slope).any()


def test_holes_are_no_edges() -> None:
    depth = np.full((10, 12), 3.0)
    depth[4, 4], depth[7, 7] = 0.0, np.nan
    assert not depth_edges(depth).any()
