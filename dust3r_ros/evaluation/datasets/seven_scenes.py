"""7-Scenes (Shotton et al., CVPR 2013): Kinect sequences with KinectFusion poses; depth not registered to colour."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View, nominal
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array32

# The official page gives one focal, 585, with a principal point of (320, 240): the depth camera's, whose poses these
# are. It says nothing about the colour camera; 525 is the sensor's nominal focal, as used in the literature.
K_DEPTH = reading.intrinsics(585.0, 585.0, 320.0, 240.0)
K_COLOR = reading.intrinsics(525.0, 525.0, 320.0, 240.0)
_SIZE = (640, 480)
_PER_METRE = 1000.0
_NONE = 65535


def read(path: Path) -> Iterator[Recording]:
    """Sequences of the scene in ``path``, or of the scenes in the folders in it, with their official split.

    A scene must be complete; ``path`` may be one sequence of it.
    """
    if next(path.glob("frame-*.pose.txt"), None) is not None:
        yield _recording(path, _split(path.parent, "train") | _split(path.parent, "test"))
        return
    for scene in reading.folders(path, "seq-*/frame-*.pose.txt"):
        split = _split(scene, "train") | _split(scene, "test")
        missing = [name for name in split if not (scene / name).exists()]
        if missing:
            raise InputError(f"'{scene}' lacks {', '.join(missing)}; it must be complete, or one sequence be given")
        for folder in sorted(scene.glob("seq-*")):
            if folder.is_dir():  # not an archive of the download
                yield _recording(folder, split)


def _recording(folder: Path, split: Mapping[str, str]) -> Recording:
    """A sequence. Raises ``InputError`` if it is in neither part of its scene."""
    if folder.name not in split:
        raise InputError(f"'{folder}' is in neither TrainSplit.txt nor TestSplit.txt of '{folder.parent}'")
    scene = folder.parent.resolve().name
    name = f"{scene}/{folder.name}"
    return Recording(name, DATASET.name, _views(folder, name), split=split[folder.name], scene=scene)


def _split(scene: Path, part: str) -> dict[str, str]:
    """{folder: part} of a file with lines like ``sequence3``. Raises ``InputError`` naming it."""
    path = scene / f"{part.capitalize()}Split.txt"
    found = {}
    for (field,) in reading.rows(path, 1, "sequenceN"):
        number = re.fullmatch(r"(?:sequence|seq-)(\d+)", field)
        if number is None:
            raise InputError(f"'{path}' holds {field!r}; its lines must be like 'sequence3'")
        found[f"seq-{int(number.group(1)):02d}"] = part
    return found


def _views(folder: Path, name: str) -> tuple[View, ...]:
    views = []
    for frame in sorted({file.name.partition(".")[0] for file in folder.glob("frame-*.*.*")}):
        image = folder / f"{frame}.color.png"
        index = reading.whole(image, frame.removeprefix("frame-"))
        pose = reading.pose_file(reading.existing(folder / f"{frame}.pose.txt"))
        read_depth = _depth(folder, frame)
        views.append(
            View(nominal(index), "camera", K_COLOR, pose, reading.image_reader(image), read_depth,
                 name=f"{name}/{image.name}")
        )  # fmt: skip
    return tuple(views)


def _depth(folder: Path, frame: str) -> Callable[[], Array32]:
    """Depth in the colour image: the registered file (``.depth.proj.png``) if there is one, else by the two focals."""
    done = folder / f"{frame}.depth.proj.png"
    if done.is_file():
        return reading.depth_reader(done, _PER_METRE, (_NONE,))
    raw = reading.depth_reader(folder / f"{frame}.depth.png", _PER_METRE, (_NONE,))
    return lambda: reading.registered(raw(), K_DEPTH, K_COLOR, *_SIZE)


DATASET = Dataset(
    name="7scenes",
    title="7-Scenes",
    source="Microsoft Research, https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/",
    fetch="the scenes' .zip, and in each the seq-NN.zip, unpacked",
    licence="Microsoft Research licence, non-commercial",
    layout="""
PATH/chess/
  TrainSplit.txt  TestSplit.txt
  seq-01/frame-000000.color.png
         frame-000000.depth.png   (or .depth.proj.png: registered to colour)
         frame-000000.pose.txt
""",
    notes=(
        "No official file gives the colour camera's intrinsics: K is nominal (525; 585 is the depth camera's), and a\n"
        "focal length fitted to the images is closer to 523. Poses are the depth camera's. Depth is mapped to the\n"
        "colour image by the two focal lengths, ignoring the 25 mm between the cameras. Stamps are nominal (30 Hz).\n"
        "A scene must be complete; one sequence, PATH/chess/seq-01, can be opened alone."
    ),
    read=read,
)
