"""KITTI depth benchmark (Uhrig et al., 3DV 2017): the 1000 selected validation images with accumulated lidar depth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View, nominal
from dust3r_ros.layouts import reading

_PER_METRE = 256.0
_FOLDERS = (".", "val_selection_cropped", "depth_selection/val_selection_cropped")


def read(path: Path) -> Iterator[Recording]:
    """One recording: the selection in ``path`` or where the archive puts it below."""
    for folder in (path / inner for inner in _FOLDERS):
        if (folder / "groundtruth_depth").is_dir():
            yield Recording("val_selection_cropped", DATASET.name, tuple(_views(folder)), ordered=False, split="val")
            return


def _views(folder: Path) -> Iterator[View]:
    images = sorted((folder / "image").glob("*.png"))
    depths = sorted((folder / "groundtruth_depth").glob("*.png"))
    if len(images) != len(depths):
        raise InputError(f"'{folder}' holds {len(images)} images and {len(depths)} depth images; they must match")
    for index, file in enumerate(images):
        # 2011_09_26_drive_0002_sync_image_0000000005_image_02.png
        drive, separator, rest = file.name.partition("_sync_image_")
        if not separator:
            raise InputError(f"image '{file}' is not named like DRIVE_sync_image_NUMBER_image_02.png")
        depth = folder / "groundtruth_depth" / f"{drive}_sync_groundtruth_depth_{rest}"
        intrinsics = folder / "intrinsics" / f"{file.stem}.txt"
        M = reading.matrix(intrinsics, 3, 3)
        K = reading.intrinsics(M[0, 0], M[1, 1], M[0, 2], M[1, 2], intrinsics)
        camera = rest.removesuffix(".png").partition("_")[2]
        yield View(
            nominal(index),
            camera,
            K,
            None,
            reading.image_reader(file),
            reading.depth_reader(depth, _PER_METRE),
            name=f"image/{file.name}",
        )


DATASET = Dataset(
    name="kitti-depth",
    title="KITTI depth prediction (validation selection)",
    source="KIT, https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction (after registration)",
    fetch="data_depth_selection.zip, unpacked",
    licence="CC BY-NC-SA 3.0",
    layout="""
PATH/depth_selection/val_selection_cropped/   (or PATH itself)
  image/2011_09_26_drive_0002_sync_image_0000000005_image_02.png ...
  groundtruth_depth/2011_09_26_drive_0002_sync_groundtruth_depth_0000000005_image_02.png ...
  intrinsics/2011_09_26_drive_0002_sync_image_0000000005_image_02.txt ...
""",
    notes="No poses. Depth: 256 per metre, sparse. Stamps only number the images.",
    read=read,
)
