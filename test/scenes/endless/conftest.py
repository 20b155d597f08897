"""Small worlds that the tests of this folder share."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.scenes.endless.casting import Eye, Seen
from dust3r_ros.scenes.endless.viewpoints import choose_eyes
from dust3r_ros.scenes.endless.worlds import LAYOUTS, World, make_world

NAMES = [maker.__name__ for maker in LAYOUTS]


@pytest.fixture(scope="session", params=NAMES)
def visited(request: pytest.FixtureRequest) -> tuple[World, list[tuple[Eye, Seen]]]:
    """A world of every kind and eight cameras in it, 64 pixels high or wide."""
    world = make_world((11, 0), NAMES.index(request.param), request.param)
    return world, choose_eyes(world, np.random.default_rng(2), 8, 64)
