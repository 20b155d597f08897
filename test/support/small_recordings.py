"""Fixtures of tests of files: a few rendered frames and bags of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dust3r_ros.scenes.export import write_bag
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence


@pytest.fixture(scope="session")
def sequence() -> RenderedSequence:
    """Six frames, 96 x 72."""
    return render_sequence("sweep", 6, 96, 72, seed=0)


@pytest.fixture(scope="session")
def bags(sequence: RenderedSequence, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One bag of the sequence per kind of storage."""
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    folder = tmp_path_factory.mktemp("bags")
    paths = {"mcap": folder / "mcap", "sqlite3": folder / "sqlite3", "ros1": folder / "ros1.bag"}
    for storage, path in paths.items():
        write_bag(sequence, path, storage=storage)
    return paths
