"""ScanNet v2 (Dai et al., CVPR 2017), as the exporter of its .sens files writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View, nominal
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array, Array32

_PER_METRE = 1000.0


def read(path: Path) -> Iterator[Recording]:
    """Scenes: ``path`` itself, the folders in it, or those in its scans and scans_test."""
    scenes = reading.folders(path, "pose")
    for inner in ("scans", "scans_test"):
        if (path / inner).is_dir():
            scenes += reading.folders(path / inner, "pose")
    splits = _splits(path)
    for scene in scenes:
        name = scene.resolve().name
        yield Recording(
            name, DATASET.name, _views(scene, name), split=splits.get(name, ""), scene=name.rsplit("_", 1)[0]
        )


def _splits(path: Path) -> dict[str, str]:
    found = {}
    for part in ("train", "val", "test"):
        listing = path / f"scannetv2_{part}.txt"
        if listing.is_file():
            found.update({name: part for (name,) in reading.rows(listing, 1, "scene0000_00")})
    return found


def _views(scene: Path, name: str) -> tuple[View, ...]:
    K, K_depth = (_intrinsics(scene / "intrinsic" / f"intrinsic_{which}.txt") for which in ("color", "depth"))
    files = [*(scene / "color").glob("*.jpg"), *(scene / "depth").glob("*.png")]
    views = []
    for index in sorted({reading.whole(file, file.stem) for file in files}):
        file = scene / "color" / f"{index}.jpg"
        pose = reading.pose_file(reading.existing(scene / "pose" / f"{index}.txt"))
        image = reading.image_reader(file)
        depth = _depth(scene / "depth" / f"{index}.png", file, K_depth, K)
        views.append(View(nominal(index), "camera", K, pose, image, depth, name=f"{name}/color/{file.name}"))
    return tuple(views)


def _depth(path: Path, image: Path, K_depth: Array, K: Array) -> Callable[[], Array32]:
    raw = reading.depth_reader(path, _PER_METRE)
    return lambda: reading.registered(raw(), K_depth, K, *reading.image_size(image))


def _intrinsics(path: Path) -> Array:
    M = reading.matrix(path, 4, 4)
    return reading.intrinsics(M[0, 0], M[1, 1], M[0, 2], M[1, 2], path)


DATASET = Dataset(
    name="scannet",
    title="ScanNet v2",
    source="http://www.scan-net.org (access after signing the terms of use)",
    fetch="the scenes' .sens, exported with its SensReader (color, depth, pose, intrinsic)",
    licence="ScanNet terms of use, non-commercial research",
    layout="""
PATH/scannetv2_test.txt  scannetv2_val.txt   (optional: the split)
PATH/scans/scene0000_00/  (or PATH/scene0000_00/, PATH/scans_test/...)
  color/0.jpg ...  depth/0.png ...  pose/0.txt ...
  intrinsic/intrinsic_color.txt  intrinsic/intrinsic_depth.txt
""",
    notes=(
        "Depth is mapped to the colour image by the two intrinsics (the exporter's extrinsics are identities). Frames\n"
        "whose pose is -inf have no pose. Stamps are nominal (30 Hz)."
    ),
    read=read,
)
