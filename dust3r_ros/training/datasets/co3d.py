"""CO3Dv2 (Reizenstein et al., ICCV 2021): turntable videos of objects."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dust3r_ros.layouts import co3d, reading
from dust3r_ros.training.datasets.layout import FrameRow, Layout, Part
from dust3r_ros.training.datasets.pairs import TrainingSet
from dust3r_ros.types import Array32


class Co3d(Layout):
    """A part is a category, a group a sequence. Sequences with test frames are left to the evaluation."""

    def parts(self, root: Path, split: str) -> list[Part]:
        categories = reading.folders(root, co3d.FRAMES)
        if split != "train":
            categories = [category for category in categories if split in co3d.splits(category).values()]
        return [_part(split, category) for category in categories]

    def frames(self, root: Path, part: Part, most: int) -> Iterable[FrameRow]:
        split, name = part.name.split("/", 1)
        splits = co3d.splits(part.folder)
        # File names are relative to the folder of categories: root, or its parent for a single category.
        above = "" if (root / name).exists() else "../"
        found = [frame for frame in co3d.frames(part.folder) if frame.depth and _wanted(splits, frame.sequence, split)]
        for frame in sorted(found, key=lambda frame: (frame.sequence, frame.stamp_ns)):
            files = [above + file if file else "" for file in (frame.image, frame.depth, frame.mask)]
            group, lens = f"{name}/{frame.sequence}", (frame.K, frame.w_T_c)
            yield FrameRow(group, files[0], files[1], *lens, files[2], frame.size, (frame.scale,))

    def depth(self, root: Path, frame: FrameRow) -> Array32:
        mask = root / frame.mask if frame.mask else None
        return co3d.read_depth(root / frame.depth, frame.extra[0], mask)


def _part(split: str, category: Path) -> Part:
    lists = category / co3d.SET_LIST
    marks = (category / co3d.FRAMES, *([lists] if lists.is_file() else []))
    return Part(f"{split}/{category.resolve().name}", category, marks)


def _wanted(splits: dict[str, str], sequence: str, split: str) -> bool:
    """Without a list every sequence is for training."""
    return splits.get(sequence, "train") == split


TRAINING_SET = TrainingSet(
    name="co3d",
    title="CO3Dv2",
    source=co3d.SOURCE,
    fetch=co3d.FETCH,
    licence=co3d.LICENCE,
    layout=co3d.LAYOUT,
    notes=(
        "Pairs are within a sequence, chosen by depth. Sequences with test frames (set_lists_fewview_dev.json) are\n"
        "left out. Poses and depth are in an arbitrary unit per sequence."
    ),
    reader=Co3d(),
)
