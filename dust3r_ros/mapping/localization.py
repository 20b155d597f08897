"""Localisation of frames and single images in a map, by followed corners or by features seen again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.features.masks import check_image
from dust3r_ros.features.place_recognition import Appearance
from dust3r_ros.geometry.pinhole import project, rays
from dust3r_ros.geometry.pose import MIN_INLIERS, PnpResult, by_chance, pose_and_focal, solve_pnp, turned_pose
from dust3r_ros.geometry.rigid import angle_deg, invert, transform
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.association import Linker
from dust3r_ros.mapping.camera_stream import Cameras, CameraStream
from dust3r_ros.mapping.covisibility import Neighbourhood
from dust3r_ros.mapping.loop_closing import GAP_PX
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.rig_placement import VAGUE, FocalVotes
from dust3r_ros.mapping.submap import Submap
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.sparse_map import MAX_ERROR_PX
from dust3r_ros.tracking import Tracks
from dust3r_ros.tracking.following import evened, follow
from dust3r_ros.types import Array, Image


def localize(submap: Submap, cameras: Cameras, config: MapperConfig, camera: str, image: Image) -> PnpResult:
    """Pose ``w_T_c`` of an image (H, W, 3), and its focal, pixels of the image.

    ``camera``: one that the map knows; any other name means an unknown focal. Raises ``InputError`` for an image
    that cannot be used and without a map, ``GeometryError`` if the map does not show what the image does.
    """
    check_image(image, camera)
    if not submap.initialised:
        raise InputError("there is no map yet in which an image could be found")
    if camera in cameras:
        stream = cameras[camera]
        with stream.aside():
            found = submap.finder.relocalise(stream, stream.gray(image), stream.resize.apply(image))
        if found is None:
            raise GeometryError(f"the image of camera '{camera}' shows nothing by which it could be localised")
        return _native(found[0], stream)
    stream = CameraStream(camera, cameras.count, image.shape[1], image.shape[0], config)
    gray = stream.gray(image)
    stream.see(gray)
    seen = submap.finder.recall(stream, gray)
    points = submap.positions(seen.ids)
    known = np.isfinite(points[:, 0])
    points, pixels = points[known], seen.pixels[known]
    return _native(pose_and_focal(points, pixels, stream.long_edge, config.seed, MAX_ERROR_PX), stream)


def _native(found: PnpResult, stream: CameraStream) -> PnpResult:
    """Focal and errors in pixels of the image itself."""
    scale = 1.0 / stream.tracking_scale
    return PnpResult(
        found.w_T_c, found.inliers, found.covariance, found.rms_px * scale, found.focal * scale, found.focal_std * scale
    )


_MAX_ERROR_PX = 4.0


def locate_corners(
    points: Array,
    pixels: Array,
    intrinsics: Intrinsics,
    long_edge: int,
    config: MapperConfig,
    near: Array | None = None,
) -> PnpResult | None:
    """Pose of a frame that sees ``points`` (N, 3), NaN if unknown, at ``pixels`` (N, 2) from its centre.

    None if no more agree than by chance. An unknown focal is found with the pose; ``near`` (4, 4): a guess.
    """
    known = np.isfinite(points[:, 0])
    points, pixels = points[known], pixels[known]
    guessed = not intrinsics.given and not np.isfinite(intrinsics.std)
    try:
        if guessed:
            enough = max(config.track_min_inliers, MIN_INLIERS)
            found = pose_and_focal(points, pixels, long_edge, config.seed, _MAX_ERROR_PX, enough)
        else:
            found = solve_pnp(
                points,
                pixels,
                intrinsics.focal,
                (0.0, 0.0),
                threshold_px=_MAX_ERROR_PX,
                min_inliers=config.track_min_inliers,
                seed=config.seed,
                near=near,
            )
    except GeometryError:
        return None
    vague = guessed and not found.focal_std < VAGUE * found.focal
    return None if vague or by_chance(found, points, pixels, _MAX_ERROR_PX) else found


# Of a recognised place, and of one beside the last keyframes: standard deviation of the position over depth.
_MAX_VAGUENESS, _MAX_STEP_VAGUENESS = 0.01, 0.05
_MOSTLY = 0.5
_RIVAL = 0.5  # of the landmarks that fit a pose: so many that fit another one leave it open which is right
_THERE = 0.02  # of the long edge, the median distance of landmarks from where they would be seen


# Of a camera that turns: fewest landmarks; standard deviation of the position over the way since the last keyframe, and
# over the depth; landmarks with a position that need no others; by how much fewer may turn a keyframe.
_DIRECTIONS, _WAY, _STANDS, _MANY, _ALIKE_DEG = 40, 0.3, 0.02, 40, 2.0
_BEGUN = 5  # keyframes of a map that may be wrong altogether
_LINKED = 25  # landmarks that two keyframes share: there is no loop to close between them
_TRIED = 3  # keyframes of one view: a loop that they could not close is not closed by another one
_KNOWN = 0.6  # of the landmarks of a keyframe: a frame that shows as much of it shows the same


class FrameFinder:
    """Locates frames in a map built elsewhere."""

    def __init__(
        self,
        state: Reconstruction,
        links: Linker,
        near: Neighbourhood,
        focal_votes: FocalVotes,
        appearance: Appearance,
    ) -> None:
        self._state, self._links, self._near = state, links, near
        self._focal_votes, self._appearance = focal_votes, appearance

    def accepts_camera(self, stream: CameraStream) -> bool:
        """Whether a camera is worth searching for: one with unknown focal can join a map that is certain of its own.

        A live map that is only nearly certain accepts it too. None is, while the map has no poses.
        """
        state = self._state
        return state.initialised and (state.nearly_sure or state.knows(stream) or stream.alone)

    def locate(self, stream: CameraStream, tracks: Tracks, near: Array | None = None) -> PnpResult | None:
        """Pose of a frame from its tracked corners, None if no more agree than by chance; ``near``: a guess."""
        if not self._state.knows(stream):
            return None
        sparse, config = self._state.sparse, self._state.config
        known = sparse.known(sparse.resolved(tracks))
        try:
            found = sparse.locate(stream.index, known, config.track_min_inliers, config.seed, near)
        except GeometryError:
            return None
        return None if by_chance(found, sparse.points[known.ids], known.pixels, MAX_ERROR_PX) else found

    def better(self, stream: CameraStream, tracks: Tracks, w_T_c: Array | None) -> PnpResult | None:
        """Pose of a keyframe at about ``w_T_c`` (4, 4), as in ``locate``; None also if a few have it look elsewhere."""
        found = self.locate(stream, tracks, w_T_c)
        if found is None or w_T_c is None or np.count_nonzero(found.inliers) >= _MANY:
            return found
        return found if angle_deg(w_T_c[:3, :3].T @ found.w_T_c[:3, :3]) < _ALIKE_DEG else None

    def follow(self, stream: CameraStream, tracks: Tracks, near: Callable[[], Array | None]) -> PnpResult | None:
        """Pose of a frame from the corners followed into it; where few of them have a position, by their directions.

        Offline, where keyframes are closer together, only where those few tell nothing. ``near()``: about where it is
        (4, 4), if that is known.
        """
        found = self.locate(stream, tracks)
        enough = _MANY if self._state.live else 0
        if len(self._state.records) <= _BEGUN or (found is not None and np.count_nonzero(found.inliers) >= enough):
            return found
        return self._turned(stream, tracks, near()) or found

    def _turned(self, stream: CameraStream, tracks: Tracks, near: Array | None) -> PnpResult | None:
        """Pose of a frame at about ``near`` (4, 4) that sees its camera's last keyframe, hardly any of it with a
        position: where the camera turns on the spot, it sees new ground without parallax. ``inliers`` are all its own.

        The position is little more than that of ``near``.
        """
        last, sparse = self._state.last(stream), self._state.sparse
        if near is None or last is None or not self._state.knows(stream):
            return None
        view, seen, now = sparse.views[last], sparse.resolved(stream.anchored), sparse.resolved(tracks)
        unit = self._state.unit_here()
        if not np.isfinite(unit) or view.w_T_c is None or stream.anchored_ns != self._state.records[last].stamp_ns:
            return None
        _, there, here = np.intersect1d(seen.ids, now.ids, assume_unique=True, return_indices=True)
        lens, focal = sparse.intrinsics[stream.index].lens, sparse.intrinsics[stream.index].focal
        points, placed = sparse.points[seen.ids[there]], sparse.positioned[seen.ids[there]]
        guessed = transform(view.w_T_c, unit * rays(lens.ideal(seen.pixels[there]), focal, (0.0, 0.0)))
        way = float(np.linalg.norm(near[:3, 3] - view.w_T_c[:3, 3]))
        std = float(np.hypot(_WAY * way, _STANDS * unit))
        for known in (placed, np.zeros_like(placed)):  # those of a place that few see may all be wrong
            found = turned_pose(
                np.where(known[:, None], points, guessed),
                lens.ideal(now.pixels[here]),
                known,
                focal,
                near,
                view.w_T_c[:3, 3],
                std,
                threshold_px=MAX_ERROR_PX,
                min_inliers=_DIRECTIONS,
            )
            if found is not None:
                return found
        return None

    def relocalise(
        self, stream: CameraStream, gray: Image, image: Image, near: Array | None = None, *, thorough: bool = False
    ) -> tuple[PnpResult, Tracks] | None:
        """Pose of a frame that lost its tracks, by landmarks of the last, of similar and of ``near`` keyframes.

        ``near`` (4, 4): a guess; ``thorough``: of more that are similar. A camera with unknown focal is located once
        several of its frames agree on one.
        """
        new = not self._state.knows(stream)
        tracks = self.recall(stream, gray, near, strict=not new, thorough=thorough)
        if new and not self._focal_votes.meet(stream, tracks):
            return None
        result = self.locate(stream, tracks, near)
        if result is None:
            return None
        # A place recognised by only a few far points, or by one of several copies, would bend the map; one beside the
        # last keyframes does not.
        known = self._state.sparse.known(tracks)
        last = self._state.trail[-self._state.config.window :]
        seen = np.concatenate([self._state.sparse.views[view].seen.ids for view in last])
        beside = np.isin(known.ids[result.inliers], seen).mean() > _MOSTLY
        limit = _MAX_STEP_VAGUENESS if beside else _MAX_VAGUENESS
        if result.relative_std(self._state.sparse.points[known.ids]) > limit:
            return None
        return (result, tracks) if beside or not self._has_rival(stream, known, result) else None

    def recognises(self, other: Reconstruction, indices: Iterable[int], own_S_other: Similarity) -> bool:
        """Whether one of the other map's keyframes ``indices`` is found, and where ``own_S_other`` has it.

        Of those that show a pattern, all may agree on one of its repetitions.
        """
        for index in indices:
            record, place = other.records[index], own_S_other.pose(other.sparse.views[index].pose)
            found = None if record.gray is None else self.relocalise(record.stream, record.gray, record.image)
            if found is not None and self._misfit(record.stream, found[1], place) < _THERE * record.stream.long_edge:
                return True
        return False

    def _has_rival(self, stream: CameraStream, known: Tracks, found: PnpResult) -> bool:
        """Whether what does not fit a pose agrees on another one: the pattern of a wallpaper is there many times."""
        config, rest = self._state.config, known.select(~found.inliers)
        enough = max(config.track_min_inliers, int(_RIVAL * np.count_nonzero(found.inliers)))
        try:
            self._state.sparse.locate(stream.index, rest, enough, config.seed)
        except GeometryError:
            return False
        return True

    def seen_before(
        self, stream: CameraStream, image: Image, tracks: Tracks, w_T_c: Array
    ) -> tuple[int, PnpResult, Tracks] | None:
        """A frame at about ``w_T_c`` (4, 4), working ``image`` (H, W, 3), that shows what a keyframe shows.

        Returns that keyframe, the frame's pose, and what it sees of it. None where it shows more, where what is there
        has changed, and where a keyframe would close a loop: the one where the camera was last does not see the same,
        or its landmarks, which ``tracks`` are of, lie elsewhere than this one's say; unless several tried in vain.
        """
        views, last = self._near.same_view(stream, w_T_c), self._state.last(stream)
        for index in views:
            if len(views) < _TRIED and not self._are_linked(index, last):
                continue
            found = self._beside(index, stream, image, w_T_c)
            if found is not None and (len(views) >= _TRIED or self._misfit(stream, tracks, found[0].w_T_c) < GAP_PX):
                return (index, *found)
        return None

    def _are_linked(self, a: int, b: int | None) -> bool:
        """Whether two keyframes, if there are two, share landmarks enough for them to lie right beside each other."""
        if b is None:
            return False
        shared = np.isin(self._state.sparse.views[a].seen.ids, self._state.sparse.views[b].seen.ids)
        return int(np.count_nonzero(shared)) >= _LINKED

    def _beside(self, index: int, stream: CameraStream, image: Image, w_T_c: Array) -> tuple[PnpResult, Tracks] | None:
        """Pose of an image taken at about ``w_T_c`` by the landmarks of a keyframe, where nearly all are found."""
        sparse = self._state.sparse
        known = sparse.known_in(index)
        expected = self._expected(stream, known, w_T_c)
        shown = np.all(np.abs(expected) < stream.half_size, axis=1) & stream.clear(expected)
        known, expected = known.select(shown), expected[shown]
        images = self._state.records[index].image, image
        before, now = (evened(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)) for rgb in images)
        pixels, good = follow(before, now, stream.to_working(known.pixels), stream.to_working(expected))
        seen = Tracks(known.ids, stream.from_working(pixels)).select(good)
        found = self.locate(stream, seen, w_T_c)
        if found is None or np.count_nonzero(found.inliers) < _KNOWN * len(known.ids):
            return None
        return found, seen.select(found.inliers)

    def measure(
        self, index: int, stream: CameraStream, gray: Image, tracks: Tracks, w_T_c: Array
    ) -> tuple[PnpResult, Tracks] | None:
        """Pose of a frame at about ``w_T_c`` (4, 4) by features of a keyframe, with ``tracks`` where these say little.

        Features do not drift, unlike followed corners. Returns also what fits the pose. None if too little does, and
        across the gap of a loop: the keyframe where the camera was last does not see the same, or lies elsewhere.
        """
        if not self._are_linked(index, self._state.last(stream)):
            return None
        seen = self._state.sparse.known(self._links.measured(index, stream.features(gray), gray.shape, tracks))
        found = self.locate(stream, seen, w_T_c)
        if found is None or self._misfit(stream, tracks, found.w_T_c) >= GAP_PX:
            return None
        return found, seen.select(found.inliers)

    def _misfit(self, stream: CameraStream, tracks: Tracks, w_T_c: Array) -> float:
        """Median distance in pixels of corners from where the map says that they are seen from ``w_T_c`` (4, 4)."""
        known = self._state.sparse.known(self._state.sparse.resolved(tracks))
        return float(np.median(np.linalg.norm(known.pixels - self._expected(stream, known, w_T_c), axis=1)))

    def _expected(self, stream: CameraStream, known: Tracks, w_T_c: Array) -> Array:
        """(N, 2) where landmarks with a position are seen from ``w_T_c`` (4, 4); NaN behind the camera."""
        intrinsics = self._state.sparse.intrinsics[stream.index]
        points = transform(invert(w_T_c), self._state.sparse.points[known.ids])
        return intrinsics.lens.seen(project(points, intrinsics.focal, (0.0, 0.0)))

    def recall(
        self,
        stream: CameraStream,
        gray: Image,
        near: Array | None = None,
        *,
        strict: bool = False,
        thorough: bool = False,
    ) -> Tracks:
        """Landmarks that an image seems to see by its features; ``strict``: only of very similar keyframes.

        ``thorough``: of more of those.
        """
        features = stream.features(gray)
        newest = self._near.newest(stream)
        global_descriptor = self._appearance.describe(features)
        alike = self._state.graph.loop_candidates(
            global_descriptor, len(self._state.sparse.views), newest, strict=strict, thorough=thorough
        )
        views = [*newest, *alike, *self._near.facing(near, newest, alike)]
        return self._links.find_again(stream, gray, features, views)
