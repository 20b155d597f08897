"""The doors by which input enters: for each a valid input made by the real code, ways to damage it, and its judge."""

from __future__ import annotations

import json
import zipfile
import zlib
from abc import ABC, abstractmethod
from dataclasses import fields, is_dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import yaml
from fuzz_damage import damage_file, damage_tree

from dust3r_ros.config import MapperConfig, NodeConfig, as_mapping, from_mapping, load_yaml, split
from dust3r_ros.io.camera_yaml import read_calibrations, write_cameras
from dust3r_ros.io.image_sources import open_source
from dust3r_ros.io.trajectory import read_tum, write_tum
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence
from dust3r_ros.types import Calibration, Camera, Frame, Keyframe, StampedPose


class WrongError(Exception):
    """A result that is not right, without a word."""


class Door(ABC):
    """One kind of input: a folder of files that ``make`` writes."""

    named: tuple[str, ...] = ()  # what an error may call it, besides by the name of a file
    slow = False  # gets fewer cases

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @abstractmethod
    def make(self, folder: Path) -> None:
        """Write a valid input."""

    @abstractmethod
    def damage(self, folder: Path, rng: Random) -> set[str]:
        """Damage it; returns how."""

    @abstractmethod
    def open(self, folder: Path) -> Any:
        """Read it as the package does; everything that was read. Raises ``Dust3rRosError``."""

    @abstractmethod
    def judge(self, found: Any, good: Any, how: set[str]) -> None:
        """Raises ``WrongError`` for what cannot be right; ``good`` is what the undamaged input gives."""


# What is right


def require(right: object, what: str) -> None:
    """Raises ``WrongError`` unless ``right``."""
    if not right:
        raise WrongError(what)


def finite(values: Any, what: str) -> None:
    """Numbers of any shape, or none at all."""
    require(values is None or np.isfinite(np.asarray(values, np.float64)).all(), f"{what} is not finite")


def rigid(pose: Any, what: str) -> None:
    """A pose, or none."""
    if pose is not None:
        finite(pose, what)
        R = np.asarray(pose)[:3, :3]
        require(np.abs(R @ R.T - np.eye(3)).max() < 2e-3 and np.linalg.det(R) > 0, f"{what} is not a rigid motion")
        require(np.abs(np.asarray(pose)[:3, 3]).max() < 1e12, f"{what} is farther than the moon")


def sound_frame(frame: Frame) -> None:
    """An image and its companions."""
    what = f"frame {frame.stamp_ns} of '{frame.camera}'"
    image = frame.image
    require(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size, f"{what} is no image")
    require(0 <= frame.stamp_ns < 2**63, f"{what}: the stamp")
    rigid(frame.o_T_c, f"odometry of {what}")
    finite(frame.up, f"up of {what}")
    require(frame.up is None or abs(np.linalg.norm(frame.up) - 1) < 1e-3, f"up of {what} is no direction")
    finite(frame.depth, f"depth of {what}")
    require(frame.depth is None or (frame.depth >= 0).all(), f"depth of {what} is negative")
    finite(frame.points, f"points of {what}")
    require(frame.mask is None or frame.mask.shape == image.shape[:2], f"mask of {what}")


def sound_calibration(known: Calibration) -> None:
    """A calibration that was taken in."""
    finite((known.fx, known.fy, known.cx, known.cy, *known.coefficients), "calibration")
    require(min(known.fx, known.fy) > 0 and 0.2 <= known.fx / known.fy <= 5, f"focals {known.fx}, {known.fy}")
    require(0 < known.width < 2**16 and 0 < known.height < 2**16, f"size {known.width}x{known.height}")


def sound_camera(camera: Camera) -> None:
    """A camera as estimated or read."""
    finite((camera.focal, *camera.center, *camera.distortion), f"camera '{camera.name}'")
    long = max(camera.width, camera.height)
    require(min(camera.width, camera.height) > 0 and long < 2**16, f"size {camera.width}x{camera.height}")
    require(0.02 * long < camera.focal < 200 * long, f"focal {camera.focal} of {camera.width}x{camera.height}")
    require(camera.focal_std >= 0 and camera.support >= 0, f"focal_std {camera.focal_std}, support {camera.support}")


def sound_keyframe(keyframe: Keyframe) -> None:
    """A keyframe with its image and depth."""
    what = f"keyframe {keyframe.index}"
    require(type(keyframe.stamp_ns) is int and keyframe.stamp_ns >= 0, f"stamp of {what} is {keyframe.stamp_ns!r}")
    require(type(keyframe.index) is int and type(keyframe.version) is int, f"numbers of {what}")
    rigid(keyframe.w_T_c, what)
    require(np.isfinite(keyframe.focal) and keyframe.focal > 0, f"focal of {what} is {keyframe.focal}")
    finite(keyframe.depth, f"depth of {what}")
    finite(keyframe.confidence, f"confidence of {what}")
    require((keyframe.depth >= 0).all() and (keyframe.confidence >= 0).all(), f"depth of {what} is negative")
    require(keyframe.image.shape[:2] == keyframe.depth.shape == keyframe.confidence.shape, f"shapes of {what}")


def same(a: Any, b: Any) -> bool:
    """Whether two results are the same, bit by bit; NaN is NaN."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if is_dataclass(a) and type(a) is type(b):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


@lru_cache(maxsize=1)
def sequence() -> RenderedSequence:
    """Ten frames, 96 x 72."""
    return render_sequence("sweep", 10, 96, 72, seed=0, rate_hz=4)


# Images and videos


class Images(Door):
    """A folder of images of every format; each can be lost, none can be wrong."""

    kinds = ("png", "png", "jpg", "jpg", "bmp", "webp", "tif", "ppm")

    def make(self, folder: Path) -> None:
        for index, kind in enumerate(self.kinds):
            cv2.imwrite(str(folder / f"{index}.{kind}"), sequence().images[index][..., ::-1])
        lines = [f"{index}.5 {index}.{kind}" for index, kind in enumerate(self.kinds)]
        (folder / "rgb.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def damage(self, folder: Path, rng: Random) -> set[str]:
        file = rng.choice([*sorted(folder.iterdir()), *folder.glob("*.png"), *folder.glob("*.jpg")])
        if file.suffix == ".png" and rng.random() < 0.3:
            size = rng.choice(((30_000, 30_000), (2**31 - 1, 1), (0, 5), (97, 72), (96, 73), (20_000, 20_000)))
            file.write_bytes(_resized_png(file.read_bytes(), size, bomb=min(size) > 1000 and rng.random() < 0.2))
            return {file.name, "size"}
        if file.suffix == ".jpg" and rng.random() < 0.3:
            raw = bytearray(file.read_bytes())
            at = raw.index(b"\xff\xc0") + 5
            raw[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x75\x30\x75\x30", bytes(4), b"\x20\x00\x20\x00"))
            file.write_bytes(raw)
            return {file.name, "size"}
        return {file.name} | damage_file(file, rng, text=file.suffix == ".txt")

    def open(self, folder: Path) -> Any:
        source = open_source(folder)
        return {frame.stamp_ns: frame for frame in source}, source.skipped

    def judge(self, found: Any, good: Any, how: set[str]) -> None:
        frames, skipped = found
        for stamp_ns, frame in frames.items():
            sound_frame(frame)
            known = good[0].get(stamp_ns)
            if "rgb.txt" in how:
                continue
            require(known is not None, f"there was no image at {stamp_ns} ns")
            number = list(good[0]).index(stamp_ns)
            file = f"{number}.{self.kinds[number]}"
            exact = file not in how or file.endswith("png") or how == {file, "cut"} or how == {file, "size"}
            require(not exact or same(frame.image, known.image), f"the image of {file} is another one")
        require("rgb.txt" in how or len(frames) + skipped == len(self.kinds), "an image was lost")


def _resized_png(raw: bytes, size: tuple[int, int], bomb: bool) -> bytes:
    """A PNG whose header claims another size; as a ``bomb``, it also has what unfolds to that."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    sides = b"".join(side.to_bytes(4, "big") for side in size)
    if not bomb:
        return raw[:8] + chunk(b"IHDR", sides + raw[24:29]) + raw[33:]
    grey = b"\x01\x00\x00\x00\x00"  # a bit for a pixel
    unfolded = bytes(min((size[0] // 8 + 2) * size[1], 1 << 27))
    return raw[:8] + chunk(b"IHDR", sides + grey) + chunk(b"IDAT", zlib.compress(unfolded, 1)) + chunk(b"IEND", b"")


class Video(Door):
    """A video of motion JPEG, whose container counts the frames."""

    def make(self, folder: Path) -> None:
        size = (sequence().width, sequence().height)
        writer = cv2.VideoWriter(str(folder / "video.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, size)
        for image in sequence().images:
            writer.write(np.ascontiguousarray(image[..., ::-1]))
        writer.release()

    def damage(self, folder: Path, rng: Random) -> set[str]:
        file = folder / "video.avi"
        raw = bytearray(file.read_bytes())
        if rng.random() < 0.3:  # dwTotalFrames of avih, dwLength of strh; dwRate
            at = rng.choice((raw.index(b"avih") + 24, raw.index(b"strh") + 40, raw.index(b"strh") + 32))
            raw[at : at + 4] = rng.choice((2**31 - 1, 2**32 - 1, 2**24, 0, 1)).to_bytes(4, "little")
            file.write_bytes(raw)
            return {"count"}
        return damage_file(file, rng)

    def open(self, folder: Path) -> Any:
        source = open_source(folder / "video.avi")
        return [*source], source.skipped, len(source)

    def judge(self, found: Any, good: Any, how: set[str]) -> None:
        frames, _, count = found
        require(count >= 0, "a count below zero")
        for frame in frames:
            sound_frame(frame)
        stamps = [frame.stamp_ns for frame in frames]
        require(stamps == sorted(set(stamps)), "stamps do not increase")


# Text


class CameraYaml(Door):
    """Two cameras in the format of camera_info_manager."""

    def make(self, folder: Path) -> None:
        lens = (-0.2, 0.05, 0.0, 0.0, 0.0)
        left = Camera("left", 640, 480, 500.0, 2.0, 40, principal_offset=(3.0, -2.0), distortion=lens)
        write_cameras(folder / "cameras.yaml", [left, Camera("right", 320, 240, 260.0, fixed=True)])

    def damage(self, folder: Path, rng: Random) -> set[str]:
        return damage_yaml(folder / "cameras.yaml", rng)

    def open(self, folder: Path) -> Any:
        return read_calibrations(folder / "cameras.yaml")

    def judge(self, found: Any, good: Any, how: set[str]) -> None:
        for calibration in found.values():
            sound_calibration(calibration)


MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name}\n  <<: [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghi")
)


def damage_yaml(file: Path, rng: Random) -> set[str]:
    """Damage the text, or the values, of a YAML file."""
    if rng.random() < 0.03:
        odd = ("a: 2001-99-99\n", "a: !!python/name:os.system\n", "? [a]\n", "a: !!int x\n", "a: 1\na: 2\n")
        more = rng.choice((MERGES, "- " * 3000, "[" * 3000, *odd))
        file.write_text(file.read_text(encoding="utf-8") + more, encoding="utf-8")
        return {"more"}
    if rng.random() < 0.5:
        return damage_file(file, rng, text=True)
    documents = [damage_tree(tree, rng) for tree in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    file.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
    return {"tree"}


class Parameters(Door):
    """A parameter file of the node, which the command line reads as well."""

    def make(self, folder: Path) -> None:
        values = {**as_mapping(MapperConfig()), **as_mapping(NodeConfig())}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        text = yaml.safe_dump({"/dust3r": {"ros__parameters": plain}}, sort_keys=False)
        (folder / "dust3r.yaml").write_text(text, encoding="utf-8")

    def damage(self, folder: Path, rng: Random) -> set[str]:
        return damage_yaml(folder / "dust3r.yaml", rng)

    def open(self, folder: Path) -> Any:
        mapper, node = split(load_yaml(folder / "dust3r.yaml"))
        return from_mapping(MapperConfig, mapper), from_mapping(NodeConfig, node)

    named = ("parameter '", "'")

    def judge(self, found: Any, good: Any, how: set[str]) -> None:
        for config in found:
            for name, value in as_mapping(config).items():
                require(type(value) is type(getattr(type(config)(), name)), f"{name} is {value!r}")
                require(not isinstance(value, float) or np.isfinite(value), f"{name} is {value!r}")


class Trajectory(Door):
    """Poses in the TUM format."""

    def make(self, folder: Path) -> None:
        truth = zip(sequence().stamps_ns, sequence().w_T_c, strict=True)
        write_tum(folder / "trajectory.txt", [StampedPose(int(stamp), "camera", pose) for stamp, pose in truth])

    def damage(self, folder: Path, rng: Random) -> set[str]:
        return damage_file(folder / "trajectory.txt", rng, text=True)

    def open(self, folder: Path) -> Any:
        return read_tum(folder / "trajectory.txt")

    def judge(self, found: Any, good: Any, how: set[str]) -> None:
        for item in found:
            rigid(item.w_T_c, f"pose at {item.stamp_ns}")
            require(0 <= item.stamp_ns < 2**63, f"stamp {item.stamp_ns}")


# Weights


class Checkpoint(Door):
    """A folder of weights; what is read must be what was written."""

    named = ("checkpoint '",)

    def make(self, folder: Path) -> None:
        import torch

        from dust3r_ros.network.checkpoint import save_checkpoint

        torch.manual_seed(0)
        save_checkpoint(_network(), folder / "net")

    def damage(self, folder: Path, rng: Random) -> set[str]:
        config, weights = folder / "net/config.json", folder / "net/model.safetensors"
        if rng.random() < 0.3:
            tree = damage_tree(json.loads(config.read_text(encoding="utf-8")), rng)
            config.write_text(json.dumps(tree), encoding="utf-8")
            return {"config"}
        if rng.random() < 0.5:
            raw = weights.read_bytes()
            size = int.from_bytes(raw[:8], "little")
            header = json.dumps(damage_tree(json.loads(raw[8 : 8 + size]), rng)).encode()
            weights.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + size :])
            return {"header"}
        return damage_file(weights, rng)

    def open(self, folder: Path) -> Any:
        from dust3r_ros.network.checkpoint import load_checkpoint

        model = load_checkpoint(next(folder.iterdir()))
        return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}, model.config

    def judge(self, found: Any, good: Any, how: set[str]) -> None:
        if how & {"config", "pickle"}:  # these say how many heads there are, and may exchange tensors of one shape
            for name, tensor in found[0].items():
                finite(tensor, name)
            return
        require(found[1] == good[1] and found[0].keys() == good[0].keys(), "another architecture")
        for name, tensor in found[0].items():
            require(same(tensor, good[0][name]), f"'{name}' is not what was written")


def _network() -> Any:
    from dust3r_ros.network.config import Dust3rConfig
    from dust3r_ros.network.model import Dust3r

    small = {"enc_embed_dim": 16, "enc_depth": 1, "enc_num_heads": 2, "dec_embed_dim": 16, "dec_depth": 1}
    return Dust3r(Dust3rConfig(img_size=(32, 32), head_type="linear", dec_num_heads=2, **small))


class Pth(Checkpoint):
    """Weights in the published layout."""

    def make(self, folder: Path) -> None:
        import argparse

        import torch

        torch.manual_seed(0)
        network = _network()
        args = argparse.Namespace(model=network.config.to_string())
        torch.save({"args": args, "model": network.state_dict()}, folder / "net.pth")

    def damage(self, folder: Path, rng: Random) -> set[str]:
        file = folder / "net.pth"
        if rng.random() < 0.7:
            return damage_file(file, rng)
        with zipfile.ZipFile(file) as archive:  # the unpickler's program damaged, in a whole archive
            parts = {name: archive.read(name) for name in archive.namelist()}
        pickled = next(name for name in parts if name.endswith("data.pkl"))
        inner = file.with_suffix(".pkl")
        inner.write_bytes(parts[pickled])
        damage_file(inner, rng)
        parts[pickled] = inner.read_bytes()
        inner.unlink()
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
        return {"pickle"}
