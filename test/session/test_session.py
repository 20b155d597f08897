"""The mapper across resets, calibrations and stamps that jump."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from branches import branch
from places import around, write_map
from scipy.spatial.transform import Rotation
from sequences import SMALL, walk

from dust3r_ros.backends import make_backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError, InputError, MapFileError
from dust3r_ros.mapping.joining import gather
from dust3r_ros.session.session import Session, begin
from dust3r_ros.storage.journal import BEFORE
from dust3r_ros.storage.loading import load_state
from dust3r_ros.storage.saved_map import load_map, save_map
from dust3r_ros.timing import REORDERED_NS
from dust3r_ros.types import Calibration, Frame, TrackingState

FAST = replace(SMALL, dense=False)


def known(width, height, focal):
    """A calibration of a pinhole."""
    return Calibration(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


@pytest.fixture(scope="module")
def sequence():
    return walk("orbit")


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return logging.getLogger("session")


def feed(session, sequence, first, last, later_ns=0):
    for index in range(first, last):
        stamp_ns = int(sequence.stamps_ns[index]) + later_ns
        update = session.process(Frame(stamp_ns, "camera", sequence.images[index]))
        while session.due:
            session.work(session.due)
    return update


@pytest.fixture(scope="module")
def fresh(sequence):
    """Twelve frames that others go on from."""
    session = Session(FAST, logging.getLogger("session"))
    assert feed(session, sequence, 0, 12).state is TrackingState.TRACKING
    return session


def test_a_jump_back_resets_and_the_map_is_that_of_a_fresh_start(fresh, sequence, log, caplog):
    jumped = branch(fresh)
    again = feed(jumped, sequence, 0, 12)
    assert jumped.resets == 1 and fresh.resets == 0
    assert "jump back by 1.375 s" in caplog.text
    assert again.state == TrackingState.TRACKING
    np.testing.assert_array_equal(
        [pose.w_T_c for pose in jumped.mapper.trajectory()], [pose.w_T_c for pose in fresh.mapper.trajectory()]
    )


def test_a_reset_keeps_the_backend_and_empties_it(sequence, log, monkeypatch):
    """Weights are read once."""
    made = []

    def counted(config):
        made.append(make_backend(config))
        return made[-1]

    monkeypatch.setattr("dust3r_ros.session.session.make_backend", counted)
    session = Session(MapperConfig(working_size=128), log)
    feed(session, sequence, 0, 4)
    session.finish()
    assert made[0].has(0)
    session.reset()
    assert len(made) == 1 and not made[0].has(0)


def test_a_change_of_maps_is_said(sequence, log, caplog):
    config = replace(FAST, focal=sequence.focal, lost_patience_s=1.0)
    session = Session(config, log)
    feed(session, sequence, 0, 8)
    assert session.mapper.counts.keyframes >= 2
    dark = np.zeros_like(sequence.images[0])
    for second in range(2, 5):
        session.process(Frame(int(sequence.stamps_ns[8]) + second * 10**9, "camera", dark))
    assert "'camera' is in another map now" in caplog.text


@pytest.mark.parametrize(("policy", "back"), [("ignore", 10 * REORDERED_NS), ("reset", REORDERED_NS), ("reset", 0)])
def test_frames_that_are_not_newer_are_refused_and_change_nothing(sequence, log, policy, back):
    """Frames that overtook each other on the network start no new map."""
    session = Session(FAST, log, on_time_jump=policy)
    feed(session, sequence, 0, 5)
    before = session.mapper.counts
    with pytest.raises(InputError, match="stamp"):
        session.process(Frame(int(sequence.stamps_ns[4]) - back, "camera", sequence.images[4]))
    assert (session.mapper.counts, session.resets) == (before, 0)
    feed(session, sequence, 5, 6)
    assert session.mapper.counts.frames == 6


def test_a_known_camera_keeps_its_focal_across_resets(sequence, log):
    session = Session(FAST, log)
    session.know("camera", known(sequence.width, sequence.height, 123.0))
    for _ in range(2):
        update = feed(session, sequence, 0, 2)
        assert (update.cameras["camera"].focal, update.cameras["camera"].fixed) == (123.0, True)
        session.reset()


def test_a_calibration_just_after_the_first_image_starts_again_with_it(sequence, log):
    """Drivers publish both at once; which one arrives first is chance and must not decide."""
    session = Session(FAST, log)
    feed(session, sequence, 0, 2)
    session.know("camera", known(sequence.width, sequence.height, 123.0))
    assert session.resets == 1
    assert feed(session, sequence, 2, 4).cameras["camera"].focal == 123.0
    session.know("camera", known(sequence.width, sequence.height, 123.0))  # published with every image
    assert session.resets == 1


def test_a_calibration_that_comes_late_waits_for_a_reset(fresh, sequence, log, caplog):
    session = branch(fresh)
    session.know("camera", known(sequence.width, sequence.height, 123.0))
    assert session.resets == 0 and "from the next reset on" in caplog.text
    assert not session.mapper.cameras["camera"].fixed
    session.reset()
    assert feed(session, sequence, 0, 1).cameras["camera"].focal == 123.0


def test_a_calibration_of_another_shape_is_reported_and_not_used(sequence, log, caplog):
    session = Session(FAST, log)
    session.know("camera", known(sequence.width, sequence.height // 2, 123.0))
    update = feed(session, sequence, 0, 2)
    assert not update.cameras["camera"].fixed
    assert "is estimated" in caplog.text


def test_a_calibration_of_a_larger_image_is_scaled(sequence, log):
    session = Session(FAST, log)
    session.know("camera", known(2 * sequence.width, 2 * sequence.height, 246.0))
    assert feed(session, sequence, 0, 1).cameras["camera"].focal == pytest.approx(123.0)


def test_a_first_image_that_cannot_be_used_does_not_spoil_the_calibration(sequence, log):
    session = Session(FAST, log)
    session.know("camera", known(sequence.width, sequence.height, 123.0))
    with pytest.raises(InputError):
        session.process(Frame(1, "camera", sequence.images[0].astype(float)))
    assert feed(session, sequence, 0, 2).cameras["camera"].focal == 123.0


# The world


def with_odometry(sequence, index, o_T_w):
    return Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index], o_T_c=o_T_w @ sequence.w_T_c[index])


def turned(degrees, x, y):
    """(4, 4) about z, then along x and y."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    T[:2, 3] = x, y
    return T


O_T_W = turned(40, 1.0, -2.0)


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """A finished run with odometry, and the file of its map."""
    sequence, path = walk("orbit", frames=30), tmp_path_factory.mktemp("driven") / "map.db"
    session = Session(FAST, logging.getLogger("session"))
    begin(session, FAST, map_db=str(path))
    for index in range(len(sequence)):
        update = session.process(with_odometry(sequence, index, O_T_W))
        if session.mapper.revision > 1 and update.w_T_c is not None and session.metric:
            assert update.w_T_c == pytest.approx(O_T_W @ sequence.w_T_c[index], abs=0.1)
    session.finish()
    session.close()
    return session, path, sequence


def test_odometry_makes_a_map_metric_upright_and_places_it(driven):
    session, _, sequence = driven
    assert session.metric and session.metres_per_unit > 0
    assert 1 <= session.mapper.revision <= 6  # versioned updates are rare, even while the focal settles
    poses = {p.stamp_ns: p.w_T_c for p in session.mapper.trajectory()}
    truth = {int(t): O_T_W @ T for t, T in zip(sequence.stamps_ns, sequence.w_T_c, strict=True)}
    errors = [np.linalg.norm(poses[t][:3, 3] - truth[t][:3, 3]) for t in poses]
    path = np.linalg.norm(np.diff(sequence.w_T_c[:, :3, 3], axis=0), axis=1).sum()
    assert np.sqrt(np.mean(np.square(errors))) < 0.01 * path


def test_an_accelerometer_makes_a_tilted_map_upright(log):
    sequence = walk("orbit", frames=16)
    session = Session(FAST, log)
    for index in range(len(sequence)):
        up = sequence.w_T_c[index, :3, :3].T @ [0.0, 0.0, 1.0]
        session.process(Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index], up=up))
    assert not session.metric
    for pose in session.mapper.trajectory():
        index = int(np.searchsorted(sequence.stamps_ns, pose.stamp_ns))
        up = pose.w_T_c[:3, :3] @ sequence.w_T_c[index, :3, :3].T @ [0.0, 0.0, 1.0]
        assert up[2] > np.cos(np.radians(1.0))


def test_a_given_scale_rescales_the_map_at_once(fresh, log):
    with pytest.raises(InputError, match="no map yet"):
        Session(FAST, log).set_scale(2.0)
    session = branch(fresh)
    keyframes = session.mapper.keyframes
    first, last = keyframes[0].index, keyframes[-1].index
    before = session.mapper.distance(first, last)
    update = session.set_scale(2.5)
    assert session.metric and session.mapper.revision == 1
    assert {k.index for k in update.changed} == {k.index for k in keyframes}
    assert session.mapper.distance(first, last) == pytest.approx(2.5 * before)
    for nonsense in (0.0, -1.0, float("nan"), float("inf"), 1e300, 1e-300):
        with pytest.raises(InputError):
            session.set_scale(nonsense)
    with pytest.raises(InputError, match="999"):
        session.mapper.distance(first, 999)


def test_a_scale_that_is_not_obeyed_is_said(fresh, monkeypatch):
    session = branch(fresh)
    monkeypatch.setattr(session.world, "command", lambda factor: None)
    with pytest.raises(InputError, match="left the map's scale unknown"):
        session.set_scale(2.5)


def test_odometry_makes_no_map_metric_that_cannot_be_moved(fresh, sequence, log, tmp_path):
    """One to localise in: its unit is told instead."""
    save_map(tmp_path / "map.db", fresh.mapper, fresh.settings())
    config = replace(FAST, mode="localization")
    session = Session(config, log)
    begin(session, config, load_map=str(tmp_path / "map.db"))
    for index in range(24):
        session.process(with_odometry(sequence, index, O_T_W))
    session.finish()
    assert not session.metric and session.mapper.revision == fresh.mapper.revision
    poses = {pose.stamp_ns: pose.w_T_c[:3, 3] for pose in fresh.mapper.trajectory()}
    apart = np.linalg.norm(poses[int(sequence.stamps_ns[11])] - poses[int(sequence.stamps_ns[0])])
    true = np.linalg.norm(sequence.w_T_c[11, :3, 3] - sequence.w_T_c[0, :3, 3])
    assert session.for_files()["scale"][0] == pytest.approx(true / apart, rel=0.05)


def test_a_map_that_is_woken_is_not_metric_by_the_other_one_s_word(log, tmp_path):
    """The file has one in metres, where the camera was last, and one that has no scale."""
    walks = [around(0, 1, 0), around(1, 4, 0)]
    states = [load_state(write_map(walk, tmp_path / f"{k}.db")) for k, walk in enumerate(walks)]
    both = gather(states, ["here", "there"], FAST).state
    session = Session(replace(FAST, mode="localization", lost_patience_s=1.0), log)
    session.resume(replace(both, settings={"world": {"metric": True, "relative_std": 0.01}}))
    names = {keyframe.index for keyframe in session.mapper.keyframes}
    for at, metric in ((0, True), (1, False), (0, True)):
        update = feed(session, walks[at], 0, 12, (session.mapper.counts.frames + 1) * 10**9)
        assert update.state is TrackingState.TRACKING and session.metric == metric
        assert (names == {keyframe.index for keyframe in session.mapper.keyframes}) == metric


def test_with_submaps_a_jump_back_lets_the_old_map_wait(sequence, log):
    session = Session(replace(FAST, focal=sequence.focal), log, on_time_jump="submap")
    feed(session, sequence, 0, 12)
    count = session.mapper.counts.keyframes
    update = feed(session, sequence, 0, 4)
    assert session.resets == 0
    assert update.state is TrackingState.TRACKING
    assert session.mapper.counts.keyframes >= count


@pytest.mark.parametrize("policy", ["reset", "submap"])
def test_a_jump_back_takes_no_map_that_is_only_localised_in(sequence, log, caplog, policy):
    """Nothing could begin another one."""
    session = Session(replace(FAST, focal=sequence.focal), log, on_time_jump=policy)
    feed(session, sequence, 0, 12)
    session.set_mapping(False)
    keyframes = [keyframe.index for keyframe in session.mapper.keyframes]
    update = feed(session, sequence, 0, 4)
    assert update.state is TrackingState.TRACKING and not update.removed
    assert [keyframe.index for keyframe in session.mapper.keyframes] == keyframes
    assert session.resets == 0 and "the map stays, as mode is localization" in caplog.text


# Saved maps


def test_a_run_goes_on_with_the_map_of_the_one_before(driven, log, tmp_path):
    first, saved, sequence = driven
    path = shutil.copy(saved, tmp_path / "map.db")
    second = Session(FAST, log)
    assert "keyframes" in begin(second, FAST, map_db=str(path))
    before, after = first.mapper.keyframes, second.mapper.keyframes
    assert [k.index for k in after] == [k.index for k in before]
    assert all(np.array_equal(a.w_T_c, b.w_T_c) for a, b in zip(before, after, strict=True))
    assert second.metric and second.metres_per_unit == first.metres_per_unit
    later = Frame(10**15, "camera", sequence.images[20])
    update = second.process(later)
    assert update.state is TrackingState.TRACKING
    assert update.w_T_c == pytest.approx(O_T_W @ sequence.w_T_c[20], abs=0.1)
    second.close()


def test_a_run_that_ended_before_its_first_keyframe_is_gone_on_with(sequence, log, tmp_path):
    config = FAST
    for _ in range(2):
        session = Session(config, log)
        begin(session, config, map_db=str(tmp_path / "map.db"))
        session.close()
    session = Session(config, log)
    begin(session, config, map_db=str(tmp_path / "map.db"))
    assert feed(session, sequence, 0, 12).state is TrackingState.TRACKING
    session.close()


def test_the_mode_outlives_a_reset(sequence, log):
    session = Session(FAST, log)
    session.set_mapping(False)
    session.reset()
    feed(session, sequence, 0, 3)
    assert not session.mapper.keyframes


def test_a_new_map_keeps_the_file_of_the_one_before(sequence, log, tmp_path):
    path, config = tmp_path / "map.db", FAST
    session = Session(config, log)
    begin(session, config, map_db=str(path))
    feed(session, sequence, 0, 12)
    count = len(session.mapper.keyframes)
    session.reset()
    feed(session, sequence, 0, 3)
    session.close()
    assert len(load_map(f"{path}{BEFORE}").keyframes) == count


def test_a_map_that_is_loaded_replaces_no_other_map(driven, log, tmp_path):
    """But where a new one was asked for, and then the other is still there."""
    _, saved, _ = driven
    path = Path(shutil.copy(saved, tmp_path / "map.db"))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"load_map '.*' would replace map_db '.*map\.db'; omit one, or set"):
        begin(Session(FAST, log), FAST, map_db=str(path), load_map=str(saved))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    session = Session(FAST, log)
    begin(session, FAST, map_db=str(path), load_map=str(saved), map_start="new")
    session.close()
    assert Path(f"{path}{BEFORE}").read_bytes() == before and load_map(path).keyframes


def test_a_map_that_is_loaded_and_kept_in_the_same_file_is_continued(driven, log, tmp_path):
    path = Path(shutil.copy(driven[1], tmp_path / "map.db"))
    session = Session(FAST, log)
    begin(session, FAST, map_db=str(path), load_map=f"{tmp_path}/../{tmp_path.name}/map.db")
    session.close()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("loaded", ["", "map.db", "other.db"])
def test_a_map_to_localise_in_is_not_written(driven, log, tmp_path, loaded):
    _, saved, sequence = driven
    files = [Path(shutil.copy(saved, tmp_path / name)) for name in ("map.db", "other.db")]
    before, config = files[0].read_bytes(), replace(FAST, mode="localization")
    session = Session(config, log)
    begin(session, config, map_db=str(files[0]), load_map=loaded and f"{tmp_path}/{loaded}")
    assert session.process(Frame(10**15, "camera", sequence.images[20])).state is TrackingState.TRACKING
    session.set_scale(2.0)
    session.reset()
    session.close()
    assert sorted(tmp_path.iterdir()) == files and [path.read_bytes() for path in files] == [before] * 2


def test_a_map_that_cannot_be_loaded_leaves_everything_as_it_was(fresh, sequence, tmp_path):
    session = branch(fresh)
    before = [k.w_T_c.tobytes() for k in session.mapper.keyframes]
    broken = tmp_path / "map.db"
    broken.write_bytes(b"no map")
    for path in (broken, tmp_path / "missing.db"):
        with pytest.raises(MapFileError):
            session.load(path)
    assert [k.w_T_c.tobytes() for k in session.mapper.keyframes] == before
    assert session.resets == 0
    assert feed(session, sequence, 12, 13).state is TrackingState.TRACKING


@pytest.mark.parametrize(("use", "focal"), [("fixed", 300.0), ("prior", 300.0), ("ignore", 240.0)])
def test_what_a_photograph_says_of_its_focal_length_is_begun_with(log, caplog, use, focal):
    """Whatever becomes of calibrations, which are exact; but not by who wants the images alone to tell."""
    session = Session(replace(FAST, calibration=use), log)
    session.process(Frame(0, "camera", walk("orbit", frames=12).images[0], focal=(300.0, 0.08)))
    camera = session.mapper.cameras["camera"]
    assert camera.focal == pytest.approx(focal) and not camera.fixed and camera.given == 0.0
    assert ("EXIF data, 300 px" in caplog.text) == (use != "ignore")
    session.know("camera", Calibration(240, 176, 200.0, 200.0, 119.5, 87.5))
    session.process(Frame(1, "camera", walk("orbit", frames=12).images[1], focal=(300.0, 0.08)))
    assert session.mapper.cameras["camera"].focal == pytest.approx(focal if use == "ignore" else 200.0)


def test_a_known_focal_length_is_not_that_of_another_lens_or_size(log):
    """Of cameras that a folder of photographs names after the first; one that is turned has it."""
    session = Session(replace(FAST, focal=210.0), log)
    image = walk("orbit", frames=12).images[0]
    frames = {
        "camera": (image, (200.0, 0.08)),
        "camera_176x240": (np.ascontiguousarray(np.rot90(image)), None),
        "camera_120x88": (image[::2, ::2], None),
        "camera_13mm": (image, (100.0, 0.08)),
        "right": (image[::2, ::2], None),
    }
    for name, (pixels, said) in frames.items():
        session.process(Frame(0, name, np.ascontiguousarray(pixels), focal=said))
    cameras = session.mapper.cameras
    assert [(name, camera.focal, camera.fixed) for name, camera in cameras.items()] == [
        ("camera", pytest.approx(210.0), True),
        ("camera_176x240", pytest.approx(210.0), True),
        ("camera_120x88", pytest.approx(120.0), False),
        ("camera_13mm", pytest.approx(100.0), False),
        ("right", pytest.approx(210.0), True),
    ]


def test_calibrated_cameras_are_rectified_alike_when_their_map_is_gone_on_with(log, tmp_path):
    """Whatever the new run's own parameters and topics say."""
    sequence, path = walk("orbit", frames=12), tmp_path / "map.db"
    config = FAST
    off_centre = Calibration(240, 176, sequence.focal, sequence.focal, 125.0, 84.0)
    first = Session(config, log)
    begin(first, config, map_db=str(path))
    first.know("camera", off_centre)
    feed(first, sequence, 0, 12)
    first.close()
    second = Session(replace(FAST, calibration="ignore"), log)
    begin(second, config, load_map=str(path))
    camera = second.mapper.cameras["camera"]
    assert second.calibrations.raw(camera) == off_centre
    second.close()


LOSES = replace(FAST, lost_patience_s=1.0, keyframe_motion=0.02, keyframe_motion_young=0.02)
AFTER_NS = 20 * 10**9  # when the light is on again


def darkness(session, sequence, images=8):
    """Half a second each, long after what was shown before."""
    start_ns = int(sequence.stamps_ns[0]) + AFTER_NS // 2
    for index in range(images):
        session.process(Frame(start_ns + index * 10**9 // 2, "camera", np.zeros_like(sequence.images[0])))


def test_a_map_that_ends_in_the_dark_is_continued(log, tmp_path):
    """Its last keyframe has no features."""
    long, path = walk("orbit", 48), str(tmp_path / "map.db")
    session = Session(LOSES, log)
    begin(session, LOSES, map_db=path)
    session.go_live()
    feed(session, long, 0, 40)
    darkness(session, long)
    session.close()
    again = Session(LOSES, log)
    begin(again, LOSES, map_db=path)
    assert max(len(entry.submap.posed()) for entry in (again.mapper._active, *again.mapper._atlas.asleep)) > 10
    again.close()


def test_a_calibration_that_comes_after_a_map_was_left_keeps_it(log):
    long = walk("orbit", 48)
    session = Session(LOSES, log)
    feed(session, long, 0, 30)
    darkness(session, long)
    assert session.mapper.counts.keyframes == 0 and session.mapper.counts.maps == 1
    session.know("camera", known(long.width, long.height, long.focal))
    assert session.mapper.counts.maps == 1 and session.resets == 0


def test_a_camera_that_focuses_keeps_its_map(log, sequence, caplog):
    """Its driver says a slightly different focal with every image; the first one holds."""
    session = Session(FAST, log)
    for index in range(24):
        session.know("camera", known(sequence.width, sequence.height, sequence.focal + 0.05 * (index % 7)))
        session.process(Frame(index * 10**9 // 8, "camera", sequence.images[index]))
    assert session.resets == 0 and session.mapper.counts.keyframes > 3
    for factor in (1.1, 1.2, 1.3):
        session.know("camera", known(sequence.width, sequence.height, factor * sequence.focal))
    assert session.resets == 0 and session.mapper.counts.keyframes > 3
    assert caplog.text.count("from the next reset on") == 1, "the log is not flooded"
    assert session.calibrations.known["camera"].fx == pytest.approx(1.3 * sequence.focal)


def test_a_scale_is_of_one_map_and_not_of_the_next(log):
    """Live, a map that hardly grew is dropped when the camera is lost; neither a command nor a memory outlives it."""
    long = walk("orbit", 48)
    session = Session(replace(FAST, lost_patience_s=1.0, focal=long.focal), log)
    session.go_live()
    feed(session, long, 0, 16)
    session.set_scale(4.0)
    names = {keyframe.index for keyframe in session.mapper.keyframes}
    assert session.metric
    darkness(session, long)
    feed(session, long, 30, 46, AFTER_NS)
    assert session.mapper.counts.keyframes > 3 and not session.metric
    assert names.isdisjoint(keyframe.index for keyframe in session.mapper.keyframes)
    session.set_scale(2.0)
    assert session.metric and session.metres_per_unit == pytest.approx(2.0), "a command is of the next map, too"
