"""A node that is killed in mid-run, again and again: its map goes on, and no keyframe is lost but the one in flight."""

import signal
import sqlite3

import numpy as np
import pytest
from messages import image_message
from sequences import walk

from dust3r_ros.geometry.similarity import rms_apart
from dust3r_ros.storage.saved_map import load_map

LATER_NS = 10**12  # between sessions


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.long)])
def test_a_killed_node_goes_on_where_it_was(own_domain, start_node, tmp_path, kills):
    """SIGKILL between any two instructions; what was told to be a keyframe before is in the file after."""
    sequence, path = walk("orbit", frames=4 * (kills + 1)), tmp_path / "map.db"
    generator = np.random.default_rng(0)
    at, before, done, sent = 0, 0, 0, {}
    for session in range(kills + 1):
        bench = start_node(map_db=str(path), dense=False, focal=sequence.focal, keyframe_motion_young=0.01)
        if session:
            bench.node.wait_for_log("keyframes of")
            status = bench.status(lambda s, least=before: s.keyframes >= least, f"all keyframes of session {session}")
            done = status.frames
        for _ in range(4):
            stamp = int(sequence.stamps_ns[at]) + session * LATER_NS
            sent[stamp] = sequence.w_T_c[at]
            bench.send(image_message(sequence.images[at], stamp))
            at += 1
        # Somewhere in the work on the newest images: the status so far is what must not be lost.
        enough = done + int(generator.integers(1, 5)) if session < kills else done + 4
        begun = session > 0  # a map that never begins could not grow
        bench.status(
            lambda s, enough=enough, begun=begun: s.frames >= enough and (begun or s.state == "tracking"),
            "some frames are mapped",
        )
        told = bench.recorder.last["status"].keyframes
        bench.node.process.send_signal(signal.SIGKILL)
        bench.node.process.wait()
        kept = load_map(path).keyframes
        assert len(kept) >= told, f"{told} keyframes were told before the kill, {len(kept)} are in the file"
        before = len(kept)
        base = sqlite3.connect(path)
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        base.close()
    assert before >= kills  # the map grew all the while
    path_length = np.linalg.norm(np.diff(sequence.w_T_c[:, :3, 3], axis=0), axis=1).sum()
    error = rms_apart([k.w_T_c[:3, 3] for k in kept], [sent[k.stamp_ns][:3, 3] for k in kept])
    assert error < 0.01 * path_length
