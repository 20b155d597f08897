"""A training set: what it is, from whom, and the pairs below a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dust3r_ros.errors import InputError
from dust3r_ros.layouts.description import Description
from dust3r_ros.training.datasets.layout import SPLITS, Layout
from dust3r_ros.training.datasets.pairs import PairFolder


@dataclass(frozen=True)
class TrainingSet(Description):
    """A published set to train on; ``reader`` knows its files."""

    reader: Layout

    def open(
        self, path: str | Path, cache: str | Path, *, split: str = "train", overlap: tuple[float, float] | None = None,
        most_frames: int | None = None,
    ) -> PairFolder:  # fmt: skip
        """The pairs of a split below ``path``; what is found out about them is kept below ``cache``.

        ``overlap``: least and most that two views share; ``most_frames`` are used of a recording; None: the reader's
        own. Raises ``InputError`` for a folder that holds nothing of the set, or a range that is none.
        """
        root = Path(path)
        if split not in SPLITS:
            raise InputError(f"split '{split}' of {self.name} is not known; {' and '.join(SPLITS)} are")
        low, high = self.reader.overlap if overlap is None else overlap
        if not 0 <= low < high <= 1:
            raise InputError(f"overlap of {self.name} is {low} to {high}; it must rise, between 0 and 1")
        most = self.reader.most_frames if most_frames is None else most_frames
        if not 2 <= most <= 65535:
            raise InputError(f"{most} frames of a recording of {self.name} are asked for; it must be 2 to 65535")
        if not root.is_dir():
            raise InputError(f"'{root}' is not a folder; {self.name} must lie there ('dust3r-train where {self.name}')")
        return PairFolder(self.name, self.reader, root, split, Path(cache), (low, high), most)
