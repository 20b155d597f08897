"""What moves by itself, or was taken away, is found and left out; what stands still stays."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from movers import MovingSequence, walk_among
from plain import bled, plain_walk
from scoring import frame_of, play, trajectory_error
from sequences import SMALL
from sequences import walk as rendered_walk
from synthetic import arc, sparse_of

from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.resize import Resize
from dust3r_ros.mapping import motion_evidence
from dust3r_ros.mapping.map_view import MaskedShare
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.motion_evidence import Evidence, SparseShot, compare
from dust3r_ros.mapping.moving_objects import Movers, region
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import look_at, walk
from dust3r_ros.scenes.world import person

WIDTH, HEIGHT, FRAMES = 160, 120, 12


def sweep(frames: int = FRAMES) -> np.ndarray:
    """A camera that goes 1.2 m to the right before the table, looking at the wall behind."""
    across = np.linspace(-0.6, 0.6, frames)
    return np.stack([look_at(np.array([x, -2.0, 1.4]), np.array([0.7 * x, 1.0, 1.0])) for x in across])


@lru_cache(maxsize=8)
def rendered(kind: str) -> MovingSequence:
    """Someone who leaves after half of the frames, who walks through the view, nobody."""
    poses = sweep()
    places = {
        "leaves": [np.array([0.2, 0.3, 0.0]) if k < FRAMES // 2 else None for k in range(FRAMES)],
        "comes": [np.array([0.2, 0.3, 0.0]) if k >= FRAMES // 2 else None for k in range(FRAMES)],
        "walks": [np.array([-1.0 + 0.25 * k, 0.3, 0.0]) for k in range(FRAMES)],
        "stays": [np.array([0.2, 0.3, 0.0])] * FRAMES,
        "nobody": [None] * FRAMES,
    }[kind]
    return walk_among(places, poses, width=WIDTH, height=HEIGHT, supersample=1)


def compared_all(shots: list[SparseShot], break_ms: int = 0) -> list[Evidence]:
    """The evidence of all keyframes, each compared with every other; a break after half of them."""
    times = [index + break_ms * (index >= len(shots) // 2) for index in range(len(shots))]
    given = [Evidence(time, shot) for time, shot in zip(times, shots, strict=True)]
    pairs = [(a, b) for a in range(len(shots)) for b in range(len(shots)) if a != b]
    found = [compare(shots[a], shots[b], given[a], given[b]) for a, b in pairs]
    for (a, b), comparison in zip(pairs, found, strict=True):
        comparison.count(given[a], given[b])
    return given


def regions(shots: list[SparseShot], break_ms: int = 0) -> list[np.ndarray]:
    """Regions that move by that."""
    return [region(shot, evidence) for shot, evidence in zip(shots, compared_all(shots, break_ms), strict=True)]


def true_shots(world: MovingSequence, depths: np.ndarray | None = None) -> list[SparseShot]:
    """What keyframes with these depths (N, H, W), the true ones by default, and confidence 5 show."""
    sequence = world.sequence
    sure = np.full((HEIGHT, WIDTH), 5, np.float32)
    return [
        SparseShot.of(image, depth, sure, pose, sequence.focal, 1.5)
        for image, depth, pose in zip(
            sequence.images, sequence.depths if depths is None else depths, sequence.w_T_c, strict=True
        )
    ]


def recall_and_loss(found: list[np.ndarray], moving: np.ndarray) -> tuple[float, float]:
    """Parts of what moves, and of what does not, that were found."""
    all_found = np.stack(found)
    return float(all_found[moving].mean()), float(all_found[~moving].mean())


@pytest.mark.parametrize("kind", ["leaves", "comes", "walks"])
def test_what_others_look_through_is_found(kind: str) -> None:
    world = rendered(kind)
    recall, loss = recall_and_loss(regions(true_shots(world)), world.moving)
    assert 0.02 < world.moving.mean() < 0.2
    assert recall > 0.5, "legs under the table are a piece of their own, seen before a floor of like colours"
    assert loss < 0.04, "outlines are vague, so a rim is lost"


@pytest.mark.parametrize("kind", ["nobody", "stays"])
def test_what_stands_still_stays(kind: str) -> None:
    assert not np.stack(regions(true_shots(rendered(kind)))).any()


def test_noise_of_depth_is_no_motion() -> None:
    world, rng = rendered("stays"), np.random.default_rng(0)
    depths = world.sequence.depths * np.exp(0.04 * rng.standard_normal(world.sequence.depths.shape))
    assert np.stack(regions(true_shots(world, depths.astype(np.float32)))).mean() < 0.001


def test_a_wrong_depth_is_no_motion() -> None:
    """Some keyframes take a piece of the table for the wall: what they see there has the table's colours."""
    world = rendered("nobody")
    depths = world.sequence.depths.copy()
    depths[::2, 70:110, 40:120] *= 1.6
    assert np.stack(regions(true_shots(world, depths))).mean() < 0.003


@pytest.mark.parametrize("factor", [0.5, 0.6])
def test_a_depth_too_small_is_no_motion(factor: float) -> None:
    """Some keyframes take a piece of the wall for something near: others see past it, but the wall behind is known."""
    world = rendered("nobody")
    depths = world.sequence.depths.copy()
    depths[3:6, 10:60, 30:130] *= factor
    shots = true_shots(world, depths)
    given = compared_all(shots)
    assert sum(int(evidence.gone.sum()) for evidence in given) > 100, "or nothing is seen through"
    assert not np.stack(regions(shots)).any()


def test_depth_that_others_see_through_is_dropped_though_nothing_moves() -> None:
    """A keyframe takes a piece of the room for something near: points in the air, which are no object."""
    sequence = rendered_walk("orbit")
    mapper = Mapper(replace(SMALL, focal=sequence.focal))
    play(mapper, sequence)
    mapper.finish()
    dense, movers, before = mapper.submap._depth.dense, mapper.submap._depth.movers, mapper.keyframes
    wrong = len(before) // 2
    depth, confidence = before[wrong].depth.copy(), before[wrong].confidence.copy()
    piece = slice(30, 90), slice(40, 120)
    depth[piece] *= 0.4
    dense.depths.clear(wrong)
    dense.depths[wrong].restore(depth, confidence)
    assert wrong in movers.look_again()
    after, least = mapper.keyframes, mapper.config.min_confidence
    had, has = (keyframes[wrong].confidence[piece] > least for keyframes in (before, after))
    assert has.mean() < 0.8 * had.mean()
    for index in set(range(len(before))) - {wrong}:
        known = before[index].confidence > least
        assert (after[index].confidence > least)[known].mean() > 0.99


def test_a_plain_floor_beside_something_near_is_no_motion() -> None:
    """The depth of a cabinet spreads over the floor, which has no texture of its own, in every fourth keyframe."""
    world = plain_walk(16, WIDTH, HEIGHT)
    depths = world.sequence.depths.copy()
    depths[::4] = [bled(depth, 10) for depth in depths[::4]]
    assert not np.stack(regions(true_shots(world, depths))).any()


def exposed(world: MovingSequence) -> MovingSequence:
    """The same seen by a camera that sets its exposure and white balance anew with every frame."""
    gains = np.random.default_rng(1).uniform(0.6, 1.2, (len(world.sequence), 1, 1, 3))
    images = np.clip(world.sequence.images * gains, 0, 255).astype(np.uint8)
    return MovingSequence(replace(world.sequence, images=images), world.moving)


def test_exposure_is_no_motion() -> None:
    """Depth is noisy and too small in places, and nothing keeps its colours."""
    world = exposed(rendered("nobody"))
    depths = world.sequence.depths.copy()
    depths[::3, 10:60, 30:80] *= 0.7
    assert not np.stack(regions(true_shots(world, depths))).any()


def test_what_moves_is_found_whatever_the_exposure() -> None:
    world = exposed(rendered("leaves"))
    recall, loss = recall_and_loss(regions(true_shots(world)), world.moving)
    assert recall > 0.5 and loss < 0.04


def test_colours_tell_nothing_where_hardly_anything_is_seen_by_both() -> None:
    """Depths disagree everywhere, so nobody knows how colours of one keyframe look in the other."""
    world = rendered("nobody")
    depths = world.sequence.depths.copy()
    depths[1] *= 3
    one, other = true_shots(world, depths)[:2]
    given = Evidence(0, one), Evidence(1, other)
    assert not len(compare(one, other, *given).through) and not given[0].agree.any()


def test_who_goes_along_with_the_camera_does_not_take_the_wall_with_him() -> None:
    """His depth comes out far behind the wall: the wall was there before him and is there after him."""
    world = rendered("walks")
    depths = np.where(world.moving, np.float32(9.0), world.sequence.depths)
    assert np.stack(regions(true_shots(world, depths)))[~world.moving].mean() < 0.01


@pytest.mark.parametrize("days", [1, 26, 3652])
def test_a_map_may_be_continued_after_years(days: int) -> None:
    world = rendered("leaves")
    recall, loss = recall_and_loss(regions(true_shots(world), days * 86_400_000), world.moving)
    whole, _ = recall_and_loss(regions(true_shots(world)), world.moving)
    assert recall > 0.9 * whole and loss < 0.02


def test_little_evidence_is_none() -> None:
    world = rendered("leaves")
    shots = true_shots(world)
    assert not np.stack(regions(shots[4:8])).any(), "two that look through him are not enough"


def test_nothing_is_known_without_depth() -> None:
    world = rendered("leaves")
    nothing = np.zeros_like(world.sequence.depths)
    shots = true_shots(world, nothing)
    assert not np.stack(regions(shots)).any()
    other = true_shots(world)[1]
    given = Evidence(0, shots[0])
    said = compare(shots[0], other, given, Evidence(1, other))
    assert not len(said.through) and not len(said.hidden) and not given.agree.any()


def test_barred_landmarks_get_no_position_and_pass_that_on() -> None:
    sparse = sparse_of(arc(views=4, points=40))
    sparse.points[:] = np.nan
    sparse.landmarks.bar(np.array([3, 7]))
    sparse.extend()
    assert np.flatnonzero(~sparse.positioned).tolist() == [3, 7]
    sparse.merge(np.array([2]), np.array([7]))
    assert sparse.landmarks.is_barred(np.array([2, 3, 4, 7])).tolist() == [True, True, False, True]
    sparse.landmarks.clear_barred()
    sparse.extend()
    assert sparse.positioned[3]


@lru_cache(maxsize=4)
def mapped(moving_objects: bool) -> tuple[Mapper, MovingSequence, list[MaskedShare]]:
    """Someone stands by the table that the camera walks around and leaves before the middle; the focal is known."""
    poses = walk("orbit", 40, rate_hz=6.0, laps=0.4, seed=3)
    places = [np.array([-0.5, -0.5, 0.0]) if k < 18 else None for k in range(40)]
    world = walk_among(places, poses, world=room(3), mover=person(1.5, 0.18, seed=7), width=320, height=240)
    mapper = Mapper(MapperConfig(focal=world.sequence.focal, moving_objects=moving_objects))
    counts = []
    for frame in range(len(world.sequence)):
        play(mapper, world.sequence, [frame])
        counts.append(mapper.masked_share)
    mapper.finish()
    return mapper, world, counts


def kept(mapper: Mapper, world: MovingSequence) -> tuple[float, float]:
    """Parts of the pixels on the person, and of the others, with depth in the map."""
    sequence = world.sequence
    resize = Resize.fit(sequence.width, sequence.height, mapper.config.working_size)
    on, off = [], []
    for keyframe in mapper.keyframes:
        moving = resize.apply(255 * world.moving[frame_of(sequence, keyframe.stamp_ns)].astype(np.uint8)) > 127
        known = keyframe.confidence > mapper.config.min_confidence
        assert not (known & (keyframe.depth <= 0)).any()
        on.append(known[moving])
        off.append(known[~moving])
    return float(np.concatenate(on).mean()), float(np.concatenate(off).mean())


@pytest.mark.long
def test_a_person_who_left_is_not_in_the_map() -> None:
    mapper, world, counts = mapped(True)
    plain, _, nothing = mapped(False)
    (person_kept, rest_kept), (person_before, rest_before) = kept(mapper, world), kept(plain, world)
    assert person_before > 0.6, "or there is nothing to find"
    assert person_kept < 0.3 * person_before
    assert rest_kept > 0.97 * rest_before
    assert trajectory_error(mapper, world.sequence) < 0.005
    assert max(left.moving for left in counts) > 0.005 and mapper.masked_share.regions > 5
    assert all(0 < left.far < 0.5 for left in counts[-5:])
    assert all(left.moving == 0 and left.regions == 0 for left in nothing)


@pytest.mark.long
def test_nothing_is_left_out_of_a_plain_world_in_which_nothing_moves() -> None:
    """By hand, at a focal that is not known, so depth and poses are wrong at first."""
    world = plain_walk()
    mapper, most = Mapper(SMALL), 0.0
    for frame in range(len(world.sequence)):
        play(mapper, world.sequence, [frame])
        most = max(most, mapper.masked_share.moving)
    mapper.finish()
    assert most < 0.01 and mapper.masked_share.regions == 0
    assert trajectory_error(mapper, world.sequence) < 0.005


def test_frames_stay_where_they_are_when_landmarks_leave() -> None:
    """They are relative to keyframes, in units of what those see."""
    sequence = rendered_walk("orbit")
    mapper = Mapper(replace(SMALL, dense=False, focal=sequence.focal))
    play(mapper, sequence)
    state, before = mapper.submap.state, mapper.trajectory()
    units = state.units()
    for index, record in enumerate(state.records):
        depth = state.sparse.depths(index, state.sparse.known_in(index).ids)
        record.moving = np.zeros(record.image.shape[:2], bool)
        far = state.sparse.known_in(index).pixels[depth > np.median(depth)]
        columns, rows = np.round(record.stream.to_working(far)).astype(int).T
        record.moving[rows, columns] = True
    Movers(state, mapper.submap._depth.dense)._bar(range(len(state.records)))
    mapper._take_culled()
    assert (state.units() < 0.95 * units).all()
    after = mapper.trajectory()
    assert len(after) == len(before) > len(state.records)
    for now, then in zip(after, before, strict=True):
        np.testing.assert_allclose(now.w_T_c, then.w_T_c, atol=1e-9)


def test_counting_before_there_is_a_map() -> None:
    assert Mapper(SMALL).masked_share == MaskedShare()


@pytest.mark.parametrize("exposure", [False, True])
def test_a_compiler_changes_nothing(exposure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert motion_evidence.LIBRARY is not None
    world = exposed(rendered("walks")) if exposure else rendered("walks")
    noise = np.random.default_rng(0).normal(1, 0.03, world.sequence.depths.shape).astype(np.float32)
    depths = world.sequence.depths * noise * (np.abs(noise - 1) < 0.07)
    compiled = compared_all(true_shots(world, depths))
    monkeypatch.setattr(motion_evidence, "LIBRARY", None)
    plain = compared_all(true_shots(world, depths))
    for one, other in zip(compiled, plain, strict=True):
        for name in vars(one):
            assert np.mean(getattr(one, name) != getattr(other, name)) < 1e-3, name
    assert any(evidence.through.any() and evidence.unlike.any() and evidence.doubt.any() for evidence in plain)
