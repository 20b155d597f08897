"""The state of a map: how sure it is of its cameras, when it is in doubt, and when a stretch of it is to be rebuilt."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rings import ring
from sequences import SMALL

from dust3r_ros.config import MapperConfig
from dust3r_ros.features.features import Features
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.reconstruction import MOST_UNSURE, Consistency, Reconstruction
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.tracking import no_tracks

CONFIG = MapperConfig()
FIRST, SECOND = (CameraStream(name, index, 320, 240, CONFIG) for index, name in enumerate(("first", "second")))


def state(*cameras: CameraStream, **focal: Any) -> Reconstruction:
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


def test_a_focal_is_guessed_since_the_camera_moved() -> None:
    one = state(FIRST)
    one.records = [SimpleNamespace(stream=FIRST, stamp_ns=10 * k) for k in range(3)]
    intrinsics = one.sparse.intrinsics[0]
    assert one.guessing_since == 10 and not one.trusted and one.presumed
    intrinsics.std = 0.02
    assert one.guessing_since == 10 and one.trusted and not one.presumed
    intrinsics.std = 0.005
    assert one.guessing_since is None
    intrinsics.std, one.records = np.inf, one.records[:1]
    assert one.guessing_since is None, "it has not moved"


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
    vague, sure = state(FIRST, std=0.02, rival=(432.0, 1.0, 320.0)), state(FIRST, std=0.03)
    vague.settled, sure.settled = not settled, settled
    vague.absorb(sure, Similarity.identity(), nothing)
    assert vague.settled is settled and vague.sparse.intrinsics[0].std == 0.03
    vague, sure = state(FIRST, std=0.02, rival=(432.0, 1.0, 320.0)), state(FIRST, std=0.03)
    vague.settled, sure.settled = not settled, settled
    sure.absorb(vague, Similarity.identity(), nothing)
    assert sure.settled is settled and sure.sparse.intrinsics[0].std == 0.03
    other = state(SECOND, std=0.01)
    other.settled = not settled
    sure.absorb(other, Similarity.identity(), nothing)
    assert sure.settled is settled


@pytest.fixture
def torn() -> Reconstruction:
    """Keyframes 20 to 29 of 40 see over a third elsewhere."""
    walk, made = ring(40, 0.0), Reconstruction(SMALL)
    made.sparse, stream = walk.sparse, SimpleNamespace(index=0)
    for view in walk.sparse.views[20:30]:
        view.seen.pixels[::3] += 50.0
    for _ in range(40):
        made.records.append(SimpleNamespace(stream=stream))  # type: ignore[arg-type]
    made.initialised = made.settled = True
    return made


def test_doubt_is_where_keyframes_in_a_row_see_what_contradicts(torn: Reconstruction) -> None:
    consistency = Consistency(torn)
    assert consistency.doubt is None and consistency.worst == 0.0, "nobody asked yet"
    consistency.renew()
    doubt = consistency.doubt
    assert doubt is not None and 17 <= doubt.first <= 20 and 29 <= doubt.last <= 32
    assert doubt.share == consistency.worst > 0.25


def test_what_was_adjusted_is_asked_again(torn: Reconstruction) -> None:
    consistency, views = Consistency(torn), torn.sparse.views
    consistency.renew(range(40))
    for view in views[20:30]:
        view.seen.pixels[::3] -= 50.0
    consistency.renew(range(16, 24))
    doubt = consistency.doubt
    assert doubt is not None and doubt.first >= 22
    consistency.renew()
    assert consistency.doubt is None and consistency.worst < 0.01


def test_it_follows_the_numbers_of_keyframes(torn: Reconstruction) -> None:
    """The first four are culled, and the newest was not asked yet."""
    consistency = Consistency(torn)
    consistency.renew()
    before = consistency.doubt
    consistency.renumber(np.arange(-4, 37))
    doubt = consistency.doubt
    assert before is not None and doubt is not None
    assert (doubt.first, doubt.last, doubt.share) == (before.first - 4, before.last - 4, before.share)


def test_a_stretch_is_tried_again_when_the_map_has_grown(torn: Reconstruction) -> None:
    consistency, records = Consistency(torn), torn.records
    torn.records = records[:20]
    assert not consistency.rebuild_due(), "nothing contradicts it yet"
    consistency.renew()
    assert consistency.rebuild_due()
    consistency.rebuilding()
    torn.records = records[:25]
    assert not consistency.rebuild_due() and consistency.rebuild_due(last=True)
    torn.records = records[:26]
    assert not consistency.rebuild_due(), "the same stretch was tried in vain"
    consistency.rebuilt()
    assert consistency.rebuild_due(), "the map is another one now"
    consistency.rebuilding()
    torn.records = records[:39]
    assert not consistency.rebuild_due()
    torn.records = [*records, *records][:52]
    assert consistency.rebuild_due(), "twice as many keyframes may see more"
    consistency.rebuilding()
    assert not consistency.rebuild_due(last=True), "this was tried"


def test_a_single_keyframe_is_tried_by_itself(torn: Reconstruction) -> None:
    """Whatever was tried with stretches, and again once the map has grown."""
    consistency, records, views = Consistency(torn), torn.records, torn.sparse.views
    for view in views[20:30]:
        view.seen.pixels[::3] -= 50.0
    torn.records = records[:20]
    consistency.renew()
    consistency.rebuilding()
    views[12].seen.pixels[::2] += 50.0
    assert not consistency.rebuild_due()
    consistency.renew()
    assert consistency.doubt is None and consistency.rebuild_due()
    assert not consistency.rebuilding(), "no stretch is tried because of it"
    assert not consistency.rebuild_due() and not consistency.rebuild_due(last=True)
    consistency.rebuilt()
    assert not consistency.rebuild_due(), "nor it again because the map changed"
    torn.records = records[:26]
    assert consistency.rebuild_due()
    consistency.rebuilding()
    consistency.renumber(np.arange(-4, 36))
    torn.records = records[:30]
    assert not consistency.rebuild_due() and consistency.rebuild_due(last=True), "it is number 8 now"


def test_another_stretch_is_tried_sooner(torn: Reconstruction) -> None:
    consistency, records = Consistency(torn), torn.records
    torn.records = records[:20]
    consistency.renew()
    consistency.rebuilding()
    tried = consistency.doubt
    assert tried is not None and tried.overlaps(tried)
    consistency._tried = [tried._replace(first=0, last=tried.first - 1)]
    torn.records = records[:26]
    assert consistency.rebuild_due()


def test_calibration_comes_first_and_several_cameras_hold_each_other(torn: Reconstruction) -> None:
    consistency = Consistency(torn)
    consistency.renew()
    torn.settled = False
    torn.sparse.intrinsics[0].fixed = False
    assert not consistency.rebuild_due() and consistency.rebuild_due(last=True)
    torn.settled = True
    torn.records[7] = SimpleNamespace(stream=SimpleNamespace(index=1))  # type: ignore[assignment]
    assert not consistency.rebuild_due() and not consistency.rebuild_due(last=True)
    torn.records[7] = torn.records[0]
    torn.initialised = False
    assert not consistency.rebuild_due(last=True)
    assert np.isfinite(consistency.worst)
