"""Focal lengths of a map of landmarks: the first poses, other focals tried, what a lens leaves open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.alignment.bootstrap import FOCAL_STARTS, Options, bootstrap
from dust3r_ros.alignment.first_pair import PairFromLandmarks
from dust3r_ros.alignment.lens import USUAL_BEND, focal_shift
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.alignment.sparse_view import Focal
from dust3r_ros.config import MapperConfig
from dust3r_ros.keyframes import YOUNG
from dust3r_ros.streams import CameraStream, KeyframeRecord

_FIRST_KEYFRAMES = 3  # with an unknown focal; two views alone do not tell it
_OTHER_FOCAL = 1.15  # starts closer than this factor to the focal at hand lead to where it is
# A start is free to choose its pair, its focal and all poses: chance fits more to it than to one pose in a map.
_START_INLIERS = 15
_SURE_OF_FOCAL = 0.02  # relative standard deviation


class Calibrator:
    """Builds a map anew from what its keyframes see, as long as its focal may be wrong."""

    def __init__(self, sparse: SparseMap, records: Sequence[KeyframeRecord], config: MapperConfig) -> None:
        self._sparse, self._records, self._config = sparse, records, config
        self._sure = False

    def begin(self, stream: CameraStream) -> bool:
        """Pose the first keyframes together; whether that was possible."""
        focal = self._sparse.focals[stream.index]
        if len(self._records) < (2 if focal.fixed else _FIRST_KEYFRAMES):
            return False
        begun = self._bootstrap(stream, self._starts(stream))
        self.consider_lens(stream)
        return begun

    def improve(self, stream: CameraStream) -> bool:
        """Try other focals while the map is young; whether one of them explains it better, and it was built anew."""
        focal = self._sparse.focals[stream.index]
        several = any(record.stream is not stream for record in self._records)
        better = False
        if not (focal.fixed or self._sure or several or len(self._records) > YOUNG):
            before = focal.value
            better = self._bootstrap(stream, [start for start in self._starts(stream) if _other(start, focal)])
            agreed = abs(np.log(focal.value / before)) < 2 * _SURE_OF_FOCAL
            self._sure = agreed and focal.std < _SURE_OF_FOCAL
        self.consider_lens(stream)
        return better

    def consider_lens(self, stream: CameraStream) -> None:
        """How sure the focal is, for a lens of which nobody knows how much it bends."""
        shift = focal_shift(self._sparse, stream.index, stream.long_edge / 2)
        self._sparse.focals[stream.index].lens_std = USUAL_BEND * abs(shift)

    def _bootstrap(self, stream: CameraStream, focals: Sequence[float]) -> bool:
        options = Options(PairFromLandmarks(), max(_START_INLIERS, self._config.track_min_inliers), self._config.seed)
        return bool(bootstrap(self._sparse, range(len(self._records)), stream.index, focals, options))

    def _starts(self, stream: CameraStream) -> list[float]:
        """Focals to try, pixels of the tracked image: the known one, the one that an older map tells, or all usual."""
        focal = self._sparse.focals[stream.index]
        if focal.fixed or focal.std < _SURE_OF_FOCAL:
            return [focal.value]
        return [start * stream.long_edge for start in FOCAL_STARTS]


def _other(start: float, focal: Focal) -> bool:
    return bool(abs(np.log(start / focal.value)) > np.log(_OTHER_FOCAL))
