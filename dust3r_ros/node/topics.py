"""Names of topics that belong to a camera, from the name of its image topic."""

from __future__ import annotations

from dataclasses import dataclass

from dust3r_ros.config import NodeConfig
from dust3r_ros.io.frames import camera_of_topic


@dataclass(frozen=True)
class CameraTopics:
    """One camera as the node meets it: its ``name`` and full topic names."""

    name: str
    image: str
    compressed: bool
    camera_info: str
    estimated: str


def camera_topics(config: NodeConfig, image_topic: str) -> CameraTopics:
    """Topics of the camera behind ``image_topic`` (fully resolved).

    ``/front/image_raw`` and ``/front/image_raw/compressed`` both give the camera info
    ``/front/camera_info`` and the estimate ``/front/estimated/camera_info``.
    """
    parts = image_topic.rstrip("/").split("/")
    compressed = parts[-1] == "compressed"
    if compressed:
        parts = parts[:-1]
    space = "/".join(parts[:-1])
    name = camera_of_topic(image_topic)
    return CameraTopics(
        name=name,
        image=image_topic,
        compressed=compressed if config.image_transport == "auto" else config.image_transport == "compressed",
        camera_info=config.camera_info_topic or f"{space}/camera_info",
        estimated=f"{space or '/' + name}/estimated/camera_info",
    )
