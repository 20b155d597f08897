"""The state of a map: how sure it is of its cameras."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.config import MapperConfig
from dust3r_ros.features.features import Features
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.reconstruction import MOST_UNSURE, Reconstruction
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.tracking import no_tracks

CONFIG = MapperConfig()
FIRST, SECOND = (CameraStream(name, index, 320, 240, CONFIG) for index, name in enumerate(("first", "second")))


def state(*cameras: CameraStream, **focal: float | bool) -> Reconstruction:
    """Keyframes of ``cameras``; the first one's focal is as said, the second's a guess."""
    made, nothing = Reconstruction(CONFIG), Features(np.zeros((0, 2)), np.zeros((0, 128), np.uint8))
    made.sparse.intrinsics += [Intrinsics(320.0, 320.0, **focal), Intrinsics(300.0, 300.0)]
    for stream in cameras:
        record = KeyframeRecord(len(made.records), stream, np.zeros((1, 1, 3), np.uint8), nothing, np.zeros(0, int))
        made.append(record)
        made.sparse.add(stream.index, no_tracks(), None)
    return made


def test_a_map_is_sure_when_its_first_camera_is() -> None:
    assert not state().sure and not state(FIRST).sure
    assert state(FIRST, std=0.0, fixed=True).sure, "a focal that is given"
    settled = state(FIRST)
    settled.settled = True
    assert settled.sure
    assert state(*[FIRST] * (MOST_UNSURE + 1)).sure, "or when there is no more to hope for"


def test_a_camera_is_known_by_its_focal_or_its_keyframes() -> None:
    made = state(FIRST, FIRST)
    assert made.knows(FIRST) and not made.knows(SECOND)
    made.sparse.intrinsics[1].std = 0.01
    assert made.knows(SECOND)
    assert made.views_by_camera().tolist() == [2, 0] and made.views_of(FIRST) == 2
    assert made.intrinsics_of(1) is made.sparse.intrinsics[0]


def test_the_trail_says_where_cameras_were_last() -> None:
    made = state(FIRST, SECOND, FIRST, FIRST)
    assert made.trail == [0, 1, 2, 3] and [record.before for record in made.records] == [None, None, 0, 2]
    made.visit(0)
    assert made.trail == [1, 2, 3, 0] and made.visits == 5
    assert made.last(FIRST) == 0 and made.last(SECOND) == 1 and made.last(FIRST, 0) is None


@pytest.mark.parametrize("settled", [True, False])
def test_a_joined_map_is_as_settled_as_the_one_whose_focal_stays(settled: bool) -> None:
    """A focal with a rival is less certain than its scatter says; another camera's is not asked."""
    nothing = np.zeros((0, 2), int)
    vague, sure = state(FIRST, std=0.02, rival_std=0.3), state(FIRST, std=0.03)
    vague.settled, sure.settled = not settled, settled
    vague.absorb(sure, Similarity.identity(), nothing)
    assert vague.settled is settled and vague.sparse.intrinsics[0].std == 0.03
    vague, sure = state(FIRST, std=0.02, rival_std=0.3), state(FIRST, std=0.03)
    vague.settled, sure.settled = not settled, settled
    sure.absorb(vague, Similarity.identity(), nothing)
    assert sure.settled is settled and sure.sparse.intrinsics[0].std == 0.03
    other = state(SECOND, std=0.01)
    other.settled = not settled
    sure.absorb(other, Similarity.identity(), nothing)
    assert sure.settled is settled
