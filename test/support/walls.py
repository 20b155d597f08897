"""A wall with a picture on the left and one on the right, of which keyframes of one map may see different ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation
from sequences import SMALL

from dust3r_ros.features.features import Features
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.tracking import Tracks

PICTURE = 200  # landmarks
AGAIN, BEFORE = 2, 3  # on the right: the first one, as other landmarks; another one that stands before the wall
_FOCAL, _MIDDLE = 200.0, np.array([0.0, 0.0, 5.0])


def wall(rights: Sequence[int], first: int = 0, shown: float = 1.0, slants: Sequence[float] = ()) -> Reconstruction:
    """Keyframes in a row that see the same picture on the left and number ``rights[k]`` on the right, 0 to 3.

    Landmark i is the same in every such map. ``first``: where in the row they begin; ``shown``: the share of its
    landmarks that each has features of; ``slants``: degrees by which each went up around the wall's middle.
    """
    rng = np.random.default_rng(0)
    points = rng.uniform([0.0, -1.0, 5.0], [1.6, 1.0, 5.02], (5 * PICTURE, 3))
    points[:PICTURE, 0] -= 1.6
    points[-PICTURE:] *= 0.7
    spikes = rng.gamma(0.15, size=(len(points), 128))
    descriptors = np.minimum(512 * spikes / np.linalg.norm(spikes, axis=1, keepdims=True), 255).astype(np.uint8)
    for rows in (points, descriptors):
        rows[(1 + AGAIN) * PICTURE : -PICTURE] = rows[PICTURE : 2 * PICTURE]
    state, camera = Reconstruction(SMALL), CameraStream("camera", 0, 240, 176, SMALL)
    state.sparse.intrinsics.append(Intrinsics(_FOCAL, _FOCAL))
    state.sparse.landmarks.new(len(points))
    state.sparse.points = points
    for at, right in enumerate(rights):
        R = Rotation.from_euler("x", slants[at] if slants else 0.0, degrees=True).as_matrix()
        w_T_c = pose(R, _MIDDLE - R @ _MIDDLE) @ pose(np.eye(3), [0.2 * (at + first) - 0.6, 0.0, 0.0])
        ids = np.concatenate([np.arange(PICTURE), np.arange(PICTURE) + (1 + right) * PICTURE])
        ids = np.sort(ids[rng.random(len(ids)) < shown])
        here = transform(invert(w_T_c), points[ids])
        pixels = _FOCAL * here[:, :2] / here[:, 2:]
        image, features = np.zeros((120, 160, 3), np.uint8), Features(pixels, descriptors[ids])
        state.append(KeyframeRecord(at, camera, image, features, ids))
        state.sparse.add(0, Tracks(ids, pixels), w_T_c)
    return state
