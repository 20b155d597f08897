"""Names of topics that belong to cameras, from the names of their image topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.io.frames import camera_of_topic

_COMPRESSED = ("compressed", "compressedDepth")


@dataclass(frozen=True)
class CameraTopics:
    """One camera as the node meets it: its ``name`` and full topic names; "" where there is none.

    ``compressed`` says of the image topic what ``is_compressed`` says of the others. ``space`` is the
    namespace of what the node publishes of this camera.
    """

    name: str
    image: str
    compressed: bool
    camera_info: str
    estimated: str
    space: str = ""
    mask: str = ""
    depth: str = ""
    depth_info: str = ""


def all_camera_topics(config: NodeConfig, resolve: Callable[[str], str]) -> tuple[CameraTopics, ...]:
    """Topics of every camera of a configuration; ``resolve`` makes full names of topics.

    Raises ``ConfigError`` for topics or names that are doubled, and for lists that do not fit together.
    """
    images = [topic for topic in config.image_topics if topic] or [config.image_topic]
    full = [resolve(topic) for topic in images]
    _refuse_doubles("image_topics", full)
    for name in ("camera_info_topic", "camera_frame"):
        if len(full) > 1 and getattr(config, name):
            raise ConfigError(f"parameter '{name}' is of one camera, but there are {len(full)}; leave it empty")
    names = _per_camera(config, "camera_names", len(full))
    masks, depths = (
        [resolve(topic) if topic else "" for topic in _per_camera(config, row, len(full))]
        for row in ("mask_topics", "depth_topics")
    )
    cameras = tuple(
        replace(
            camera_topics(config, topic),
            name=names[k] or camera_of_topic(topic),
            mask=masks[k],
            depth=depths[k],
            depth_info=_beside(depths[k], "camera_info") if depths[k] else "",
        )
        for k, topic in enumerate(full)
    )
    _refuse_doubles("camera_names", [camera.name for camera in cameras])
    _refuse_doubles("image_topics: the estimates of cameras", [camera.estimated for camera in cameras])
    return cameras


def recorded(cameras: Iterable[CameraTopics]) -> dict[str, dict[str, str]]:
    """Topics by camera and kind, as a manifest says where its frames came from."""
    return {c.name: {"image": c.image, "mask": c.mask, "depth": c.depth} for c in cameras}


def camera_topics(config: NodeConfig, image_topic: str) -> CameraTopics:
    """Topics of the camera behind ``image_topic`` (fully resolved).

    ``/front/image_raw`` and ``/front/image_raw/compressed`` both give the camera info
    ``/front/camera_info`` and the estimate ``/front/estimated/camera_info``.
    """
    name = camera_of_topic(image_topic)
    space = _beside(image_topic, "").rstrip("/") or f"/{name}"
    compressed = is_compressed(image_topic)
    return CameraTopics(
        name=name,
        image=image_topic,
        compressed=compressed if config.image_transport == "auto" else config.image_transport == "compressed",
        camera_info=config.camera_info_topic or _beside(image_topic, "camera_info"),
        estimated=f"{space}/estimated/camera_info",
        space=space,
    )


def is_compressed(topic: str) -> bool:
    """Whether the name of a topic says that its images are compressed."""
    return topic.rstrip("/").split("/")[-1] in _COMPRESSED


def _beside(topic: str, name: str) -> str:
    """The topic ``name`` in the namespace of an image topic."""
    parts = topic.rstrip("/").split("/")
    if is_compressed(topic):
        parts = parts[:-1]
    return "/".join([*parts[:-1], name])


def _per_camera(config: NodeConfig, row: str, cameras: int) -> list[str]:
    """The entries of a list of parameters, one for each camera."""
    values = list(getattr(config, row))
    if any(values) and len(values) != cameras:
        raise ConfigError(
            f"parameter '{row}' has {len(values)} entries, but there are {cameras} image topics; it must have one for"
            " each, which may be empty"
        )
    return values if any(values) else [""] * cameras


def _refuse_doubles(what: str, names: list[str]) -> None:
    doubled = [name for name, times in Counter(names).items() if times > 1]
    if doubled:
        raise ConfigError(f"parameter {what} has '{doubled[0]}' more than once; every one must differ")
