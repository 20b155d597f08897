"""Keyframes measured again in their images: features go where their landmarks are, and maps become more exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from branches import branch
from scoring import alignment, play, trajectory_error

from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.mapping.keypoint_adjustment import KeypointAdjustment
from dust3r_ros.mapping.landmark_map import MapBuilder
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.submap import LocatedFrame
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence
from dust3r_ros.sparse.refinement import problem_of, refine, scatter_of


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return render_sequence("orbit", frames=24, width=320, height=240)


@pytest.fixture(scope="module")
def mapped(sequence: RenderedSequence) -> Mapper:
    """A map before its last adjustment, which others go on from."""
    mapper = Mapper(replace(MapperConfig(), dense=False, focal=sequence.focal))
    play(mapper, sequence)
    return mapper


@pytest.fixture(scope="module")
def finished(mapped: Mapper) -> Mapper:
    """After it."""
    mapper = branch(mapped)
    mapper.finish()
    return mapper


@pytest.fixture(scope="module")
def builder(mapped: Mapper) -> MapBuilder:
    found = branch(mapped.submap)
    assert isinstance(found, MapBuilder) and len(found.posed()) >= 6
    return found


def test_observations_move_to_where_they_agree_and_count_by_how_exact_they_are(builder: MapBuilder) -> None:
    sparse = builder.state.sparse
    before, snapshot = scatter_of(sparse, problem_of(sparse)), sparse.snapshot()
    ids = [view.seen.ids for view in sparse.views]
    with KeypointAdjustment(builder.state).measured(builder.state.sparse):
        spread = sparse.spread
        assert spread is not None
        problem = problem_of(sparse)
        assert problem is not None and problem[0].spread is not None
        assert np.median(problem[0].spread) < 3 < np.quantile(problem[0].spread, 0.99), "what is not found is rough"
        refine(sparse, sharp=True, iterations=20)
        after = scatter_of(sparse, problem_of(sparse))
    assert sparse.spread is None and after < 0.6 * before
    for view, was in zip(sparse.views, ids, strict=True):
        assert set(view.seen.ids) | set(view.pruned.ids) >= set(was), "nothing is lost"
    sparse.restore(snapshot)


def test_measured_observations_are_nearer_to_the_truth(builder: MapBuilder, sequence: RenderedSequence) -> None:
    """Of a landmark's true place, which is the reference's pixel at its true depth."""
    sparse, state = builder.state.sparse, builder.state
    snapshot = sparse.snapshot()

    def off() -> float:
        """The median distance between what one keyframe sees and where the true depth of the one before shows it."""
        found = []
        for first, second in zip(sparse.posed(), sparse.posed()[1:], strict=False):
            a, b = sparse.views[first].seen, sparse.views[second].seen
            _, i, j = np.intersect1d(a.ids, b.ids, return_indices=True)
            rows = [list(sequence.stamps_ns).index(state.records[k].stamp_ns) for k in (first, second)]
            scale = state.records[first].stream.tracking_scale
            native = (state.records[first].stream.pixels(a.pixels[i]) + 0.5) / scale - 0.5
            column, row = np.round(native).astype(int).T
            depth = sequence.depths[rows[0]][row, column]
            rays = np.column_stack([a.pixels[i] / (scale * sequence.focal), np.ones(len(i))])
            points = transform(invert(sequence.w_T_c[rows[1]]) @ sequence.w_T_c[rows[0]], depth[:, None] * rays)
            shown = scale * sequence.focal * points[:, :2] / points[:, 2:]
            found.append(np.linalg.norm(shown - b.pixels[j], axis=1))
        return float(np.median(np.concatenate(found)))

    before = off()
    with KeypointAdjustment(state).measured(state.sparse):
        assert off() < 0.6 * before
    sparse.restore(snapshot)


def test_keyframes_without_an_image_are_left_as_they_are(builder: MapBuilder) -> None:
    """Those of an older session; without any, nothing is measured, and all count alike."""
    state, sparse = builder.state, builder.state.sparse
    images, snapshot = [record.gray for record in state.records], sparse.snapshot()
    for record in state.records[::2]:
        record.gray = None
    seen = [view.seen for view in sparse.views]
    with KeypointAdjustment(state).measured(state.sparse):
        changed = [now is not was for now, was in zip([view.seen for view in sparse.views], seen, strict=True)]
        assert not any(changed[::2]) and any(changed[1::2])
    for record in state.records:
        record.gray = None
    sparse.restore(snapshot)
    with KeypointAdjustment(state).measured(state.sparse):
        assert all(now.seen is was for now, was in zip(sparse.views, seen, strict=True))
        assert refine(sparse, sharp=True, iterations=2) is not None
    for record, image in zip(state.records, images, strict=True):
        record.gray = image
    sparse.restore(snapshot)


def test_frames_are_posed_by_the_patches_of_keyframes(builder: MapBuilder, sequence: RenderedSequence) -> None:
    """As exactly as keyframes; what is far from where a frame is thought to be, or not in its image, counts little."""
    sparse, state = builder.state.sparse, builder.state
    snapshot, adjustment = sparse.snapshot(), KeypointAdjustment(state)
    index = sparse.posed()[3]
    stream, gray, seen = state.records[index].stream, state.records[index].gray, sparse.views[index].seen
    w_T_c = sparse.views[index].pose
    assert gray is not None
    nearby = w_T_c.copy()
    nearby[:3, 3] += 0.002
    frame = LocatedFrame(stream, seen, nearby, gray)
    assert adjustment.poses([frame]) == [None], "no keyframe was measured"
    with adjustment.measured(sparse):
        refine(sparse, sharp=True, iterations=20)
    exact, other, dark, far = adjustment.poses(
        [
            frame,
            replace(frame, tracks=seen.select(np.arange(len(seen.ids)) % 3 == 0)),
            replace(frame, gray=np.zeros_like(gray)),
            replace(frame, w_T_c=w_T_c @ np.diag([-1.0, 1.0, -1.0, 1.0])),
        ]
    )
    assert exact is not None and other is not None and dark is not None and far is None
    off = [float(np.linalg.norm((pose - sparse.views[index].pose)[:3, 3])) for pose in (exact, other, dark)]
    assert off[0] < 2e-4 and off[1] < 3e-4, "fewer corners of its own make hardly a difference"
    assert off[1] < off[2] < 0.01, "followed corners alone"
    assert adjustment.poses([]) == []
    sparse.restore(snapshot)


def test_frames_between_keyframes_are_as_exact(
    sequence: RenderedSequence, mapped: Mapper, finished: Mapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KeypointAdjustment, "poses", lambda _, frames: [None] * len(frames))
    without = branch(mapped)
    without.finish()
    for mapper in (finished, without):
        assert len(mapper.keyframes) < len(sequence.images) == len(mapper.trajectory())
    assert trajectory_error(finished, sequence) < 0.9 * trajectory_error(without, sequence)


def test_a_finished_map_is_more_exact(
    sequence: RenderedSequence, mapped: Mapper, finished: Mapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        KeypointAdjustment, "_found", lambda _, seen, *rest: (seen.offset, np.full(len(seen.view), np.nan))
    )
    without = branch(mapped)
    without.finish()
    errors = [float(np.sqrt(np.mean(alignment(m.keyframes, sequence)[1] ** 2))) for m in (finished, without)]
    assert errors[0] < 0.8 * errors[1]
