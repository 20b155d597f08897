"""NYU Depth v2 (Silberman et al., ECCV 2012): 1449 labelled images with depth and the official split; no poses."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View, nominal
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array32, Image

# Of the colour camera, from the toolbox (camera_params.m).
K = reading.intrinsics(518.85790117450188, 519.46961112127485, 325.58244941119034, 253.73616633400465)
_PER_METRE = 1000.0
_LABELLED, _SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"


def read(path: Path) -> Iterator[Recording]:
    """One recording per split of the labelled .mat, or one per scene of the extracted images."""
    if (path / _LABELLED).is_file():
        yield from _labelled(path)
        return
    root = path / "official_splits" if (path / "official_splits").is_dir() else path
    for split in ("train", "test"):
        for scene in sorted(folder for folder in root.glob(f"{split}/*") if folder.is_dir()):
            views = tuple(_extracted(scene, split))
            yield Recording(f"{split}/{scene.name}", DATASET.name, views, ordered=False, split=split, scene=scene.name)


def _extracted(scene: Path, split: str) -> Iterator[View]:
    files = [*scene.glob("rgb_*.jpg"), *scene.glob("rgb_*.png")]
    numbers = {file.stem.removeprefix("rgb_") for file in files}
    alone = sorted({file.stem.removeprefix("sync_depth_") for file in scene.glob("sync_depth_*.png")} - numbers)
    if alone:
        raise InputError(f"image '{scene}/rgb_{alone[0]}.jpg' (or .png) is missing")
    for file in sorted(files):
        number = file.stem.removeprefix("rgb_")
        depth = reading.depth_reader(scene / f"sync_depth_{number}.png", _PER_METRE)
        stamp = nominal(reading.whole(file, number))
        image = reading.image_reader(file)
        yield View(stamp, "camera", K, None, image, depth, name=f"{split}/{scene.name}/{file.name}")


def _labelled(path: Path) -> Iterator[Recording]:
    file = path / _LABELLED
    counts = _counts(file)
    for split, indices in _splits(path / _SPLITS).items():
        if any(not 0 <= index < counts for index in indices):
            raise InputError(f"'{path / _SPLITS}' refers to images beyond the {counts} images of '{file}'")
        views = tuple(
            View(nominal(index), "camera", K, None, partial(_image, file, index), partial(_depth, file, index),
                 name=f"{_LABELLED}:{index + 1}")
            for index in indices
        )  # fmt: skip
        yield Recording(split, DATASET.name, views, ordered=False, split=split)


def _splits(path: Path) -> dict[str, list[int]]:
    """{split: 0-based indices} of splits.mat. Raises ``InputError`` naming it."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        data = loadmat(reading.existing(path))
        return {split: [int(index) - 1 for index in data[f"{split}Ndxs"].ravel()] for split in ("train", "test")}
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, MatReadError, zlib.error) as error:
        raise InputError(f"'{path}' does not hold trainNdxs and testNdxs: {error!r}") from error


def _counts(path: Path) -> int:
    with reading.opened_hdf5(path) as file:
        shapes: dict[str, tuple[int, ...]] = {
            name: file[name].shape if name in file else () for name in ("images", "rawDepths")
        }
        images, depths = shapes["images"], shapes["rawDepths"]
        # MATLAB's axes come in reverse: (N, 3, W, H) and (N, W, H).
        if len(images) != 4 or len(depths) != 3 or images[:1] + images[2:] != depths or images[1] != 3:
            raise InputError(f"'{path}' holds {shapes}; images must be (N, 3, W, H), rawDepths (N, W, H)")
        return int(images[0])


def _image(path: Path, index: int) -> Image:
    return np.ascontiguousarray(_stored(path, "images", index).transpose(2, 1, 0), dtype=np.uint8)


def _depth(path: Path, index: int) -> Array32:
    return np.ascontiguousarray(_stored(path, "rawDepths", index).T, dtype=np.float32)


def _stored(path: Path, name: str, index: int) -> np.ndarray:
    try:
        with reading.opened_hdf5(path) as file:
            return np.asarray(file[name][index])
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read at {name} {index + 1}: {error}") from error


DATASET = Dataset(
    name="nyu",
    title="NYU Depth v2",
    source="New York University, https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
    fetch="nyu_depth_v2_labeled.mat and splits.mat (read with h5py: pip install h5py), or the images extracted from it",
    licence="none stated (research; cite the paper)",
    layout="""
PATH/nyu_depth_v2_labeled.mat
PATH/splits.mat
or, extracted:
PATH/official_splits/test/bathroom/rgb_00045.jpg
                                   sync_depth_00045.png   (millimetres)
PATH/official_splits/train/...
""",
    notes=(
        "No poses. Split: 795 train, 654 test. Depth is the projected raw depth (rawDepths), with holes. The\n"
        "literature uses Eigen's crop; the reader does not."
    ),
    read=read,
)
