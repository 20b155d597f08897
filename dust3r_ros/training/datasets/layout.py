"""What a training set's reader does: which parts there are, which frames they hold, what a frame shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from dust3r_ros.layouts import depth_files, reading
from dust3r_ros.training.datasets.listing import FrameRow, Part
from dust3r_ros.types import Array32, Image

SPLITS = ("train", "val")


class Layout(ABC):
    """A set's layout on disk. Everything raises ``InputError`` that names the file.

    ``most_frames`` are used of a group, evenly spread: what bounds the cost of its overlaps. ``overlap`` (least, most):
    pairs share that much, see ``overlap.py``. ``per_unit``: what 16 bit depth holds for one unit of the poses.
    """

    version = 1  # of what the reader makes of the files; another one lists and measures anew
    most_frames = 64
    # Cross-view completion takes pairs that share half or more (Weinzaepfel et al., NeurIPS 2022); two-view
    # reconstruction has to live with less. What shares nearly all is the same picture twice.
    overlap = (0.15, 0.95)
    per_unit = 1000.0

    @abstractmethod
    def parts(self, root: Path, split: str) -> list[Part]:
        """The parts below ``root`` that belong to ``split`` ("train" or "val"), by name; [] where there is none."""

    @abstractmethod
    def frames(self, root: Path, part: Part, most: int) -> Iterable[FrameRow]:
        """The frames of a part, those of a group in order of time where they have one.

        Of a group ``most``, evenly spread, are kept: what it would take to read the others may be left undone.
        """

    def image(self, root: Path, frame: FrameRow) -> Image:
        """RGB (H, W, 3) uint8."""
        return reading.image_reader(root / frame.image)()

    def depth(self, root: Path, frame: FrameRow) -> Array32:
        """(H, W) float32, z in the unit of the poses, 0 = none, in the pixels that ``frame.K`` holds for."""
        return depth_files.read(reading.existing(root / frame.depth, "depth file"), self.per_unit)

    def view(self, root: Path, frame: FrameRow) -> tuple[Image, Array32]:
        """Image and depth."""
        return self.image(root, frame), self.depth(root, frame)

    def shared(self, root: Path, part: Part, frames: Sequence[FrameRow]) -> Array32 | None:
        """(N, N) overlaps of the frames by what the set itself knows of them; None: by their depth."""
        return None


def inner(path: Path, names: Sequence[str], root: Path) -> list[Part]:
    """The folders in ``path`` that hold the first of ``names``, as parts named from ``root``; all the names must be
    there when a part is listed.
    """
    if not path.is_dir():
        return []
    found = [child for child in sorted(path.iterdir()) if (child / names[0]).exists()]
    return [Part(child.relative_to(root).as_posix(), child, tuple(child / name for name in names)) for child in found]
