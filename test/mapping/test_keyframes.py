"""Landmarks as a cloud: who sees them, where they are and what colour they have there."""

from __future__ import annotations

import numpy as np
from sequences import SMALL

from dust3r_ros.features.features import Features
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.keyframes import landmark_cloud
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks


def test_landmarks_that_two_keyframes_see_have_place_color_and_count() -> None:
    stream = CameraStream("camera", 0, 240, 176, SMALL)
    sparse, records = SparseMap(1.0), []
    rng = np.random.default_rng(0)
    offsets = np.array([[-100.0, 0.0], [0.0, 0.0], [60.0, -40.0], [3000.0, 9.0], [30.0, 30.0]])
    observations = ([0, 1, 2, 3], [1, 2, 3, 4], [2, 4])
    poses = (np.eye(4), np.eye(4), np.eye(4))
    for ids, w_T_c in zip(observations, poses, strict=True):
        sparse.add(0, Tracks(np.array(ids), offsets[ids]), w_T_c)
        image = rng.integers(0, 256, (stream.resize.height, stream.resize.width, 3), dtype=np.uint8)
        records.append(KeyframeRecord(0, stream, image, Features(offsets[:0], np.zeros((0, 128))), np.zeros(0, int)))
    sparse.new_ids(5)
    sparse.points[:] = rng.normal(size=(5, 3))
    sparse.points[4] = np.nan
    cloud = landmark_cloud(sparse, records)
    np.testing.assert_allclose(cloud.points, sparse.points[[1, 2, 3]].astype(np.float32))
    assert cloud.confidence.tolist() == [2, 3, 2]
    columns, rows = np.round(stream.to_working(offsets[[1, 2]])).astype(int).T
    np.testing.assert_array_equal(cloud.colors[:2], records[0].image[rows, columns])
    sparse.views[2].w_T_c = None
    assert landmark_cloud(sparse, records).confidence.tolist() == [2, 2, 2], "who has no pose does not count"
    assert len(landmark_cloud(SparseMap(1.0), [])) == 0
