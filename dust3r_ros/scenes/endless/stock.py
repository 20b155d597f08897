"""The stock of materials: endless, but handed out so that neighbouring worlds share most of theirs.

Making a material takes as long as rendering a view. So every use (walls, cloth...) has numbered materials, world n
may take those in a window that moves slowly with n, and finished materials are kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dust3r_ros.scenes.endless import materials as m
from dust3r_ros.scenes.endless import materials as p
from dust3r_ros.scenes.endless.painting import pyramid
from dust3r_ros.types import Array32, Image

_Maker = Callable[[np.random.Generator], Array32]


@dataclass(frozen=True)
class Use:
    """A use of materials: who may make them, and the metres that one repetition covers (least, most)."""

    makers: tuple[_Maker, ...]
    metres: tuple[float, float]


USES: dict[str, Use] = {
    "wall": Use((m.painted, m.painted, m.plaster, m.courses, m.wallpaper, m.concrete, m.wood), (1.5, 4.0)),
    "floor": Use((m.wood, m.wood, m.courses, m.cloth, m.stone, m.concrete), (1.2, 3.0)),
    "ceiling": Use((m.painted, m.painted, m.plaster, m.courses), (1.5, 4.0)),
    "furniture": Use((m.wood, m.wood, m.painted, m.metal, p.drawers), (0.6, 1.5)),
    "cloth": Use((m.cloth, m.cloth, m.cloudy, m.wallpaper), (0.3, 1.2)),
    "thing": Use(
        (m.dead_leaves, m.cloudy, m.painted, m.metal, m.stone, m.cloth, p.placard, p.page, m.courses, m.wallpaper),
        (0.2, 0.8),
    ),
    "print": Use((p.page, p.sign, p.placard, p.painting, p.painting), (1.0, 1.0)),
    "books": Use((p.bookcase,), (1.0, 1.7)),
    "door": Use((p.door,), (1.0, 1.0)),
    "window": Use((p.window,), (1.0, 1.0)),
    "front": Use((p.front, p.front, m.courses, m.plaster, m.concrete), (5.0, 11.0)),
    "ground": Use((m.ground, m.ground, m.courses, m.concrete), (2.0, 5.0)),
    "rough": Use((m.stone, m.ground, m.concrete, m.dead_leaves, m.plaster), (0.8, 2.5)),
    "leaves": Use((m.leaves, m.leaves, m.dead_leaves), (0.8, 2.0)),
    "bark": Use((m.wood, m.plaster), (0.5, 1.2)),
    "metal": Use((m.metal, m.painted), (0.5, 1.5)),
    "sky": Use((p.sky,), (1.0, 1.0)),
}
_DEPTH = 10  # materials of a use that one world may choose from
_PACE = 0.08  # how far the window moves on from world to world
_KEPT = 160  # pictures of 1.2 MB


def number_of(use: str, world: int, rng: np.random.Generator) -> int:
    """A material of ``use`` that world number ``world`` may take."""
    return window(use, world).start + int(rng.integers(_DEPTH))


def window(use: str, world: int) -> range:
    """The materials of ``use`` that world number ``world`` may take."""
    start = zlib.crc32(use.encode()) % 1000 / 1000  # so that the windows do not all move at the same world
    first = int(start + _PACE * world)
    return range(first, first + _DEPTH)


@lru_cache(maxsize=_KEPT)
def material(seed: tuple[int, ...], use: str, number: int) -> Image:
    """The slot of a sheet (see ``painting``) with material ``number`` of a use; read-only."""
    rng = np.random.default_rng([*seed, zlib.crc32(use.encode()), number])
    makers = USES[use].makers
    slot = pyramid(makers[int(rng.integers(len(makers)))](rng))
    slot.setflags(write=False)
    return slot
