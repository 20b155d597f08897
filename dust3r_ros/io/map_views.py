"""Keyframes of a saved map as a viewer wants them: rectified images, focals of working images."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.io import map_blobs as blobs
from dust3r_ros.io import map_rows as rows
from dust3r_ros.streams import CameraStream
from dust3r_ros.types import Camera, Keyframe


@dataclass(frozen=True, eq=False)
class Views:
    """Streams, which rectify images, and focals of working images, by camera; none for mere products."""

    streams: Mapping[str, CameraStream]
    focals: Mapping[str, float]

    @classmethod
    def of(cls, base: sqlite3.Connection, cameras: Mapping[str, Camera], active: sqlite3.Row | None) -> Views:
        """Of the ``active`` map (a row of ``maps``)."""
        sizes = base.execute("SELECT value FROM state WHERE name = 'sizes'").fetchone()
        if active is None or sizes is None:
            return cls({}, {})
        focals = {name: float(focal["working"]) for name, focal in json.loads(active["focals"]).items()}
        return cls(streams_of(list(cameras.values()), *json.loads(sizes[0])), focals)

    def keyframe(self, row: sqlite3.Row) -> Keyframe:
        """Of a row of keyframes with image and depth. Raises ``ValueError``."""
        number, height, width = row["number"], row["height"], row["width"]
        try:
            image = blobs.unpack_image(row["image"], height, width)
            if row["lens"] is not None:
                lens = rows.lens_of(json.loads(row["lens"]))
                image = self.streams[row["camera"]].rectified(image, lens)[0]
            depth, confidence = np.zeros((height, width), np.float32), np.ones((height, width), np.float32)
            if row["depth"] is not None:
                depth = blobs.unpack_map(row["depth"], height, width, row["depth_scale"])
                confidence = blobs.unpack_map(row["confidence"], height, width)
            pose = blobs.unpack_pose(row["w_T_c"])
            focal = self.focals[row["camera"]] if row["focal"] is None else row["focal"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"keyframe {number}: {error}") from error
        return Keyframe(
            number, row["version"], row["stamp_ns"], row["camera"], pose, focal, image, depth, confidence
        )  # fmt: skip


def streams_of(cameras: list[Camera], working_size: int, tracking_size: int) -> dict[str, CameraStream]:
    """The streams that made a map, by camera."""
    config = MapperConfig(working_size=working_size, tracking_size=tracking_size)
    return {
        camera.name: CameraStream(camera.name, index, camera.width, camera.height, config)
        for index, camera in enumerate(cameras)
    }
