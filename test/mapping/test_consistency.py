"""When a map is in doubt, and when a stretch of it is to be rebuilt."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from rings import ring
from sequences import SMALL

from dust3r_ros.mapping.consistency import Consistency
from dust3r_ros.mapping.reconstruction import Reconstruction


@pytest.fixture
def state() -> Reconstruction:
    """Keyframes 20 to 29 of 40 see over a third elsewhere."""
    walk, made = ring(40, 0.0), Reconstruction(SMALL)
    made.sparse, stream = walk.sparse, SimpleNamespace(index=0)
    for view in walk.sparse.views[20:30]:
        view.seen.pixels[::3] += 50.0
    for _ in range(40):
        made.records.append(SimpleNamespace(stream=stream))  # type: ignore[arg-type]
    made.initialised = made.settled = True
    return made


def test_doubt_is_where_keyframes_in_a_row_see_what_contradicts(state: Reconstruction) -> None:
    consistency = Consistency(state)
    assert consistency.doubt is None and consistency.worst == 0.0, "nobody asked yet"
    consistency.renew()
    doubt = consistency.doubt
    assert doubt is not None and 17 <= doubt.first <= 20 and 29 <= doubt.last <= 32
    assert doubt.share == consistency.worst > 0.25


def test_what_was_adjusted_is_asked_again(state: Reconstruction) -> None:
    consistency, views = Consistency(state), state.sparse.views
    consistency.renew(range(40))
    for view in views[20:30]:
        view.seen.pixels[::3] -= 50.0
    consistency.renew(range(16, 24))
    doubt = consistency.doubt
    assert doubt is not None and doubt.first >= 22
    consistency.renew()
    assert consistency.doubt is None and consistency.worst < 0.01


def test_it_follows_the_numbers_of_keyframes(state: Reconstruction) -> None:
    """The first four are culled, and the newest was not asked yet."""
    consistency = Consistency(state)
    consistency.renew()
    before = consistency.doubt
    consistency.renumber(np.arange(-4, 37))
    doubt = consistency.doubt
    assert before is not None and doubt is not None
    assert (doubt.first, doubt.last, doubt.share) == (before.first - 4, before.last - 4, before.share)


def test_a_stretch_is_tried_again_when_the_map_has_grown(state: Reconstruction) -> None:
    consistency, records = Consistency(state), state.records
    state.records = records[:20]
    assert not consistency.rebuild_due(), "nothing contradicts it yet"
    consistency.renew()
    assert consistency.rebuild_due()
    consistency.rebuilding()
    state.records = records[:25]
    assert not consistency.rebuild_due() and consistency.rebuild_due(last=True)
    state.records = records[:26]
    assert consistency.rebuild_due()
    consistency.rebuilding()
    assert not consistency.rebuild_due(last=True), "this was tried"


def test_calibration_comes_first_and_several_cameras_hold_each_other(state: Reconstruction) -> None:
    consistency = Consistency(state)
    consistency.renew()
    state.settled = False
    state.sparse.intrinsics[0].fixed = False
    assert not consistency.rebuild_due() and consistency.rebuild_due(last=True)
    state.settled = True
    state.records[7] = SimpleNamespace(stream=SimpleNamespace(index=1))  # type: ignore[assignment]
    assert not consistency.rebuild_due() and not consistency.rebuild_due(last=True)
    state.records[7] = state.records[0]
    state.initialised = False
    assert not consistency.rebuild_due(last=True)
    assert np.isfinite(consistency.worst)
