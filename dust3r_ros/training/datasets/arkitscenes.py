"""ARKitScenes (Baruch et al., NeurIPS Datasets 2021), raw: rooms by an iPad with lidar."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import invert, pose
from dust3r_ros.layouts import reading
from dust3r_ros.training.datasets.layout import FrameRow, Layout, Part, inner, spread
from dust3r_ros.training.datasets.pairs import TrainingSet
from dust3r_ros.types import Array, Array32

_NEEDED = ("lowres_wide", "lowres_depth", "lowres_wide_intrinsics", "lowres_wide.traj")
_FOLDERS = {"train": "Training", "val": "Validation"}
_SAME_S = 0.005  # a pose within this counts as the image's
_NAME_S = 0.0015  # stamps in names are rounded to milliseconds, up or down


class ArkitScenes(Layout):
    """A part is a recording, which is one group."""

    def parts(self, root: Path, split: str) -> list[Part]:
        for above in (root / "raw", root):
            if found := inner(above / _FOLDERS[split], _NEEDED, root):
                # Some recordings are published without a trajectory.
                return [part for part in found if part.marks[-1].exists()]
        return []

    def frames(self, root: Path, part: Part, most: int) -> Iterable[FrameRow]:
        images, depths, lenses = (_Stamped.of(part.folder / name) for name in _NEEDED[:3])
        stamps, poses = _trajectory(part.folder / _NEEDED[3])
        inside = part.folder.relative_to(root).as_posix()
        found = []
        for stamp, image in zip(images.stamps, images.files, strict=True):
            near, depth = _nearest(stamps, stamp, _SAME_S), depths.at(stamp)
            if near is not None and depth is not None:  # not every image has both
                found.append((stamp, image, depth, poses[near]))
        for stamp, image, depth, w_T_c in spread(found, most):
            lens = lenses.at(stamp)
            if lens is None:
                raise InputError(f"'{part.folder / _NEEDED[2]}' holds no .pincam for '{image}'")
            deep = f"{inside}/lowres_depth/{depth}"
            mask = f"{inside}/confidence/{depth}" if (part.folder / "confidence" / depth).is_file() else ""
            K, size = _pincam(part.folder / _NEEDED[2] / lens)
            yield FrameRow(part.name, f"{inside}/lowres_wide/{image}", deep, K, w_T_c, mask, size)

    def depth(self, root: Path, frame: FrameRow) -> Array32:
        depth = super().depth(root, frame)
        if not frame.mask:
            return depth
        sure = reading.image_reader(root / frame.mask)()[..., 0] > 0
        if sure.shape != depth.shape:
            raise InputError(f"'{root / frame.mask}' is {sure.shape}, its depth image {depth.shape}")
        return np.where(sure, depth, np.float32(0))


@dataclass(frozen=True, eq=False)
class _Stamped:
    """Files of a folder named <recording>_<seconds>.<suffix>, by time."""

    stamps: Array
    files: list[str]

    @classmethod
    def of(cls, folder: Path) -> _Stamped:
        files = [file for file in folder.iterdir() if file.suffix in (".png", ".pincam")]
        found = sorted((float(reading.floats(file, [file.stem.rpartition("_")[2]])[0]), file.name) for file in files)
        return cls(np.array([stamp for stamp, _ in found]), [name for _, name in found])

    def at(self, stamp: float) -> str | None:
        """The file at that time, or None."""
        near = _nearest(self.stamps, stamp, _NAME_S)
        return None if near is None else self.files[near]


def _trajectory(path: Path) -> tuple[Array, list[Array]]:
    """Stamps (N,), sorted, and ``w_T_c`` of lines 'seconds rotation-vector translation' that map the world into the
    camera.
    """
    found = []
    for fields in reading.rows(path, 7, "seconds rx ry rz tx ty tz"):
        numbers = reading.floats(path, fields)
        found.append((numbers[0], invert(pose(Rotation.from_rotvec(numbers[1:4]).as_matrix(), numbers[4:]))))
    found.sort(key=lambda entry: entry[0])
    return np.array([stamp for stamp, _ in found]), [T for _, T in found]


def _nearest(stamps: Array, stamp: float, most: float) -> int | None:
    """Index of the nearest of sorted stamps, None where it is further away than ``most`` seconds."""
    after = int(np.searchsorted(stamps, stamp))
    around = [at for at in (after - 1, after) if 0 <= at < len(stamps) and abs(stamps[at] - stamp) <= most]
    return min(around, key=lambda at: abs(stamps[at] - stamp), default=None)


def _pincam(path: Path) -> tuple[Array, tuple[int, int]]:
    """K and (width, height) of one line 'width height fx fy cx cy'."""
    lines = reading.rows(path, 6, "width height fx fy cx cy")
    if len(lines) != 1:
        raise InputError(f"'{path}' holds {len(lines)} lines; it must hold one, 'width height fx fy cx cy'")
    width, height, fx, fy, cx, cy = reading.floats(path, lines[0])
    return reading.intrinsics(fx, fy, cx, cy, path), (int(width), int(height))


TRAINING_SET = TrainingSet(
    name="arkitscenes",
    title="ARKitScenes (raw)",
    source="Apple, https://github.com/apple/ARKitScenes (its download_data.py)",
    fetch="raw: lowres_wide, lowres_depth, lowres_wide_intrinsics, lowres_wide.traj; confidence if there is room",
    licence="Apple's ARKitScenes licence (read it: non-commercial unless its terms for companies are met)",
    layout="""
PATH/raw/Training/40753679/   (or PATH/Training/40753679/)
  lowres_wide/40753679_6791.123.png ...
  lowres_depth/40753679_6791.123.png ...
  lowres_wide_intrinsics/40753679_6791.123.pincam ...
  lowres_wide.traj
  confidence/40753679_6791.123.png ...   (optional)
PATH/raw/Validation/...
""",
    notes=(
        "Pairs are within a recording, chosen by depth, in metres. Images are 256 x 192, with poses where the\n"
        "trajectory has one within 5 ms. Depth with confidence 0 is left out. Many images are sideways, as the tablet\n"
        "was held."
    ),
    reader=ArkitScenes(),
)
