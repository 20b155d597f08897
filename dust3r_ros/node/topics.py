"""The topics of each camera, derived from its image topic, and the health of each topic."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.io.frames import camera_of_topic
from dust3r_ros.node.image_losses import StampLosses

# A topic without messages for this long (s) is silent: camera unplugged, driver ended.
SILENT_S = 3.0


@dataclass(frozen=True)
class TopicHealth:
    """The health of an input at one moment. ``silent_s``: time since the last message, None before the first.

    ``kind``: image, camera_info, mask, depth, odometry, imu. ``bad`` messages were refused, the last for ``reason``;
    ``well``: messages that are not bad have come since.
    ``returns`` counts how often it came back after a silence, ``lost`` images that were stamped but never arrived.
    ``why``: why nothing arrives, "" if something does or if unknown.
    """

    topic: str
    kind: str
    camera: str = ""
    count: int = 0
    rate_hz: float = 0.0
    silent_s: float | None = None
    bad: int = 0
    reason: str = ""
    returns: int = 0
    lost: int = 0
    why: str = ""
    well: bool = False

    @property
    def silent(self) -> bool:
        """Whether nothing came yet, or nothing for ``SILENT_S``."""
        return self.silent_s is None or self.silent_s > SILENT_S


class TopicMonitor:
    """Counts the messages of a topic; times are seconds of a steady clock."""

    def __init__(self, topic: str, kind: str, camera: str = "") -> None:
        self.topic, self.kind, self.camera = topic, kind, camera
        self._count = self._bad = self._returns = 0
        self._times: deque[float] = deque(maxlen=20)
        self._reason = self.why = ""
        self._well = False
        self._losses = StampLosses()

    def stamped(self, stamp_ns: int) -> None:
        """Take in the stamp of a message, on a topic whose losses are counted."""
        self._losses.stamped(stamp_ns)

    def restart(self, *, forget: bool = False) -> None:
        """Ignore the gap before the next message; ``forget``: also reset the count of lost ones."""
        if forget:
            self._losses = StampLosses()
        self._losses.restart()

    @property
    def lost(self) -> int:
        """Number of images that were stamped but never arrived."""
        return self._losses.lost

    @property
    def lost_share(self) -> float:
        """Fraction of the images that never arrived."""
        return self._losses.lost / max(1, self._losses.lost + self._losses.seen)

    def heard(self, now: float) -> float | None:
        """A message came; returns the silence (s) that it ended, None if there was none."""
        silence = now - self._times[-1] if self._times else 0.0
        self._count += 1
        self._times.append(now)
        self.why, self._well = "", True
        if silence <= SILENT_S:
            return None
        self._times.clear()
        self._times.append(now)
        self._returns += 1
        return silence

    def refuse(self, reason: str) -> None:
        """Count the last message as unusable."""
        self._bad += 1
        self._well = False
        self._reason = reason

    def health(self, now: float) -> TopicHealth:
        """The health now."""
        times = list(self._times)
        silent_s = now - times[-1] if times else None
        lively = len(times) > 1 and times[-1] > times[0] and now - times[-1] <= SILENT_S
        return TopicHealth(
            self.topic,
            self.kind,
            self.camera,
            self._count,
            (len(times) - 1) / (times[-1] - times[0]) if lively else 0.0,
            silent_s,
            self._bad,
            self._reason,
            self._returns,
            self.lost,
            self.why,
            self._well,
        )


_COMPRESSED = ("compressed", "compressedDepth")


@dataclass(frozen=True)
class CameraTopics:
    """A camera's ``name`` and full topic names; "" where there is none.

    ``compressed``: whether the image topic is compressed. ``space``: the namespace of what the node publishes for this
    camera.
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
    """Topics of every camera in a configuration; ``resolve`` makes topic names full.

    Raises ``ConfigError`` for duplicate topics or names, and for lists of different lengths.
    """
    images = [topic for topic in config.image_topics if topic] or [config.image_topic]
    full = [resolve(topic) for topic in images]
    _refuse_doubles("image_topics", full)
    _refuse_shared(config, len(full))
    names = _per_camera(config, "camera_names", len(full))
    masks = _resolved(_per_camera(config, "mask_topics", len(full)), resolve)
    depths = _resolved(_per_camera(config, "depth_topics", len(full)), resolve)
    topics = zip(full, names, masks, depths, strict=True)
    cameras = tuple(_with_companions(camera_topics(config, image), *its) for image, *its in topics)
    _refuse_doubles("camera_names", [camera.name for camera in cameras])
    _refuse_doubles("image_topics: the estimated camera_info topics", [camera.estimated for camera in cameras])
    return cameras


def _with_companions(camera: CameraTopics, name: str, mask: str, depth: str) -> CameraTopics:
    """A camera with its mask and depth topics, "" for none; ``name``: "" for the default."""
    info = _beside(depth, "camera_info") if depth else ""
    return replace(camera, name=name or camera.name, mask=mask, depth=depth, depth_info=info)


def recorded(cameras: Iterable[CameraTopics]) -> dict[str, dict[str, str]]:
    """Topics by camera and kind, for a manifest."""
    return {c.name: {"image": c.image, "mask": c.mask, "depth": c.depth} for c in cameras}


def camera_topics(config: NodeConfig, image_topic: str) -> CameraTopics:
    """Topics of the camera behind ``image_topic`` (fully resolved).

    ``/front/image_raw`` and ``/front/image_raw/compressed`` both give the camera info
    ``/front/camera_info`` and the estimate ``/front/estimated/camera_info``.
    """
    name = camera_of_topic(image_topic)
    space = _beside(image_topic, "").rstrip("/") or f"/{name}"
    compressed = is_compressed(image_topic) if config.image_transport == "auto" else config.image_transport != "raw"
    named = is_compressed(image_topic) or not compressed
    return CameraTopics(
        name=name,
        image=image_topic if named else f"{image_topic}/compressed",  # image_transport's naming
        compressed=compressed,
        camera_info=config.camera_info_topic or _beside(image_topic, "camera_info"),
        estimated=f"{space}/estimated/camera_info",
        space=space,
    )


def is_compressed(topic: str) -> bool:
    """Whether a topic is compressed, judging by its name."""
    return topic.rstrip("/").split("/")[-1] in _COMPRESSED


def _beside(topic: str, name: str) -> str:
    """The topic ``name`` in the namespace of an image topic."""
    parts = topic.rstrip("/").split("/")
    if is_compressed(topic):
        parts = parts[:-1]
    return "/".join([*parts[:-1], name])


def _per_camera(config: NodeConfig, row: str, cameras: int) -> list[str]:
    """The entries of a list parameter, one per camera."""
    values = list(getattr(config, row))
    if any(values) and len(values) != cameras:
        raise ConfigError(
            f"parameter '{row}' has {len(values)} entries, but there are {cameras} image topics; it must have one"
            " for each (may be empty)"
        )
    return values if any(values) else [""] * cameras


def _resolved(topics: list[str], resolve: Callable[[str], str]) -> list[str]:
    """Full names, "" for none."""
    return [resolve(topic) if topic else "" for topic in topics]


def _refuse_shared(config: NodeConfig, cameras: int) -> None:
    """Raises ``ConfigError`` if several cameras use a parameter for a single one."""
    for name in ("camera_info_topic", "camera_frame"):
        if cameras > 1 and getattr(config, name):
            raise ConfigError(f"parameter '{name}' is for a single camera, but there are {cameras}; leave it empty")


def _refuse_doubles(what: str, names: list[str]) -> None:
    doubled = [name for name, times in Counter(names).items() if times > 1]
    if doubled:
        raise ConfigError(f"parameter {what} has '{doubled[0]}' more than once; all must differ")
