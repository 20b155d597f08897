"""ScanNet++ (Yeshwanth et al., ICCV 2023): rooms, by a DSLR with a fisheye lens and by an iPhone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dust3r_ros.errors import InputError
from dust3r_ros.layouts import colmap_model, reading
from dust3r_ros.training.datasets.layout import (
    FrameRow,
    Layout,
    Part,
    packed_lens,
    pinhole_of,
    straight_depth,
    straight_image,
    unpacked_lens,
)
from dust3r_ros.training.datasets.pairs import TrainingSet
from dust3r_ros.types import Array32, Image

# Device: the folder of its images.
_DEVICES = {"dslr": "resized_images", "iphone": "rgb"}
# Depth of the scanned mesh, as the toolkit renders it, or of the iPhone's lidar.
_DEPTHS = ("render_depth", "depth")


class ScannetPp(Layout):
    """A part is a device's images of a scene; they are one group."""

    def parts(self, root: Path, split: str) -> list[Part]:
        found = (_part(scene, device) for scene in _scenes(root, split) for device in _DEVICES)
        return [part for part in found if part is not None]

    def frames(self, root: Path, part: Part, most: int) -> Iterable[FrameRow]:
        cameras_file, images_file, depths, pictures = part.marks
        cameras = colmap_model.cameras(cameras_file)
        inside = part.folder.relative_to(root).as_posix()
        there, deep = ({file.name for file in folder.iterdir()} for folder in (pictures, depths))
        for image in colmap_model.images(images_file):
            name = Path(image.name).name  # some models put a folder of their own before the file name
            depth = f"{Path(name).stem}.png"
            if name not in there or depth not in deep:
                continue  # the toolkit extracts only part of the video, and renders only some scenes
            if image.camera not in cameras:
                raise InputError(
                    f"'{images_file}' has image '{name}' of camera {image.camera}, not in '{cameras_file}'"
                )
            camera = cameras[image.camera]
            yield FrameRow(
                part.name, f"{inside}/{pictures.name}/{name}", f"{inside}/{depths.name}/{depth}",
                pinhole_of(camera, cameras_file), image.w_T_c, size=(camera.width, camera.height),
                extra=packed_lens(camera),
            )  # fmt: skip

    def scene(self, group: str) -> str:
        return group.rpartition("/")[0]  # both devices see it

    def image(self, root: Path, frame: FrameRow) -> Image:
        return straight_image(unpacked_lens(frame.extra), super().image(root, frame), root / frame.image)

    def depth(self, root: Path, frame: FrameRow) -> Array32:
        file = root / frame.depth
        return straight_depth(unpacked_lens(frame.extra), reading.read(file, self.per_unit), file)


def _scenes(root: Path, split: str) -> list[Path]:
    """Folders of the scenes of a split; without the official lists all scenes are for training."""
    data = root / "data" if (root / "data").is_dir() else root
    listed = _listed(root, split)
    found = sorted(child for child in data.iterdir() if child.is_dir())
    return [scene for scene in found if (split == "train" if listed is None else scene.name in listed)]


def _part(scene: Path, device: str) -> Part | None:
    """A device's images of a scene; None where images, depth or cameras are missing."""
    folder = scene / device
    images = folder / _DEVICES[device]
    depths = [folder / name for name in _DEPTHS if (folder / name).is_dir()]
    if not (depths and images.is_dir() and (folder / "colmap").is_dir()):
        return None
    marks = (*colmap_model.files(folder / "colmap"), depths[0], images)
    return Part(f"{scene.name}/{device}", folder, marks)


def _listed(root: Path, split: str) -> set[str] | None:
    """The scenes of the official split; None without its file."""
    path = root / f"splits/nvs_sem_{split}.txt"
    return {fields[0] for fields in reading.rows(path)} if path.is_file() else None


TRAINING_SET = TrainingSet(
    name="scannetpp",
    title="ScanNet++",
    source="Technical University of Munich, https://kaldir.vc.in.tum.de/scannetpp (access after an application)",
    fetch=(
        "the scenes; then, with the official toolkit (https://github.com/scannetpp/scannetpp), common.render for"
        " depth, and iphone.prepare_iphone_data for the iPhone's images"
    ),
    licence="ScanNet++ terms of use, non-commercial research",
    layout="""
PATH/splits/nvs_sem_train.txt  nvs_sem_val.txt
PATH/data/036bce3393/dslr/resized_images/DSC00001.JPG ...
                          colmap/cameras.txt  images.txt
                          render_depth/DSC00001.png ...
PATH/data/036bce3393/iphone/rgb/frame_000000.jpg ...
                            colmap/cameras.txt  images.txt
                            render_depth/frame_000000.png ...   (or depth/, the lidar's)
""",
    notes=(
        "Pairs are within a device's images of a scene, chosen by depth, in metres. Distortion is removed (the DSLR\n"
        "has a fisheye), so images are those of a centred pinhole. Either device may be missing. Without split files\n"
        "everything is used for training. Depth is 16 bit, millimetres, along the optical axis; the lidar's is\n"
        "smaller and is enlarged."
    ),
    reader=ScannetPp(),
)
