"""What several tests go on from: each with a copy of its own."""

from __future__ import annotations

import copy
import copyreg
from typing import TypeVar

import cv2

_Grown = TypeVar("_Grown")

# Optical flow has no state that its next result depends on; a reducer that returns a name makes copies share it.
copyreg.pickle(type(cv2.DISOpticalFlow_create()), lambda flow: "flow")  # type: ignore[arg-type, return-value]


def branch(grown: _Grown) -> _Grown:
    """A mapper, or a part of one, that goes on as ``grown`` would, which stays as it is."""
    return copy.deepcopy(grown)
