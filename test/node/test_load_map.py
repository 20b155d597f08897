"""~/load_map: a request that fails costs nothing, neither the map nor images that wait."""

from dust3r_ros.srv import LoadMap
from messages import image_message
from sequences import walk

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
