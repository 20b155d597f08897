"""A short rendered scene on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from dust3r_ros.scenes.export import write_folder
from dust3r_ros.scenes.sequence import render_sequence

pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")


@pytest.fixture(scope="session")
def walk_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 frames of a sideways walk through a room, by a camera whose focal is the width of its images: 240 pixels."""
    path = tmp_path_factory.mktemp("walk") / "walk"
    write_folder(render_sequence("sweep", 12, 240, 180, 240.0, rate_hz=6.0, supersample=1), path)
    return path
