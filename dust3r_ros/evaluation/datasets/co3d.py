"""CO3Dv2 (Reizenstein et al., ICCV 2021): turntable videos of objects."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View
from dust3r_ros.layouts import co3d, reading


def read(path: Path) -> Iterator[Recording]:
    """Sequences of the category in ``path``, or of the categories in the folders in it."""
    for category in reading.folders(path, co3d.FRAMES):
        name, splits = category.resolve().name, co3d.splits(category)
        sequences: dict[str, list[co3d.Annotation]] = {}
        for frame in co3d.frames(category):
            sequences.setdefault(frame.sequence, []).append(frame)
        for sequence in sorted(sequences):
            views = tuple(_view(category.parent, frame) for frame in sequences[sequence])
            ordered = tuple(sorted(views, key=lambda view: view.stamp_ns))
            split = splits.get(sequence, "")
            yield Recording(
                f"{name}/{sequence}", DATASET.name, ordered, metric=False, split=split, scene=f"{name}/{sequence}"
            )


def _view(root: Path, frame: co3d.Annotation) -> View:
    read_depth = None
    if frame.depth:
        file = reading.existing(root / frame.depth, "depth image")
        mask = reading.existing(root / frame.mask, "mask") if frame.mask else None
        read_depth = partial(co3d.read_depth, file, frame.scale, mask)
    image = reading.image_reader(root / frame.image)
    return View(frame.stamp_ns, "camera", frame.K, frame.w_T_c, image, read_depth, name=frame.image)


DATASET = Dataset(
    name="co3d",
    title="CO3Dv2",
    source=co3d.SOURCE,
    fetch=co3d.FETCH,
    licence=co3d.LICENCE,
    layout=co3d.LAYOUT,
    notes=(
        "Poses and depth are in an arbitrary unit per sequence. File names are relative to PATH, the folder of\n"
        "categories. The split is that of set_lists_fewview_dev.json; a sequence with test frames is test."
    ),
    read=read,
)
