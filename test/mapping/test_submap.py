"""Both kinds of map fulfil one protocol; what only one kind can do, does nothing in the other."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import Oracle
from sequences import SMALL, walk

from dust3r_ros.backends import make_backend
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.landmark_map import MapBuilder
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.pointmap_map import PointmapBuilder
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.submap import Submap
from dust3r_ros.timing import no_timer


def pointmaps() -> PointmapBuilder:
    return PointmapBuilder(Reconstruction(SMALL), Oracle(walk("orbit"), SMALL.working_size), no_timer)


@pytest.mark.parametrize("made", [lambda: MapBuilder(Reconstruction(SMALL), make_backend(SMALL), no_timer), pointmaps])
def test_a_map_without_images_says_so(made) -> None:
    submap: Submap = made()
    assert len(submap) == 0 and submap.posed() == [] and not submap.initialised
    assert len(submap.landmarks().points) == 0 and submap.regions == 0 and submap.graph.edges == []
    assert submap.take_changed() == () and submap.deferred.due == "" and submap.deferred.backlog == 0


def test_pointmaps_leave_alone_what_only_landmarks_can_do() -> None:
    sequence = walk("orbit")
    mapper = Mapper(SMALL, backend=Oracle(sequence, SMALL.working_size, warp=0.05))
    mapper.go_live(False)
    for index in range(8):
        mapper.process(int(sequence.stamps_ns[index]), "camera", sequence.images[index])
    submap, other = mapper.submap, pointmaps()
    assert submap.initialised and len(submap) > 2
    assert submap.deferred.due == "" and submap.deferred.backlog == 0, "nothing is put off"
    stream = mapper.stream("camera")
    stranger = CameraStream("other", 1, sequence.width, sequence.height, SMALL)
    assert submap.finder.accepts_camera(stranger) and submap.accepts(stranger)
    gray = stream.gray(sequence.images[0])
    assert submap.placement.place(stream, 0, gray, lambda stamp: np.eye(4)) is None and not submap.placement.rig_only(0)
    before = [submap.pose(index).tobytes() for index in submap.posed()]
    submap.placement.report(0, np.diag([2.0, 2.0, 2.0, 1.0]), True)
    assert submap.alike(other, 0) == []
    assert submap.absorb(other, np.zeros((30, 2), int), np.arange(30) % 3) is None
    assert [submap.pose(index).tobytes() for index in submap.posed()] == before
    assert len(submap.landmarks().points) == 0
