"""MegaDepth (Li and Snavely, CVPR 2018): tourists' photographs of landmarks, reconstructed by COLMAP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.layouts import colmap_model, reading
from dust3r_ros.training.datasets.layout import FrameRow, Layout, Part, spread
from dust3r_ros.training.datasets.pairs import TrainingSet, shared_points
from dust3r_ros.types import Array, Array32, Calibration

_INSIDE = "phoenix/S6/zl548/MegaDepth_v1"  # where the archive has the scenes
_MODELS = "Undistorted_SfM"
_DENSE = "dense0"
_LEAST_DEPTH = 0.02  # of an image's pixels
_SAME_SHAPE_PX = 2.0


class MegaDepth(Layout):
    """A part is a scene's largest model, which is one group. Overlap is given by the 3D points that images share.

    Features are matched far less often than surfaces are seen, so the range of overlaps is lower.
    """

    most_frames = 512
    overlap = (0.03, 0.6)

    def parts(self, root: Path, split: str) -> list[Part]:
        if split != "train":
            return []
        scenes = _scenes(root)
        found = []
        for scene in sorted(child for child in scenes.iterdir() if (child / _DENSE / "imgs").is_dir()):
            model = root / _MODELS / scene.name / "sparse"
            if not model.is_dir():
                raise InputError(
                    f"'{model}' is missing; it must hold the scene's model without lenses, as COLMAP's "
                    "image_undistorter writes it ('dust3r-train where megadepth')"
                )
            marks = (*colmap_model.files(model), scene / _DENSE / "depths")
            found.append(Part(scene.name, scene / _DENSE, marks))
        return found

    def frames(self, root: Path, part: Part, most: int) -> Iterable[FrameRow]:
        reading.h5py_for(part.folder)  # without it, every depth map would seem to be broken
        cameras_file, images_file, depths = part.marks
        cameras = colmap_model.cameras(cameras_file)
        inside = part.folder.relative_to(root).as_posix()
        there = {file.stem: file.name for file in depths.iterdir() if file.suffix == ".h5"}
        images = [image for image in colmap_model.images(images_file) if Path(image.name).stem in there]
        for image in spread(images, most):
            if image.camera not in cameras:
                raise InputError(
                    f"'{images_file}' has '{image.name}' of camera {image.camera}, not in '{cameras_file}'"
                )
            name, depth = f"{inside}/imgs/{image.name}", f"{inside}/depths/{there[Path(image.name).stem]}"
            size = reading.image_size(reading.existing(root / name, "image"))
            K = _scaled(cameras_file, root / name, cameras[image.camera], size)
            if self._measured(root / depth):
                yield FrameRow(part.name, name, depth, K, image.w_T_c, size=size)

    def depth(self, root: Path, frame: FrameRow) -> Array32:
        return reading.read(root / frame.depth)

    @staticmethod
    def _measured(path: Path) -> bool:
        """Whether a depth map may hold depth: many hold ordinal depth instead, in numbers below 0."""
        try:
            return bool((reading.read(path) > 0).mean() >= _LEAST_DEPTH)
        except InputError:
            return True  # the file may be whole later; until then its pairs are refused by name

    def shared(self, root: Path, part: Part, frames: Sequence[FrameRow]) -> Array32 | None:
        seen = {image.name: image.points for image in colmap_model.images(part.marks[1])}
        none = np.zeros(0, np.uint64)
        return shared_points([seen.get(Path(frame.image).name, none) for frame in frames])


def _scenes(root: Path) -> Path:
    for inside in (f"MegaDepth_v1/{_INSIDE}", _INSIDE, "MegaDepth_v1"):
        if (root / inside).is_dir():
            return root / inside
    return root


def _scaled(path: Path, image: Path, camera: Calibration, size: tuple[int, int]) -> Array:
    """K in the pixels of an image that was downscaled after undistortion."""
    if any(camera.coefficients) or camera.model == "equidistant":
        raise InputError(
            f"'{path}' holds a camera with a lens; it must be the model that COLMAP's image_undistorter writes"
        )
    (width, height), scale = size, size[0] / camera.width
    if abs(height - camera.height * scale) > _SAME_SHAPE_PX:
        raise InputError(
            f"image '{image}' is {width}x{height}, its camera in '{path}' {camera.width}x{camera.height}; they must be "
            "of one shape"
        )
    x, y = scale, height / camera.height
    cx, cy = (camera.cx + 0.5) * x - 0.5, (camera.cy + 0.5) * y - 0.5
    return reading.intrinsics(camera.fx * x, camera.fy * y, cx, cy, path)


TRAINING_SET = TrainingSet(
    name="megadepth",
    title="MegaDepth v1",
    source="Cornell University, https://www.cs.cornell.edu/projects/megadepth/",
    fetch=(
        "MegaDepth_v1 (images and depth) and MegaDepth_v1_SfM (models), unpacked; then, a scene at a time, colmap"
        " image_undistorter --input_path MegaDepth_v1_SfM/0000/sparse/manhattan/0"
        " --image_path MegaDepth_v1_SfM/0000/images --output_path Undistorted_SfM/0000"
    ),
    licence="read the terms on its page; the photographs belong to those who took them",
    layout="""
PATH/MegaDepth_v1/phoenix/S6/zl548/MegaDepth_v1/0000/dense0/imgs/5008984_74a994ce1c_o.jpg ...
                                                            depths/5008984_74a994ce1c_o.h5 ...
PATH/Undistorted_SfM/0000/sparse/cameras.bin  images.bin   (or .txt)
""",
    notes=(
        "Needs h5py (pip install h5py). Pairs are within a scene, chosen by shared 3D points, in an arbitrary unit\n"
        "per scene. Depth maps with ordinal depth only (below 0) are left out. Leave scenes that benchmarks test on\n"
        "out of the folder. There is no validation split."
    ),
    reader=MegaDepth(),
)
