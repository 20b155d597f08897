"""A video file, read by OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.io.frames import FrameSource
from dust3r_ros.types import Frame

_DEFAULT_HZ = 30.0


class VideoFile(FrameSource):
    """Frames of a video with the stamps of the file, or its frame rate where it has none."""

    def __init__(self, path: Path, camera: str = "camera") -> None:
        super().__init__(str(path))
        self._path = path
        self._camera = camera
        capture = self._open()
        self._count = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        rate = capture.get(cv2.CAP_PROP_FPS)
        self._period_ns = round(1e9 / (rate if np.isfinite(rate) and 0 < rate <= 1e4 else _DEFAULT_HZ))
        capture.release()

    def __len__(self) -> int:
        return self._count

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise InputError(
                f"'{self._path}' is no video that can be read; give a folder of images, a video file or a bag"
            )
        return capture

    def _frames(self) -> Iterator[Frame | InputError]:
        capture = self._open()
        last = -self._period_ns
        read = 0
        try:
            while True:
                more, pixels = capture.read()
                if not more or pixels is None:
                    break
                read += 1
                stamp_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                last = stamp_ns if stamp_ns > last else last + self._period_ns
                yield Frame(last, self._camera, np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8))
        finally:
            capture.release()
        # Containers may be a frame or two off; more is a file that breaks off.
        for missing in range(read, self._count if self._count - read > 2 + 0.01 * self._count else read):
            yield InputError(f"frame {missing} of {self._count} cannot be decoded")
