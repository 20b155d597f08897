"""Rolling shutters and changing focals of a map's cameras: taken out of what keyframes see and of their images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import cv2
import numpy as np

from dust3r_ros.geometry.pinhole import pixel_grid, rays
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.mapping.camera_stream import KeyframeRecord
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.lens_refinement import measure_zoom
from dust3r_ros.sparse.refinement import place_landmarks
from dust3r_ros.sparse.rolling_shutter import Motion, Motions, measure_readout
from dust3r_ros.tracking import Tracks, join, no_tracks
from dust3r_ros.types import Array, Image

_COARSE = 16  # pixels between places of an image at which its shift is computed
_NOTICED_PX = 0.25  # by which an image is shifted
_FASTEST = 4.0  # long edges a second: nothing is followed then, so a pose beside is wrong
_READOUTS = 4  # times a camera's readout is measured at most: the map changes with it
_ZOOMS = 6  # times focals that change are measured at most: the map changes with them
_NEARBY = 3.0  # deviations of a focal among others that change: the map may be beside its best by as much


class RollingShutters:
    """Measures how long cameras take to read an image out, and takes that out of keyframes of this session; likewise
    focals that change.

    What they see stays as images show it in ``gray`` and ``features``.
    """

    def __init__(self, state: Reconstruction) -> None:
        self._state = state
        # By how much longer (log) than the map's the focals of keyframes are: as is taken out of what they see, while
        # ``record.zoom`` is out of their images, and as was known before.
        self._zooms: dict[int, float] = {}
        self._before: dict[int, float] = {}
        self._measured = 0

    def put_back(self, motions: Motions) -> None:
        """What keyframes see is as their images show it again; readouts are to be measured.

        One that is taken out of keyframes of older sessions, which cannot be put back, is taken out of all.
        """
        sparse, records = self._state.sparse, self._state.records
        older = {sparse.views[index].camera for index in sparse.posed() if records[index].gray is None}
        self._zooms, self._measured = {index: records[index].zoom for index in sparse.posed()}, 0
        self._before, zoomed = {}, self._zoomed()
        for camera, intrinsics in enumerate(sparse.intrinsics):
            if camera not in older:
                intrinsics.rolling, intrinsics.rolling_std = (0.0, 0.0), 0.0
                intrinsics.zoom_std *= camera in zoomed  # not one of another map
        for index, motion in self._known(motions).items():
            now = np.array(self._state.intrinsics_of(index).rolling)
            self._unroll(index, motion, np.array(records[index].rolling), now)
            self._before[index] = motion.zoom
        self._before |= {index: zoom for index, zoom in self._zooms.items() if zoom}
        for index in self._before:
            self._rescale(index, -self._zooms[index])

    def zoom_back(self) -> None:
        """Take out again what is known of focals that change, also of new keyframes among older ones."""
        for index, zoom in self._before.items():
            self._rescale(index, zoom)

    def take_out_zooms(self) -> bool:
        """Measure again how focals change and take that out; returns whether any does: the map is to be adjusted."""
        sparse, zoomed, found = self._state.sparse, self._zoomed(), False
        when = [(record.session, record.stamp_ns) for record in self._state.records]
        for camera, intrinsics in enumerate(sparse.intrinsics if self._measured < _ZOOMS else ()):
            zoom = measure_zoom(sparse, camera, when, camera in zoomed)
            if zoom is not None:
                for index, w_T_c in zoom.w_T_c.items():
                    sparse.views[index].w_T_c = w_T_c
                for index, log in zoom.logs.items():
                    self._rescale(index, log)
                intrinsics.focal, intrinsics.zoom_std, found = zoom.focal, _NEARBY * zoom.std, True
        if found:
            self._measured += 1
            sparse.unprune()
            place_landmarks(sparse)
        return found

    def _zoomed(self) -> set[int]:
        """The cameras of which some focal is taken out."""
        return {self._state.sparse.views[index].camera for index, zoom in self._zooms.items() if zoom}

    def _rescale(self, index: int, longer: float) -> None:
        """Take a focal that is ``longer`` (log) out of what a keyframe sees."""
        view, factor = self._state.sparse.views[index], math.exp(-longer)
        if longer:
            view.seen, view.pruned = (Tracks(kept.ids, factor * kept.pixels) for kept in (view.seen, view.pruned))
            self._zooms[index] = self._zooms.get(index, 0.0) + longer

    def take_out_all(self, motions: Callable[[], Motions], adjust: Callable[[], object]) -> None:
        """Have the map adjusted to readouts that are taken out, until they get no longer."""
        for _ in range(_READOUTS):
            if not self.take_out(motions()):
                break
            adjust()

    def take_out(self, motions: Motions) -> bool:
        """Measure the readouts again and take out by how much they are longer; returns whether any is."""
        sparse, known, longer = self._state.sparse, self._known(motions), False
        for camera, intrinsics in enumerate(sparse.intrinsics):
            own = {index: motion for index, motion in known.items() if sparse.views[index].camera == camera}
            found = measure_readout(sparse, camera, own, np.array(intrinsics.rolling))
            if found is None:
                continue
            intrinsics.rolling_std = found.focal_std
            if found.rolling.any():
                before = np.array(intrinsics.rolling)
                x, y = before + found.rolling
                intrinsics.rolling, longer = (float(x), float(y)), True
                for index, motion in own.items():
                    self._unroll(index, motion, before, np.array([x, y]))
        if longer:
            sparse.unprune()
        return longer

    def _unroll(self, index: int, motion: Motion, before: Array, now: Array) -> None:
        """Take a readout ``now`` (2,) out of what a posed keyframe sees, instead of the one ``before``.

        From where its image shows it: a readout that is taken out of what another one, with another motion, was taken
        out of leaves the differences of both.
        """
        sparse, record = self._state.sparse, self._state.records[index]
        view, shown = sparse.views[index], sparse.resolved(record.as_shown)
        motion = replace(motion, zoom=self._zooms.get(index, 0.0))
        intrinsics, c_T_w, every = sparse.intrinsics[view.camera], invert(view.pose), []
        for kind in ("seen", "pruned"):
            tracks = getattr(view, kind)
            points = transform(c_T_w, sparse.points[tracks.ids])
            raw = motion.rolled(intrinsics, points, tracks, before)
            kept = shown.select(np.isin(shown.ids, raw.ids))
            raw = raw.moved(kept.ids, kept.pixels)
            setattr(view, kind, motion.unrolled(intrinsics, points, raw, now))
            every.append(raw)
        record.as_shown = join(*every) if now.any() else no_tracks()

    def retake(self, motions: Motions) -> list[int]:
        """Change the images of keyframes to what a camera would have taken at once; returns which changed."""
        changed = []
        for index, motion in self._known(motions).items():
            record, rolling = self._state.records[index], self._state.intrinsics_of(index).rolling
            if record.rolling != rolling:
                image = self._retaken(index, motion, np.array(rolling) - np.array(record.rolling))
                record.rolling = rolling
                if image is not None:
                    record.image = self._state.pages.keep(image)
                    changed.append(index)
        for index, zoom in self._zooms.items():
            record = self._state.records[index]
            if zoom != record.zoom:
                self._enlarge(record, math.exp(record.zoom - zoom))
                record.zoom = zoom
                changed.append(index)
        self._state.changed.update(changed)
        return changed

    def _known(self, motions: Motions) -> Mapping[int, Motion]:
        """The motion at posed keyframes whose images are kept, where it is known and possible."""
        found = {}
        for index in self._state.sparse.posed():
            record, depth = self._state.records[index], self._state.sparse.median_depth(index)
            motion = None if record.gray is None else motions.at(record.stream.name, record.stamp_ns, record.session)
            fastest = _FASTEST * record.stream.long_edge
            if motion is not None and motion.speed(self._state.intrinsics_of(index).focal, depth) < fastest:
                found[index] = motion
        return found

    def _retaken(self, index: int, motion: Motion, rolling: np.ndarray) -> Image | None:
        """The working image (H, W, 3) if the readout were shorter by ``rolling`` (2,); None if it is the same.

        As if all it shows were equally far away.
        """
        record, depth = self._state.records[index], self._state.sparse.median_depth(index)
        height, width = record.image.shape[:2]
        rows, columns = -(-height // _COARSE) + 1, -(-width // _COARSE) + 1
        places = record.stream.from_working(_COARSE * pixel_grid(rows, columns).reshape(-1, 2))
        intrinsics = self._state.intrinsics_of(index)
        points = depth * rays(intrinsics.lens.ideal(places), intrinsics.focal, (0.0, 0.0))
        carried = motion.carried(intrinsics, points, places, rolling)
        if not np.abs(carried).max() > _NOTICED_PX:
            return None
        shift = record.stream.to_working(places + carried) - record.stream.to_working(places)
        grid = pixel_grid(height, width).astype(np.float32)
        shift = shift.reshape(rows, columns, 2).astype(np.float32)
        at = grid + cv2.remap(shift, grid / _COARSE, None, cv2.INTER_LINEAR)
        return np.asarray(cv2.remap(record.image, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    def _enlarge(self, record: KeyframeRecord, factor: float) -> None:
        """Enlarge the working image of a keyframe about its middle; what it does not show then is masked."""
        height, width = record.image.shape[:2]
        change = np.column_stack([factor * np.eye(2), 0.5 * (1.0 - factor) * np.array([width - 1, height - 1])])
        image = cv2.warpAffine(record.image, change, (width, height), borderMode=cv2.BORDER_REPLICATE)
        record.image = self._state.pages.keep(np.asarray(image))
        beyond = cv2.warpAffine(np.zeros((height, width), np.uint8), change, (width, height), borderValue=1) > 0
        if beyond.any():
            record.masked = beyond if record.masked is None else record.masked | beyond
