"""A map on its way to metres: what is known when, what is worth a move, what a move leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from driving import mapped, odometry, way
from scipy.spatial.transform import Rotation
from scoring import path_length
from sequences import SMALL, walk

from dust3r_ros.errors import ConfigError
from dust3r_ros.evaluation.errors import trajectory_errors
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.types import Array, Camera, Frame, Keyframe, MapUpdate, StampedPose, TrackingState
from dust3r_ros.world import WorldAligner, WorldEstimate
from dust3r_ros.world.evidence import ScaleState

SCALE = 2.3
TURN = Rotation.from_rotvec([0.2, -0.1, 1.0]).as_matrix()
IMAGE = np.zeros((2, 2, 3), np.uint8)
NOTHING = np.zeros((2, 2), np.float32)


def moved(poses: Array, S: Similarity) -> Array:
    found = poses.copy()
    found[:, :3, :3] = S.rotation @ poses[:, :3, :3]
    found[:, :3, 3] = S.apply(poses[:, :3, 3])
    return found


class Drive:
    """A robot with odometry, and the map of its camera, every tenth frame a keyframe."""

    def __init__(self, seed: int = 0, count: int = 200, has_odometry: bool = True) -> None:
        rng = np.random.default_rng(seed)
        self.truth = way(rng, count)
        self.poses = mapped(self.truth, rng, SCALE, turn=TURN)
        self.driven = odometry(self.truth, rng, noise=0.01, turn_deg=0.1) if has_odometry else None
        self.world = WorldAligner()
        self.known = 0

    def go(self, until: int) -> WorldEstimate:
        for k in range(self.known, until):
            self.world.observe(Frame(k, "camera", IMAGE, o_T_c=None if self.driven is None else self.driven[k]))
        self.known = until
        self.world.hear(self.update())
        return self.world.estimate(self.trajectory())

    def trajectory(self) -> list[StampedPose]:
        return [StampedPose(k, "camera", self.poses[k]) for k in range(self.known)]

    def keyframes(self) -> tuple[Keyframe, ...]:
        return tuple(
            Keyframe(k, 0, k, "camera", self.poses[k], 1.0, IMAGE, NOTHING, NOTHING + 1)
            for k in range(0, self.known, 10)
        )

    def update(self, removed: Sequence[int] = ()) -> MapUpdate:
        return MapUpdate(self.known, "camera", TrackingState.TRACKING, changed=self.keyframes(), removed=tuple(removed))

    def obey(self, estimate: WorldEstimate) -> WorldEstimate:
        self.poses = moved(self.poses, estimate.new_S_old)
        return self.world.moved(estimate, self.update())


def test_a_map_becomes_metric_in_one_move() -> None:
    drive = Drive()
    first = drive.go(5)
    assert first.state is ScaleState.UNKNOWN and first.new_S_old.scale == 1.0 and math.isinf(first.relative_std)
    estimate = drive.go(80)
    assert estimate.state is ScaleState.METRIC and estimate.needed
    assert abs(math.log(estimate.scale / SCALE)) < 3 * estimate.relative_std < 0.09
    assert [source.source for source in estimate.sources] == ["odometry"]
    now = drive.obey(estimate)
    assert now.state is ScaleState.METRIC and not now.needed and now.scale == 1.0
    np.testing.assert_array_equal(now.new_S_old.matrix, np.eye(4))
    assert np.linalg.norm(drive.poses[:50, :3, 3] - drive.truth[:50, :3, 3], axis=1).max() < 0.15
    for until in range(90, 200, 10):
        estimate = drive.go(until)
        assert estimate.state is ScaleState.METRIC and not estimate.needed, "it stays where it is"


def test_a_unit_that_turns_out_wrong_is_corrected() -> None:
    drive = Drive()
    drive.obey(drive.go(120))
    drive.poses[:, :3, 3] *= 1.1  # an adjustment changed the map
    estimate = drive.go(130)
    assert estimate.needed and estimate.new_S_old.scale == pytest.approx(1 / 1.1, abs=0.02)
    drive.obey(estimate)
    drive.poses[:, :3, 3] *= 1.004
    assert not drive.go(140).needed, "not worth a new version of everything"
    assert drive.world.estimate(drive.trajectory(), last=True).needed, "but when it is the last one"


def test_a_map_that_was_turned_is_set_upright_again() -> None:
    drive = Drive()
    drive.obey(drive.go(120))
    drive.poses[:, :3] = Rotation.from_rotvec([np.radians(4.0), 0, 0]).as_matrix() @ drive.poses[:, :3]
    estimate = drive.go(130)
    assert estimate.needed and estimate.tilt_deg == pytest.approx(4.0, abs=0.5)
    drive.obey(estimate)
    assert not drive.go(131).needed


def test_a_command_is_obeyed_once_and_for_all() -> None:
    drive = Drive(has_odometry=False)
    assert drive.go(50).state is ScaleState.UNKNOWN
    drive.world.command(1.5)
    estimate = drive.go(60)
    assert estimate.needed and estimate.state is ScaleState.METRIC and estimate.new_S_old.scale == pytest.approx(1.5)
    assert estimate.relative_std < 1e-6
    drive.obey(estimate)
    again = drive.go(70)
    assert not again.needed and again.scale == pytest.approx(1.0) and again.state is ScaleState.METRIC
    drive.world.command(1.001)
    assert drive.go(80).needed, "also where it says little"
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="positive and finite"):
            drive.world.command(wrong)


def test_a_command_holds_when_the_map_takes_another_unit() -> None:
    """It was joined with another map, or its focal changed: what was measured stays as long as it was."""
    drive = Drive(has_odometry=False)
    drive.go(50)
    drive.world.command(1.5)
    drive.obey(drive.go(60))
    for factor in (0.25, 1.03):
        drive.poses = moved(drive.poses, Similarity(factor, np.eye(3), np.zeros(3)))
        estimate = drive.go(drive.known + 10)
        assert estimate.needed and estimate.state is ScaleState.METRIC
        assert estimate.new_S_old.scale == pytest.approx(1 / factor)
        assert [source.source for source in estimate.sources] == ["command"] and not estimate.contradictions
        drive.obey(estimate)
    assert not drive.go(100).needed
    drive.world.command(3.0)
    assert drive.go(110).scale == pytest.approx(3.0), "the newer one replaces it"


def test_a_command_holds_for_a_map_that_is_loaded() -> None:
    drive = Drive(has_odometry=False)
    drive.go(50)
    drive.world.command(1.5)
    drive.obey(drive.go(60))
    world = WorldAligner()
    world.resume(json.loads(json.dumps(drive.world.state())), drive.keyframes())
    estimate = world.estimate([])
    assert estimate.state is ScaleState.METRIC and estimate.relative_std < 1e-6 and not estimate.needed


def test_a_command_is_about_the_map_that_the_camera_is_in() -> None:
    drive = Drive(has_odometry=False)
    drive.go(60)
    drive.world.command(1.5)
    drive.obey(drive.go(70))
    names = [keyframe.index for keyframe in drive.keyframes()]
    others = tuple(replace(keyframe, index=1000 + keyframe.index) for keyframe in drive.keyframes())
    drive.world.hear(replace(drive.update(removed=names), changed=others))
    assert drive.world.estimate(drive.trajectory()).state is ScaleState.UNKNOWN
    drive.world.command(2.5)
    estimate = drive.world.estimate(drive.trajectory())
    assert estimate.needed and estimate.state is ScaleState.METRIC and estimate.scale == pytest.approx(2.5)


def test_a_map_that_is_not_moved_is_in_metres_only_if_it_was() -> None:
    drive = Drive()
    estimate = drive.go(80)
    stays = estimate.unmoved
    assert estimate.state is ScaleState.METRIC and stays.state is ScaleState.CONVERGING
    assert stays.unit == (estimate.scale, estimate.relative_std)
    drive.obey(estimate)
    assert drive.go(90).unmoved.state is ScaleState.METRIC


def test_a_command_that_odometry_contradicts_wins_and_that_is_said() -> None:
    drive = Drive()
    drive.go(100)
    drive.world.command(2 * SCALE)
    estimate = drive.world.estimate(drive.trajectory())
    assert estimate.scale == pytest.approx(2 * SCALE, rel=1e-6) and estimate.state is ScaleState.METRIC
    assert any("odometry says" in reason and "command says" in reason for reason in estimate.contradictions)


def test_a_rig_alone_is_enough() -> None:
    drive = Drive(has_odometry=False)
    drive.go(50)
    estimate = drive.world.estimate(drive.trajectory(), [(0.3, 0.1, 0.01)])
    assert estimate.needed and estimate.new_S_old.scale == pytest.approx(3.0)
    unsure = drive.world.estimate(drive.trajectory(), [(0.3, 0.1, 0.2)])
    assert unsure.state is ScaleState.CONVERGING and not unsure.needed and unsure.new_S_old.scale == 1.0
    assert unsure.scale == pytest.approx(3.0), "what is known so far is told"


def test_odometry_that_is_gone_leaves_the_map_metric() -> None:
    drive = Drive()
    drive.obey(drive.go(120))
    drive.world.forget_frames()
    drive.driven = None
    estimate = drive.go(160)
    assert estimate.state is ScaleState.METRIC and not estimate.needed
    assert [source.source for source in estimate.sources] == ["memory"]


def test_another_map_is_not_metric_by_the_first_one_s_word() -> None:
    drive = Drive()
    drive.obey(drive.go(120))
    drive.world.forget_frames()
    drive.driven = None
    away = drive.update(removed=range(0, 120, 10))
    drive.world.hear(MapUpdate(0, "camera", TrackingState.TRACKING, removed=away.removed))
    assert drive.world.estimate([]).state is ScaleState.UNKNOWN


def test_a_saved_map_goes_on_in_metres_at_its_place() -> None:
    drive = Drive()
    drive.obey(drive.go(120))
    saved = json.loads(json.dumps(drive.world.state()))
    world = WorldAligner()
    world.resume(saved, drive.keyframes())
    assert world.estimate([]).state is ScaleState.METRIC
    # Odometry of the second session starts somewhere else
    o_T_w = np.eye(4)
    o_T_w[:3, :3], o_T_w[:3, 3] = Rotation.from_euler("z", 2.0).as_matrix(), [9.0, 9.0, 0.0]
    for k in range(120, 200):
        world.observe(Frame(k, "camera", IMAGE, o_T_c=o_T_w @ drive.driven[k]))  # type: ignore[index]
    estimate = world.estimate([StampedPose(k, "camera", drive.poses[k]) for k in range(200)])
    assert estimate.state is ScaleState.METRIC and not estimate.needed
    assert {source.source for source in estimate.sources} >= {"odometry"}


@pytest.mark.parametrize("state", [{}, {"metric": False}, {"metric": "yes"}, {"metric": None, "relative_std": 3}])
def test_a_map_saved_without_metres_has_none(state: dict[str, object]) -> None:
    drive = Drive()
    drive.go(50)
    world = WorldAligner()
    world.resume(state, drive.keyframes())
    assert world.estimate([]).state is ScaleState.UNKNOWN


def test_a_network_sees_roughly_how_long_a_unit_is() -> None:
    """That alone does not move the map, and beside odometry it counts little."""
    near = np.full((32, 32), 2.0, np.float32)
    for has_odometry in (False, True):
        drive = Drive(has_odometry=has_odometry)
        drive.world = WorldAligner(lambda image, focal: None if focal == 7.0 else 1.2 * SCALE * near)
        camera = Camera("camera", 32, 32, 30.0, 0.3)
        drive.go(200)
        seen = [replace(k, depth=near, confidence=4 * near) for k in drive.keyframes()]
        news = replace(drive.update(), changed=tuple(seen), cameras={"camera": camera})
        drive.world.hear(news)
        estimate = drive.world.estimate(drive.trajectory())
        found = {source.source: source for source in estimate.sources}
        assert found["network"].scale == pytest.approx(1.2 * SCALE, rel=0.01)
        if has_odometry:
            assert estimate.state is ScaleState.METRIC and estimate.roughly == 0
            assert found["network"].relative_std > 3 * found["odometry"].relative_std
            assert not estimate.contradictions
        else:
            assert estimate.state is ScaleState.CONVERGING and not estimate.needed
            assert estimate.roughly == estimate.scale == found["network"].scale and 0.15 < estimate.relative_std < 0.17
        drive.world.hear(replace(news, changed=tuple(replace(k, focal=7.0) for k in seen)))
        estimate = drive.world.estimate(drive.trajectory())
        assert "network" not in {source.source for source in estimate.sources}, "it no longer knows"


def test_useless_odometry_is_named() -> None:
    drive = Drive()
    for k in range(20):
        drive.world.observe(Frame(k, "camera", IMAGE, o_T_c=np.zeros((4, 4))))
    estimate = drive.world.estimate([])
    assert estimate.state is ScaleState.UNKNOWN and not estimate.needed
    assert any("20 frames" in reason for reason in estimate.contradictions)


def test_the_same_drive_gives_the_same_bits() -> None:
    one, other = (Drive(seed=3).go(150) for _ in range(2))
    assert one.scale == other.scale and one.relative_std == other.relative_std
    np.testing.assert_array_equal(one.new_S_old.matrix, other.new_S_old.matrix)


@pytest.mark.parametrize("kind", ["odometry", "depth", "points"])
def test_a_real_map_in_metres_is_as_good_as_one_of_free_scale(kind: str) -> None:
    """Rendered images through the whole mapper, which the world moves as it grows."""
    sequence = walk("orbit")
    rng = np.random.default_rng(0)
    driven = odometry(sequence.w_T_c, rng, noise=0.01, turn_deg=0.2)
    # Where the focal is not known, its error makes depth and motion differ by a factor
    config = replace(SMALL, dense=False) if kind == "odometry" else replace(SMALL, focal=sequence.focal)
    mapper, world, moves = Mapper(config), WorldAligner(), 0

    def settle(update: MapUpdate, last: bool = False) -> int:
        world.hear(update)
        estimate = world.estimate(mapper.trajectory(world.frames), last=last)
        if not (estimate.needed and mapper.keyframes):
            return 0
        assert world.moved(estimate, mapper.move(estimate.new_S_old)).state is estimate.state
        return 1

    for k, stamp in enumerate(sequence.stamps_ns.tolist()):
        update = mapper.process(stamp, "camera", sequence.images[k])
        depth = np.where(rng.random(sequence.depths[k].shape) < 0.01, sequence.depths[k], 0).astype(np.float32)
        v, u = np.nonzero(depth)
        z = depth[v, u]
        x, y = (np.stack([u, v]) - [[(sequence.width - 1) / 2], [(sequence.height - 1) / 2]]) / sequence.focal * z
        frame = Frame(
            stamp,
            "camera",
            sequence.images[k],
            o_T_c=driven[k] if kind == "odometry" else None,
            depth=depth if kind == "depth" else None,
            points=np.stack([x, y, z], axis=1) if kind == "points" else None,
        )
        world.observe(frame)
        if update.keyframe is not None:
            world.observe_keyframe(update.keyframe, frame)
        moves += settle(update)
    moves += settle(mapper.finish(), last=True)
    assert 1 <= moves <= 8
    truth = [StampedPose(s, "camera", T) for s, T in zip(sequence.stamps_ns.tolist(), sequence.w_T_c, strict=True)]
    free, metric = (trajectory_errors(truth, mapper.trajectory(), scale=scale) for scale in (True, False))
    # Odometry and depth are off too; a map that is all but exact cannot be nearer to metres than they
    assert metric.ate <= max(1.3 * free.ate, 0.003 * path_length(sequence))
    assert world.estimate(mapper.trajectory()).state is ScaleState.METRIC
    assert not world.depth_in_vain


def test_depth_has_nothing_to_compare_with_in_a_map_without_any() -> None:
    sequence = walk("orbit")
    mapper, world = Mapper(replace(SMALL, dense=False, focal=sequence.focal)), WorldAligner()
    for stamp, image, depth in zip(sequence.stamps_ns[:20].tolist(), sequence.images, sequence.depths, strict=False):
        update = mapper.process(stamp, "camera", image)
        if update.keyframe is not None:
            world.observe_keyframe(update.keyframe, Frame(stamp, "camera", image, depth=depth))
        world.hear(update)
    world.hear(mapper.finish())
    assert mapper.keyframes and world.depth_in_vain
