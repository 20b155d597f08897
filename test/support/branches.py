"""What several tests go on from: each with a copy of its own."""

from __future__ import annotations

import copy
import copyreg
from typing import TypeVar

import cv2

from dust3r_ros.mapping.pages import Pages

_Grown = TypeVar("_Grown")

# Optical flow has no state that its next result depends on; a reducer that returns a name makes copies share it.
copyreg.pickle(type(cv2.DISOpticalFlow_create()), lambda flow: "flow")  # type: ignore[arg-type, return-value]
# Arrays in a file are copied into memory; the copy has a file of its own for what comes next.
copyreg.pickle(Pages, lambda pages: (Pages, (pages._limit / 2**20, pages._folder)))  # type: ignore[arg-type]


def branch(grown: _Grown) -> _Grown:
    """A mapper, or a part of one, that goes on as ``grown`` would, which stays as it is."""
    return copy.deepcopy(grown)
