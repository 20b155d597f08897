"""What is played to the node: recordings as bags of raw images, made before any run, and the cases that play them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.evaluation.scene import read_scene
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.io.files import make_folder, write_text
from dust3r_ros.io.frames import camera_of_topic
from dust3r_ros.io.image_sources import open_source
from dust3r_ros.io.trajectory import read_tum, write_tum
from dust3r_ros.scenes.export import write_bag
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import FOCAL_PER_WIDTH, RenderedSequence, stamps, walk
from dust3r_ros.scenes.world import World
from dust3r_ros.types import Array, Image, StampedPose

TOPIC = "/camera/image_raw"
KITCHEN = "7scenes_redkitchen_30hz"
_BASELINE_M = 0.15
_VERSION = 1  # of the recordings; those of another version are made again


@dataclass(frozen=True)
class Case:
    """One run of the node: ``recording`` played ``slower`` times slower, in a finished map if ``localize``.

    ``kills``: how often the back end is killed. ``passes``: how often it is played, every second time backwards.
    """

    name: str
    title: str
    recording: str
    slower: float = 1.0
    localize: bool = False
    kills: int = 0
    passes: int = 1


CASES = (
    Case("kitchen-30", "recorded kitchen, 640×480, 30 Hz", "kitchen"),
    Case("kitchen-15", "recorded kitchen, 640×480, 15 Hz", "kitchen", 2.0),
    Case("walk-30", "rendered walk, 640×480, 30 Hz", "walk"),
    Case("loop-30", "rendered walk that closes a loop, 640×480, 30 Hz", "loop"),
    Case("pair-15", "rendered walk, two cameras, 640×480, 15 Hz each", "pair"),
    Case("wide-15", "rendered walk, 1280×720, 15 Hz", "wide"),
    Case("localize-30", "`mode: localization` in the finished map of the kitchen, 30 Hz", "kitchen", localize=True),
    Case("stay-30", "rendered walk to and fro ten times, 640×480, 30 Hz", "walk", passes=10),
    Case("killed-30", "rendered walk to and fro, 30 Hz, back end killed ten times", "walk", kills=10, passes=10),
)


@dataclass(frozen=True)
class Recorded:
    """A bag with its image topics, the true poses of the images by stamp (ns), and how many images it has."""

    bag: Path
    topics: tuple[str, ...]
    truth: Mapping[int, StampedPose]
    images: int


def prepare(name: str, folder: Path, data: Path, shortened: int = 0) -> Recorded | None:
    """The recording, made unless ``folder`` has it; None if its data is absent.

    ``shortened`` takes that many images per camera, 0 all.
    """

    def make() -> Made | None:
        sequences = RECORDINGS[name](data, shortened)
        return None if sequences is None else (sequences, {})

    found = kept(folder / (f"{name}_{shortened}" if shortened else name), make)
    return None if found is None else found[0]


Made = tuple[dict[str, RenderedSequence], dict[str, Any]]  # what is seen on each topic, and facts to keep with it


def kept(path: Path, make: Callable[[], Made | None]) -> tuple[Recorded, dict[str, Any]] | None:
    """The recording in folder ``path``, made unless it is there, and its facts; None if it cannot be made."""
    about = path / "about.json"
    if not about.is_file() or json.loads(about.read_text())["version"] != _VERSION:
        made = make()
        if made is None:
            return None
        sequences, facts = made
        shutil.rmtree(path, ignore_errors=True)
        make_folder(path)
        write_bag(sequences, path / "bag", encoding="rgb8", camera_info=False)
        poses = [
            StampedPose(int(stamp_ns), camera_of_topic(topic), w_T_c)
            for topic, sequence in sequences.items()
            for stamp_ns, w_T_c in zip(sequence.stamps_ns, sequence.w_T_c, strict=True)
        ]
        write_tum(path / "truth.txt", sorted(poses, key=lambda item: item.stamp_ns))
        count = sum(len(sequence) for sequence in sequences.values())
        write_text(about, json.dumps({"version": _VERSION, "topics": list(sequences), "images": count, **facts}))
    facts = json.loads(about.read_text())
    truth = {item.stamp_ns: item for item in read_tum(path / "truth.txt")}
    return Recorded(path / "bag", tuple(facts["topics"]), truth, facts["images"]), facts


def _kitchen(data: Path, shortened: int) -> dict[str, RenderedSequence] | None:
    if not (data / KITCHEN).is_dir():
        return None
    frames, scene = list(open_source(data / KITCHEN))[: shortened or None], read_scene(data / KITCHEN)
    poses = np.stack([found for frame in frames if (found := scene.pose(frame.stamp_ns)) is not None])
    images = np.stack([frame.image for frame in frames])
    taken = np.array([frame.stamp_ns for frame in frames])
    return {TOPIC: without_depth("kitchen", taken, images, poses)}


def _walk(data: Path, shortened: int) -> dict[str, RenderedSequence]:
    return {TOPIC: _rendered("sweep", 240, 30.0, 31, shortened=shortened)}


def _loop(data: Path, shortened: int) -> dict[str, RenderedSequence]:
    return {TOPIC: _rendered("orbit", 480, 30.0, 32, laps=1.1, shortened=shortened)}


def _pair(data: Path, shortened: int) -> dict[str, RenderedSequence]:
    """The right camera's shutter opens half a period after the left one's."""
    rate, count = 15.0, 180
    every = walk("orbit", 2 * count, rate_hz=2 * rate, laps=0.6, seed=33)
    left, right = every[0::2], every[1::2] @ pose(np.eye(3), [_BASELINE_M, 0.0, 0.0])
    taken = stamps(2 * count, 2 * rate)
    return {
        f"/{name}/image_raw": _render(name, taken[first::2], room(33), poses, 640, 480, shortened)
        for first, name, poses in ((0, "left", left), (1, "right", right))
    }


def _wide(data: Path, shortened: int) -> dict[str, RenderedSequence]:
    return {TOPIC: _rendered("sweep", 130, 15.0, 34, width=1280, height=720, shortened=shortened)}


RECORDINGS: dict[str, Callable[[Path, int], dict[str, RenderedSequence] | None]] = {
    "kitchen": _kitchen,
    "walk": _walk,
    "loop": _loop,
    "pair": _pair,
    "wide": _wide,
}


def _rendered(
    kind: str,
    frames: int,
    rate_hz: float,
    seed: int,
    *,
    width: int = 640,
    height: int = 480,
    laps: float | None = None,
    shortened: int = 0,
) -> RenderedSequence:
    poses = walk(kind, frames, rate_hz=rate_hz, laps=laps, seed=seed)
    return _render(kind, stamps(frames, rate_hz), room(seed), poses, width, height, shortened)


def _render(
    name: str, taken: Array, world: World, poses: Array, width: int, height: int, shortened: int
) -> RenderedSequence:
    """Rendered with a process per core; a minute's walk takes more than a minute."""
    poses, taken = poses[: shortened or None], taken[: shortened or None]
    print(f"rendering {name}: {len(poses)} images of {width}x{height}", flush=True)
    look = partial(_image, world, width, height)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        images = np.stack(list(pool.map(look, poses, chunksize=8)))
    return without_depth(name, taken, images, poses)


def _image(world: World, width: int, height: int, w_T_c: Array) -> Image:
    return world.render(w_T_c, width, height, FOCAL_PER_WIDTH * width, 1).image


def without_depth(name: str, taken: Array, images: Image, poses: Array) -> RenderedSequence:
    """Images and poses alone: neither depth nor focal is used here."""
    height, width = images.shape[1:3]
    empty = np.zeros((len(images), 0, 0), np.float32)
    return RenderedSequence(name, taken, images, empty, poses, width, height, FOCAL_PER_WIDTH * width)


def selected(names: str) -> tuple[Case, ...]:
    """Cases by comma-separated names, all if empty; raises ``ValueError`` for an unknown name."""
    wanted = [name for name in names.split(",") if name] or [case.name for case in CASES]
    known = {case.name: replace(case) for case in CASES}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"there is no case '{unknown[0]}'; there are {', '.join(known)}")
    return tuple(known[name] for name in wanted)
