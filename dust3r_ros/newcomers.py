"""Cameras on their way into a map that others made: their focal, from what single frames see of it.

Each frame tells pose and focal together, some of them badly (all landmarks in a plane that the camera
faces, few matches, wrong ones). A camera is known once several different frames agree, or one and another camera
with images of the same size: robots often have several of a kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.sparse_map import MAX_ERROR_PX
from dust3r_ros.alignment.sparse_view import Focal
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pose import solve_pnp_unknown_focal
from dust3r_ros.geometry.significance import by_chance
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.streams import CameraStream
from dust3r_ros.tracking import Tracks, no_tracks

_VOTES = 3  # frames that must agree
_KEPT = 10  # newest ones that count
_MOST = 0.6  # of them
_VAGUE = 0.1  # relative standard deviation of a focal that tells nothing
_SURE = 0.03
_MAP_ERROR = 0.02  # what errors of the map itself may do to the focal of a frame
_MIN_INLIERS = 25
_MOVED = 0.01  # of the long edge: a camera at rest says the same again
_FOCALS = (0.4, 4.0)  # of the long edge: 103 to 14 degrees of view


@dataclass(frozen=True, eq=False)
class _Vote:
    """What one frame says: the log of the focal with its standard deviation, and what it saw."""

    log_focal: float
    std: float
    seen: Tracks


class Newcomers:
    """Collects what frames of cameras with unknown focal say; writes the focal into the map when it is sure."""

    def __init__(self, state: Reconstruction) -> None:
        self._state = state
        self._votes: dict[int, list[_Vote]] = {}

    def meet(self, stream: CameraStream, tracks: Tracks) -> bool:
        """A frame that seems to see landmarks ``tracks``; whether the focal of its camera is known from now on."""
        votes = self._votes.setdefault(stream.index, [])
        vote = self._vote(stream, self._state.sparse.known(tracks))
        if vote is None or any(not _moved(vote.seen, other.seen, stream.long_edge) for other in votes[-1:]):
            return False
        self._cast(stream, vote)
        return self.agree(stream)

    def vote(self, stream: CameraStream, focal: float, std: float) -> None:
        """What two frames say of a focal without the map, with its relative standard deviation."""
        if std < _VAGUE:
            self._cast(stream, _Vote(float(np.log(focal)), float(np.hypot(std, _MAP_ERROR)), no_tracks()))

    def _cast(self, stream: CameraStream, vote: _Vote) -> None:
        votes = self._votes.setdefault(stream.index, [])
        votes.append(vote)
        del votes[:-_KEPT]

    def agree(self, stream: CameraStream) -> bool:
        """Whether enough frames agree on the focal of a camera; then it is written."""
        votes, siblings = self._votes.get(stream.index, []), self._siblings(stream)
        usual = bool(votes) and all(any(_alike(vote, sibling) for sibling in siblings) for vote in votes)
        agreed = _agreed(votes, 1 if usual else _VOTES)
        if agreed is None:
            return False
        focal = self._state.sparse.focals[stream.index]
        focal.value, focal.std = agreed
        del self._votes[stream.index]
        return True

    def _siblings(self, stream: CameraStream) -> list[Focal]:
        """Focals that are known, of cameras with images of the same size."""
        size, focals = (stream.width, stream.height), self._state.sparse.focals
        others = {record.stream for record in self._state.records} - {stream}
        same = sorted(other.index for other in others if (other.width, other.height) == size)
        return [focals[index] for index in same if focals[index].std < _SURE]

    def _vote(self, stream: CameraStream, known: Tracks) -> _Vote | None:
        points, lens = self._state.sparse.points[known.ids], self._state.sparse.focals[stream.index].lens
        edge, siblings = stream.long_edge, self._siblings(stream)
        try:
            found = solve_pnp_unknown_focal(
                points,
                lens.ideal(known.pixels),
                edge,
                edge,
                center=(0.0, 0.0),
                threshold_px=MAX_ERROR_PX,
                min_inliers=_MIN_INLIERS,
                seed=self._state.config.seed,
                guess=siblings[0].value if siblings else None,
            )
        except GeometryError:
            return None
        std = found.focal_std / found.focal
        usual = _FOCALS[0] * edge < found.focal < _FOCALS[1] * edge
        if not usual or not std < _VAGUE or by_chance(found, points, known.pixels, MAX_ERROR_PX):
            return None
        return _Vote(float(np.log(found.focal)), float(np.hypot(std, _MAP_ERROR)), known.select(found.inliers))


def _moved(a: Tracks, b: Tracks, long_edge: int) -> bool:
    _, i, j = np.intersect1d(a.ids, b.ids, return_indices=True)
    if len(i) == 0:
        return True
    return float(np.median(np.linalg.norm(a.pixels[i] - b.pixels[j], axis=1))) > _MOVED * long_edge


def _alike(vote: _Vote, sibling: Focal) -> bool:
    return bool(abs(vote.log_focal - np.log(sibling.value)) < 3.0 * np.hypot(vote.std, sibling.std))


def _agreed(votes: list[_Vote], enough: int) -> tuple[float, float] | None:
    """Focal and relative standard deviation on which ``enough`` frames agree, if they do."""
    logs, stds = np.array([vote.log_focal for vote in votes]), np.array([vote.std for vote in votes])
    if len(votes) < enough:
        return None
    order = np.argsort(logs)
    weights = np.cumsum(stds[order] ** -2.0)
    middle = logs[order][np.searchsorted(weights, 0.5 * weights[-1])]
    agree = np.abs(logs - middle) < 3.0 * stds
    if agree.sum() < max(enough, _MOST * len(votes)):
        return None
    weights = stds[agree] ** -2.0
    std = float(weights.sum() ** -0.5)
    return (float(np.exp(weights @ logs[agree] / weights.sum())), std) if std < _SURE else None
