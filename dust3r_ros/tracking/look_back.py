"""Images before the first pose: landmarks of the first snapshot are followed back through them, one image at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from dust3r_ros.config import MapperConfig
from dust3r_ros.tracking.exchange import FollowedPose, MapSnapshot
from dust3r_ros.tracking.following import Corners, follow, followed, locate
from dust3r_ros.types import Array, Image

_TRIES = 4  # images in which the corners of the last good one are looked for


class LookBack:
    """Poses of the images before a snapshot's, newest first. For one thread."""

    def __init__(
        self,
        known: MapSnapshot,
        corners: Corners,
        images: Iterable[tuple[int, Image]],
        middle: Array,
        config: MapperConfig,
    ) -> None:
        """``corners`` are those of the first of ``images`` (stamp, tracked image), which is the snapshot's own."""
        self._known, self._corners, self._middle, self._config = known, corners, middle, config
        self._images = deque(images)
        self._gray = self._images.popleft()[1]
        self._moved = corners.pixels * 0.0
        self._near, self._failed = known.w_T_c, 0

    @property
    def done(self) -> bool:
        """Whether there is no image left, or nothing to find it by."""
        return not self._images or self._failed >= _TRIES

    def step(self) -> FollowedPose | None:
        """The next image; None where it is not found."""
        stamp_ns, gray = self._images.popleft()
        corners = self._corners
        pixels, good = follow(self._gray, gray, corners.pixels, corners.pixels + self._moved)
        seen = corners.moved(pixels, good)
        found = locate(self._known, seen, self._middle, self._near, self._config)
        if found is None:
            self._failed += 1
            return None
        self._moved = (pixels - corners.pixels)[good][found.inliers]
        self._corners, self._gray = seen.select(found.inliers), gray
        self._near, self._failed = found.w_T_c, 0
        return followed(self._known, stamp_ns, found.w_T_c, self._corners, self._middle)
