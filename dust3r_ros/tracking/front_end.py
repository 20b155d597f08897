"""One camera's front end: finds each image's pose in the newest snapshot of the map. It never waits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.geometry.pinhole import center_of, inside, project, unmasked
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import interpolate, invert, transform
from dust3r_ros.geometry.undistortion import Undistortion
from dust3r_ros.tracking.bridge import CORNERS, Directions, LookBack, guessed, moved_with
from dust3r_ros.tracking.exchange import FollowedPose, MapSnapshot, is_keyframe, no_names
from dust3r_ros.tracking.following import (
    HANDED,
    MANY,
    MAX_ERROR_PX,
    MOST_AGREE,
    Corners,
    RecentImages,
    evened,
    follow,
    followed,
    locate,
    no_corners,
    realigned,
    tracked,
    tracked_size,
)
from dust3r_ros.types import Array, Image

_KEPT_IMAGES = 128  # every third image of 13 s of a fast camera: a snapshot of an older one is useless
_MOST = 400  # corners followed: more do not improve the pose and cost time
_PICKED_UP = 150  # corners of a snapshot searched for in one image
_PICKED_PX = 8.0  # pixels around the position given by the map
_GUESSED_PX = 80.0  # the same if the map does not know it
_HOPPING = 250  # corners carried this way
_TRIES = 6  # images in which corners of the last good one are searched for
_LEVELS_AHEAD = 2  # halvings of the image when steady motion predicts the corners
_MASK_MARGIN_PX = 10
# At least, between realignments: from image to image, drift is small, and without the C code they take 50 ms.
_REALIGNED_NS = 500_000_000 if LIBRARY is None else 50_000_000
# Landmarks with a position; of the long edge, by which the view turns from link to link, and until corners are sought.
_FEW, _LINKED, _NEW_VIEW = 150, 0.1, 0.06
_STRAYED_PX = 1.0  # corners that are off by more are searched for again


@dataclass(frozen=True, eq=False)
class Tracked:
    """The front end's result for one image: ``w_T_c`` (4, 4) and ``covariance`` (6, 6), None if tracking is lost.

    ``wanted``: the map should have the image; ``link``: even if newer ones are wanted, since the camera turns away from
    what the map knows. ``followed``: the pose for the map's record. ``ids`` (N,) and ``pixels`` (N, 2), offsets from
    the centre: the landmarks seen, and corners that the map does not know, whose ids are negative. ``usable``: false
    for an image or a mask of another size.
    """

    w_T_c: Array | None = None
    covariance: Array | None = None
    wanted: bool = True
    followed: FollowedPose | None = None
    ids: np.ndarray | None = None
    pixels: Array | None = None
    usable: bool = True
    link: bool = False


class FrontEnd:
    """Follows landmarks of the newest snapshot through the images of one camera. For one thread.

    One class, since an image and a snapshot change the same followed corners; what needs none of them is beside it.
    """

    def __init__(self, config: MapperConfig) -> None:
        self._config = config
        self._images = RecentImages(_KEPT_IMAGES)
        self._newest: tuple[int, Image, Image | None] | None = None  # stamp, tracked image and its mask
        self._size: tuple[int, ...] | None = None
        self._undistortion: Undistortion | None = None
        self._map: MapSnapshot | None = None
        self._new: MapSnapshot | None = None
        self._corners = self._waiting = no_corners()  # those followed, those of the snapshot to search for
        self._handed: dict[int, Corners] = {}  # corners followed into the images that snapshots may be of, by stamp
        self._source: Image | None = None  # the snapshot's image
        self._keyframe: Image | None = None  # the one with the anchors
        self._realigned_ns = 0  # the last image realigned to it
        self._seen_in: Image | None = None  # the image of the followed corners
        self._path: list[tuple[int, Array]] = []  # the newest two poses, by stamp
        self._directions = Directions()
        self._linked = self._sought = np.eye(4)  # poses of the last link, and where corners were sought
        self._failed = 0  # images since then
        self._earlier: LookBack | None = None
        self._guess: Array | None = None  # the robot's prediction of the next pose

    def forget(self) -> None:
        """Another map, or another time: forget what was known, and the images, whose stamps may come again.

        Images may also be of another size then.
        """
        self._size = self._undistortion = None
        self._map = self._new = self._earlier = self._newest = None
        self._images = RecentImages(_KEPT_IMAGES)
        self._lose()

    def take(self, snapshot: MapSnapshot) -> None:
        """Take the current map, in which the next image is located."""
        if self._size is None:  # the camera's image size is not known yet
            self._new = snapshot
        else:  # now, so that the next image need not wait for it
            self._take_over(snapshot)

    def hand_over(self, stamp_ns: int) -> None:
        """Note that the image of this stamp goes to the back end: a snapshot may be of it."""
        self._images.hand_over(stamp_ns)
        corners = no_corners() if self._failed else self._corners  # these are still where the last good image has them
        self._handed = dict([*self._handed.items(), (stamp_ns, corners)][-HANDED:])

    @property
    def knows_map(self) -> bool:
        """Whether a snapshot has arrived."""
        return self._map is not None or self._new is not None

    def expect(self, w_T_c: Array | None) -> None:
        """Take the robot's prediction of the next pose (4, 4); None without one."""
        self._guess = w_T_c

    def track(self, stamp_ns: int, image: Image, mask: Image | None = None) -> Tracked:
        """Track the next image (H, W, 3) RGB, as the camera took it; pixels under ``mask`` (H, W) are ignored."""
        if self._size not in (None, image.shape) or (mask is not None and mask.shape != image.shape[:2]):
            return Tracked(usable=False)  # the back end reports why
        self._size = image.shape
        if self._new is not None:
            self._take_over(self._new)
            self._new = None
        gray = self._prepared(image)
        self._images.add(stamp_ns, gray)
        self._newest = stamp_ns, gray, self._masked(mask, gray.shape)
        return Tracked() if self._map is None else self._located(self._newest[1])

    def track_again(self) -> Tracked:
        """Track the newest image again: a snapshot arrived that may locate it."""
        if self._map is None or self._newest is None or self._images.newest is not self._newest[1]:
            return Tracked()
        return self._located(self._newest[1])

    def _located(self, gray: Image) -> Tracked:
        """The newest image, by the corners followed into it, or by those of the snapshot's image."""
        assert self._map is not None
        found = Tracked()
        if len(self._corners):
            found = self._located_by(self._corners, self._follow(gray))
        if found.w_T_c is None and len(self._waiting):
            sought = self._waiting.select(slice(0, _HOPPING))
            found = self._located_by(sought, self._catch_up(self._map))
        if found.w_T_c is None:
            self._failed += 1
            if self._failed >= _TRIES and self._guess is None:
                self._lose()
        return found

    def _located_by(self, sought: Corners, corners: Corners) -> Tracked:
        """The newest image, by ``corners`` found in it of those ``sought``."""
        assert self._map is not None and self._newest is not None
        stamp_ns, gray, masked = self._newest
        corners, sought = (some.select(unmasked(some.pixels, masked)) for some in (corners, sought))
        found, middle = self._posed(stamp_ns, sought, corners), self._middle()
        if found is None:
            return Tracked()
        self._corners, self._seen_in, self._failed = corners.select(found.inliers), gray, 0
        self._path = [*self._path[-1:], (stamp_ns, found.w_T_c)]
        seen = self._corners.ids, self._corners.pixels - middle
        known = self._corners.select(self._corners.ids >= 0)
        shown = known if self._directions.std else known.select(known.placed)
        record = followed(self._map, stamp_ns, found.w_T_c, shown, middle)
        wanted = self._wants_keyframe()
        return Tracked(found.w_T_c, found.covariance, wanted, record, *seen, link=wanted and self._links(found.w_T_c))

    def _posed(self, stamp_ns: int, sought: Corners, corners: Corners) -> PnpResult | None:
        """The pose by landmarks with a position or, where these are too few, by the directions of all.

        ``inliers`` (N,): of all ``corners``.
        """
        assert self._map is not None
        known, middle = corners.select(corners.placed), self._middle()
        last_ns, last = self._path[-1] if self._path else (stamp_ns, self._map.w_T_c)
        found = locate(self._map, known, sought.select(sought.placed), middle, last, self._config)
        if found is None or np.count_nonzero(found.inliers) < MANY:
            near = None if not self._path else last if self._guess is None else self._guess
            since = near, 1e-9 * (stamp_ns - last_ns)
            return self._directions.pose(self._map, found, corners, sought, middle, *since)
        self._directions.std = 0.0
        return replace(found, inliers=corners.fitting(found.inliers))

    def pick_up(self) -> None:
        """Search the newest image for snapshot landmarks not followed yet, once its pose is out."""
        gray = self._images.newest
        if gray is None or not self._path or self._failed:
            return
        self._realign(gray)
        if len(self._waiting) and self._source is not None:
            self._search(self._source, gray)
        assert self._map is not None and self._newest is not None
        w_T_c = self._path[-1][1]
        if self._lacks_corners(gray, w_T_c):
            self._sought = w_T_c
            self._corners = self._directions.refreshed(self._map, self._corners, gray, self._newest[2], w_T_c)

    def _lacks_corners(self, gray: Image, w_T_c: Array) -> bool:
        """Whether the newest image, at ``w_T_c`` (4, 4), needs corners that the map does not know."""
        waiting = int(inside(self._expected(self._waiting.points, w_T_c), gray.shape).sum())
        few = self._directions.std > 0 or len(self._corners) + waiting < CORNERS
        return few or self._turned(self._sought, w_T_c) > _NEW_VIEW

    def _search(self, source: Image, gray: Image) -> None:
        """Search an image for some of the landmarks of the snapshot's image, ``source``, that wait for it."""
        tried, self._waiting = (
            self._waiting.select(slice(0, _PICKED_UP)),
            self._waiting.select(slice(_PICKED_UP, None)),
        )
        assert self._map is not None
        expected = self._expected(tried.points, self._path[-1][1])
        shown = inside(expected, gray.shape)
        tried, expected = tried.select(shown), expected[shown]
        pixels, good = follow(source, gray, tried.pixels, expected)
        good &= np.linalg.norm(pixels - expected, axis=1) < np.where(tried.placed, _PICKED_PX, _GUESSED_PX)
        found = tried.moved(pixels, good)
        room = max(0, _MOST - len(found))
        anchored = np.argsort(np.isnan(self._corners.anchors[:, 0]), kind="stable")  # the newest keyframe's stay
        self._corners = self._corners.select(np.sort(anchored[:room])).join(found)

    def _realign(self, gray: Image) -> None:
        """Realign the newest image's corners to the last keyframe, so that the next image does not inherit drift."""
        corners, at = self._corners, np.flatnonzero(np.isfinite(self._corners.anchors[:, 0]))
        stamp_ns = self._path[-1][0]
        if self._keyframe is None or not len(at) or stamp_ns - self._realigned_ns < _REALIGNED_NS:
            return
        self._realigned_ns = stamp_ns
        pixels = corners.pixels.copy()
        pixels[at] = realigned(self._keyframe, gray, corners.anchors[at], pixels[at])
        self._corners = replace(corners, pixels=pixels)

    def look_back(self) -> tuple[FollowedPose | None, bool]:
        """The pose of one more image from before the first snapshot, None if not found; whether there may be more."""
        earlier = self._earlier
        found = None if earlier is None or earlier.done else earlier.step()
        if earlier is None or earlier.done:
            self._earlier = None
        return found, self._earlier is not None

    # The snapshot

    def _take_over(self, snapshot: MapSnapshot) -> None:
        """Update the positions of followed landmarks; queue the others to be found in the next images."""
        before, self._map = self._map, snapshot
        if snapshot.rectified != (before.rectified if before else None):
            self._undistortion, self._images, self._keyframe = None, RecentImages(_KEPT_IMAGES), None
        another = before is None or before.epoch != snapshot.epoch
        if another:
            self._handed, self._linked, self._sought = {}, snapshot.w_T_c, snapshot.w_T_c  # they are of another map
        if another or (self._failed and not (self._path and snapshot.stamp_ns <= self._path[-1][0])):
            self._lose()
        self._rename(snapshot, before is not None and before.numbering != snapshot.numbering)
        middle = self._middle()
        self._directions.take(snapshot, another)
        points, placed = guessed(snapshot, self._directions.depth)
        origins = np.tile(snapshot.w_T_c[:3, 3], (len(points), 1))
        new = Corners(snapshot.ids, snapshot.pixels + middle, points, snapshot.anchors + middle, placed, origins)
        new = new.select(np.argsort(~placed, kind="stable"))
        own = self._corners
        _, at, there = np.intersect1d(own.ids, new.ids, return_indices=True)
        both = own.placed[at] & new.placed[there]
        corrected = self._corrected(own.points[at][both], new.points[there][both])
        points, placed, origins = (part.copy() for part in (own.points, own.placed, own.origins))
        anchors = np.full_like(own.anchors, np.nan)
        points[at], placed[at], anchors[at] = new.points[there], new.placed[there], new.anchors[there]
        origins[at] = new.origins[there]
        strayed = np.zeros((len(own), 2))
        strayed[at] = self._strayed(snapshot.stamp_ns, own.ids[at], new.pixels[there])
        kept = np.linalg.norm(strayed, axis=1) < _STRAYED_PX
        moved = Corners(own.ids, own.pixels - strayed, points, anchors, placed, origins)
        if corrected:
            kept &= self._follow_map(moved, np.isin(np.arange(len(own)), at), before, snapshot)
        self._corners = moved.select(kept)
        self._waiting = new.select(~np.isin(new.ids, self._corners.ids))
        self._source = self._images.at(snapshot.stamp_ns)
        if before is None or snapshot.anchored_ns != before.anchored_ns or self._keyframe is None:
            self._keyframe = self._images.at(snapshot.anchored_ns)  # later it may be thinned out
        if before is None and self._source is not None:
            images = self._images.until(snapshot.stamp_ns)
            self._earlier = LookBack(snapshot, new.select(new.placed), images, middle, self._config)
        self._images.thin()

    def _follow_map(
        self, own: Corners, renewed: np.ndarray, before: MapSnapshot | None, snapshot: MapSnapshot
    ) -> np.ndarray:
        """Have the path and corners follow a corrected map; returns which (N,) corners can.

        Those not ``renewed`` (N,) have no position in it, but lie in the same direction as before.
        """
        moved = None if before is None else moved_with(before, snapshot)
        if moved is None:
            return renewed
        self._path = [(stamp_ns, moved.pose(w_T_c)) for stamp_ns, w_T_c in self._path]
        own.points[~renewed], own.origins[~renewed] = (moved.apply(p[~renewed]) for p in (own.points, own.origins))
        if self._path:
            own.origins[~renewed & own.placed] = self._path[-1][1][:3, 3]
        own.placed[~renewed] = False
        return np.ones(len(own), bool)

    def _rename(self, snapshot: MapSnapshot, renumbered: bool) -> None:
        """Call what is followed by the ids of its landmarks; if these are new and unknown, it is forgotten."""
        new, named = snapshot.renumbering or no_names(), snapshot.named

        def renamed(corners: Corners) -> Corners:
            return (corners.renumbered(new) if renumbered else corners).called(named)

        self._corners = renamed(self._corners)
        self._handed = {stamp_ns: renamed(corners) for stamp_ns, corners in self._handed.items()}

    def _strayed(self, stamp_ns: int, ids: np.ndarray, pixels: Array) -> Array:
        """How far (N, 2) followed corners were from the map's ``pixels`` (N, 2) in the image of that stamp.

        0 for those not followed into it. Features of a keyframe do not drift, unlike followed corners.
        """
        strayed, handed = np.zeros_like(pixels), self._handed.get(stamp_ns)
        if handed is not None:
            _, at, then = np.intersect1d(ids, handed.ids, return_indices=True)
            strayed[at] = handed.pixels[then] - pixels[at]
        return strayed

    def _corrected(self, before: Array, after: Array) -> bool:
        """Whether landmarks (N, 3) of the map moved by more than when single ones are refined."""
        if not len(before) or self._map is None:
            return True
        depth = float(np.median(transform(invert(self._map.w_T_c), after)[:, 2]))
        moved = float(np.median(np.linalg.norm(after - before, axis=1)))
        return not moved * self._map.focal < 0.5 * MAX_ERROR_PX * max(depth, 0.0)

    def _catch_up(self, snapshot: MapSnapshot) -> Corners:
        """Landmarks of the snapshot's image in the newest one, carried through the images in between."""
        corners, gray = self._waiting.select(slice(0, _HOPPING)), self._source
        self._waiting = self._waiting.select(slice(_HOPPING, None))
        if gray is None:
            return no_corners()
        guess = corners.pixels
        for later in self._images.since(snapshot.stamp_ns):
            pixels, good = follow(gray, later, corners.pixels, guess)
            moved = pixels[good] - corners.pixels[good]
            corners = corners.moved(pixels, good)
            guess, gray = corners.pixels + moved, later
        return corners

    # The image

    def _prepared(self, image: Image) -> Image:
        """The tracked image (h, w) from the camera's image, evened."""
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        height, width = gray.shape
        if self._map is not None and self._map.rectified is not None:
            if self._undistortion is None:
                self._undistortion = Undistortion.of(self._map.rectified, width, height)
            gray = self._undistortion.image(gray)
        _, size = tracked_size(width, height, self._config.tracking_size)
        return evened(tracked(np.asarray(gray, np.uint8), size))

    def _masked(self, mask: Image | None, shape: tuple[int, ...]) -> Image | None:
        """Which pixels of the tracked image (h, w) the camera's mask (H, W) covers or is close to; None: none."""
        if mask is None or not mask.any():
            return None
        if self._undistortion is not None:
            mask = self._undistortion.mask(mask)
            assert mask is not None
        small = cv2.resize((mask != 0).astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
        return np.asarray(cv2.dilate(small, np.ones((2 * _MASK_MARGIN_PX + 1,) * 2, np.uint8)))

    def _middle(self) -> Array:
        newest = self._images.newest
        if newest is not None:
            return np.array(center_of(*newest.shape))
        assert self._size is not None
        height, width = self._size[:2]
        _, (width, height) = tracked_size(width, height, self._config.tracking_size)
        return np.array(center_of(height, width))

    def _follow(self, gray: Image) -> Corners:
        """The corners in the newest image, searched for where steady motion predicts them, else where they were."""
        corners, ahead = self._corners, self._ahead()
        assert self._seen_in is not None
        if ahead is not None:
            before, now = (self._offsets(corners.points, w_T_c) for w_T_c in (self._path[-1][1], ahead))
            start = corners.pixels + np.nan_to_num(now - before)
            pixels, good = follow(self._seen_in, gray, corners.pixels, start, _LEVELS_AHEAD)
            if good.mean() >= MOST_AGREE:
                return corners.moved(pixels, good)
        return corners.moved(*follow(self._seen_in, gray, corners.pixels, corners.pixels))

    def _ahead(self) -> Array | None:
        """The predicted pose (4, 4), by the robot, else by constant motion; None without a prediction."""
        if self._guess is not None and self._path:
            return self._guess
        if len(self._path) < 2 or self._newest is None:
            return None
        (before_ns, first), (last_ns, second) = self._path
        times = min((self._newest[0] - last_ns) / (last_ns - before_ns), _TRIES)
        return second @ interpolate(np.eye(4), invert(first) @ second, times)

    def _expected(self, points: Array, w_T_c: Array) -> Array:
        """Pixels (N, 2) of the tracked image at which ``w_T_c`` sees landmarks (N, 3); NaN behind the camera."""
        assert self._map is not None
        return self._map.lens.seen(self._offsets(points, w_T_c)) + self._middle()

    def _offsets(self, points: Array, w_T_c: Array) -> Array:
        """Offsets from the centre in a pinhole's image, which suffice to predict motion."""
        assert self._map is not None
        return project(transform(invert(w_T_c), points), self._map.focal, (0.0, 0.0))

    def _wants_keyframe(self) -> bool:
        """Whether ``is_keyframe`` holds for the newest image."""
        assert self._map is not None and self._seen_in is not None
        moved = np.linalg.norm(self._corners.pixels - self._corners.anchors, axis=1)
        moved = moved[np.isfinite(moved)]
        waiting = int(np.isfinite(self._waiting.anchors[:, 0]).sum())
        overlap = (len(moved) + waiting) / max(1, self._map.anchored)
        motion = float(np.median(moved)) / max(self._seen_in.shape) if len(moved) else float("inf")
        return is_keyframe(motion, overlap, self._map.young, self._config, live=True)

    def _links(self, w_T_c: Array) -> bool:
        """Whether keyframes before and after the newest image, at ``w_T_c`` (4, 4), may share too little without it."""
        link = self._turned(self._linked, w_T_c) > _LINKED
        self._linked = w_T_c if link else self._linked
        return link

    def _turned(self, before: Array, w_T_c: Array) -> float:
        """By how much of the image the view turned between two poses (4, 4); 0 while many landmarks have a position."""
        assert self._map is not None and self._seen_in is not None
        many = np.count_nonzero(self._corners.placed) >= _FEW
        return 0.0 if many else self._map.turned(before, w_T_c) / max(self._seen_in.shape)

    def _lose(self) -> None:
        """Drop all followed corners."""
        self._corners = self._waiting = no_corners()
        self._source = self._seen_in = self._keyframe = None
        self._path, self._failed, self._realigned_ns, self._directions.std = [], 0, 0, 0.0
