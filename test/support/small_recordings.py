"""For tests of files: a few rendered frames, bags of them, and videos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dust3r_ros.scenes.export import write_bag
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence


@pytest.fixture(scope="session")
def sequence() -> RenderedSequence:
    """Six frames, 96 x 72."""
    return render_sequence("sweep", 6, 96, 72, seed=0)


def write_video(path: Path, images: np.ndarray, codec: str = "MJPG", rate: float = 10.0) -> Path:
    """Write images (N, H, W, 3) RGB as a video, and skip the test where OpenCV has no such codec; returns ``path``."""
    height, width = images.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (width, height))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {codec}")
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    return path


@pytest.fixture(scope="session")
def bags(sequence: RenderedSequence, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One bag of the sequence per kind of storage."""
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    folder = tmp_path_factory.mktemp("bags")
    paths = {"mcap": folder / "mcap", "sqlite3": folder / "sqlite3", "ros1": folder / "ros1.bag"}
    for storage, path in paths.items():
        write_bag(sequence, path, storage=storage)
    return paths
