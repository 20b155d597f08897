"""Video files: frames, stamps, files that break off."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.io.opening import open_source
from dust3r_ros.io.video import VideoFile
from dust3r_ros.scenes.sequence import RenderedSequence


def record(path: Path, images: np.ndarray, codec: str, rate: float = 10.0) -> Path:
    height, width = images.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (width, height))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {codec}")
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    return path


@pytest.mark.parametrize("name, codec", [("walk.avi", "MJPG"), ("walk.mp4", "mp4v")])
def test_frames_and_stamps_of_a_video(sequence: RenderedSequence, tmp_path: Path, name: str, codec: str) -> None:
    source = open_source(record(tmp_path / name, sequence.images, codec))
    assert isinstance(source, VideoFile) and len(source) == 6
    frames = list(source)
    assert [frame.stamp_ns for frame in frames] == [index * 100_000_000 for index in range(6)]
    for frame, image in zip(frames, sequence.images, strict=True):
        error, swapped = (np.abs(colors.astype(int) - image).mean() for colors in (frame.image, frame.image[..., ::-1]))
        assert error < 12 and error < swapped
    assert len(list(source)) == 6 and source.skipped == 0


def test_a_truncated_video_gives_what_is_there(sequence: RenderedSequence, tmp_path: Path) -> None:
    path = record(tmp_path / "walk.avi", np.concatenate([sequence.images] * 5), "MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = open_source(path)
    read = len(list(source))
    assert 5 < read < 25
    assert source.skipped == max(len(source) - read, 0)


@pytest.mark.parametrize("data", [b"", b"no video", bytes(5000)])
def test_what_is_no_video_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "walk.mp4").write_bytes(data)
    with pytest.raises(InputError, match=r"walk\.mp4"):
        open_source(tmp_path / "walk.mp4")
