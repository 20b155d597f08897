"""A front end and a back end in lock step, and their manifest replayed."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from sequences import SMALL, walk

from dust3r_ros.errors import InputError
from dust3r_ros.io.manifest import Event, read_manifest
from dust3r_ros.mapping.submap import RENUMBER
from dust3r_ros.session.back_end import BackEnd
from dust3r_ros.session.replay import apply
from dust3r_ros.session.session import Session, begin
from dust3r_ros.storage.saved_map import save_map
from dust3r_ros.tracking import Tracks
from dust3r_ros.tracking.exchange import KeyframeRequest
from dust3r_ros.tracking.front_end import FrontEnd
from dust3r_ros.types import Frame

LOG = logging.getLogger("live")
LIVE = replace(SMALL, dense=False, keyframe_motion_young=0.02)


def recorded(path):
    """A live session that writes a manifest, and its front end."""
    session = Session(LIVE, LOG)
    begin(session, LIVE, manifest=str(path))
    session.go_live()
    return session, FrontEnd(LIVE)


def replayed(path, sequence, unused=()):
    """The session of a manifest, once more; there is a gap in the ids before the images stamped ``unused``."""
    again = Session(LIVE, LOG)
    images = dict(zip(sequence.stamps_ns.tolist(), sequence.images, strict=True))
    for entry in read_manifest(path).entries():
        if isinstance(entry, Event):
            apply(again, entry)
            continue
        if entry.stamp_ns in unused:
            leave_a_gap(again.mapper)
        again.process(Frame(entry.stamp_ns, entry.camera, images[entry.stamp_ns]))
    return again


def test_what_a_front_end_did_is_done_again_bit_by_bit(tmp_path):
    """Images handed over with what was seen in them, poses kept, work that was put off."""
    sequence, path = walk("orbit"), tmp_path / "run.jsonl"
    session, front = recorded(path)
    back_end = BackEnd(session)
    snapshot_ns, saw = 0, []
    for index in range(20):
        frame = Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index])
        tracked = front.track(frame.stamp_ns, frame.image)
        front.pick_up()
        if tracked.followed is not None:
            saw.append(snapshot_ns)
        if tracked.followed is not None and index % 3:
            back_end.keep([tracked.followed])
            continue
        taken = back_end.take(KeyframeRequest(frame, tracked.followed, tracked.ids, tracked.pixels))
        if taken.snapshot is not None:
            front.take(taken.snapshot)
            snapshot_ns = frame.stamp_ns
        back_end.work()
    session.close()
    events = [entry for entry in read_manifest(path).entries() if isinstance(entry, Event)]
    assert {event.kind for event in events} == {"live", "seen", "work", "followed"}
    poses = [value for event in events for value in event.values.get("poses", [event.values])]
    assert [value["snapshot_ns"] for value in poses if "ids" in value] == saw, "which snapshot each image saw"

    again = replayed(path, sequence)
    assert again.mapper.counts == session.mapper.counts
    for a, b in zip(session.mapper.trajectory(), again.mapper.trajectory(), strict=True):
        assert (a.stamp_ns, a.w_T_c.tobytes()) == (b.stamp_ns, b.w_T_c.tobytes())
    assert len(again.mapper.trajectory()) > again.mapper.counts.keyframes


def test_what_was_seen_in_a_refused_image_is_not_of_the_next():
    """It may be of another map: its landmarks do not exist here."""
    sequence = walk("orbit")
    session = Session(replace(SMALL, dense=False), logging.getLogger("live"))
    frames = [Frame(int(t), "camera", image) for t, image in zip(sequence.stamps_ns, sequence.images, strict=True)]
    session.process(frames[0])
    session.see("camera", Tracks(np.array([10**6]), np.zeros((1, 2))), 0)
    with pytest.raises(InputError):
        session.process(frames[0])
    session.process(frames[1])
    assert 10**6 not in session.mapper.stream("camera").tracks.ids


def test_poses_of_a_map_that_was_are_left_out():
    sequence = walk("orbit")
    session = Session(replace(SMALL, dense=False), logging.getLogger("live"))
    back_end, front = BackEnd(session), FrontEnd(SMALL)
    for index in range(12):
        frame = Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index])
        tracked = front.track(frame.stamp_ns, frame.image)
        taken = back_end.take(KeyframeRequest(frame, tracked.followed, tracked.ids, tracked.pixels))
        if taken.snapshot is not None:
            front.take(taken.snapshot)
    assert tracked.followed is not None and tracked.followed.epoch == back_end.epoch
    (snapshot,) = back_end.snapshots()
    assert (snapshot.stamp_ns, snapshot.epoch) == (frame.stamp_ns, back_end.epoch)
    session.reset()
    assert back_end.epoch != snapshot.epoch and back_end.snapshots() == ()
    back_end.keep([tracked.followed])
    assert session.mapper.counts.frames == 0


def test_front_ends_go_on_when_landmarks_get_new_ids(tmp_path):
    """Images and poses still on their way have the old ones; the manifest has the current ones."""
    sequence, path = walk("orbit"), tmp_path / "run.jsonl"
    session, front = recorded(path)
    back_end = BackEnd(session)
    unused, snapshots = sequence.stamps_ns[[0, 9, 12]].tolist(), []
    for index in range(20):
        frame = Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index])
        tracked = front.track(frame.stamp_ns, frame.image)
        front.pick_up()
        while back_end.work():
            pass
        if index in (11, 16):  # while the image is on its way
            followed = session.mapper.positions(tracked.ids)
            session.work(RENUMBER)
            now = session.mapper.renumbering.of(tracked.ids)
            assert (now != tracked.ids).any(), "there were gaps"
            assert np.mean(now >= 0) > 0.9
            assert np.array_equal(session.mapper.positions(now[now >= 0]), followed[now >= 0], equal_nan=True)
        if tracked.followed is not None and index % 3:
            back_end.keep([tracked.followed])
            continue
        if frame.stamp_ns in unused:
            leave_a_gap(session.mapper)
        taken = back_end.take(KeyframeRequest(frame, tracked.followed, tracked.ids, tracked.pixels))
        if taken.snapshot is not None:
            snapshots.append((taken.snapshot.numbering, taken.snapshot.renumbering is not None))
            front.take(taken.snapshot)
            assert len(front._corners) > 50 or len(snapshots) == 1, "they are followed on"
    assert snapshots[-4:] == [(0, False), (1, True), (1, False), (2, True)]
    session.close()
    again = replayed(path, sequence, unused)
    assert again.mapper.numbering == 2
    for a, b in zip(session.mapper.trajectory(), again.mapper.trajectory(), strict=True):
        assert (a.stamp_ns, a.w_T_c.tobytes()) == (b.stamp_ns, b.w_T_c.tobytes())


def test_a_corner_that_a_front_end_found_is_one_landmark_of_all_keyframes_that_see_it(tmp_path):
    """Also when landmarks get other ids in between; a replay makes the same landmarks."""
    sequence, path = walk("orbit"), tmp_path / "run.jsonl"
    session, front = recorded(path)
    back_end, own, at = BackEnd(session), np.array([-(10**6), 3 - 10**6]), np.array([[-60.0, 40.0], [55.0, -42.0]])
    for index in range(20):
        frame = Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index])
        tracked = front.track(frame.stamp_ns, frame.image)
        front.pick_up()
        while back_end.work():
            pass
        handed = KeyframeRequest(frame, tracked.followed, tracked.ids, tracked.pixels)
        if index >= 14:
            handed = replace(handed, ids=np.append(tracked.ids, own), pixels=np.append(tracked.pixels, at, axis=0))
        taken = back_end.take(handed)
        if index == 16:
            named = taken.snapshot.named
            session.work(RENUMBER)
            assert np.all(named.of(own) >= 0)
            kept = session.mapper.renumbering.of(named.of(own))
            assert np.all(kept >= 0), "they are followed"
            assert np.array_equal(session.mapper.stream("camera").named.of(own), kept)
        if taken.snapshot is not None:
            front.take(taken.snapshot)
    now = session.mapper.stream("camera").named.only(own)
    assert np.array_equal(np.sort(now.former), own) and len(np.unique(now.now)) == 2
    session.close()
    again = replayed(path, sequence)
    assert np.array_equal(again.mapper.stream("camera").named.only(own).now, now.now)


def leave_a_gap(mapper):
    """Make ids that are not in use."""
    mapper.submap.state.sparse.landmarks.new(3000)


def test_a_link_becomes_a_keyframe_that_the_next_one_shares_landmarks_with(tmp_path):
    """Without features of its own; so does a replay make it. Saved and loaded, it is one like others."""
    sequence, path = walk("orbit"), tmp_path / "run.jsonl"
    session, front = recorded(path)
    back_end = BackEnd(session)
    for index in range(18):
        frame = Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index])
        tracked, link = front.track(frame.stamp_ns, frame.image), index == 15
        front.pick_up()
        while back_end.work():
            pass
        before = len(session.mapper.submap)
        taken = back_end.take(KeyframeRequest(frame, tracked.followed, tracked.ids, tracked.pixels, link))
        state, made = session.mapper.submap.state, len(session.mapper.submap) - before
        if link:
            assert made == 1 and taken.update.keyframe is not None and taken.snapshot is not None
            assert state.records[-1].link and len(state.records[-1].features.pixels) == 0
        if index == 16:
            assert made == 1 and not state.records[-1].link, "it waits for the next one"
            assert len(np.intersect1d(state.sparse.views[-1].seen.ids, state.sparse.views[-2].seen.ids)) > 50
        front.take(taken.snapshot) if taken.snapshot is not None else None
    session.close()
    again = replayed(path, sequence)
    assert [record.link for record in again.mapper.submap.state.records] == [record.link for record in state.records]
    for a, b in zip(session.mapper.trajectory(), again.mapper.trajectory(), strict=True):
        assert (a.stamp_ns, a.w_T_c.tobytes()) == (b.stamp_ns, b.w_T_c.tobytes())
    save_map(tmp_path / "map.db", session.mapper)
    went_on = Session(LIVE, LOG)
    assert went_on.load(tmp_path / "map.db") == len(session.mapper.keyframes)
    went_on.process(frame)
    assert went_on.mapper.whereabouts("camera") is not None


def test_a_link_has_no_depth_of_its_own():
    sequence = walk("orbit")
    session = Session(replace(LIVE, dense=True), LOG)
    session.go_live()
    back_end, front = BackEnd(session), FrontEnd(LIVE)
    for index in range(17):
        frame = Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index])
        tracked = front.track(frame.stamp_ns, frame.image)
        front.pick_up()
        taken = back_end.take(KeyframeRequest(frame, tracked.followed, tracked.ids, tracked.pixels, index == 15))
        while back_end.work():
            pass
        front.take(taken.snapshot) if taken.snapshot is not None else None
    session.mapper.finish()
    submap = session.mapper.submap
    links = [record.link for record in submap.state.records]
    assert sum(links) == 1 and [not submap.keyframe(index).depth.any() for index in submap.posed()] == links


def test_a_link_without_a_pose_is_an_image_like_others():
    sequence = walk("orbit")
    session = Session(LIVE, LOG)
    session.go_live()
    back_end = BackEnd(session)
    for index in range(3):
        frame = Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index])
        back_end.take(KeyframeRequest(frame, link=True))
    assert not any(record.link for record in session.mapper.submap.state.records)


def test_ids_of_long_ago_are_not_taken_for_others():
    sequence = walk("orbit")
    session = Session(replace(SMALL, dense=False), logging.getLogger("live"))
    session.go_live()
    back_end, front = BackEnd(session), FrontEnd(SMALL)
    for index in range(12):
        frame = Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index])
        tracked = front.track(frame.stamp_ns, frame.image)
        taken = back_end.take(KeyframeRequest(frame, tracked.followed, tracked.ids, tracked.pixels))
        while back_end.work():
            pass
        if taken.snapshot is not None:
            front.take(taken.snapshot)
    pose = tracked.followed
    assert pose is not None and len(back_end._current(pose).ids) == len(pose.ids)
    session.work(RENUMBER)
    assert back_end._current(pose).numbering == 1 and len(back_end._current(pose).ids) > 0.9 * len(pose.ids)
    before, tracks = session.mapper.positions(back_end._current(pose).ids), back_end._current(pose)
    assert np.isfinite(before).any() and len(tracks.pixels) == len(tracks.ids)
    session.work(RENUMBER)
    assert back_end._current(pose).numbering == 2 and len(back_end._current(pose).ids) == 0
    count = session.mapper.counts.tracked
    back_end.keep([replace(pose, stamp_ns=pose.stamp_ns + 1)])
    assert session.mapper.counts.tracked == count + 1, "the pose is kept"
    late = Frame(int(sequence.stamps_ns[12]), "camera", sequence.images[12])
    taken = back_end.take(KeyframeRequest(late, pose, pose.ids + 10**7, pose.pixels))
    assert taken.snapshot is not None and taken.snapshot.numbering == 2
