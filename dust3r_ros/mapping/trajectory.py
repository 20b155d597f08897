"""The frames of a map, each relative to a keyframe, and located again without drift when the map has changed."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import invert, smoothed
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.frames import Drift, TrackedImage, is_in_reach, without_drift
from dust3r_ros.mapping.pages import Rows
from dust3r_ros.mapping.reconstruction import Culled
from dust3r_ros.mapping.state import FrameState
from dust3r_ros.mapping.submap import LocatedFrame, Submap
from dust3r_ros.sparse.rolling_shutter import Motion, Motions
from dust3r_ros.tracking import Tracks
from dust3r_ros.tracking.exchange import Renumbering
from dust3r_ros.types import Array, StampedPose


@dataclass(frozen=True, eq=False)
class _Seen:
    """A ``TrackedImage`` of frame ``at``, in single precision, in which corners are followed: half the memory."""

    at: int
    stream: CameraStream
    narrow: TrackedImage

    @classmethod
    def of(cls, at: int, stream: CameraStream, image: TrackedImage) -> _Seen:
        """The same in less memory."""
        tracks = Tracks(image.tracks.ids.astype(np.uint32), image.tracks.pixels.astype(np.float32))
        return cls(at, stream, replace(image, tracks=tracks))

    @property
    def image(self) -> TrackedImage:
        """As it was given."""
        tracks = self.narrow.tracks
        return replace(self.narrow, tracks=Tracks(tracks.ids.astype(np.int64), tracks.pixels.astype(np.float64)))

    def absorbed(self, at: int, ids: np.ndarray) -> _Seen:
        """As frame ``at`` of another map, in which landmark k is ``ids[k]``."""
        image = self.image
        return _Seen.of(at, self.stream, replace(image, tracks=image.tracks.called(ids)))

    def renumbered(self, new: Renumbering) -> _Seen:
        """With other ids of landmarks."""
        image = self.image
        return _Seen.of(self.at, self.stream, replace(image, tracks=image.tracks.renumbered(new)))


_ROW = np.dtype([
    ("stamp_ns", "<i8"), ("camera", "<i4"), ("keyframe", "<i4"), ("session", "<i4"), ("changed", "<i4"),
    ("unit", "<f8"), ("pose", "<f8", (3, 4)),
])  # fmt: skip

# Newest frames that can be located again. Those of a mapped place have four times as many corners as followed ones: of
# these, half as many are kept, or a camera that stays would fill 20 MiB with them.
_KEPT, _KEPT_CORNERS = 1000, 700_000  # 12 bytes a corner
_NEWEST, _BEFORE_NS = 64, 500_000_000  # frames, and before the last one, that tell how fast a camera moves
_FEWEST, _BESIDE_NS = 4, 500_000_000  # images of a path to smooth, and between one that is not found and one that is
_EXACT = 0.0003  # standard deviation of keyframes' poses, units and radians


class FrameLog:
    """The frames of one map, in order of arrival: 128 bytes each. Methods read or change its columns.

    A stamp is that of a session, which has its own clock: the map was continued, or stamps began anew.
    """

    def __init__(self, keyframes: Submap, put_away: Callable[[np.ndarray], np.ndarray] = np.asarray) -> None:
        """``put_away`` is given each block of memory but the first few and returns the one to use in its place."""
        self._keyframes = keyframes
        self.rewritten = 0  # how many times existing frames changed
        self._rows = Rows(_ROW, put_away)  # a pose of NaN is unknown
        self._names: list[str] = []  # of cameras
        self._located: Counter[int] = Counter()  # frames with a relative pose, by keyframe
        self._seen: deque[_Seen] = deque()
        self._seen_in_keyframes: deque[_Seen] = deque(maxlen=_KEPT)

    def __len__(self) -> int:
        return len(self._rows)

    def add_keyframe(self, index: int, stream: CameraStream, seen: TrackedImage) -> None:
        """Add a frame that became keyframe ``index``; ``seen``: the corners followed into it."""
        self._forget_drifts(stream)
        self._seen_in_keyframes.append(_Seen.of(len(self), stream, seen))
        self._append(FrameState(seen.stamp_ns, stream.name, index, np.eye(4), float("nan"), seen.session))

    def add(self, reference: int, stream: CameraStream, seen: TrackedImage, found: PnpResult | None) -> None:
        """Add another frame relative to keyframe ``reference``; ``seen`` locates it again later."""
        relative, unit = self._relative(reference, None if found is None else found.w_T_c) or (None, float("nan"))
        self.keep(reference, stream, seen, relative, unit)

    def keep(self, reference: int, stream: CameraStream, seen: TrackedImage, r_T_f: Array | None, unit: float) -> None:
        """Add a frame at ``r_T_f`` (4, 4) from keyframe ``reference``, whose unit was ``unit`` at the time."""
        self._seen.append(_Seen.of(len(self), stream, seen))
        corners = sum(len(kept.narrow.tracks.ids) for kept in self._seen)
        while len(self._seen) > _KEPT or corners > _KEPT_CORNERS:
            corners -= len(self._seen.popleft().narrow.tracks.ids)
        self._append(FrameState(seen.stamp_ns, stream.name, reference, r_T_f, unit, seen.session))

    def find_again(self, newest: int = _KEPT, exactly: bool = False, motions: Motions | None = None) -> None:
        """Locate frames again after the map was rebuilt or refined: so many, or all that can be.

        ``exactly``: after the last adjustment, by their images, where these were kept; ``motions``: if shutters roll.
        """
        self.rewritten += 1
        motions = motions or Motions()
        drifts = self._drifts(motions)
        placed: list[tuple[int, LocatedFrame]] = []
        covariances: dict[int, Array] = {}
        for seen in islice(self._seen, max(0, len(self._seen) - newest), None):
            row = self._rows[seen.at]
            known = bool(_located(row)[0]) and self._keyframes.pose(int(row["keyframe"][0])) is not None
            guess = self._poses(row)[0] if known else None
            image, motion = self._unrolled(seen, guess, motions)
            tracks = without_drift(image, drifts.get((seen.stream.name, image.session), ()))
            found = self._keyframes.finder.locate(seen.stream, tracks, guess)
            if found is not None:
                self._move(seen.at, found.w_T_c)
                placed.append((seen.at, LocatedFrame(seen.stream, tracks, found.w_T_c, image.gray, motion)))
                covariances[seen.at] = found.covariance
        if exactly:
            poses = self._keyframes.exact_poses([frame for _, frame in placed])
            for (at, _), w_T_c in zip(placed, poses, strict=True):
                self._move(at, w_T_c)
            self._smooth(covariances)

    def _smooth(self, covariances: Mapping[int, Array]) -> None:
        """Smooth the paths through frames whose images were not kept; ``covariances`` (6, 6) of those located, by row.

        Between images that see much are some that see little, and that were found elsewhere by a few landmarks.
        """
        paths: dict[tuple[str, int], list[int]] = {}
        for seen in (*self._seen, *self._seen_in_keyframes):
            if seen.narrow.gray is None:
                paths.setdefault((seen.stream.name, seen.narrow.session), []).append(seen.at)
        for path in paths.values():
            rows, at = self._rows.take(np.sort(path)), np.sort(path)
            keyframes = self._are_keyframes(rows)
            known = keyframes | np.isin(at, list(covariances))
            # A keyframe that was culled is beside others since, not quite where it was seen.
            ours = self._placed()(rows) & ~(np.isin(at, [seen.at for seen in self._seen_in_keyframes]) & ~keyframes)
            ours &= _beside(rows["stamp_ns"], known & ours)
            if np.count_nonzero(ours) >= _FEWEST and not keyframes[ours].all():
                self._smooth_path(at[ours], covariances)

    def _smooth_path(self, at: np.ndarray, covariances: Mapping[int, Array]) -> None:
        """Smooth the path through rows ``at`` (N,), in any order."""
        at = at[np.argsort(self._rows.take(at)["stamp_ns"], kind="stable")]
        rows = np.concatenate([self._rows[k] for k in at.tolist()])
        keyframes, seconds = self._are_keyframes(rows), 1e-9 * (rows["stamp_ns"] - rows["stamp_ns"][0])
        unit = float(np.median([self._keyframes.unit(index) for index in rows["keyframe"].tolist()]))
        exact = np.diag([_EXACT * unit] * 3 + [_EXACT] * 3) ** 2
        errors = [exact + (0.0 if own else covariances.get(k, np.nan)) for k, own in zip(at, keyframes, strict=True)]
        poses = smoothed(seconds, self._poses(rows), np.stack(errors), unit) if np.isfinite(unit) else self._poses(rows)
        for moved, w_T_c in zip(at[~keyframes].tolist(), poses[~keyframes], strict=True):
            self._move(moved, w_T_c)

    def motions(self) -> Motions:
        """How the cameras moved at each frame, in each session."""
        frames = {}
        for name in self._names:
            placed = self._placed_of(name)
            rows = self._rows.take(placed)
            for session in np.unique(rows["session"]).tolist():
                own, stamps = (values[rows["session"] == session] for values in (placed, rows["stamp_ns"]))
                order = np.argsort(stamps, kind="stable")
                frames[name, session] = stamps[order], partial(self._poses_of, own[order])
        return Motions(frames, self._keyframes.zooms())

    def _poses_of(self, indices: np.ndarray, chosen: np.ndarray) -> Array:
        return self._poses(np.concatenate([self._rows[at] for at in indices[chosen].tolist()]))

    def _drifts(self, motions: Motions) -> dict[tuple[str, int], list[Drift]]:
        """Of the corners in keyframes of each camera and session; in culled ones too, which are where they were beside
        others.
        """
        drifts: dict[tuple[str, int], list[Drift]] = {}
        for seen in self._seen_in_keyframes:
            row = self._rows[seen.at]
            if self._keyframes.pose(int(row["keyframe"][0])) is not None:
                w_T_c = self._poses(row)[0]
                image, _ = self._unrolled(seen, w_T_c, motions)
                off = self._keyframes.drift(seen.stream, w_T_c, image.tracks)
                own = drifts.setdefault((seen.stream.name, image.session), [])
                own.append(Drift(image.stamp_ns, image.tracks.ids, off))
        for own in drifts.values():
            own.sort(key=lambda drift: drift.stamp_ns)  # some came late
        return drifts

    def _unrolled(self, seen: _Seen, w_T_c: Array | None, motions: Motions) -> tuple[TrackedImage, Motion | None]:
        """An image at ``w_T_c`` (4, 4), without what a rolling shutter did to its corners; the motion of its camera."""
        image, motion = seen.image, motions.at(seen.stream.name, seen.narrow.stamp_ns, seen.narrow.session)
        if w_T_c is not None and motion is not None:
            image = replace(image, tracks=self._keyframes.unrolled(seen.stream, w_T_c, image.tracks, motion))
        return image, motion

    def has(self, stamp_ns: int, camera: str, session: int = 0) -> bool:
        """Whether a camera's frame is here, with a pose or not."""
        code = self._names.index(camera) if camera in self._names else -1

        def wanted(block: np.ndarray) -> np.ndarray:
            own = (block["camera"] == code) & (block["session"] == session)
            return own & (block["stamp_ns"] == stamp_ns)

        return len(self._rows.find(wanted)) > 0

    def show(self, other: FrameLog) -> bool:
        """Whether every frame of another map is here, with a pose."""
        return not self._missing(other, posed=True)

    def near(self, stamp_ns: int, camera: str, session: int = 0) -> Array | None:
        """``w_T_c`` (4, 4) of a camera in the frame of a session with the nearest stamp; None if none has a pose."""
        rows = self._rows.take(self._placed_of(camera)) if camera in self._names else np.zeros(0, _ROW)
        rows = rows[rows["session"] == session]
        if not len(rows):
            return None
        nearest = int(np.argmin(np.abs(rows["stamp_ns"] - stamp_ns)))
        return np.array(self._poses(rows[nearest : nearest + 1])[0])

    def may_be(self, stamp_ns: int, camera: str, w_T_c: Array, session: int = 0) -> bool:
        """Whether a camera may have come to ``w_T_c`` (4, 4) from its newest poses."""
        rows = self._rows.take(np.arange(max(0, len(self) - _NEWEST), len(self)))
        code = self._names.index(camera) if camera in self._names else -1
        own = (rows["camera"] == code) & (rows["session"] == session) & (rows["stamp_ns"] < stamp_ns)
        rows = np.sort(rows[own & self._placed()(rows)], order="stamp_ns")
        rows = rows[rows["stamp_ns"] >= rows["stamp_ns"].max(initial=0) - _BEFORE_NS]
        if not len(rows):
            return True
        took_s, since_s = 1e-9 * np.ptp(rows["stamp_ns"]), 1e-9 * (stamp_ns - rows["stamp_ns"][-1])
        return is_in_reach(self._poses(rows), took_s, since_s, self._keyframes.unit(int(rows["keyframe"][-1])), w_T_c)

    def since(self, count: int, rewritten: int) -> Iterator[tuple[int, FrameState]]:
        """Place and state of each frame from place ``count``, and of those that changed after ``rewritten``."""
        for at in self._rows.changed_after(rewritten).tolist() if count else ():
            if at < count:
                yield at, self._state(at)
        for at in range(count, len(self)):
            yield at, self._state(at)

    def restore(self, frames: Iterable[FrameState]) -> None:
        """Add frames of an earlier run, before any of this one; they are not located again."""
        for frame in frames:
            self._append(frame)

    def count(self) -> int:
        """The number of frames with a pose."""
        return sum(count for keyframe, count in self._located.items() if self._keyframes.pose(keyframe) is not None)

    def trajectory(
        self, only: Collection[tuple[int, str]] | None = None, sessions: range | None = None
    ) -> list[StampedPose]:
        """Every frame with a pose in the current map, by session and time.

        ``only``: (stamp, camera) of the wanted ones; ``sessions``: only those.
        """
        placed = self._placed()
        stamps = None if only is None else np.array([stamp_ns for stamp_ns, _ in only], np.int64)

        def wanted(block: np.ndarray) -> np.ndarray:
            found = placed(block)
            if sessions is not None:
                found &= np.isin(block["session"], sessions)
            return found if stamps is None else found & np.isin(block["stamp_ns"], stamps)

        rows = self._rows.take(self._rows.find(wanted))
        ranks = np.argsort(np.argsort(self._names))
        rows = rows[np.lexsort((ranks[rows["camera"]], rows["stamp_ns"], rows["session"]))] if len(rows) else rows
        return [pose for pose in self._stamped(rows) if only is None or (pose.stamp_ns, pose.camera) in only]

    def path(self, camera: str, most: int) -> list[StampedPose]:
        """The poses of a camera in order of arrival, at most ``most``: every n-th one up to the newest."""
        if camera not in self._names:
            return []
        own = self._placed_of(camera)
        return self._stamped(self._rows.take(own[:: -max(1, -(-len(own) // most))][::-1]))

    def absorb(self, other: FrameLog, first: int, ids: np.ndarray) -> None:
        """Take frames of another map that are missing; its keyframe k becomes ``first`` + k, landmark k ``ids[k]``."""
        self.rewritten += 1
        became = dict[int, int]()
        for at, frame in self._missing(other):
            became[at] = len(self)
            self._append(replace(frame, keyframe=first + frame.keyframe))
        for own, new in (self._seen, other._seen), (self._seen_in_keyframes, other._seen_in_keyframes):
            own.extend(seen.absorbed(became[seen.at], ids) for seen in new if seen.at in became)

    def _missing(self, other: FrameLog, posed: bool = False) -> list[tuple[int, FrameState]]:
        """Place and state of each frame of another map that is not here or, if ``posed``, has no pose here."""
        stamps = np.concatenate([np.zeros(0, np.int64), *(block["stamp_ns"] for block in other._rows.blocks())])
        placed = self._placed() if posed else lambda rows: np.ones(len(rows), bool)
        # A day of frames has few of these
        alike = self._rows.find(lambda block: np.isin(block["stamp_ns"], stamps) & placed(block))
        here = {(frame.session, frame.stamp_ns, frame.camera) for frame in map(self._state, alike.tolist())}
        found = other.since(0, -1)
        return [(at, frame) for at, frame in found if (frame.session, frame.stamp_ns, frame.camera) not in here]

    def follow(self, culled: Culled) -> None:
        """Keyframes left the map: frames relative to one are now relative to its heir. No pose changes."""
        self.rewritten += 1
        for block in self._rows.blocks():
            _rebase(block, culled, self.rewritten)
        self._rows.changed(self.rewritten)
        located = Counter[int]()
        for index, count in self._located.items():
            located[int(culled.heir[index])] += count
        self._located = located

    def landmark_ids(self) -> list[np.ndarray]:
        """The ids of what was followed into frames that can be located again."""
        return [seen.narrow.tracks.ids for kept in (self._seen, self._seen_in_keyframes) for seen in kept]

    def renumber_landmarks(self, new: Renumbering) -> None:
        """Landmarks get new ids."""
        for kept in (self._seen, self._seen_in_keyframes):
            for at, seen in enumerate(kept):
                kept[at] = seen.renumbered(new)

    def rescale(self, factor: float) -> None:
        """The unit of length shrank by ``factor``, for frames and keyframes alike."""
        self.rewritten += 1
        for block in self._rows.blocks():
            block["pose"][..., 3] *= factor
            block["unit"] *= factor
            block["changed"][_located(block)] = self.rewritten
        self._rows.changed(self.rewritten)

    def _forget_drifts(self, stream: CameraStream) -> None:
        """Forget keyframes of a camera that are older than the one before its oldest frame that can be located again.

        Frames that lie between later ones do not need them, and they would hold their landmarks.
        """
        oldest = min((seen.narrow.when for seen in self._seen if seen.stream is stream), default=(math.inf,))
        own = [seen.narrow.when for seen in self._seen_in_keyframes if seen.stream is stream]
        first = max((when for when in own if when < oldest), default=(-math.inf,))
        needed = [seen for seen in self._seen_in_keyframes if seen.stream is not stream or seen.narrow.when >= first]
        self._seen_in_keyframes = deque(needed, maxlen=_KEPT)

    def _move(self, at: int, w_T_c: Array | None) -> None:
        """The frame in row ``at`` was found elsewhere."""
        row = self._rows[at]
        keyframe = int(row["keyframe"][0])
        again = self._relative(keyframe, w_T_c)
        if again is not None:
            self._located[keyframe] += not _located(row)[0]
            row["pose"], row["unit"], row["changed"] = again[0][:3], again[1], self.rewritten
            self._rows.changed(self.rewritten, at)

    def _relative(self, keyframe: int, w_T_c: Array | None) -> tuple[Array, float] | None:
        """A pose (4, 4), relative to a keyframe, and the unit of that; None if either is unknown."""
        w_T_r = self._keyframes.pose(keyframe)
        if w_T_c is None or w_T_r is None:
            return None
        return invert(w_T_r) @ w_T_c, self._keyframes.unit(keyframe)

    def _append(self, frame: FrameState) -> None:
        if frame.camera not in self._names:
            self._names.append(frame.camera)
        camera, pose = self._names.index(frame.camera), frame.keyframe_T_frame
        relative = np.full((3, 4), np.nan) if pose is None else pose[:3]
        self._rows.append(frame.stamp_ns, camera, frame.keyframe, frame.session, self.rewritten, frame.unit, relative)
        self._rows.changed(self.rewritten, len(self) - 1)
        self._located[frame.keyframe] += pose is not None

    def _state(self, at: int) -> FrameState:
        row = self._rows[at]
        stamp_ns, camera, keyframe, session, _, unit, pose = row[0].tolist()
        relative = _whole(np.array([pose]))[0] if _located(row)[0] else None
        return FrameState(stamp_ns, self._names[camera], keyframe, relative, unit, session)

    def _placed(self) -> Callable[[np.ndarray], np.ndarray]:
        """(N,) which of N rows have a pose: their keyframe may lack one for a while, or for good."""
        posed = [index for index in self._located if self._keyframes.pose(index) is not None]
        return lambda rows: _located(rows) & np.isin(rows["keyframe"], posed)

    def _placed_of(self, camera: str) -> np.ndarray:
        """Indices of the rows of a camera with a pose."""
        code, placed = self._names.index(camera), self._placed()
        return self._rows.find(lambda block: (block["camera"] == code) & placed(block))

    def _are_keyframes(self, rows: np.ndarray) -> np.ndarray:
        """(N,) which of N frames are the keyframe that their pose is relative to."""
        taken = rows[["keyframe", "session", "stamp_ns", "camera"]].tolist()
        return np.array([self._keyframes.taken(k) == (*when, self._names[camera]) for k, *when, camera in taken], bool)

    def _stamped(self, rows: np.ndarray) -> list[StampedPose]:
        found = zip(rows["stamp_ns"].tolist(), rows["camera"].tolist(), self._poses(rows), strict=True)
        return [StampedPose(stamp_ns, self._names[camera], pose.copy()) for stamp_ns, camera, pose in found]

    def _poses(self, rows: np.ndarray) -> Array:
        """(N, 4, 4) ``w_T_f`` of placed frames."""
        keyframes, which = np.unique(rows["keyframe"], return_inverse=True)
        w_T_r = [pose for index in keyframes.tolist() if (pose := self._keyframes.pose(index)) is not None]
        assert len(w_T_r) == len(keyframes), "only placed frames have poses"
        units = np.array([self._keyframes.unit(index) for index in keyframes.tolist()])
        relative = _whole(rows["pose"])
        with np.errstate(invalid="ignore", divide="ignore"):
            factors = units[which] / rows["unit"] if len(rows) else np.zeros(0)
        relative[:, :3, 3] *= np.where(np.isfinite(factors), factors, 1.0)[:, None]
        return np.stack(w_T_r)[which] @ relative if len(rows) else relative


def _rebase(rows: np.ndarray, culled: Culled, rewritten: int) -> None:
    """Make rows relative to the heirs of keyframes that left; those changed thereby are marked ``rewritten``."""
    keyframe, (before, since) = rows["keyframe"].copy(), culled.units.T
    left = culled.new[keyframe] < 0
    with np.errstate(invalid="ignore", divide="ignore"):
        grown, unit = before[keyframe] / rows["unit"], rows["unit"] * (since / before)[keyframe]
    relative = _whole(rows["pose"])
    relative[:, :3, 3] *= np.where(np.isfinite(grown), grown, 1.0)[:, None]
    for index, heir_T_culled in culled.heir_T_culled.items():
        own = keyframe == index
        rows["pose"][own] = (heir_T_culled @ relative[own])[:, :3]
        rows["unit"][own] = since[index]
    stretched = ~left & np.isfinite(unit) & (unit != rows["unit"])
    rows["unit"][stretched] = unit[stretched]
    rows["keyframe"] = culled.heir[keyframe]
    rows["changed"][left | stretched] = rewritten


def _located(rows: np.ndarray) -> np.ndarray:
    """(N,) which frames have a pose relative to their keyframe."""
    return ~np.isnan(rows["pose"][:, 0, 0])


def _beside(stamps_ns: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(N,) which stamps are about those of ``known`` ones (N,), themselves among them."""
    apart = np.abs(stamps_ns[:, None] - stamps_ns[known])
    return np.asarray(apart.min(axis=1, initial=_BESIDE_NS) < _BESIDE_NS)


def _whole(poses: Array) -> Array:
    """(N, 4, 4) from (N, 3, 4)."""
    whole = np.zeros((len(poses), 4, 4))
    whole[:, :3], whole[:, 3, 3] = poses, 1.0
    return whole
