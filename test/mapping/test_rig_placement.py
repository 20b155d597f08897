"""Focals of cameras on their way into a map: frames must agree, and differ."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.rig_placement import FocalVotes, RigPlacement
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array

FOCAL = 300.0


class World:
    """A map of landmarks, made by somebody else, and a camera of 320 x 240 that sees them."""

    def __init__(self, flat: bool = False) -> None:
        rng = np.random.default_rng(5)
        self.state = Reconstruction(MapperConfig())
        self.sparse = self.state.sparse
        self.sparse.intrinsics.append(Intrinsics(320.0, 320.0))
        ids = self.sparse.landmarks.new(200)
        points = rng.uniform([-1.5, -1, 3], [1.5, 1, 6], (200, 3))
        points[:, 2] = 4.0 if flat else points[:, 2]
        self.sparse.points[ids] = points
        self.stream = CameraStream("new", 0, 320, 240, MapperConfig())
        self.focal_votes = FocalVotes(self.state)
        self.rng = rng

    def frame(self, k: int, focal: float = FOCAL, unrelated: bool = False) -> bool:
        """The camera moves on and looks; whether its focal is known."""
        w_T_c = pose(Rotation.from_euler("yx", [2 * k, k], degrees=True).as_matrix(), [0.1 * k, 0.02 * k, 0.0])
        return self.focal_votes.meet(self.stream, self.seen(w_T_c, focal, unrelated))

    def seen(self, w_T_c: Array, focal: float, unrelated: bool = False) -> Tracks:
        pixels = project(transform(invert(w_T_c), self.sparse.points), focal, (0.0, 0.0))
        pixels = pixels + self.rng.normal(0, 0.3, pixels.shape)
        if unrelated:
            pixels = self.rng.uniform(-120, 120, pixels.shape)
        inside = np.all(np.abs(pixels) < [160, 120], axis=1)
        return Tracks(np.flatnonzero(inside), pixels[inside])

    @property
    def focal(self) -> Intrinsics:
        return self.sparse.intrinsics[0]


def test_three_frames_that_agree() -> None:
    world = World()
    assert [world.frame(k) for k in range(3)] == [False, False, True]
    assert world.focal.focal == pytest.approx(FOCAL, rel=0.01) and 0 < world.focal.std < 0.03


def test_a_camera_at_rest_says_the_same_again_and_again() -> None:
    world = World()
    assert not any(world.frame(0) for _ in range(6))
    assert np.isinf(world.focal.std) and world.focal.focal == 320.0


def test_of_a_camera_of_a_few_photographs_one_is_enough_if_most_of_it_agrees() -> None:
    world = World()
    world.stream.alone = True
    half = world.seen(pose(np.eye(3), [0.1, 0.0, 0.0]), FOCAL)
    half.pixels[: 6 * len(half.ids) // 10] = world.rng.uniform(-110, 110, (6 * len(half.ids) // 10, 2))
    assert not world.focal_votes.meet(world.stream, half) and np.isinf(world.focal.std)
    assert world.frame(0)
    assert world.focal.focal == pytest.approx(FOCAL, rel=0.02) and 0 < world.focal.std < 0.1


def test_what_is_known_of_the_camera_since_counts_for_the_same_photograph() -> None:
    world = World()
    assert not world.frame(0)
    world.stream.alone = True
    assert world.frame(0) and world.focal.focal == pytest.approx(FOCAL, rel=0.02)


def test_one_that_zooms_is_not_believed() -> None:
    world = World()
    assert not any(world.frame(k, focal) for k, focal in enumerate((250.0, 340.0, 460.0, 620.0, 200.0)))
    assert world.focal.focal == 320.0


def test_chance_says_nothing() -> None:
    world = World()
    assert not any(world.frame(k, unrelated=True) for k in range(4))
    assert world.focal.focal == 320.0


def test_a_plane_straight_ahead_tells_no_focal() -> None:
    world = World(flat=True)
    ahead = [pose(np.eye(3), [0.1 * k, 0.0, 0.0]) for k in range(5)]
    assert not any(world.focal_votes.meet(world.stream, world.seen(w_T_c, FOCAL)) for w_T_c in ahead)


def with_sibling(width: int, std: float, height: int = 240) -> World:
    """Another camera has keyframes in the map."""
    world = World()
    sibling = CameraStream("old", 1, width, height, MapperConfig())
    world.sparse.intrinsics.append(Intrinsics(FOCAL + 3.0, FOCAL, std))
    image = np.zeros((height, width, 3), np.uint8)
    features = sibling.features(image[..., 0].copy())
    world.state.records.append(KeyframeRecord(0, sibling, image, features, np.zeros(0, int)))
    return world


@pytest.mark.parametrize("size", [(320, 240), (240, 320)])
def test_one_frame_and_another_camera_of_the_kind_agree(size: tuple[int, int]) -> None:
    """Also a phone that was held upright for the others."""
    world = with_sibling(size[0], 0.005, size[1])
    assert world.frame(0)
    assert world.focal.focal == pytest.approx(FOCAL, rel=0.01), "by its own frame"


@pytest.mark.parametrize(
    ("size", "focal", "agree"), [((240, 320), 1.1, True), ((240, 320), 2.0, False), ((320, 240), 1.1, False)]
)
def test_a_camera_that_is_turned_keeps_its_focal(size: tuple[int, int], focal: float, agree: bool) -> None:
    """However little a frame says of it, if it does not say otherwise; another one of the kind may be another one."""
    world = with_sibling(size[0], 0.025, size[1])
    world.focal_votes.vote(world.stream, focal * FOCAL, 0.07)
    assert world.focal_votes.agree(world.stream) is agree
    assert not agree or world.focal.focal == FOCAL + 3.0


@pytest.mark.parametrize(("width", "std", "focal"), [(352, 0.005, FOCAL), (320, 0.2, FOCAL), (320, 0.005, 400.0)])
def test_one_frame_is_not_enough_beside_another_kind(width: int, std: float, focal: float) -> None:
    world = with_sibling(width, std)
    assert [world.frame(k, focal) for k in range(3)] == [False, False, True]
    assert world.focal.focal == pytest.approx(focal, rel=0.01)


def test_votes_without_the_map() -> None:
    world = World()
    for focal, std in ((310.0, 0.02), (295.0, 0.02), (900.0, 0.5)):
        world.focal_votes.vote(world.stream, focal, std)
    assert not world.focal_votes.agree(world.stream), "one of them is too vague to count"
    world.focal_votes.vote(world.stream, 302.0, 0.02)
    assert world.focal_votes.agree(world.stream)
    assert world.focal.focal == pytest.approx(302, rel=0.01)


def test_what_frames_share_is_no_less_for_their_number() -> None:
    """All see the same map, which may itself be stretched."""
    world = World()
    assert any(world.frame(k) for k in range(6)) and 0.02 <= world.focal.std < 0.03


def test_ties_to_the_rig_follow_the_unit_of_the_map() -> None:
    world = World()
    placement = RigPlacement(world.state, world.focal_votes)
    placement._reported[3] = 0, pose(np.eye(3), [1.0, 2.0, 3.0])
    placement.rescale(0.5)
    np.testing.assert_array_equal(placement._reported[3][1], pose(np.eye(3), [0.5, 1.0, 1.5]))


def test_ties_of_a_map_that_is_taken_in_stay_and_are_saved() -> None:
    world = World()
    placement, other = (RigPlacement(world.state, world.focal_votes) for _ in range(2))
    placement._reported[3] = 0, pose(np.eye(3), [1.0, 0.0, 0.0])
    other._reported[2] = 1, pose(np.eye(3), [0.0, 0.0, 4.0])
    placement.absorb(other, 10, 0.5)
    assert placement.ties == {0, 3, 11, 12}
    again = RigPlacement(world.state, world.focal_votes)
    again.restore(json.loads(json.dumps(placement.facts())))
    assert again._reported.keys() == {3, 12} and again._reported[12][0] == 11
    np.testing.assert_array_equal(again._reported[12][1], pose(np.eye(3), [0.0, 0.0, 2.0]))
