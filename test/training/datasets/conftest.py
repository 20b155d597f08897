"""A rendered walk that all training sets are written from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training_trees import TREES, Opener

from dust3r_ros.scenes.sequence import RenderedSequence, render_path
from dust3r_ros.scenes.sequence import walk as walked
from dust3r_ros.scenes.solids import Box, Lamp, box_panels
from dust3r_ros.scenes.textures import brick, fabric, planks, plaster, poster, tiles
from dust3r_ros.scenes.world import build
from dust3r_ros.training.datasets import TRAINING_SETS, PairFolder


@pytest.fixture(scope="session")
def walk() -> RenderedSequence:
    """Five frames around a box on the floor of a small room, 128 x 96; neighbours share about half."""
    panels = box_panels(np.array([-3.2, -2.7, 0]), np.array([3.2, 2.7, 2.7]), inside=True).values()
    shell = list(zip(panels, (brick, plaster, tiles, brick, plaster, planks), strict=True))
    solids = [Box(np.array([-0.5, -0.4, 0.0]), np.array([0.5, 0.4, 0.8]), poster, fabric)]
    world = build(shell, solids, Lamp(np.array([0.4, -0.3, 2.5])), 3, per_metre=40.0)
    return render_path("orbit", world, walked("orbit", 5, rate_hz=1.5), width=128, height=96)


@pytest.fixture
def opened(walk: RenderedSequence, tmp_path: Path) -> Opener:
    """Writes the tree of a set into ``data`` below ``tmp_path`` and opens it, with its cache beside."""

    def make(name: str, **options: object) -> PairFolder:
        root = tmp_path / "data"
        if not root.exists():
            TREES[name](walk, root)
        return TRAINING_SETS[name].open(root, tmp_path / "cache", **options)

    return make
