"""Small worlds that the tests of this folder share."""

from __future__ import annotations

import numpy as np
import pytest
from kept import kept

from dust3r_ros.scenes.endless.casting import Eye, Seen
from dust3r_ros.scenes.endless.viewpoints import choose_eyes
from dust3r_ros.scenes.endless.worlds import LAYOUTS, World, make_world

NAMES = [maker.__name__ for maker in LAYOUTS]


@kept
def visit(name: str) -> tuple[World, list[tuple[Eye, Seen]]]:
    """A world of a kind and eight cameras in it, 64 pixels high or wide."""
    world = make_world((11, 0), NAMES.index(name), name)
    return world, choose_eyes(world, np.random.default_rng(2), 8, 64)


@pytest.fixture(scope="session", params=NAMES)
def visited(request: pytest.FixtureRequest) -> tuple[World, list[tuple[Eye, Seen]]]:
    """As ``visit`` has it, of every kind."""
    return visit(request.param)
