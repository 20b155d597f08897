"""Pictures of a run: where its depth is wrong."""

from __future__ import annotations

import numpy as np

from dust3r_ros.evaluation.plots import ShownDepth, worst


def shown(index: int, wrong: int, *, true: bool = True) -> ShownDepth:
    """Depth of 1 m in a row of ten pixels, of which the first ``wrong`` are truly 2 m away."""
    truth = np.ones((1, 10), np.float32)
    truth[:, :wrong] = 2.0
    return ShownDepth(index, np.full((1, 10, 3), 200, np.uint8), np.ones((1, 10), np.float32), truth if true else None)


def test_mistakes_are_told_apart() -> None:
    truth = np.array([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0]], np.float32)
    depth = np.array([[1.2, 0.5, 2.0, 0.0, 1.0, 0.0]], np.float32)
    found = ShownDepth(0, np.full((1, 6, 3), 200, np.uint8), depth, truth)
    near, far, none = (np.flatnonzero(where).tolist() for where in found.mistakes)
    assert (near, far, none) == ([1], [2], [3])
    assert found.wrong == 2 / 3, "of the three that have both"
    colors = found.marked()[0]
    assert np.ptp(colors[[0, 4, 5]], axis=0).max() == 0, "what is right, and what has no truth, shows the image"
    assert [int(np.argmax(color)) for color in colors[1:4]] == [2, 0, 1], "blue, red, green"


def test_the_worst_keyframes_are_shown() -> None:
    depths = [shown(index, wrong) for index, wrong in enumerate([0, 5, 1, 7, 0, 3])]
    assert [depth.index for depth in worst(depths)] == [1, 3, 5]
    assert [depth.index for depth in worst([shown(index, 0, true=False) for index in range(5)])] == [0, 2, 4]
    assert [depth.index for depth in worst([*depths[:2], shown(2, 0, true=False)])] == [0, 1], "those with a true depth"
    assert worst([]) == []
