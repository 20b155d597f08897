"""Several uncalibrated cameras on one body, one map: focals, poses and the rig come out; strangers join nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from lenses import rays
from rigs import Eye, RenderedRig, mounted, play_rig, rear_rig, render_rig, rig_errors, side_rig, stereo_rig, unit_of
from sequences import SMALL, walk

from dust3r_ros.backends.two_view import TwoViewBackend
from dust3r_ros.config import MapperConfig
from dust3r_ros.evaluation.errors import trajectory_errors
from dust3r_ros.geometry.rigid import angle_deg
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.sequence import walk as rendered_walk
from dust3r_ros.storage.saved_map import load_state, save_map
from dust3r_ros.types import Array, Calibration, MapUpdate, StampedPose

SPARSE = replace(SMALL, dense=False, keyframe_motion_young=0.02)


@dataclass(frozen=True, eq=False)
class Run:
    """A rig's frames through one mapper, to the end."""

    rig: RenderedRig
    mapper: Mapper
    updates: list[MapUpdate]

    def states(self, camera: str) -> list[str]:
        return [update.state.value for update in self.updates if update.camera == camera]

    def focal_error(self, camera: str) -> float:
        return abs(self.mapper.cameras[camera].focal / self.rig.eyes[camera].focal - 1.0)

    def extrinsics_error(self, a: str, b: str) -> tuple[float, float]:
        """(degrees, metres)."""
        found, true = self.mapper.rig.between(a, b), self.rig.extrinsics(a, b)
        assert found is not None
        distance = np.linalg.norm(unit_of(self.mapper, self.rig) * found.a_T_b[:3, 3] - true[:3, 3])
        return angle_deg(true[:3, :3].T @ found.a_T_b[:3, :3]), float(distance)


def mapper_of(rig: RenderedRig, *known: str) -> Mapper:
    """A mapper that knows the focals of some cameras."""
    mapper = Mapper(SPARSE)
    for name in known:
        mapper.set_camera(name, rig.eyes[name].width, rig.eyes[name].height, rig.eyes[name].focal)
    return mapper


@pytest.fixture(scope="module")
def stereo() -> Run:
    """Two cameras side by side; of neither anything is known."""
    rig, mapper = stereo_rig(), Mapper(SPARSE)
    updates = play_rig(mapper, rig, 48)
    mapper.finish()
    return Run(rig, mapper, updates)


@pytest.fixture(scope="module")
def side() -> Run:
    """A calibrated camera ahead, one of which nothing is known to its side, and extrinsics that are 15 degrees off."""
    rig, mapper = side_rig(), side_mapper()
    updates = play_rig(mapper, rig)
    mapper.finish()
    return Run(rig, mapper, updates)


def side_mapper() -> Mapper:
    rig = side_rig()
    mapper = mapper_of(rig, "front")
    mapper.set_extrinsics("front", np.eye(4))
    mapper.set_extrinsics("side", rig.extrinsics("front", "side") @ mounted(x=0.05, yaw_deg=15.0))
    return mapper


class TestStereo:
    """Cameras of different lens and size that take turns."""

    def test_each_has_its_own_focal(self, stereo: Run) -> None:
        for name in ("left", "right"):
            assert stereo.focal_error(name) < 0.03
            camera = stereo.mapper.cameras[name]
            assert 0 < camera.focal_std < 0.1 * camera.focal

    def test_one_map(self, stereo: Run) -> None:
        errors = rig_errors(stereo.mapper, stereo.rig)
        assert all(error < 0.01 and count >= 3 for error, count in errors.values()), errors
        assert {keyframe.camera for keyframe in stereo.mapper.keyframes} == {"left", "right"}
        assert stereo.mapper.counts.maps == 1

    def test_the_second_waits_until_the_first_is_sure_of_its_focal(self, stereo: Run) -> None:
        states = stereo.states("right")
        joined = states.index("tracking")
        assert joined > 3 and set(states[:joined]) == {"initialising"}
        assert set(states[joined:]) == {"tracking"} and stereo.mapper.counts.lost == 0

    def test_what_the_second_showed_before_has_a_pose_at_the_end(self, stereo: Run) -> None:
        counts = {name: count for name, (_, count) in rig_errors(stereo.mapper, stereo.rig).items()}
        assert counts == {"left": 24, "right": 24}


class TestSide:
    """Half of what one camera sees the other does not; what was given of the rig is wrong."""

    def test_focal_and_poses(self, side: Run) -> None:
        assert side.focal_error("side") < 0.03
        errors = rig_errors(side.mapper, side.rig)
        assert all(error < 0.02 and count > 10 for error, count in errors.values()), errors

    def test_where_it_sits(self, side: Run) -> None:
        angle, distance = side.extrinsics_error("front", "side")
        assert angle < 0.3 and distance < 0.015

    def test_the_baseline_tells_the_unit(self, side: Run) -> None:
        """Here of a wrong one: its length is a matter of who measured it."""
        [(metres, units, std)] = side.mapper.rig.baselines()
        true = float(np.linalg.norm(side.rig.extrinsics("front", "side")[:3, 3]))
        assert true / units == pytest.approx(unit_of(side.mapper, side.rig), rel=0.1)
        assert metres != pytest.approx(true, abs=0.01) and 0 < std < 0.2


def test_the_same_frames_give_the_same_bytes(side: Run) -> None:
    again = play_rig(side_mapper(), side_rig(), 24)
    for update, expected in zip(again, side.updates, strict=False):
        assert (update.camera, update.state, update.cameras) == (expected.camera, expected.state, expected.cameras)
        for one, other in ((update, expected), *zip(update.changed, expected.changed, strict=True)):
            assert one.w_T_c is other.w_T_c is None or one.w_T_c.tobytes() == other.w_T_c.tobytes()
    assert {update.camera for update in again if update.w_T_c is not None} == {"front", "side"}


def test_a_camera_somewhere_else_joins_nothing() -> None:
    """Nor does it end the map when the other one is lost for a moment."""
    sequence, corridor = walk("orbit"), walk("corridor")
    mapper = Mapper(replace(SPARSE, lost_patience_s=0.6))
    mapper.set_camera("here", sequence.width, sequence.height, sequence.focal)
    dark = np.zeros_like(sequence.images[0])
    for i, stamp in enumerate(sequence.stamps_ns.tolist()):
        update = mapper.process(stamp, "here", dark if i == 16 else sequence.images[i])
        assert update.removed == () and (update.state.value == "lost") == (i == 16)
        elsewhere = mapper.process(stamp + 7_000_000, "elsewhere", corridor.images[i])
        assert elsewhere.state.value == "initialising" and elsewhere.w_T_c is None and elsewhere.removed == ()
    mapper.finish()
    assert {keyframe.camera for keyframe in mapper.keyframes} == {"here"}
    assert np.isinf(mapper.cameras["elsewhere"].focal_std) and mapper.counts.lost == 1


def test_another_camera_joins_at_the_end_of_a_map_that_was_never_certain() -> None:
    """Little motion, straight ahead: other cameras wait for a focal that does not become more certain."""
    eyes = Eye("left", np.eye(4), 240, 176, 200.0), Eye("right", mounted(x=0.1, yaw_deg=15.0), 208, 160, 150.0)
    rig = render_rig(rendered_walk("forward", 40, rate_hz=16.0, laps=0.2), 16.0, eyes)
    mapper = Mapper(MapperConfig(dense=False))
    updates = play_rig(mapper, rig)
    assert not any(update.w_T_c is not None for update in updates if update.camera == "right")
    mapper.finish()
    run, errors = Run(rig, mapper, updates), rig_errors(mapper, rig)
    assert run.focal_error("left") < 0.02 and run.focal_error("right") < 0.02
    assert errors["right"][1] > 8 and all(error < 0.004 for error, _ in errors.values()), errors


@pytest.mark.long
def test_front_and_rear_that_turn_around() -> None:
    """They never see the same at once; what the one saw, the other finds after half a turn."""
    rig, mapper = rear_rig(), Mapper(SPARSE)
    updates = play_rig(mapper, rig)
    mapper.finish()
    run = Run(rig, mapper, updates)
    assert run.focal_error("front") < 0.03 and run.focal_error("rear") < 0.03
    errors = rig_errors(mapper, rig)
    assert all(error < 0.02 and count > 10 for error, count in errors.values()), errors
    angle, distance = run.extrinsics_error("front", "rear")
    assert angle < 0.3 and distance < 0.02


@pytest.mark.long
def test_a_rear_camera_maps_its_own_side(tmp_path: Path) -> None:
    """Extrinsics and unit are known, the rear camera's focal is not, and it sees nothing that the front one saw."""
    rig = rear_rig(96, 0.45)
    mapper = mapper_of(rig, "front")
    for name, eye in rig.eyes.items():
        mapper.set_extrinsics(name, eye.b_T_c)
    for k, (stamp, name, image) in enumerate(rig.frames()):
        if k == 24:
            mapper.rig.metres_per_unit = unit_of(mapper, rig)
        mapper.process(stamp, name, image)
        if k == 87:
            save_map(tmp_path / "map.db", mapper)
            ties = mapper.submap.placement.facts()
    again = Mapper(SPARSE)
    again.resume(load_state(tmp_path / "map.db"))
    assert again.submap.placement.facts() == ties and ties, "it still goes where the rig does"
    mapper.finish()
    run = Run(rig, mapper, [])
    errors = rig_errors(mapper, rig)
    assert errors["rear"][1] > 8 and run.focal_error("rear") < 0.03
    assert all(error < 0.04 for error, _ in errors.values()), errors


class Guessing(TwoViewBackend):
    """Geometry that guesses the focal of one image, pixels of the working image, and how far things are: not at all."""

    def __init__(self, focal: float, std: float = 0.1) -> None:
        super().__init__()
        self._guess, self.asked = (focal, std), 0

    def guess_focal(self, image):
        self.asked += 1
        return self._guess if self._guess[0] else None

    def metric_depth(self, image, focal):
        return None


@pytest.mark.parametrize("live", [False, True])
def test_a_guess_of_the_focal_from_one_image_is_where_the_map_begins(live: bool) -> None:
    """Few views say little of it; then the guess and its deviation count."""
    sequence = walk("orbit")
    off = {}
    for name, share in (("none", 0.0), ("right", 1.0), ("wrong", 1.5)):
        backend = Guessing(share * sequence.focal * SMALL.working_size / sequence.width)
        mapper = Mapper(SPARSE, backend=backend)
        if live:
            mapper.go_live(False)
        for k in range(5):
            mapper.process(int(sequence.stamps_ns[k]), "camera", sequence.images[k])
        assert backend.asked == 1 and not mapper.cameras["camera"].given
        off[name] = abs(np.log(mapper.cameras["camera"].focal / sequence.focal))
    assert off["right"] < 0.03 < off["none"] and off["right"] < off["wrong"]


def test_many_views_outweigh_a_wrong_guess() -> None:
    sequence = walk("orbit")
    mapper = Mapper(SPARSE, backend=Guessing(1.25 * sequence.focal * SMALL.working_size / sequence.width))
    for k in range(24):
        mapper.process(int(sequence.stamps_ns[k]), "camera", sequence.images[k])
    mapper.finish()
    camera = mapper.cameras["camera"]
    assert camera.focal == pytest.approx(sequence.focal, rel=0.04)
    assert abs(camera.focal - sequence.focal) < 3 * camera.focal_std


def test_a_known_focal_is_not_guessed() -> None:
    sequence = walk("orbit")
    backend = Guessing(500.0)
    mapper = Mapper(replace(SPARSE, focal=sequence.focal), backend=backend)
    mapper.process(int(sequence.stamps_ns[0]), "camera", sequence.images[0])
    assert backend.asked == 0 and mapper.cameras["camera"].focal == pytest.approx(sequence.focal)


def test_a_lens_is_estimated_where_only_the_focal_was_given() -> None:
    """A focal from a data sheet says nothing of distortion; a camera that was calibrated sends images without it."""
    sequence = walk("orbit", 36)
    height, width = sequence.images.shape[1:3]
    lens = Calibration(
        width, height, sequence.focal, sequence.focal, (width - 1) / 2, (height - 1) / 2, "plumb_bob", (-0.2, 0, 0, 0)
    )
    v, u = np.mgrid[:height, :width].astype(float)
    x, y = rays(lens, u, v)
    at = np.stack([x * lens.fx + lens.cx, y * lens.fy + lens.cy], axis=-1).astype(np.float32)
    given, calibrated = Mapper(replace(SPARSE, focal=sequence.focal)), Mapper(SPARSE)
    calibrated.set_camera("camera", width, height, sequence.focal)
    for stamp, image in zip(sequence.stamps_ns.tolist(), sequence.images, strict=True):
        for mapper in (given, calibrated):
            mapper.process(stamp, "camera", cv2.remap(image, at, None, cv2.INTER_LINEAR))
    for mapper in (given, calibrated):
        mapper.finish()
        assert mapper.cameras["camera"].focal == pytest.approx(sequence.focal) and mapper.cameras["camera"].fixed
    assert given.cameras["camera"].distortion[0] == pytest.approx(-0.2, abs=0.03)
    assert not any(calibrated.cameras["camera"].distortion)
    truth = [
        StampedPose(*pose) for pose in zip(sequence.stamps_ns.tolist(), ["camera"] * 36, sequence.w_T_c, strict=True)
    ]
    errors = [trajectory_errors(truth, mapper.trajectory()).ate_percent for mapper in (given, calibrated)]
    assert errors[0] < 0.2 < errors[1]


def test_photographs_of_which_some_are_upright() -> None:
    """One camera, turned now and then: as two cameras, both find its focal, and what came before it is posed later."""
    sequence, mapper = walk("orbit", 36), Mapper(SPARSE)
    for at, (stamp, image) in enumerate(zip(sequence.stamps_ns.tolist(), sequence.images, strict=True)):
        turned = at % 3 == 2
        mapper.process(stamp, "upright" if turned else "camera", np.ascontiguousarray(np.rot90(image, turned)))
    mapper.finish()
    assert len(mapper.trajectory()) >= 34, "all but the first of the second camera"
    for camera in mapper.cameras.values():
        assert camera.focal == pytest.approx(sequence.focal, rel=0.02)
    apart = {pose.camera: pose for pose in mapper.trajectory()}
    assert angle_deg(apart["camera"].w_T_c[:3, :3].T @ apart["upright"].w_T_c[:3, :3]) > 70


def photographed(zooms: Sequence[float], given: Sequence[int] = ()) -> tuple[Mapper, Array]:
    """A map of photographs of one walk, each cut to its middle and enlarged as another camera's, and true focals.

    Some are ``given``.
    """
    sequence, mapper = walk("orbit", 36), Mapper(SPARSE)
    height, width = sequence.images.shape[1:3]
    for at, zoom in enumerate(zooms):
        top, left = (round(0.5 * (1.0 - 1.0 / zoom) * size) for size in (height, width))
        near = sequence.images[2 * at][top : height - top, left : width - left]
        image = cv2.resize(near, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
        if at in given:
            mapper.set_camera(f"camera_{at}", image.shape[1], image.shape[0], zoom * sequence.focal)
        mapper.process(int(sequence.stamps_ns[at]), f"camera_{at}", image)
    mapper.finish()
    return mapper, sequence.focal * np.array(zooms)


def test_photographs_of_as_many_cameras() -> None:
    """None has three images with which a map could begin, and none a sibling: their focals differ by a third."""
    mapper, focals = photographed((1.0, 1.25, 1.1, 1.3, 1.05, 1.2, 1.15, 1.0))
    assert len(mapper.trajectory()) == len(mapper.keyframes) == 8 and mapper.counts.maps == 1
    for camera, focal in zip(mapper.cameras.values(), focals, strict=True):
        assert abs(np.log(camera.focal / focal)) < min(0.05, 3.0 * camera.focal_std / camera.focal)
    sequence = walk("orbit", 36)
    truth = [
        StampedPose(int(sequence.stamps_ns[at]), f"camera_{at}", sequence.w_T_c[2 * at]) for at in range(len(focals))
    ]
    assert trajectory_errors(truth, mapper.trajectory()).ate_percent < 1.0


def test_photographs_of_as_many_cameras_of_which_some_are_calibrated() -> None:
    given = (1, 4, 6)
    mapper, focals = photographed((1.0, 1.25, 1.1, 1.3, 1.05, 1.2, 1.15, 1.0), given)
    assert len(mapper.trajectory()) == 8
    for at, (camera, focal) in enumerate(zip(mapper.cameras.values(), focals, strict=True)):
        assert camera.fixed == (at in given)
        assert camera.focal == pytest.approx(focal, rel=1e-9 if camera.fixed else 0.03)


@pytest.mark.parametrize("count", [2, 4])
def test_a_few_photographs_of_as_many_cameras(count: int) -> None:
    """No more come, so they must do; of two, focals stay guesses, and are said to be."""
    mapper, focals = photographed((1.0, 1.2, 1.1, 1.25)[:count])
    assert len(mapper.trajectory()) == count
    for camera, focal in zip(mapper.cameras.values(), focals, strict=True):
        assert abs(np.log(camera.focal / focal)) < 2.0 * camera.focal_std / camera.focal


def test_one_photograph_of_another_camera_joins_the_map_of_many() -> None:
    sequence, mapper = walk("orbit", 36), Mapper(SPARSE)
    for at, (stamp, image) in enumerate(zip(sequence.stamps_ns.tolist(), sequence.images, strict=True)):
        other = at == 12
        image = cv2.resize(image[20:-20, 30:-30], None, fx=1.2, fy=1.2) if other else image
        mapper.process(stamp, "other" if other else "camera", image)
    mapper.finish()
    assert any(pose.camera == "other" for pose in mapper.trajectory())
    other = mapper.cameras["other"]
    assert abs(np.log(other.focal / (1.2 * sequence.focal))) < 2.0 * other.focal_std / other.focal


@pytest.mark.parametrize(("every", "given"), [(9, False), (54, False), (54, True)])
def test_a_camera_that_seldom_sends_an_image_leaves_the_beginning_to_another(every: int, given: bool) -> None:
    """The first image is of the one that sends one in nine; or that one, and then falls silent."""
    sequence, mapper = walk("orbit", 54), Mapper(SPARSE)
    if given:
        mapper.set_camera("rare", 216, 163, 1.2 * sequence.focal)
    posed_at_once = 0
    for at, (stamp, image) in enumerate(zip(sequence.stamps_ns.tolist(), sequence.images, strict=True)):
        rare = at % every == 0
        image = cv2.resize(image[20:-20, 30:-30], None, fx=1.2, fy=1.2) if rare else image
        posed_at_once += mapper.process(stamp, "rare" if rare else "often", image).w_T_c is not None
    mapper.finish()
    assert posed_at_once > 36 and len(mapper.trajectory()) == 54
    assert mapper.cameras["often"].focal == pytest.approx(sequence.focal, rel=0.01)
    assert mapper.cameras["rare"].focal == pytest.approx(1.2 * sequence.focal, rel=0.01)


def test_a_covered_camera_begins_no_map_however_often_it_sends_an_image() -> None:
    sequence, mapper = walk("orbit", 24), Mapper(SPARSE)
    dark = np.zeros_like(sequence.images[0])
    for stamp, image in zip(sequence.stamps_ns.tolist(), sequence.images, strict=True):
        for late in range(8):
            mapper.process(stamp + late, "covered", dark)
        mapper.process(stamp, "seeing", image)
    mapper.finish()
    assert len(mapper.trajectory()) == 24 and {pose.camera for pose in mapper.trajectory()} == {"seeing"}
