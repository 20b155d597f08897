"""The input of a run: which recording, which frames, in which order; and the closing report."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dust3r_ros.cli import command
from dust3r_ros.errors import ConfigError, InputError

if TYPE_CHECKING:
    from dust3r_ros.io.bags.topics import BagTopics
    from dust3r_ros.io.frames import FrameSource
    from dust3r_ros.io.manifest import Event, Manifest
    from dust3r_ros.session.replay import Replay
    from dust3r_ros.session.session import Session
    from dust3r_ros.types import Calibration, Frame


_UNCERTAIN = 0.1  # relative deviation of a focal
_NAMED = 6  # cameras, in a sentence


def unusable(name: str, replay: Replay, items: Any, skipped: int) -> str:
    """Why no frame of the input ``name`` was mapped."""
    reason = replay.reason or getattr(items, "reason", "")
    if reason:
        return f"no frame of '{name}' can be used: {reason}"
    return f"no frame of '{name}' can be read ({skipped} unreadable); --debug names them"


def shortfalls(replay: Replay, items: Any, source: FrameSource, session: Session) -> list[str]:
    """What part of the input is not in the map, and what could not be written, a sentence each."""
    missing = getattr(items, "missing", 0)
    counted = (
        (source.skipped, f"could not be read ({source.why_skipped}; --debug names more)"),
        (replay.refused, f"could not be used ({replay.reason})"),
        (source.incomplete, f"lacked data that the bag should provide ({source.lacking})"),
        (missing, f"of the manifest could not be found, so the map differs ({getattr(items, 'reason', '')})"),
    )
    left_out = [f"{count} frame{'s' * (count > 1)} {why}" for count, why in counted if count]
    if replay.undone:
        left_out.append(f"{replay.undone} events of the manifest failed, so the map differs ({replay.reason})")
    if session.mapper.counts.maps > 1:
        left_out.append(
            f"{session.mapper.counts.maps} maps could not be joined; the files show the largest, map.db has all"
        )
    if session.world.depth_in_vain:
        left_out.append("measured depth gives no scale: the map has no depth there (with dense=false, nowhere)")
    doubts = *session.keeper.problems, *session.estimate.contradictions, *session.mapper.doubts
    return [*left_out, *source.remarks, *session.unused.values(), *_of_cameras(session), *doubts]


def _of_cameras(session: Session) -> Iterator[str]:
    """Which cameras are not in the map, not calibrated by it, or not as they were given."""
    cameras = session.mapper.cameras
    posed = [name for name in cameras if session.mapper.path(name, 1)]
    for name, camera in cameras.items():
        if camera.contradicted:
            yield (
                f"the images of camera '{name}' give a focal length of {camera.measured:.0f} +- "
                f"{camera.measured_std:.0f} px, but {camera.given:.0f} px were given: if they are wrong, so is the map"
            )
        std = camera.focal_std / camera.focal
        if (name in posed or not posed) and _UNCERTAIN < std < math.inf:
            yield (
                f"the focal length of camera '{name}' is uncertain (+-{100 * std:.0f} %), so what is near and what is "
                "far may be wrong; motion sideways determines it, or --focal sets it"
            )
    yield from _without_pose(list(cameras), posed)


def _without_pose(cameras: list[str], posed: list[str]) -> Iterator[str]:
    """Why cameras have no pose: some of them, or all those of a folder."""
    from dust3r_ros.io.image_sources import plain_name

    without = [name for name in cameras if name not in posed]
    if posed and len(without) == 1:
        yield f"camera '{without[0]}' has no pose: none of its images shows enough of what the map knows"
    elif posed and without:
        names = ", ".join(map(repr, without[:_NAMED])) + f" and {len(without) - _NAMED} more" * (len(without) > _NAMED)
        yield f"cameras {names} have no pose: none of their images shows enough of what the map knows"
    elif not posed and len(set(map(plain_name, cameras))) < len(cameras):
        yield (
            f"images of another size or lens count as another camera's, here {len(cameras)} cameras, each with a focal "
            "length to be found: images of one camera, not cropped, and of one size are mapped more surely"
        )


def say(quiet: bool, words: str) -> None:
    """Print a line on stdout unless ``quiet``."""
    if not quiet:
        print(words, flush=True)


def warn(command: str, words: str) -> None:
    """Print a warning on stderr."""
    print(f"{command}: warning: {words}", file=sys.stderr)


def report(quiet: bool, directory: Path, summary: dict[str, Any]) -> None:
    """Print a short summary of the finished map."""
    from dust3r_ros.products.report import metres
    from dust3r_ros.products.results import focal_said

    rate = summary["frames_per_second"]
    say(
        quiet,
        f"{summary['frames']} frames, {summary['tracked']} tracked; {summary['keyframes']} keyframes, "
        f"{summary['pairs']} pairs, {summary['points']:,} points in {summary['seconds']:.1f} s ({rate:.1f} frames/s)",
    )
    if scale := summary["scale"]:
        say(quiet, f"a map unit is {metres(scale)}")
    for name, camera in summary["cameras"].items():
        found = "estimated" + f" from {camera['support']} pairs" * bool(camera["support"])
        found = found if camera["focal_std"] else "a guess"
        how = "given" if camera["fixed"] else found
        size = f"{camera['width']} x {camera['height']}"
        say(quiet, f"{name}: focal length {focal_said(camera)} at {size}, {how}")
    say(quiet, f"picture: {directory / 'preview.png'}   report: {directory / 'report.html'}")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """INPUT and the options that choose what part of it is mapped."""
    parser.add_argument(
        "input", metavar="INPUT", help="folder of images, video file, ROS 1 bag or rosbag2 (sqlite3, MCAP)"
    )
    add_selection(parser)
    parser.add_argument(
        "--manifest",
        metavar="FILE",
        help="reproduce a recorded run: map exactly the frames listed by --record or by the node",
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The options that choose what part of a recording is mapped."""
    parser.add_argument(
        "--topic", action="append", default=[],
        help="image topic of the bag, required if it has several; repeat it to build one map from several cameras",
    )  # fmt: skip
    parser.add_argument(
        "--camera", action="append", default=[], metavar="NAME",
        help="camera name, one per --topic (default: the topic's namespace, or 'camera')",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=command.positive, default=1, metavar="N", help="use every n-th frame of each camera"
    )
    parser.add_argument(
        "--camera-info", metavar="FILE",
        help="calibration file of the cameras, as camera_calibration and this command write it, in place of the bag's",
    )  # fmt: skip
    parser.add_argument("--max-frames", type=command.positive, metavar="N", help="stop after this many frames")
    group = parser.add_argument_group("other data in the bag")
    group.add_argument("--odometry", metavar="FRAME", help="use odometry from /tf, in this frame (usually odom)")
    group.add_argument("--odom-topic", metavar="TOPIC", help="use odometry messages (nav_msgs/Odometry) instead")
    group.add_argument("--imu-topic", metavar="TOPIC", help="IMU (sensor_msgs/Imu), used for gravity")
    for what, of in (("mask", "non-zero pixels are ignored"), ("depth", "it gives the metric scale")):
        group.add_argument(
            f"--{what}-topic", action="append", default=[], metavar="[CAMERA=]TOPIC", help=f"{what} of a camera; {of}"
        )


def read_plan(arguments: argparse.Namespace) -> Manifest | None:
    """The manifest to reproduce, if one was given. Raises ``InputError`` or ``ConfigError``."""
    if arguments.manifest is None:
        return None
    if arguments.every != 1:
        raise ConfigError("--every cannot be used with --manifest, which lists the frames to map")
    from dust3r_ros.io.manifest import read_manifest

    return read_manifest(arguments.manifest)


def open_inputs(arguments: argparse.Namespace, plan: Manifest | None) -> FrameSource:
    """The recording; topics default to those of the manifest. Raises ``InputError`` or ``ConfigError``."""
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
            lenient=not (topics.masks or topics.depths),  # data missing from the bag is found when a frame needs it
        )
    return open_source(arguments.input, topics=topics)


def calibrations(arguments: argparse.Namespace, source: FrameSource) -> Mapping[str, Calibration]:
    """Those of the --camera-info, else of the recording, by camera. Raises ``InputError`` for a file without any."""
    if arguments.camera_info is None:
        return source.calibrations()
    from dust3r_ros.io.camera_yaml import read_calibrations
    from dust3r_ros.io.image_sources import plain_name

    cameras, found = list(source.recorded) or arguments.camera or ["camera"], read_calibrations(arguments.camera_info)
    if len(cameras) == len(found) == 1:
        return dict(zip(cameras, found.values(), strict=True))  # whatever its name is there
    if not found.keys() & set(cameras):
        raise InputError(
            f"camera file '{arguments.camera_info}' has the cameras {', '.join(found)}, the recording has "
            f"{', '.join(cameras)}; they must have the same names"
        )
    after = not source.recorded  # a folder names further cameras after the first
    return {name: one for name, one in found.items() if name in cameras or (after and plain_name(name) in cameras)}


def frames(source: FrameSource, plan: Manifest | None, arguments: argparse.Namespace) -> Iterable[Frame | Event]:
    """What is mapped, in order."""
    if plan is None:
        return _thinned(source, arguments.every, arguments.max_frames)
    from dust3r_ros.session.replay import ManifestReplay

    return ManifestReplay(source, plan)


def _topics(arguments: argparse.Namespace) -> BagTopics:
    from dust3r_ros.io.bags.topics import BagTopics

    if arguments.odometry and arguments.odom_topic:
        raise ConfigError("--odometry and --odom-topic are both given; only one is allowed")
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
    """Topics by camera; a single topic needs no camera name."""
    found: dict[str, str] = {}
    for text in given:
        camera, equals, topic = text.rpartition("=")
        if not topic or (equals and not camera) or (not equals and len(given) > 1):
            raise ConfigError(f"{option} {text!r} is not CAMERA=TOPIC")
        if camera in found:
            raise ConfigError(f"{option} is given twice for camera '{camera}'")
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
