"""The rig: what is given, what poses tell, and where one camera must be by another, whatever the stamps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import angle_deg, invert, pose
from dust3r_ros.mapping.rig import Rig
from dust3r_ros.types import Array, StampedPose

MS = 1_000_000
A_T_B = pose(Rotation.from_euler("yxz", [40, 3, -2], degrees=True).as_matrix(), [0.2, -0.02, 0.05])
METRES = 2.5  # per unit of the map


def body(stamp_ns: int) -> Array:
    """(4, 4) of a body that drives a curve: 0.4 m/s and 30 degrees/s."""
    t = stamp_ns / 1e9
    turn = Rotation.from_euler("z", np.radians(30) * t).as_matrix()
    return pose(turn, [0.8 * np.sin(0.5 * t), 0.8 * (1 - np.cos(0.5 * t)), 0.02 * np.sin(t)])


def told(rig: Rig, frames: int = 60, offset_ms: int = 21, noise: float = 0.0, wrong: int = 0, b: str = "b") -> None:
    """Both cameras at 15 Hz; the second one ``offset_ms`` later, with noise (units, radians), some poses wrong."""
    rng = np.random.default_rng(3)
    for k in range(frames):
        for name, late, mount in (("a", 0, np.eye(4)), (b, offset_ms, A_T_B)):
            stamp = 66 * MS * k + late * MS
            w_T_c = body(stamp) @ mount
            w_T_c[:3, 3] /= METRES
            w_T_c = w_T_c @ pose(Rotation.from_rotvec(rng.normal(0, noise, 3)).as_matrix(), rng.normal(0, noise, 3))
            if name == b and k % 10 < wrong:
                w_T_c = w_T_c @ pose(Rotation.from_rotvec([0, 0.5, 0]).as_matrix(), [1.0, 0, 0])
            rig.located(name, stamp, w_T_c)


def off(found: Array, true: Array, scale: float = METRES) -> tuple[float, float]:
    """(degrees, metres) between two extrinsics."""
    return angle_deg(true[:3, :3].T @ found[:3, :3]), float(np.linalg.norm(scale * found[:3, 3] - true[:3, 3]))


class TestEstimate:
    """Extrinsics from poses that one map gives to both cameras."""

    @pytest.mark.parametrize("offset_ms", [0, 21, 60])
    def test_stamps_need_not_agree(self, offset_ms: int) -> None:
        rig = Rig()
        told(rig, offset_ms=offset_ms)
        found = rig.between("a", "b")
        assert found is not None and found.count > 50
        angle, distance = off(found.a_T_b, A_T_B)
        assert angle < 0.02 and distance < 0.001

    def test_both_ways(self) -> None:
        rig = Rig()
        told(rig)
        there, back = rig.between("a", "b"), rig.between("b", "a")
        assert there is not None and back is not None
        np.testing.assert_allclose(there.a_T_b @ back.a_T_b, np.eye(4), atol=1e-9)

    def test_noise_is_reported_and_what_is_wrong_does_not_count(self) -> None:
        rig = Rig()
        told(rig, frames=200, noise=0.005, wrong=3)
        found = rig.between("a", "b")
        assert found is not None
        angle, distance = off(found.a_T_b, A_T_B)
        assert angle < 0.2 and distance < 0.01
        # Two poses of noise 0.005 make one measurement; the wrong 30 % widen it a little.
        assert 0.005 < found.length_std < 0.02 and np.degrees(0.005) < found.angle_std < np.degrees(0.02)

    def test_a_few_frames_tell_nothing_yet(self) -> None:
        rig = Rig()
        told(rig, frames=4)
        assert rig.between("a", "b") is None and rig.between("a", "nobody") is None

    def test_long_gaps_are_not_bridged(self) -> None:
        rig = Rig()
        for k in range(40):
            rig.located("a", k * 2000 * MS, body(k * 2000 * MS))
            rig.located("b", k * 2000 * MS + 900 * MS, body(k * 2000 * MS + 900 * MS) @ A_T_B)
        assert rig.between("a", "b") is None

    def test_another_map_has_another_unit(self) -> None:
        rig = Rig()
        rig.metres_per_unit = METRES
        told(rig)
        rig.renew()
        assert rig.between("a", "b") is None and rig.metres_per_unit is None

    def test_a_change_of_unit(self) -> None:
        rig = Rig()
        rig.metres_per_unit = METRES
        told(rig)
        rig.rescale(METRES)
        found = rig.between("a", "b")
        assert rig.metres_per_unit == pytest.approx(1.0) and found is not None
        assert off(found.a_T_b, A_T_B, 1.0)[1] < 0.001
        assert rig.guess("b", 66 * MS * 60) is None, "poses in the old unit tell nothing"

    def test_what_a_changed_map_says_counts(self) -> None:
        first, again = Rig(), Rig()
        told(first)
        poses = [
            StampedPose(66 * MS * k + late * MS, name, body(66 * MS * k + late * MS) @ mount)
            for k in range(30)
            for name, late, mount in (("a", 0, np.eye(4)), ("b", 21, A_T_B))
        ]
        first.relearn(poses)
        again.relearn(poses)
        found = first.between("a", "b")
        assert found is not None and off(found.a_T_b, A_T_B, 1.0)[1] < 0.001
        np.testing.assert_array_equal(found.a_T_b, again.between("a", "b").a_T_b)


class TestGuess:
    """Where a camera must be, by another one."""

    @pytest.mark.parametrize("ahead_ms", [-30, 0, 50])
    def test_by_what_the_map_told(self, ahead_ms: int) -> None:
        rig = Rig()
        told(rig)
        stamp = 66 * MS * 59 + ahead_ms * MS
        true = body(stamp) @ A_T_B
        found = rig.guess("b", stamp)
        assert found is not None
        angle, distance = off(found, true)
        assert angle < 0.1 and distance < 0.003

    def test_not_long_after(self) -> None:
        rig = Rig()
        told(rig)
        assert rig.guess("b", 66 * MS * 59 + 1000 * MS) is None

    def test_by_what_was_given(self) -> None:
        """The rotation at once, the place when the map's unit is known."""
        rig = Rig()
        rig.set("a", np.eye(4))
        rig.set("b", A_T_B)
        for k in range(5):
            w_T_c = body(66 * MS * k)
            w_T_c[:3, 3] /= METRES
            rig.located("a", 66 * MS * k, w_T_c)
        stamp = 66 * MS * 4 + 20 * MS
        true = body(stamp) @ A_T_B
        looks = rig.looks("b", stamp)
        assert rig.guess("b", stamp) is None and looks is not None
        assert angle_deg(true[:3, :3].T @ looks[:3, :3]) < 0.1
        rig.metres_per_unit = METRES
        found = rig.guess("b", stamp)
        assert found is not None and off(found, true)[1] < 0.003

    def test_the_frame_of_the_robot_does_not_matter(self) -> None:
        r_T_a = pose(Rotation.from_euler("xyz", [-90, 0, -90], degrees=True).as_matrix(), [0.3, 0.1, 1.2])
        guesses = []
        for r_T_other in (np.eye(4), r_T_a):
            rig = Rig()
            rig.metres_per_unit = 1.0
            rig.set("a", r_T_other)
            rig.set("b", r_T_other @ A_T_B)
            rig.located("a", 0, body(0))
            guesses.append(rig.guess("b", 0))
        np.testing.assert_allclose(guesses[0], guesses[1], atol=1e-12)

    def test_images_count_more_than_what_was_given(self) -> None:
        rig = Rig()
        rig.metres_per_unit = METRES
        rig.set("a", np.eye(4))
        rig.set("b", np.eye(4))
        told(rig)
        stamp = 66 * MS * 59
        found = rig.guess("b", stamp)
        assert found is not None and off(found, body(stamp) @ A_T_B)[0] < 0.1

    def test_nobody_knows(self) -> None:
        rig = Rig()
        assert rig.guess("a", 0) is None and rig.looks("a", 0) is None
        rig.located("a", 0, np.eye(4))
        assert rig.guess("b", 0) is None and rig.guess("a", 0) is None


class TestGiven:
    """What somebody measured against what the map tells."""

    def test_baselines(self) -> None:
        rig = Rig()
        rig.set("a", np.eye(4))
        rig.set("b", A_T_B)
        assert rig.baselines() == []
        told(rig, noise=0.001)
        [(metres, units, std)] = rig.baselines()
        assert metres == pytest.approx(np.linalg.norm(A_T_B[:3, 3]))
        assert metres / units == pytest.approx(METRES, rel=0.02) and 0.005 < std < 0.05

    def test_cameras_in_one_place_measure_nothing(self) -> None:
        rig = Rig()
        rig.set("a", np.eye(4))
        rig.set("b", pose(A_T_B[:3, :3], [0, 0, 0]))
        told(rig)
        assert rig.baselines() == []

    @pytest.mark.parametrize(
        "bad",
        [np.zeros((4, 4)), np.eye(3), np.full((4, 4), np.nan), np.diag([1.0, 1, -1, 1]), np.diag([2.0, 2, 2, 1])],
    )
    def test_what_is_no_rigid_motion_is_refused(self, bad: Array) -> None:
        with pytest.raises(InputError, match="'b'"):
            Rig().set("b", bad)

    def test_inverse_and_copy(self) -> None:
        rig, given = Rig(), invert(A_T_B)
        rig.set("b", given)
        given[0, 3] = 7.0
        assert rig.given["b"][0, 3] != 7.0
