"""dust3r-train on the room of the tests: what a test starts as a process of its own, and may kill.

python train_small.py [dust3r-train's options]; $BROKEN: indices that cannot be read, with commas
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from small_worlds import NoisyRoom

from dust3r_ros.cli import train
from dust3r_ros.training import session
from dust3r_ros.training.recipe import Recipe
from dust3r_ros.training.views import PairSource


def _sources(
    data: Sequence[str], recipe: Recipe, world: int, cache: Path | None, device: str, rank: int
) -> list[PairSource]:
    broken = frozenset(int(index) for index in os.environ.get("BROKEN", "").split(",") if index)
    return [NoisyRoom(broken=broken), NoisyRoom("second room", 25)]


if __name__ == "__main__":
    session.open_sources = _sources
    sys.exit(train.main())
