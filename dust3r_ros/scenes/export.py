"""Rendered sequences as files: a folder in the TUM layout, bags of ROS 1 and ROS 2."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.io.bags.reader import require_rosbags
from dust3r_ros.io.files import atomic_folder, atomic_path, make_folder
from dust3r_ros.io.frames import camera_of_topic
from dust3r_ros.io.trajectory import stamp_to_text, write_tum
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.types import Image, StampedPose

STORAGES = ("mcap", "sqlite3", "ros1")
_LATENCY_NS = 2_000_000  # delay from taking an image to recording its message


def write_folder(sequence: RenderedSequence, path: str | Path) -> None:
    """rgb/NNNNNN.png, depth/NNNNNN.png (16 bit, mm, 0 = none), rgb.txt, depth.txt, groundtruth.txt, intrinsics.json.

    Raises ``OutputError`` when ``path`` exists already or cannot be written.
    """
    with atomic_folder(path) as folder:
        for name, suffix in (("rgb", "color"), ("depth", "depth")):
            (folder / name).mkdir()
            lines = [f"# timestamp filename ({suffix})"]
            lines += [f"{stamp_to_text(int(t))} {name}/{i:06d}.png" for i, t in enumerate(sequence.stamps_ns)]
            (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for index, (image, depth) in enumerate(zip(sequence.images, sequence.depths, strict=True)):
            millimetres = np.clip(np.round(1000 * depth), 0, 65535).astype(np.uint16)
            (folder / "rgb" / f"{index:06d}.png").write_bytes(_encoded(image, "png"))
            (folder / "depth" / f"{index:06d}.png").write_bytes(cv2.imencode(".png", millimetres)[1].tobytes())
        truth = zip(sequence.stamps_ns, sequence.w_T_c, strict=True)
        poses = [StampedPose(int(stamp_ns), "camera", pose) for stamp_ns, pose in truth]
        write_tum(folder / "groundtruth.txt", poses)
        (folder / "intrinsics.json").write_text(json.dumps(_intrinsics(sequence), indent=1), encoding="utf-8")


def _intrinsics(sequence: RenderedSequence) -> dict[str, Any]:
    cx, cy = center_of(sequence.height, sequence.width)
    return {
        "fx": sequence.focal, "fy": sequence.focal, "cx": cx, "cy": cy,
        "width": sequence.width, "height": sequence.height, "depth_scale": 1000.0,
        "camera_model": "pinhole", "distortion": "none", "has_depth": True, "pose_scale": "metric",
    }  # fmt: skip


def write_bag(
    sequence: RenderedSequence | Mapping[str, RenderedSequence],
    path: str | Path,
    topic: str = "/camera/image_raw",
    *,
    storage: str = "mcap",
    compressed: bool | str = False,
    encoding: str = "bgr8",
    camera_info: bool = True,
) -> None:
    """A bag of images as an uncalibrated camera driver publishes them; several cameras as {topic: sequence}.

    ``storage``: mcap, sqlite3 (rosbag2 folders, Jazzy) or ros1 (a .bag file). ``compressed``: True or "jpeg",
    or "png", writes CompressedImage on topic/compressed. ``encoding`` of raw images: bgr8, rgb8 or mono8.
    ``camera_info`` adds the camera's CameraInfo with K of zeros: uncalibrated. Headers carry the exact stamps
    and the frame <camera>_optical_frame. Raises ``InputError`` for an unknown option or
    without the package rosbags, ``OutputError``.
    """
    codec = "jpeg" if compressed is True else compressed or ""
    for what, value, known in (
        ("storage", storage, STORAGES),
        ("encoding", encoding, ("bgr8", "rgb8", "mono8")),
        ("compression", codec, ("", "jpeg", "png")),
    ):
        if value not in known:
            raise InputError(f"bag {what} '{value}' is unknown; known are {', '.join(filter(None, known))}")
    require_rosbags(Path(path))
    from rosbags.rosbag1 import Writer as Writer1
    from rosbags.typesys import Stores, get_typestore

    sequences = sequence if isinstance(sequence, Mapping) else {topic: sequence}
    store = get_typestore(Stores.ROS1_NOETIC if storage == "ros1" else Stores.ROS2_JAZZY)
    messages = _messages(_Types(store), sequences, codec, encoding, camera_info)
    if storage == "ros1":
        make_folder(Path(path).parent)
        with atomic_path(path) as temporary:
            temporary.unlink()
            with Writer1(temporary) as writer:
                _write(writer, messages, store, store.serialize_ros1)
    else:
        _write_rosbag2(Path(path), storage, messages, store)


def _write_rosbag2(path: Path, storage: str, messages: Iterator[tuple[int, str, Any]], store: Any) -> None:
    """Write the folder of a rosbag2 whole or not at all; its writer insists on creating the folder itself."""
    from rosbags.rosbag2 import StoragePlugin
    from rosbags.rosbag2 import Writer as Writer2

    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with atomic_folder(path) as folder:
        inner = folder / path.name
        with Writer2(inner, version=Writer2.VERSION_LATEST, storage_plugin=plugin) as writer:
            _write(writer, messages, store, store.serialize_cdr)
        for file in inner.iterdir():
            file.rename(folder / file.name)
        inner.rmdir()


def _write(writer: Any, messages: Iterator[tuple[int, str, Any]], store: Any, serialize: Any) -> None:
    connections: dict[str, Any] = {}
    for stamp_ns, topic, message in messages:
        if topic not in connections:
            connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=store)
        writer.write(connections[topic], stamp_ns + _LATENCY_NS, serialize(message, message.__msgtype__))


class _Types:
    """Makes messages of a type store; ROS 1 headers have a sequence number, ROS 1 CameraInfo has capital names."""

    def __init__(self, store: Any) -> None:
        self._types = store.types
        self._ros1 = "seq" in store.types["std_msgs/msg/Header"].__dataclass_fields__

    def header(self, index: int, stamp_ns: int, frame_id: str) -> Any:
        stamp = self._types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        extra = {"seq": index} if self._ros1 else {}
        return self._types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id, **extra)

    def image(self, header: Any, image: Image, encoding: str) -> Any:
        if encoding == "mono8":
            image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
        data = np.ascontiguousarray(image[..., ::-1] if encoding == "bgr8" else image)
        return self._types["sensor_msgs/msg/Image"](
            header=header, height=data.shape[0], width=data.shape[1], encoding=encoding, is_bigendian=0,
            step=data.nbytes // data.shape[0], data=data.reshape(-1),
        )  # fmt: skip

    def compressed(self, header: Any, image: Image, codec: str) -> Any:
        data = np.frombuffer(_encoded(image, codec), np.uint8)
        return self._types["sensor_msgs/msg/CompressedImage"](
            header=header, format=f"bgr8; {codec} compressed bgr8", data=data
        )

    def camera_info(self, header: Any, height: int, width: int) -> Any:
        matrices = {"d": np.zeros(0), "k": np.zeros(9), "r": np.zeros(9), "p": np.zeros(12)}
        if self._ros1:
            matrices = {name.upper(): value for name, value in matrices.items()}
        roi = self._types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self._types["sensor_msgs/msg/CameraInfo"](
            header=header, height=height, width=width, distortion_model="", binning_x=0, binning_y=0, roi=roi,
            **matrices,
        )  # fmt: skip


def _messages(
    types: _Types, sequences: Mapping[str, RenderedSequence], codec: str, encoding: str, camera_info: bool
) -> Iterator[tuple[int, str, Any]]:
    """(stamp, topic, message) of all cameras, in the order of their stamps."""
    order = sorted((int(t), topic, i) for topic, s in sequences.items() for i, t in enumerate(s.stamps_ns))
    for stamp_ns, topic, index in order:
        sequence = sequences[topic]
        header = types.header(index, stamp_ns, camera_of_topic(topic).replace("/", "_") + "_optical_frame")
        if codec:
            yield stamp_ns, f"{topic}/compressed", types.compressed(header, sequence.images[index], codec)
        else:
            yield stamp_ns, topic, types.image(header, sequence.images[index], encoding)
        if camera_info:
            info = topic.rpartition("/")[0] + "/camera_info"
            yield stamp_ns, info, types.camera_info(header, sequence.height, sequence.width)


def _encoded(image: Image, codec: str) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if codec == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 2]
    return cv2.imencode(f".{codec}", image[..., ::-1], options)[1].tobytes()
