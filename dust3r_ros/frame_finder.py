"""Where frames are in a map of landmarks: by corners that were followed, or by features that are seen again."""

from __future__ import annotations

from dust3r_ros.alignment.sparse_map import MAX_ERROR_PX
from dust3r_ros.appearance import Appearance
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.significance import by_chance
from dust3r_ros.linker import Linker
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.neighbourhood import Neighbourhood
from dust3r_ros.newcomers import Newcomers
from dust3r_ros.streams import CameraStream
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array, Image

_MAX_VAGUENESS = 0.01  # of a place that is recognised: standard deviation of the position over depth


class FrameFinder:
    """Finds frames in a map that others build."""

    def __init__(
        self,
        state: Reconstruction,
        links: Linker,
        near: Neighbourhood,
        newcomers: Newcomers,
        appearance: Appearance,
    ) -> None:
        self._state, self._links, self._near = state, links, near
        self._newcomers, self._appearance = newcomers, appearance

    def welcomes(self, stream: CameraStream) -> bool:
        """Whether it is worth looking for a camera: one of unknown focal can join a map that is sure of its own."""
        return self._state.sure or self._state.knows(stream)

    def locate(self, stream: CameraStream, tracks: Tracks, near: Array | None = None) -> PnpResult | None:
        """Pose of a frame from its tracked corners, None when as few agree as may by chance; ``near``: a guess."""
        if not self._state.knows(stream):
            return None
        sparse, config = self._state.sparse, self._state.config
        known = sparse.known(sparse.resolved(tracks))
        try:
            found = sparse.locate(stream.index, known, config.track_min_inliers, config.seed, near)
        except GeometryError:
            return None
        return None if by_chance(found, sparse.points[known.ids], known.pixels, MAX_ERROR_PX) else found

    def relocalise(
        self, stream: CameraStream, gray: Image, near: Array | None = None
    ) -> tuple[PnpResult, Tracks] | None:
        """Pose of a frame that lost its tracks, by what it sees of the last keyframes, alike ones, and those ``near``.

        ``near`` (4, 4): a guess. A camera of unknown focal is found once several of its frames agree on one.
        """
        new = not self._state.knows(stream)
        tracks = self.recall(stream, gray, near, strict=not new)
        if new and not self._newcomers.meet(stream, tracks):
            return None
        result = self.locate(stream, tracks, near)
        # A place that is seen again by a few far points only would bend the map.
        sparse = self._state.sparse
        if result is None or result.relative_std(sparse.points[sparse.known(tracks).ids]) > _MAX_VAGUENESS:
            return None
        return result, tracks

    def recall(self, stream: CameraStream, gray: Image, near: Array | None = None, *, strict: bool = False) -> Tracks:
        """What an image seems to see of the map by its features; ``strict``: only of keyframes that look much alike."""
        features = stream.features(gray)
        newest = self._near.newest(stream)
        look = self._appearance.describe(features)
        alike = self._state.graph.lookalikes(look, len(self._state.sparse.views), newest, strict=strict)
        views = [*newest, *alike, *self._near.facing(near, newest, alike)]
        return self._links.find_again(stream, gray, features, views)
