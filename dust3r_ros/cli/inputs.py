"""What is mapped: a recording, what of it, and in which order."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dust3r_ros.cli import command
from dust3r_ros.errors import ConfigError

if TYPE_CHECKING:
    from dust3r_ros.io.bags.topics import BagTopics
    from dust3r_ros.io.frames import FrameSource
    from dust3r_ros.io.manifest import Event, Manifest
    from dust3r_ros.types import Frame


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """INPUT and the options that choose what of it is mapped."""
    parser.add_argument(
        "input", metavar="INPUT", help="folder of images, video file, ROS 1 bag or rosbag2 (sqlite3, MCAP)"
    )
    parser.add_argument(
        "--topic", action="append", default=[],
        help="image topic of a bag (needed when it has several); several of them make one map of several cameras",
    )  # fmt: skip
    parser.add_argument(
        "--camera", action="append", default=[], metavar="NAME",
        help="name of the camera, one for each --topic (default: the topic's namespace, else camera)",
    )  # fmt: skip
    parser.add_argument("--every", type=command.positive, default=1, metavar="N", help="every n-th frame of a camera")
    parser.add_argument("--max-frames", type=command.positive, metavar="N", help="stop after this many frames")
    parser.add_argument(
        "--manifest", metavar="FILE", help="map exactly the frames that a run (of the node, too) wrote down, as it did"
    )
    group = parser.add_argument_group("what a bag tells beside images")
    group.add_argument("--odometry", metavar="FRAME", help="odometry by /tf, in this frame (odom)")
    group.add_argument("--odom-topic", metavar="TOPIC", help="odometry by messages (nav_msgs/Odometry) instead")
    group.add_argument("--imu-topic", metavar="TOPIC", help="IMU (sensor_msgs/Imu), which tells what is up")
    for what, of in (("mask", "what is not 0 is left out of the map"), ("depth", "it tells the scale")):
        group.add_argument(
            f"--{what}-topic", action="append", default=[], metavar="[CAMERA=]TOPIC", help=f"{what} of a camera; {of}"
        )


def read_plan(arguments: argparse.Namespace) -> Manifest | None:
    """The manifest to be mapped again, if one was given. Raises ``InputError`` or ``ConfigError``."""
    if arguments.manifest is None:
        return None
    if arguments.every != 1:
        raise ConfigError("--every cannot be used with --manifest, which says what is mapped")
    from dust3r_ros.io.manifest import read_manifest

    return read_manifest(arguments.manifest)


def open_inputs(arguments: argparse.Namespace, plan: Manifest | None) -> FrameSource:
    """The recording; topics that are not said are those of the manifest. Raises ``InputError`` or ``ConfigError``."""
    from dust3r_ros.io.bags.topics import BagTopics
    from dust3r_ros.io.image_sources import is_bag, open_source

    topics = _topics(arguments)
    if plan is not None and is_bag(arguments.input):
        recorded = BagTopics.of(plan.topics)
        topics = BagTopics(
            topics.images or recorded.images,
            topics.cameras or (() if topics.images else recorded.cameras),
            masks=topics.masks or recorded.masks,
            depths=topics.depths or recorded.depths,
            lenient=not (topics.masks or topics.depths),  # what the frames need and the bag lacks is found out then
        )
    return open_source(arguments.input, topics=topics)


def frames(source: FrameSource, plan: Manifest | None, arguments: argparse.Namespace) -> Iterable[Frame | Event]:
    """What is mapped, in order; its ``len``, of the manifest or the source, is not that of the result."""
    if plan is None:
        return _thinned(source, arguments.every, arguments.max_frames)
    from dust3r_ros.session.replay import ManifestReplay

    return ManifestReplay(source, plan)


def _topics(arguments: argparse.Namespace) -> BagTopics:
    from dust3r_ros.io.bags.topics import BagTopics

    if arguments.odometry and arguments.odom_topic:
        raise ConfigError("--odometry and --odom-topic are two ways to the same; give one of them")
    return BagTopics(
        tuple(arguments.topic),
        tuple(arguments.camera),
        arguments.odometry or "",
        arguments.odom_topic or "",
        arguments.imu_topic or "",
        _by_camera(arguments.mask_topic, "--mask-topic"),
        _by_camera(arguments.depth_topic, "--depth-topic"),
    )


def _by_camera(given: list[str], option: str) -> dict[str, str]:
    """Topics by camera; the only one of an only camera needs no name."""
    found: dict[str, str] = {}
    for text in given:
        camera, equals, topic = text.rpartition("=")
        if not topic or (equals and not camera) or (not equals and len(given) > 1):
            raise ConfigError(f"{option} {text!r} is not CAMERA=TOPIC")
        if camera in found:
            raise ConfigError(f"{option} is there twice for camera '{camera}'")
        found[camera] = topic
    return found


def _thinned(source: Iterable[Frame], every: int, most: int | None) -> Iterator[Frame]:
    """Every n-th frame of each camera."""
    seen: Counter[str] = Counter()
    taken = 0
    for frame in source:
        seen[frame.camera] += 1
        if (seen[frame.camera] - 1) % every == 0:
            yield frame
            taken += 1
            if taken == most:
                return
