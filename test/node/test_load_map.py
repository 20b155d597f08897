"""~/load_map: a request that fails costs nothing, neither the map nor images that wait."""

import os
import signal

import pytest
from dust3r_ros.srv import LoadMap, SaveMap
from messages import image_message
from rcl_interfaces.srv import GetParameters
from sequences import walk
from two_processes import back_end, mapped

IMAGES = 16


def test_a_load_that_fails_keeps_the_waiting_images(start_node, tmp_path):
    """The images wait for the back end when the request comes; all of them are mapped afterwards."""
    sequence = walk("orbit", frames=IMAGES)
    bench = start_node(backlog="every", working_size=160, keyframe_motion_young=0.01)
    for image, stamp_ns in zip(sequence.images, sequence.stamps_ns.tolist(), strict=True):
        bench.send(image_message(image, stamp_ns))
    bench.status(lambda s: s.waiting, "images wait")
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"no map")
    for path, reason in ((str(tmp_path / "none.db"), "does not exist"), (str(damaged), "not a map"), ("", "path")):
        answer = bench.recorder.call(LoadMap, "load_map", LoadMap.Request(path=path), 60)
        assert not answer.success and reason in answer.message
    through = bench.status(lambda s: s.waiting == 0 and s.frames, "images are through", 150)
    assert (through.frames, through.dropped) == (IMAGES, 0)


@pytest.mark.parametrize("map_db", ["live.db", ""])
def test_a_map_that_is_loaded_to_localise_in_stays_as_it_is_when_the_back_end_is_killed(start_node, tmp_path, map_db):
    """Also where no map_db has a copy of it."""
    sequence = walk("orbit", frames=30, rate_hz=30.0)
    kept = {"map_db": str(tmp_path / map_db)} if map_db else {}
    bench = start_node(dense=False, focal=sequence.focal, keyframe_motion_young=0.02, **kept)
    mapped(bench, sequence, 30)
    path = str(tmp_path / "map.db")
    assert bench.recorder.call(SaveMap, "save_map", SaveMap.Request(path=path), 60).success
    loaded = bench.recorder.call(LoadMap, "load_map", LoadMap.Request(path=path, mode="localization"), 60)
    assert loaded.success
    (mode,) = bench.recorder.call(GetParameters, "get_parameters", GetParameters.Request(names=["mode"])).values
    assert mode.string_value == "localization"
    os.kill(back_end(bench), signal.SIGKILL)
    bench.status(lambda s: s.problems, "the back end is gone", 30)
    there = bench.status(lambda s: not s.problems and s.mode == "localization", "it localises again", 60)
    assert loaded.message.endswith(f" {there.keyframes} keyframes")
