"""How cameras join a map that others made.

Either by single frames that see it: each gives pose and focal together, sometimes badly (all landmarks in a plane
that the camera faces, few or wrong matches). A camera's focal is accepted once several different frames agree, or
one frame and another camera with images of the same size, or of the same on its side: robots often have several of one
model, and a phone is turned. A frame may say little of it, as of a small or flat thing: turned, a camera keeps it. Of a
camera that took a few photographs at most, one must do.

Or by the rig, for cameras with known extrinsics that see nothing the map knows: they may map their own side once
matches of two frames fit the motion of the rig several times. So wrong extrinsics place nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.features.features import Features, matched
from dust3r_ros.geometry.essential import focal_from_motion, sampson
from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.geometry.pose import PnpResult, pose_and_focal
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.submap import Guess, Placement
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.sparse_map import MAX_ERROR_PX
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.tracking.exchange import Renumbering
from dust3r_ros.types import Array, Image

_VOTES = 3  # frames that must agree
_KEPT = 10  # newest frames that count
_MOST = 0.6  # of the newest frames
VAGUE = 0.1  # relative standard deviation above which a focal is ignored
_SURE = 0.03
# The same of a camera of a few photographs, where the map's adjustment says the rest; of what one seems to see, the
# share that must agree, since no other one confirms it.
_ALONE_SURE, _ALONE_AGREE = 0.5, 0.5
_MAP_ERROR = 0.02  # error of a frame's focal due to errors of the map itself, which frames share
_MOVED = 0.01  # of the long edge: a camera at rest only repeats itself
_FOCALS = (0.4, 4.0)  # of the long edge: 103 to 14 degrees of view


@dataclass(frozen=True, eq=False)
class _Vote:
    """The estimate of one frame: the log of the focal with its standard deviation in the map, and what it saw."""

    log_focal: float
    std: float
    seen: Tracks


class FocalVotes:
    """Collects focal estimates of cameras with unknown focal; writes the focal into the map once it is certain."""

    def __init__(self, state: Reconstruction) -> None:
        self._state = state
        self._votes: dict[int, list[_Vote]] = {}

    def meet(self, stream: CameraStream, tracks: Tracks) -> bool:
        """Take a frame that seems to see landmarks ``tracks``; returns whether its camera's focal is now known."""
        votes = self._votes.setdefault(stream.index, [])
        vote = self._vote(stream, self._state.sparse.known(tracks))
        if vote is None:
            return False
        if all(_moved(vote.seen, other.seen, stream.long_edge) for other in votes[-1:]):
            self._cast(stream, vote)
        return self.agree(stream)

    def vote(self, stream: CameraStream, focal: float, std: float) -> None:
        """Take a focal estimated from two frames without the map, with its relative standard deviation."""
        if std < VAGUE:
            self._cast(stream, _Vote(float(np.log(focal)), std, no_tracks()))

    def _cast(self, stream: CameraStream, vote: _Vote) -> None:
        votes = self._votes.setdefault(stream.index, [])
        votes.append(vote)
        del votes[:-_KEPT]

    def agree(self, stream: CameraStream) -> bool:
        """Whether enough frames agree on the focal of a camera; if so, write it."""
        votes, siblings = self._votes.get(stream.index, []), self._siblings(stream)
        usual = bool(votes) and all(any(_alike(vote, sibling) for sibling in siblings) for vote in votes)
        enough, sure = (1, _ALONE_SURE) if stream.alone else (_VOTES, _SURE)
        agreed = _agreed(votes, 1 if usual else enough, sure)
        if agreed is None and usual and (turned := self._siblings(stream, on_its_side=True)):
            agreed = turned[0].focal, turned[0].std
        if agreed is None:
            return False
        intrinsics = self._state.sparse.intrinsics[stream.index]
        intrinsics.focal, intrinsics.std = agreed
        del self._votes[stream.index]
        return True

    def landmark_ids(self) -> list[np.ndarray]:
        """The ids by which landmarks are known here."""
        return [vote.seen.ids for votes in self._votes.values() for vote in votes]

    def renumber_landmarks(self, new: Renumbering) -> None:
        """Landmarks get new ids."""
        for votes in self._votes.values():
            votes[:] = [replace(vote, seen=vote.seen.renumbered(new)) for vote in votes]

    def _siblings(self, stream: CameraStream, on_its_side: bool = False) -> list[Intrinsics]:
        """Known focals of cameras with images of the same size, upright or on its side, or of the latter only."""
        size, intrinsics = {stream.width, stream.height}, self._state.sparse.intrinsics
        others = {record.stream for record in self._state.records} - {stream}
        others = {other for other in others if other.width != stream.width or not on_its_side}
        same = sorted(other.index for other in others if {other.width, other.height} == size)
        return [intrinsics[index] for index in same if intrinsics[index].std < _SURE]

    def _vote(self, stream: CameraStream, known: Tracks) -> _Vote | None:
        points, lens = self._state.sparse.points[known.ids], self._state.sparse.intrinsics[stream.index].lens
        edge, siblings = stream.long_edge, self._siblings(stream)
        try:
            guess = siblings[0].focal if siblings else None
            found = pose_and_focal(
                points, lens.ideal(known.pixels), edge, self._state.config.seed, MAX_ERROR_PX, guess=guess
            )
        except GeometryError:
            return None
        std = found.focal_std / found.focal
        usual = _FOCALS[0] * edge < found.focal < _FOCALS[1] * edge
        sure, agree = (_ALONE_SURE, _ALONE_AGREE) if stream.alone else (VAGUE, 0.0)
        if not (usual and std < sure and found.inliers.mean() >= agree):
            return None
        return _Vote(float(np.log(found.focal)), std, known.select(found.inliers))


def _moved(a: Tracks, b: Tracks, long_edge: int) -> bool:
    _, i, j = np.intersect1d(a.ids, b.ids, return_indices=True)
    if len(i) == 0:
        return True
    return float(np.median(np.linalg.norm(a.pixels[i] - b.pixels[j], axis=1))) > _MOVED * long_edge


def _alike(vote: _Vote, sibling: Intrinsics) -> bool:
    std = np.hypot(np.hypot(vote.std, _MAP_ERROR), sibling.std)
    return bool(abs(vote.log_focal - np.log(sibling.focal)) < 3.0 * std)


def _agreed(votes: list[_Vote], enough: int, sure: float) -> tuple[float, float] | None:
    """Focal and relative standard deviation on which ``enough`` frames agree, if they do."""
    logs, stds = np.array([vote.log_focal for vote in votes]), np.array([vote.std for vote in votes])
    if len(votes) < enough:
        return None
    order = np.argsort(logs)
    weights = np.cumsum(stds[order] ** -2.0)
    middle = logs[order][np.searchsorted(weights, 0.5 * weights[-1])]
    agree = np.abs(logs - middle) < 3.0 * np.hypot(stds, _MAP_ERROR)
    if agree.sum() < max(enough, _MOST * len(votes)):
        return None
    weights = stds[agree] ** -2.0
    std = float(np.hypot(weights.sum() ** -0.5, _MAP_ERROR))
    return (float(np.exp(weights @ logs[agree] / weights.sum())), std) if std < sure else None


_ERROR_PX = 3.0  # of matches under a motion known from another camera, with some delay
_SHARE = 0.75  # share of the matches that must fit
_DIRECTION_DEG = 12.0
_MATCHES = 40
_MOTION = 0.08  # of the long edge, motion between the two frames
_PROOFS, _MOST_PROOFS = 3, 5  # excess of frames that agree over those that do not
_TIED = 25  # landmarks that keyframes must share with the rest of the map
_POSITION_STD, _ANGLE_STD = 0.02, 0.01  # of the depth; radians


@dataclass(frozen=True, eq=False)
class _UnplacedFrame:
    """A frame of a camera that sees nothing known."""

    stamp_ns: int
    features: Features


@dataclass(eq=False)
class _Watch:
    """A reference frame for later ones, the newest frame, and how often the images agreed."""

    first: _UnplacedFrame
    last: _UnplacedFrame
    pose: Array | None = None  # of the first
    proofs: int = 0
    trusted: bool = False  # from enough proofs until none is left


@dataclass(eq=False)
class RigPlacement(Placement):
    """Decides whether a frame is where the rig puts it, from what its camera saw on the way."""

    state: Reconstruction
    focal_votes: FocalVotes
    _watches: dict[int, _Watch] = field(default_factory=dict)
    _reported: dict[int, tuple[int, Array]] = field(default_factory=dict)

    def place(self, stream: CameraStream, stamp_ns: int, gray: Image, guess: Guess) -> PnpResult | None:
        """Place a frame at the rig's ``guess(stamp_ns)`` (4, 4), if there is enough evidence for it."""
        w_T_c = guess(stamp_ns)
        if w_T_c is None:
            return None
        features = stream.features(gray)
        now = _UnplacedFrame(stamp_ns, features)
        watch = self._watches.setdefault(stream.index, _Watch(now, now))
        known = self.state.knows(stream)
        if watch.last is not watch.first:  # its pose is known better by now: other cameras were located since
            self._compare(stream, watch, guess, known)
        watch.last = now
        shown = len(features.pixels) >= _MATCHES
        if not watch.trusted or not shown or not (known or self.focal_votes.agree(stream)):
            return None
        return PnpResult(
            w_T_c, np.zeros(0, bool), self._covariance(), 0.0, self.state.sparse.intrinsics[stream.index].focal
        )

    def _compare(self, stream: CameraStream, watch: _Watch, guess: Guess, known: bool) -> None:
        """Check whether the first and last frame of a watch agree with the rig's motion."""
        poses = watch.pose if watch.pose is not None else guess(watch.first.stamp_ns), guess(watch.last.stamp_ns)
        watch.pose = poses[0]
        pairs = matched(watch.first.features, watch.last.features)
        fits = False
        if poses[0] is not None and poses[1] is not None and len(pairs) >= _MATCHES:
            a, b = watch.first.features.pixels[pairs[:, 0]], watch.last.features.pixels[pairs[:, 1]]
            if float(np.median(np.linalg.norm(b - a, axis=1))) < _MOTION * stream.long_edge:
                return
            fits = self._fits(stream, a, b, invert(poses[1]) @ poses[0], known)
        watch.proofs = min(watch.proofs + 1, _MOST_PROOFS) if fits else max(watch.proofs - 1, 0)
        watch.trusted = watch.proofs > 0 if watch.trusted else watch.proofs >= _PROOFS
        watch.first, watch.pose = watch.last, poses[1]

    def report(self, index: int, w_T_c: Array, placed: bool) -> None:
        """Record the rig's pose ``w_T_c`` (4, 4) of keyframe ``index``, for cameras with keyframes so ``placed``."""
        views = self.state.sparse.views
        camera = views[index].camera
        others = [view for view in self.state.sparse.posed() if views[view].camera != camera]
        if others and (placed or any(views[view].camera == camera for view in self._reported)):
            self._reported[index] = others[-1], invert(self.state.sparse.views[others[-1]].pose) @ w_T_c

    def rig_only(self, camera: int) -> bool:
        """Whether keyframes of a camera depend on the rig alone, sharing no landmarks with the rest of the map."""
        views, known = self.state.sparse.views, self.state.sparse.positioned
        if not any(views[view].camera == camera for view in self._reported):
            return False
        own = [views[view].seen.ids for view in self.state.sparse.posed() if views[view].camera == camera]
        rest = [views[view].seen.ids for view in self.state.sparse.posed() if views[view].camera != camera]
        shared = np.intersect1d(np.concatenate(own), np.concatenate(rest))
        return int(known[shared].sum()) < _TIED

    @property
    def ties(self) -> set[int]:
        """Keyframes whose place was reported by the rig, and those relative to which it was."""
        return {*self._reported, *(at for at, _ in self._reported.values())}

    def rescale(self, factor: float) -> None:
        """The map has other coordinates, and a unit that is ``factor`` new ones."""
        for _, at_T_k in self._reported.values():
            at_T_k[:3, 3] *= factor
        for watch in self._watches.values():
            watch.pose = None

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), or leaves if that is negative, which no tie may."""
        self._reported = {int(new[k]): (int(new[at]), at_T_k) for k, (at, at_T_k) in self._reported.items()}

    def absorb(self, other: RigPlacement, first: int, scale: float) -> None:
        """Another map's keyframe k became ``first + k`` here, and its unit ``scale`` of this map's."""
        other.rescale(scale)
        self._reported |= {first + k: (first + at, at_T_k) for k, (at, at_T_k) in other._reported.items()}
        self._watches |= other._watches

    def facts(self) -> list[tuple[int, int, list[float]]]:
        """Ties as JSON values: a keyframe, the one it was reported relative to, and its pose there in rows."""
        return [(k, at, at_T_k[:3].ravel().tolist()) for k, (at, at_T_k) in self._reported.items()]

    def restore(self, facts: Iterable[tuple[int, int, list[float]]]) -> None:
        """Take the ties of an earlier session."""
        for k, at, numbers in facts:
            self._reported[k] = at, np.vstack((np.reshape(numbers, (3, 4)), (0.0, 0.0, 0.0, 1.0)))

    def views(self) -> list[int]:
        """Keyframes that ``anchor`` may move."""
        cameras = {self.state.sparse.views[view].camera for view in self._reported}
        return [view for view in self.state.sparse.posed() if self.state.sparse.views[view].camera in cameras]

    def anchor(self) -> None:
        """Move keyframes that nothing but the rig fixes, with all they see, to the rig's poses."""
        views = self.state.sparse.views
        for camera in sorted({views[view].camera for view in self._reported}):
            reported = {
                view: views[at].pose @ at_T_v
                for view, (at, at_T_v) in self._reported.items()
                if views[view].camera == camera
            }
            if not self.rig_only(camera):
                self._reported = {view: entry for view, entry in self._reported.items() if view not in reported}
                continue
            now = np.stack([views[view].pose for view in reported])
            self._move(camera, _similarity(now, np.stack(list(reported.values()))))

    def _move(self, camera: int, new_S_old: Similarity) -> None:
        own = [view for view in self.state.sparse.posed() if self.state.sparse.views[view].camera == camera]
        ids = np.unique(np.concatenate([self.state.sparse.views[view].seen.ids for view in own]))
        self.state.sparse.points[ids] = new_S_old.apply(self.state.sparse.points[ids])
        for view in own:
            self.state.sparse.views[view].w_T_c = new_S_old.pose(self.state.sparse.views[view].pose)

    def _fits(self, stream: CameraStream, a: Array, b: Array, b_T_a: Array, known: bool) -> bool:
        """Whether matches (N, 2) fit a motion; for an unknown focal, their estimate is kept."""
        intrinsics = self.state.sparse.intrinsics[stream.index]
        a, b = intrinsics.lens.ideal(a), intrinsics.lens.ideal(b)
        if known:
            return _agree(a, b, b_T_a, intrinsics.focal)
        try:
            found = focal_from_motion(a, b, b_T_a, stream.long_edge, threshold_px=_ERROR_PX)
        except GeometryError:
            return False
        fits = _agree(a, b, b_T_a, found.focal)
        if fits:
            self.focal_votes.vote(stream, found.focal, found.std)
        return fits

    def _covariance(self) -> Array:
        depth = self.state.sparse.median_depth(self.state.sparse.posed()[-1])
        position = _POSITION_STD * (depth if np.isfinite(depth) else 1.0)
        return np.diag([position**2] * 3 + [_ANGLE_STD**2] * 3)


def _agree(a: Array, b: Array, b_T_a: Array, focal: float) -> bool:
    """Whether most matches (N, 2) lie on the epipolar lines of a motion and on their own give a similar direction.

    Between close frames the lines alone would agree with extrinsics that are far off.
    """
    fit = np.abs(sampson(a, b, b_T_a, focal)) < _ERROR_PX
    if not fit.mean() > _SHARE:
        return False
    x, y = (rays(offsets[fit], focal, (0.0, 0.0)) for offsets in (a, b))
    planes = np.cross(x @ b_T_a[:3, :3].T, y)  # the translation is perpendicular to all of these
    direction = np.linalg.svd(planes.T @ planes)[2][-1]
    t = b_T_a[:3, 3]
    return bool(abs(direction @ t) > np.cos(np.radians(_DIRECTION_DEG)) * np.linalg.norm(t))


def _similarity(now: Array, reported: Array) -> Similarity:
    """The similarity between poses (N, 4, 4): rotation comes from rotations, since positions may lie on one line."""
    R = Rotation.from_matrix(reported[:, :3, :3] @ np.swapaxes(now[:, :3, :3], 1, 2)).mean().as_matrix()
    middles = now[:, :3, 3].mean(axis=0), reported[:, :3, 3].mean(axis=0)
    lengths = [
        float(np.linalg.norm(poses[:, :3, 3] - middle)) for poses, middle in zip((now, reported), middles, strict=True)
    ]
    scale = lengths[1] / lengths[0] if min(lengths) > 0 else 1.0
    return Similarity(scale, R, middles[1] - scale * R @ middles[0])
