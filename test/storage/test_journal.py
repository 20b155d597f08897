"""Maps that grow on disk: equal to the mapper at every moment, cheap, continued as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from branches import branch
from growing import DENSE, LATER_NS, grow, resumed
from oracle import Oracle
from sequences import walk

from dust3r_ros.errors import InputError, MapFileError, OutputError
from dust3r_ros.geometry.rigid import angle_deg, pose
from dust3r_ros.geometry.similarity import Similarity, rms_apart
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.storage.changes import Changes
from dust3r_ros.storage.journal import BEFORE, MapJournal
from dust3r_ros.storage.saved_map import load_map, load_state, save_map
from dust3r_ros.types import TrackingState

FRAMES, FIRST = 24, 16


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return walk("orbit", FRAMES)


@pytest.fixture(scope="module")
def config(sequence: RenderedSequence):
    return replace(DENSE, focal=sequence.focal)


@dataclass(frozen=True, eq=False)
class Grown:
    """A map that grew in a file, and the mapper that made it."""

    path: Path
    mapper: Mapper


@pytest.fixture(scope="module")
def grown(sequence: RenderedSequence, config, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """The first frames of a walk around the table."""
    path = tmp_path_factory.mktemp("grown") / "map.db"
    mapper = Mapper(config)
    with MapJournal(path, {"seed": 3}) as journal:
        grow(mapper, journal, sequence, range(FIRST))
        mapper.finish()
        journal.update(mapper.live)
    assert os.listdir(path.parent) == ["map.db"]
    return Grown(path, mapper)


@pytest.fixture
def copy(grown: Grown, tmp_path: Path) -> Path:
    """The file of the map, to be written to."""
    return Path(shutil.copy(grown.path, tmp_path / "map.db"))


def equal(path: Path, mapper: Mapper) -> None:
    """What a file shows is what the mapper has."""
    contents = load_map(path)
    assert [k.index for k in contents.keyframes] == [k.index for k in mapper.keyframes]
    assert contents.edges == tuple(mapper.edges) and contents.cameras == mapper.cameras
    for saved, own in zip(contents.keyframes, mapper.keyframes, strict=True):
        assert saved.w_T_c.tobytes() == own.w_T_c.tobytes()
        assert (saved.stamp_ns, saved.camera, saved.version) == (own.stamp_ns, own.camera, own.version)
        assert saved.focal == pytest.approx(own.focal, rel=1e-12)
        assert np.array_equal(saved.image, own.image)
        assert np.allclose(saved.depth, own.depth, rtol=1e-3, atol=0)
        assert np.allclose(saved.confidence, own.confidence, rtol=1e-3, atol=0)


def error(mapper: Mapper, sequence: RenderedSequence, frame_of: dict[int, int]) -> float:
    """Root mean square distance of the trajectory from the truth after a similarity, metres."""
    poses = mapper.trajectory()
    found = np.stack([at.w_T_c[:3, 3] for at in poses])
    true = np.stack([sequence.w_T_c[frame_of[at.stamp_ns]][:3, 3] for at in poses])
    return rms_apart(found, true)


class TestGrowing:
    """The file follows the mapper."""

    def test_it_is_equal_after_every_frame(self, sequence: RenderedSequence, config, tmp_path: Path) -> None:
        mapper = Mapper(config)
        with MapJournal(tmp_path / "map.db") as journal:
            for frame in range(8):
                grow(mapper, journal, sequence, [frame])
                equal(tmp_path / "map.db", mapper)  # readers do not wait for the end
            mapper.finish()
            journal.update(mapper.live)
            equal(tmp_path / "map.db", mapper)
            mapper.move(Similarity(2.5, pose(np.eye(3), np.zeros(3))[:3, :3], np.array([1.0, 2.0, 3.0])))
            journal.update(mapper.live)
        equal(tmp_path / "map.db", mapper)

    def test_another_unit_does_not_rewrite_depth(self, grown: Grown, copy: Path, config) -> None:
        mapper = resumed(copy, config)
        before = sqlite3.connect(copy).execute("SELECT depth FROM depths ORDER BY number").fetchall()
        with MapJournal(copy, fresh=False) as journal:
            journal.update(mapper.live)
            mapper.move(Similarity(0.37, np.eye(3), np.zeros(3)))
            journal.update(mapper.live)
        assert sqlite3.connect(copy).execute("SELECT depth FROM depths ORDER BY number").fetchall() == before
        equal(copy, mapper)

    def test_nothing_new_writes_nothing(self, grown: Grown, copy: Path, config) -> None:
        mapper = resumed(copy, config)
        with MapJournal(copy, fresh=False) as journal:
            journal.update(mapper.live)
            before = (copy.with_name("map.db-wal")).stat().st_size
            journal.update(mapper.live)
            assert copy.with_name("map.db-wal").stat().st_size == before

    def test_a_mapper_that_begins_anew_takes_the_place(self, grown: Grown, copy: Path, sequence, config) -> None:
        mapper = resumed(copy, config)
        with MapJournal(copy, fresh=False) as journal:
            journal.update(mapper.live)
            again = Mapper(config)
            grow(again, journal, sequence, range(5, 11))
        equal(copy, again)
        assert len(load_state(copy).submaps[0].frames) == 6

    def test_settings_of_a_map_are_written_with_it(
        self, grown: Grown, copy: Path, config, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mapper = resumed(copy, config)
        with MapJournal(copy, fresh=False) as journal:
            journal.update(mapper.live, {"unit": 1.0})
            mapper.move(Similarity(2.0, np.eye(3), np.zeros(3)))
            monkeypatch.setattr(Changes, "_write_state", lambda _: 1 / 0)  # the end of the transaction
            with pytest.raises(ZeroDivisionError):
                journal.update(mapper.live, {"unit": 2.0})
            monkeypatch.undo()
            assert load_state(copy).settings == {"seed": 3, "unit": 1.0}
            equal(copy, grown.mapper)
            journal.update(mapper.live, {"unit": 2.0})
        assert load_state(copy).settings == {"seed": 3, "unit": 2.0}
        equal(copy, mapper)

    def test_settings(self, grown: Grown, copy: Path) -> None:
        with MapJournal(copy, {"b": [1, None]}, fresh=False) as journal:
            journal.write_settings({"seed": {"x": 1.5}})
        assert load_state(copy).settings == load_map(copy).settings == {"seed": {"x": 1.5}, "b": [1, None]}


class TestRoundTrip:
    """What comes back."""

    def test_the_state_is_that_of_the_mapper(self, grown: Grown, config) -> None:
        again = resumed(grown.path, config)
        a, b = grown.mapper.submap.state.sparse, again.submap.state.sparse
        for one, other in zip(a.views, b.views, strict=True):
            assert one.w_T_c.tobytes() == other.w_T_c.tobytes() and one.first_id == other.first_id
            for name in ("seen", "pruned"):
                mine, saved = getattr(one, name), getattr(other, name)
                assert np.array_equal(mine.ids, saved.ids) and np.array_equal(mine.pixels, saved.pixels)
        assert [vars(f) for f in a.intrinsics] == [vars(f) for f in b.intrinsics] and grown.mapper.edges == again.edges
        every = np.arange(len(a.points))
        assert np.array_equal(a.landmarks.resolved(every), b.landmarks.resolved(every))
        assert (a.positioned == b.positioned).mean() > 0.99
        both = a.positioned & b.positioned
        # The file does not say how exact observations are, by which the last adjustment weighs them.
        assert np.median(np.linalg.norm(a.points[both] - b.points[both], axis=1)) < 5e-4
        for one, other in zip(grown.mapper.trajectory(), again.trajectory(), strict=True):
            assert one.stamp_ns == other.stamp_ns and np.allclose(one.w_T_c, other.w_T_c, atol=2e-3)

    def test_saved_at_once_is_the_same(self, grown: Grown, tmp_path: Path, config) -> None:
        save_map(tmp_path / "map.db", grown.mapper, {"seed": 3})
        assert os.listdir(tmp_path) == ["map.db"]
        equal(tmp_path / "map.db", grown.mapper)
        assert [k.index for k in resumed(tmp_path / "map.db", config).keyframes] == [
            k.index for k in grown.mapper.keyframes
        ]

    def test_landmarks_for_exports(self, grown: Grown) -> None:
        contents = load_map(grown.path, landmarks=True)
        found, sparse = contents.landmarks, grown.mapper.submap.state.sparse
        assert found is not None and len(found.positions) > 300
        assert np.bincount(found.landmark, minlength=len(found.positions)).min() >= 2
        by_index = {keyframe.index: keyframe for keyframe in contents.keyframes}
        errors = []
        for index in set(found.keyframe.tolist()):
            keyframe, mine = by_index[index], found.keyframe == index
            X = (found.positions[found.landmark[mine]] - keyframe.w_T_c[:3, 3]) @ keyframe.w_T_c[:3, :3]
            height, width = keyframe.depth.shape
            shown = keyframe.focal * X[:, :2] / X[:, 2:] + [(width - 1) / 2, (height - 1) / 2]
            errors.append(np.linalg.norm(shown - found.pixels[mine], axis=1))
        assert np.median(np.concatenate(errors)) < 0.5
        assert abs(len(found.positions) - sparse.positioned.sum()) < 0.02 * len(found.positions)


class TestContinued:
    """A second session."""

    def test_a_frame_seen_before_is_found_at_its_place(self, grown: Grown, sequence, config) -> None:
        mapper = resumed(grown.path, config)
        # A robot's clock that starts again: before the stamps of the map.
        update = mapper.process(17, "camera", sequence.images[7])
        assert update.state is TrackingState.TRACKING and len(update.changed) >= len(grown.mapper.keyframes)
        before = next(p for p in grown.mapper.trajectory() if p.stamp_ns == sequence.stamps_ns[7])
        assert np.linalg.norm(update.w_T_c[:3, 3] - before.w_T_c[:3, 3]) < 0.01
        assert angle_deg(update.w_T_c[:3, :3].T @ before.w_T_c[:3, :3]) < 0.2

    def test_it_is_as_good_as_one_session(self, grown: Grown, copy: Path, sequence, config) -> None:
        whole = branch(grown.mapper)
        grow(whole, None, sequence, range(FIRST, FRAMES))
        mapper = resumed(copy, config)
        with MapJournal(copy, fresh=False) as journal:
            updates = grow(mapper, journal, sequence, range(FIRST, FRAMES), LATER_NS)
            equal(copy, mapper)
        assert all(update.state is TrackingState.TRACKING for update in updates)
        for one in (mapper, whole):
            one.finish()
        frame_of = {int(stamp) + later: i for i, stamp in enumerate(sequence.stamps_ns) for later in (0, LATER_NS)}
        assert len(mapper.trajectory()) == len(whole.trajectory())
        assert error(mapper, sequence, frame_of) < 1.5 * error(whole, sequence, frame_of) + 0.002
        third = resumed(copy, config)
        assert third._atlas.session == 2
        assert [p.stamp_ns for p in third.trajectory()] == sorted(p.stamp_ns for p in third.trajectory())

    def test_a_lost_camera_begins_another_map_and_both_are_kept(self, grown: Grown, copy: Path, config) -> None:
        elsewhere, seconds = walk("sweep", 12), 10**9
        config = replace(config, lost_patience_s=1.0)
        mapper = resumed(copy, config)
        with MapJournal(copy, fresh=False) as journal:
            for i, image in enumerate([np.zeros_like(elsewhere.images[0])] * 3):
                update = mapper.process((i + 1) * seconds, "camera", image)
                journal.update(mapper.live)
            assert update.state is not TrackingState.TRACKING
            for i, image in enumerate(elsewhere.images):
                mapper.process((10 + i) * seconds // 2 + 5 * seconds, "camera", image)
                journal.update(mapper.live)
        state = load_state(copy)
        assert len(state.submaps) == len(mapper._atlas.asleep) + 1 == 2
        assert [len(s.names) for s in state.submaps] == [
            len(s.submap) for s in (mapper._atlas.active, *mapper._atlas.asleep)
        ]
        again = resumed(copy, config)
        assert {n for s in (again._atlas.active, *again._atlas.asleep) for n in s.names} == {
            n for s in state.submaps for n in s.names
        }
        assert len(set(again._atlas.active.names) & set(again._atlas.asleep[0].names)) == 0

    def test_pointmaps(self, sequence: RenderedSequence, tmp_path: Path) -> None:
        backend = Oracle(sequence, DENSE.working_size, warp=0.05)
        mapper, path = Mapper(DENSE, backend=backend), tmp_path / "map.db"
        with MapJournal(path) as journal:
            grow(mapper, journal, sequence, range(8))
            equal(path, mapper)
        again = resumed(path, backend=Oracle(sequence, DENSE.working_size, warp=0.05))
        assert again.edges == mapper.edges
        for one, other in zip(mapper.keyframes, again.keyframes, strict=True):
            assert one.w_T_c.tobytes() == other.w_T_c.tobytes()
        with MapJournal(path, fresh=False) as journal:
            updates = grow(again, journal, sequence, range(8, 14), LATER_NS)
            equal(path, again)
            again.finish()
            journal.update(again.live)
        equal(path, again)  # depth of the earlier session's keyframes too, which now follows landmarks
        assert all(update.state is TrackingState.TRACKING for update in updates)
        frame_of = {int(stamp) + later: i for i, stamp in enumerate(sequence.stamps_ns) for later in (0, LATER_NS)}
        assert error(again, sequence, frame_of) < 0.02
        with pytest.raises(InputError, match=r"pointmaps.*landmarks"):
            resumed(path)


class TestRefused:
    """What is no map to continue, and what cannot be written."""

    def test_another_size_of_image(self, grown: Grown, sequence, config) -> None:
        mapper = resumed(grown.path, config)
        with pytest.raises(InputError, match="changed from 240x176 to 176x240"):
            mapper.process(1, "camera", np.ascontiguousarray(np.rot90(sequence.images[0])))

    def test_other_settings_of_the_images(self, grown: Grown, config) -> None:
        with pytest.raises(InputError, match=r"tracking_size 240.*has 200"):
            resumed(grown.path, replace(config, tracking_size=200))

    def test_after_the_first_image(self, grown: Grown, sequence, config) -> None:
        mapper = Mapper(config)
        mapper.process(1, "camera", sequence.images[0])
        with pytest.raises(InputError, match="before the first image"):
            mapper.resume(load_state(grown.path))
        assert len(mapper.submap) == 1

    def test_a_file_that_was_not_loaded(self, grown: Grown, copy: Path, sequence, config) -> None:
        with MapJournal(copy, fresh=False) as journal, pytest.raises(OutputError, match="not the one that was loaded"):
            grow(Mapper(config), journal, sequence, [0])
        equal(copy, grown.mapper)

    @pytest.mark.parametrize(
        ("table", "column"),
        [
            ("images", "features"), ("images", "descriptors"), ("images", "global_descriptor"), ("observations", "ids"),
            ("observation_states", "seen"), ("maps", "likeness"), ("aliases", "ids"),
            ("frames", "keyframe_T_frame"), ("pairs", "second_T_first"), ("keyframes", "w_T_c"),
        ],
    )  # fmt: skip
    def test_damage_anywhere(self, grown: Grown, copy: Path, table: str, column: str) -> None:
        base = sqlite3.connect(copy)
        order = f"ORDER BY length({column}) DESC"
        blob = bytearray(base.execute(f"SELECT {column} FROM {table} {order}").fetchone()[0])
        blob[len(blob) // 2] ^= 4
        base.execute(f"UPDATE {table} SET {column} = ?", (bytes(blob),))
        base.commit()
        base.close()
        with pytest.raises(MapFileError, match=r"map\.db.*damaged"):
            load_state(copy)

    @pytest.mark.parametrize("part", [0.2, 0.6, 0.95])
    def test_half_a_file(self, grown: Grown, copy: Path, part: float) -> None:
        data = copy.read_bytes()
        copy.write_bytes(data[: int(part * len(data))])
        with pytest.raises(MapFileError, match=r"map\.db"):
            load_state(copy)

    def test_a_full_disk_and_room_again(self, sequence: RenderedSequence, config, tmp_path: Path) -> None:
        mapper, failed = Mapper(config), 0
        with MapJournal(tmp_path / "map.db") as journal:
            for frame in range(12):
                if frame == 4:
                    pages = journal._base.execute("PRAGMA page_count").fetchone()[0]
                    journal._base.execute(f"PRAGMA max_page_count = {pages + 20}")
                if frame == 9:
                    journal._base.execute("PRAGMA max_page_count = 1000000")
                try:
                    grow(mapper, journal, sequence, [frame])
                except OutputError as error:
                    assert "map.db' cannot be written" in str(error) and "full" in str(error)
                    failed += 1
            assert failed >= 3
            equal(tmp_path / "map.db", mapper)
        again = resumed(tmp_path / "map.db", config)
        assert len(again.trajectory()) == len(mapper.trajectory())

    def test_two_writers(self, grown: Grown, copy: Path, config) -> None:
        with MapJournal(copy, fresh=False):
            code = "import sys; from dust3r_ros.storage.journal import MapJournal; MapJournal(sys.argv[1])"
            other = subprocess.run([sys.executable, "-c", code, str(copy)], capture_output=True, text=True)
            assert other.returncode == 1 and "is being written by another process" in other.stderr
            with pytest.raises(OutputError, match="being written"):
                save_map(copy, grown.mapper)
        assert sorted(os.listdir(copy.parent)) == ["map.db"]
        equal(copy, grown.mapper)

    def test_where_nothing_can_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="nowhere"):
            MapJournal(tmp_path / "nowhere" / "map.db")
        with pytest.raises(OutputError, match="is a folder"):
            MapJournal(tmp_path)
        os.mkfifo(pipe := tmp_path / "pipe")
        with pytest.raises(OutputError, match="is a device or a pipe"):
            MapJournal(pipe)
        assert pipe.is_fifo()
        journal = MapJournal(tmp_path / "map.db")
        journal.close()
        journal.close()
        with pytest.raises(OutputError, match="closed"):
            journal.update(Mapper().live)

    def test_what_was_there_is_kept(self, grown: Grown, copy: Path, config) -> None:
        # As a process leaves it that is killed: the last changes are in the log.
        journal = MapJournal(copy, fresh=False)
        mapper = resumed(copy, config)
        mapper.move(Similarity(2.0, np.eye(3), np.zeros(3)))
        journal.update(mapper.live)
        killed = copy.parent / "killed"
        killed.mkdir()
        for file in ("map.db", "map.db-wal"):
            shutil.copy(copy.parent / file, killed / file)
        journal.close()
        with MapJournal(killed / "map.db"):
            pass
        assert sorted(os.listdir(killed)) == ["map.db", "map.db" + BEFORE]
        equal(killed / ("map.db" + BEFORE), mapper)
        assert load_map(killed / "map.db").keyframes == ()


def test_one_of_two_cameras_comes_back(sequence: RenderedSequence, config, tmp_path: Path) -> None:
    mapper, path = Mapper(config), tmp_path / "map.db"
    with MapJournal(path) as journal:
        for frame in range(12):
            camera = "left" if frame < 6 or frame % 2 else "right"
            mapper.process(int(sequence.stamps_ns[frame]), camera, sequence.images[frame])
            journal.update(mapper.live)
    names = {keyframe.camera for keyframe in mapper.keyframes}
    again = resumed(path, replace(config, lost_patience_s=1.0))
    assert list(again.cameras) == ["left", "right"] and {k.camera for k in again.keyframes} == names
    assert again.cameras["right"].focal == mapper.cameras["right"].focal
    assert again.process(5, "right", sequence.images[8]).state is TrackingState.TRACKING
    dark = np.zeros_like(sequence.images[0])
    states = [again.process(stamp * 10**9, "right", dark).state for stamp in (2, 3, 4, 5)]
    assert states[0] is TrackingState.LOST and states[-1] is TrackingState.INITIALISING, "left is not waited for"
    kept = load_state(path).submaps[0].names
    assert len(again._atlas.asleep) == 1 and tuple(again._atlas.asleep[0].names[: len(kept)]) == kept


def test_a_session_that_ended_before_its_first_image(sequence: RenderedSequence, config, tmp_path: Path) -> None:
    path = tmp_path / "map.db"
    MapJournal(path, {"seed": 1}).close()
    assert os.listdir(tmp_path) == ["map.db"]
    mapper = resumed(path, config)
    with MapJournal(path, fresh=False) as journal:
        grow(mapper, journal, sequence, range(5))
    equal(path, mapper)
    assert load_state(path).settings == {"seed": 1} and load_state(path).session == 1


def test_a_map_goes_on_in_another_file(grown: Grown, sequence: RenderedSequence, config, tmp_path: Path) -> None:
    before = grown.path.read_bytes()
    mapper = resumed(grown.path, config)
    with MapJournal(tmp_path / "other.db") as journal:
        grow(mapper, journal, sequence, range(FIRST, FIRST + 3), LATER_NS)
        equal(tmp_path / "other.db", mapper)
    assert len(load_state(tmp_path / "other.db").submaps[0].frames) == FIRST + 3
    assert grown.path.read_bytes() == before
