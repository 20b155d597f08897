"""BlendedMVS and BlendedMVG (Yao et al., CVPR 2020): photographs blended with renderings of their meshes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dust3r_ros.layouts import colmap_model, reading
from dust3r_ros.training.datasets.layout import FrameRow, Layout, Part, inner
from dust3r_ros.training.datasets.pairs import TrainingSet

_NEEDED = ("blended_images", "cams", "rendered_depth_maps")
# From project_lists/validation_list.txt of its repository; a file of that name in the tree replaces them.
_VALIDATION = (
    "5b7a3890fc8fcf6781e2593a", "5c189f2326173c3a09ed7ef3", "5b950c71608de421b1e7318f", "5a6400933d809f1d8200af15",
    "59d2657f82ca7774b1ec081d", "5ba19a8a360c7c30c1c169df", "59817e4a1bd4b175e7038d19",
)  # fmt: skip


class BlendedMvs(Layout):
    """A part is a project, which is one group."""

    most_frames = 192

    def parts(self, root: Path, split: str) -> list[Part]:
        listing = root / "validation_list.txt"
        kept = {fields[0] for fields in reading.rows(listing)} if listing.is_file() else set(_VALIDATION)
        return [part for part in inner(root, _NEEDED, root) if (part.name in kept) == (split == "val")]

    def frames(self, root: Path, part: Part, most: int) -> Iterable[FrameRow]:
        for cam in sorted((part.folder / "cams").glob("*_cam.txt")):
            stem = cam.name.removesuffix("_cam.txt")
            image, depth = f"blended_images/{stem}.jpg", f"rendered_depth_maps/{stem}.pfm"
            reading.existing(part.folder / image, "image")
            reading.existing(part.folder / depth, "depth map")
            yield FrameRow(part.name, f"{part.name}/{image}", f"{part.name}/{depth}", *colmap_model.camera(cam))


TRAINING_SET = TrainingSet(
    name="blendedmvs",
    title="BlendedMVS (and its supersets BlendedMVS+, ++ and BlendedMVG)",
    source="Yao et al., https://github.com/YoYo000/BlendedMVS (its releases)",
    fetch="the low-resolution sets (768 x 576), unpacked into one folder",
    licence="CC BY 4.0",
    layout="""
PATH/57f8d9bbe73f6760f10e916a/
  blended_images/00000000.jpg ...
  cams/00000000_cam.txt ...
  rendered_depth_maps/00000000.pfm ...
""",
    notes=(
        "Pairs are within a project, chosen by depth, in an arbitrary unit per project. The seven projects of the\n"
        "official validation_list.txt are the validation split. Masked images and pair.txt are not used."
    ),
    reader=BlendedMvs(),
)
