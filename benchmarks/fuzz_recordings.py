"""The doors by which recordings and maps enter: bags, whole robots of damaged messages, manifests, saved maps."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
from fuzz_damage import damage_database, damage_file, damage_message, damage_tree
from fuzz_doors import (
    Door,
    damage_yaml,
    finite,
    require,
    rigid,
    same,
    sequence,
    sound_calibration,
    sound_camera,
    sound_frame,
    sound_keyframe,
)
from robot_bag import CAMERAS, Robot

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import Dust3rRosError
from dust3r_ros.io.bags.topics import BagTopics
from dust3r_ros.io.image_sources import open_source
from dust3r_ros.io.manifest import Event, FrameEntry, ManifestWriter, read_manifest
from dust3r_ros.sensors.camera_info import Calibrations
from dust3r_ros.session.replay import ManifestReplay, Replay, apply
from dust3r_ros.session.session import Session
from dust3r_ros.storage.saved_map import load_map, load_state, save_map
from dust3r_ros.types import Calibration, Frame

SMALL = MapperConfig(working_size=64, tracking_size=96, keyframe_motion_young=0.03)
LOG = logging.getLogger("fuzz")


# Bags

TOPICS = BagTopics(
    images=tuple(f"/{camera}/image_raw" for camera in CAMERAS),
    cameras=CAMERAS,
    odom_frame="odom",
    imu="/imu",
    masks={camera: f"/{camera}/mask" for camera in CAMERAS},
    depths={"left": "/depth/image_rect_raw"},
)
ROBOT = {"frames": 3, "imu_period": 20, "tf_period": 50, "lead": 420}


class Bag(Door):
    """A recording of a robot with two cameras and all companions."""

    storage = ""
    topics = TOPICS
    slow = True
    named = ("topic '", "bag '")

    def make(self, folder: Path) -> None:
        Robot(**ROBOT).record(folder / "bag", self.storage)

    def damage(self, folder: Path, rng: Random) -> set[str]:
        files = sorted((folder / "bag").iterdir()) if (folder / "bag").is_dir() else [folder / "bag"]
        file = rng.choice([*files, *(file for file in files if file.suffix != ".yaml")])
        if file.suffix == ".yaml":
            return {file.name} | damage_yaml(file, rng)
        if file.suffix == ".db3" and rng.random() < 0.5:
            return {file.name} | damage_database(file, rng)
        return {file.name} | damage_file(file, rng)

    def open(self, folder: Path) -> Any:
        source = open_source(folder / ("bag" if (folder / "bag").exists() else "bag.bag"), topics=self.topics)
        frames = [*source]
        shots = [shot for shot in source.shots() if not isinstance(shot, Exception)]
        return frames, len(source), source.calibrations(), source.extrinsics(), len(shots)

    def judge(self, found: Any, good: Any, how: set[str]) -> None:
        frames, count, calibrations, extrinsics, _ = found
        newest: dict[str, int] = {}
        for frame in frames:
            sound_frame(frame)
            require(frame.stamp_ns > newest.get(frame.camera, -1), "stamps do not increase")
            newest[frame.camera] = frame.stamp_ns
        require(count >= 0, "a count below zero")
        for calibration in calibrations.values():
            known = Calibrations("prior", 0.05)
            try:
                known.know("camera", calibration)
            except Dust3rRosError:
                continue
            sound_calibration(calibration)
        for camera, pose in extrinsics.items():
            rigid(pose, f"extrinsics of {camera}")


class Mcap(Bag):
    """As ROS 2 records by default."""

    storage = "mcap"


class Sqlite3(Bag):
    """As older releases of ROS 2 record."""

    storage = "sqlite3"


class Ros1(Bag):
    """A bag of ROS 1."""

    storage = "ros1"

    def make(self, folder: Path) -> None:
        Robot(**ROBOT).record(folder / "bag.bag", self.storage)

    def damage(self, folder: Path, rng: Random) -> set[str]:
        return damage_file(folder / "bag.bag", rng)


class Messages(Bag):
    """Whole recordings of damaged messages: sizes, steps, encodings, NaN, stamps, frames."""

    storage = "mcap"

    def damage(self, folder: Path, rng: Random) -> set[str]:
        done: set[str] = set()
        store, recorded = Robot().store, list(_recorded())
        for _ in range(rng.choice((1, 2, 6))):
            topic = rng.choice(sorted({topic for _, topic, _, _ in recorded}))
            every = [at for at, item in enumerate(recorded) if item[1] == topic]
            for at in every if rng.random() < 0.3 else [rng.choice(every)]:  # all of a topic, or one
                kind = recorded[at][2]
                message = store.deserialize_cdr(recorded[at][3], kind)
                done |= damage_message(message, rng, lambda made, kind=kind: store.serialize_cdr(made, kind))
                recorded[at] = (*recorded[at][:3], store.serialize_cdr(message, kind))
        shutil.rmtree(folder / "bag")
        _record(folder / "bag", recorded)
        return done


@lru_cache(maxsize=1)
def _recorded() -> tuple[tuple[int, str, str, Any], ...]:
    """Time, topic, type and bytes of every message of a robot."""
    robot = Robot(**ROBOT)
    order = sorted(robot.messages(), key=lambda item: (item[0], item[1]))
    kinds = ((at, topic, message.__msgtype__, message) for at, topic, message in order)
    return tuple((at, topic, kind, robot.store.serialize_cdr(message, kind)) for at, topic, kind, message in kinds)


def _record(path: Path, recorded: Iterable[tuple[int, str, str, Any]]) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer

    with Writer(path, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for at, topic, kind, raw in recorded:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=Robot().store)
            writer.write(connections[topic], at, raw)


class Manifest(Door):
    """The manifest of a run, replayed with its recording; every kind of event."""

    slow = True
    named = ("manifest", "event '")

    def make(self, folder: Path) -> None:
        images = folder / "images"
        images.mkdir()
        for index, image in enumerate(sequence().images[:7]):
            cv2.imwrite(str(images / f"{index}.png"), image[..., ::-1])
        writer = ManifestWriter(folder / "manifest.jsonl")
        writer.header(SMALL)
        session = Session(SMALL, LOG)
        session.keeper.keep_record(writer)
        session.know("camera", Calibration(96, 72, 80.0, 80.0, 47.5, 35.5, "plumb_bob", (0.1, 0.01, 0.0, 0.0, 0.0)))
        session.place("camera", np.eye(4))
        for index, frame in enumerate(open_source(images)):
            rng = np.random.default_rng(index)
            session.process(
                Frame(
                    frame.stamp_ns,
                    "camera",
                    frame.image,
                    o_T_c=np.eye(4),
                    up=np.array([0.0, -1.0, 0.0]),
                    points=rng.random((50, 3), np.float32) + np.float32(1.0),
                )
            )
            if index == 5:
                session.set_scale(2.0)
                session.set_mapping(False)
                session.set_mapping(True)
        session.reset()
        writer.close()

    def damage(self, folder: Path, rng: Random) -> set[str]:
        file = folder / "manifest.jsonl"
        if rng.random() < 0.4:
            return damage_file(file, rng, text=True)
        lines = file.read_text(encoding="utf-8").splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(damage_tree(json.loads(lines[at]), rng))
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return {"tree"}

    def open(self, folder: Path) -> Any:
        manifest = read_manifest(folder / "manifest.jsonl")
        session = Session(SMALL, LOG, on_time_jump=manifest.on_time_jump)
        replay = ManifestReplay(open_source(folder / "images"), manifest)
        run = Replay(session.process, replay, lambda event: apply(session, event))
        updates = [*run]
        return manifest.config, manifest.topics, [*manifest.entries()], updates, session

    def judge(self, found: Any, good: Any, how: set[str]) -> None:
        _, topics, entries, updates, session = found
        require(isinstance(topics, dict), "topics")
        for entry in entries:
            require(isinstance(entry, (FrameEntry, Event)), "an entry of no kind")
            if isinstance(entry, FrameEntry):
                require(abs(entry.stamp_ns) <= 2**63, "stamp of an entry")
                rigid(entry.o_T_c, "odometry of an entry")
                finite(entry.up, "up of an entry")
                finite(entry.points, "points of an entry")
        for update in updates:
            rigid(update.w_T_c, "pose of a replayed frame")
        for camera in session.cameras.values():
            sound_camera(camera)


# Saved maps


class Map(Door):
    """A saved map: shown, continued, and grown by two images."""

    named = ("map '",)

    def make(self, folder: Path) -> None:
        session = Session(SMALL, LOG)
        session.know("camera", Calibration(96, 72, 80.0, 80.0, 47.5, 35.5))
        for stamp_ns, image in zip(sequence().stamps_ns[:8], sequence().images[:8], strict=True):
            session.process(Frame(int(stamp_ns), "camera", image))
        for index in (8, 9):
            cv2.imwrite(str(folder / f"{index}.png"), sequence().images[index][..., ::-1])
        save_map(folder / "map.db", session.mapper, {"calibrations": session.calibrations.state(), "extrinsics": {}})

    def damage(self, folder: Path, rng: Random) -> set[str]:
        file = folder / "map.db"
        return damage_database(file, rng) if rng.random() < 0.7 else damage_file(file, rng)

    def open(self, folder: Path) -> Any:
        shown, continued, both = None, None, []
        try:
            shown = load_map(folder / "map.db", landmarks=True)
        except Dust3rRosError as error:
            both.append(error)
        try:
            continued = Session(SMALL, LOG)
            continued.resume(load_state(folder / "map.db"))
            keyframes, cameras = continued.mapper.keyframes, dict(continued.cameras)
            poses = continued.mapper.trajectory()
            after = [cv2.imread(str(folder / f"{index}.png"))[..., ::-1] for index in (8, 9)]
            updates = [continued.process(Frame(10**12 + at * 10**8, "camera", image)) for at, image in enumerate(after)]
            return shown, (keyframes, cameras, poses, updates)
        except Dust3rRosError as error:
            if both:
                raise
            both.append(error)
        return shown, None

    def judge(self, found: Any, good: Any, how: set[str]) -> None:
        shown, continued = found
        if shown is not None:
            for keyframe in shown.keyframes:
                sound_keyframe(keyframe)
            for camera in shown.cameras.values():
                sound_camera(camera)
            finite([weight for _, _, weight in shown.edges], "an edge")
            require(shown.landmarks is None or np.isfinite(shown.landmarks.positions).all(), "landmarks")
        require(shown is None or same(shown, good[0]), "the map shown is not what was saved")
        require(continued is None or same(continued[:3], good[1][:3]), "the map continued is not what was saved")
        if continued is not None:
            keyframes, cameras, poses, updates = continued
            for keyframe in keyframes:
                sound_keyframe(keyframe)
            for camera in cameras.values():
                sound_camera(camera)
            for item in (*poses, *updates):
                rigid(item.w_T_c, f"pose at {item.stamp_ns}")
            stamps = [item.stamp_ns for item in poses]
            require(stamps == sorted(stamps), "stamps of the trajectory do not increase")
