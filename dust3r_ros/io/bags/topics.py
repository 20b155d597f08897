"""The topics of a bag to be read, and their roles."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dust3r_ros.errors import InputError
from dust3r_ros.io.bags.reader import Bag
from dust3r_ros.io.frames import camera_of_topic, without_transport
from dust3r_ros.sensors.synchronizer import SynchronizerSettings

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
ODOMETRY = "nav_msgs/msg/Odometry"
IMU = "sensor_msgs/msg/Imu"
TF, TF_STATIC = "/tf", "/tf_static"
_DEPTH = ("16UC1", "32FC1")  # encodings of depth


@dataclass(frozen=True)
class BagTopics:
    """The user's choice of topics. ``images``: topics, may be empty if the bag has only one, apart from depth and
    compressed copies; ``cameras``: their names.

    ``odom_frame``: odometry is on /tf, in this frame; or ``odometry``: its topic. ``imu``: topic. ``masks``,
    ``depths``: topics by camera name, which may be empty for a single camera; with ``lenient``, those that the bag
    lacks are left out.
    """

    images: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    odom_frame: str = ""
    odometry: str = ""
    imu: str = ""
    masks: Mapping[str, str] = field(default_factory=dict)
    depths: Mapping[str, str] = field(default_factory=dict)
    lenient: bool = False

    @classmethod
    def of(cls, topics: Mapping[str, Mapping[str, str]]) -> BagTopics:
        """From topics by camera and kind ("image", "mask", "depth"), as in a manifest."""
        kinds = {
            kind: {camera: of[kind] for camera, of in topics.items() if of.get(kind)}
            for kind in ("image", "mask", "depth")
        }
        images = kinds["image"]
        return cls(tuple(images.values()), tuple(images), masks=kinds["mask"], depths=kinds["depth"])

    @property
    def by_camera(self) -> dict[str, dict[str, str]]:
        """The inverse of ``of``."""
        kinds = {"image": dict(zip(self.cameras, self.images, strict=True)), "mask": self.masks, "depth": self.depths}
        return {name: {kind: of[name] for kind, of in kinds.items() if name in of} for name in self.cameras}

    @property
    def settings(self) -> SynchronizerSettings:
        """The companions that images get."""
        return SynchronizerSettings(
            self.odom_frame.lstrip("/"),
            bool(self.odometry),
            bool(self.imu),
            frozenset(self.masks),
            frozenset(self.depths),
        )

    @property
    def named(self) -> tuple[str, ...]:
        """Every topic and frame that was given."""
        said = (*self.images, self.odom_frame, self.odometry, self.imu, *self.masks.values(), *self.depths.values())
        return tuple(filter(None, said))

    def resolved(self, bag: Bag) -> BagTopics:
        """With full names, one for each camera; raises ``InputError`` for a topic that the bag lacks."""
        others = *self.masks.values(), *self.depths.values()
        images = tuple(_find(bag, topic, (IMAGE, COMPRESSED)) for topic in self.images) or (_only_image(bag, others),)
        cameras = self.cameras or tuple(camera_of_topic(topic) for topic in images)
        _check_distinct(images, cameras)
        masks, depths = (self._companion_topics(topics, cameras, bag) for topics in (self.masks, self.depths))
        _check_known((*masks, *depths), cameras)
        if self.odom_frame and TF not in bag.kinds:
            raise InputError(f"bag '{bag.path}' has no topic '{TF}', which odometry in '{self.odom_frame}' needs")
        return replace(
            self,
            images=images,
            cameras=cameras,
            odometry=_find_if_named(bag, self.odometry, ODOMETRY),
            imu=_find_if_named(bag, self.imu, IMU),
            masks={name: _find(bag, topic, (IMAGE, COMPRESSED)) for name, topic in masks.items()},
            depths={name: _find(bag, topic, (IMAGE, COMPRESSED)) for name, topic in depths.items()},
        )

    def _companion_topics(self, topics: Mapping[str, str], cameras: Sequence[str], bag: Bag) -> dict[str, str]:
        """Topics of masks or depth by camera; with ``lenient`` only those that the bag has."""
        found = _of_only(topics, cameras)
        return {name: topic for name, topic in found.items() if not self.lenient or topic in bag.kinds}

    def read(self, bag: Bag) -> list[str]:
        """The topics of images and companions."""
        topics = [*self.images, self.odometry, self.imu, *self.masks.values(), *self.depths.values()]
        if not self.settings.none:
            topics += [TF, TF_STATIC]
        return [topic for topic in dict.fromkeys(topics) if topic in bag.kinds]


def _check_distinct(images: Sequence[str], cameras: Sequence[str]) -> None:
    """Raises ``InputError`` unless every image topic has a camera of its own."""
    if len(cameras) != len(images):
        raise InputError(f"{len(cameras)} camera names were given for {len(images)} image topics")
    for names, what in ((images, "image topic"), (cameras, "camera")):
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise InputError(f"{what} '{doubled[0]}' is given twice; every camera needs a topic and name of its own")


def _check_known(named: Iterable[str], cameras: Sequence[str]) -> None:
    """Raises ``InputError`` for the first unknown camera name."""
    for camera in named:
        if camera not in cameras:
            raise InputError(f"there is no camera '{camera}'; the cameras are {', '.join(cameras)}")


def _of_only(topics: Mapping[str, str], cameras: Sequence[str]) -> dict[str, str]:
    if "" in topics and len(cameras) > 1:
        raise InputError(f"topic '{topics['']}' is given without a camera; it must be one of {', '.join(cameras)}")
    return {name or cameras[0]: topic for name, topic in topics.items()}


def info_topic(topic: str) -> str:
    """The CameraInfo topic of an image topic: /camera/camera_info for /camera/image_raw/compressed."""
    return without_transport(topic).rpartition("/")[0] + "/camera_info"


def image_topics(bag: Bag) -> list[str]:
    """The image topics of a bag, without compressed depth."""
    images = (topic for topic, kind in bag.kinds.items() if kind in (IMAGE, COMPRESSED))
    return sorted(topic for topic in images if not topic.endswith("/compressedDepth"))


def _known(bag: Bag) -> str:
    images = image_topics(bag)
    return f"its image topics are {', '.join(images)}" if images else "it has no image topic"


def _full(topic: str) -> str:
    return topic if topic.startswith("/") else f"/{topic}"


def _find(bag: Bag, topic: str, kinds: Sequence[str]) -> str:
    full = _full(topic)
    if IMAGE in kinds:
        known = _known(bag)
    else:
        such = sorted(name for name, kind in bag.kinds.items() if kind in kinds)
        known = f"its topics of type {kinds[0]} are {', '.join(such) or 'none'}"
    if full not in bag.kinds:
        raise InputError(f"bag '{bag.path}' has no topic '{topic}'; {known}")
    if bag.kinds[full] not in kinds:
        raise InputError(f"topic '{full}' of bag '{bag.path}' is of type {bag.kinds[full]}; {known}")
    return full


def _find_if_named(bag: Bag, topic: str, kind: str) -> str:
    """The full name of a topic; "" for none."""
    return _find(bag, topic, (kind,)) if topic else ""


def _only_image(bag: Bag, others: Iterable[str]) -> str:
    """The one image topic; neither ``others`` count, nor compressed copies of raw images, nor depth."""
    images = {*image_topics(bag)} - {*map(_full, others)}
    images -= {topic for topic in images if without_transport(topic) in images - {topic}}
    if len(images) > 1:
        images -= _depths(bag, images)
    if len(images) != 1:
        wrong = "has several image topics; choose one" if images else "cannot be used"
        raise InputError(f"bag '{bag.path}' {wrong}; {_known(bag)}")
    return images.pop()


def _depths(bag: Bag, images: Collection[str]) -> set[str]:
    """Topics of depth by their first message, whose encoding or format says so."""
    said = {m.topic: [getattr(m.content, name, "") for name in ("encoding", "format")] for m in bag.first(images)}
    return {topic for topic, words in said.items() if "".join(words).startswith(_DEPTH)}
