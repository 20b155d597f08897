"""The node's map in a browser: what the back end maps is there, anew after a reset, and gone with the node."""

import re

import numpy as np
import pytest
from sequences import walk
from std_srvs.srv import Trigger
from two_processes import mapped, send

pytest.importorskip("viser", reason="viser (extra viewer) is not installed")

from viser_client import Client


def watched(bench):
    """Where the node says that the map can be watched."""
    bench.node.wait_for_log("watch the map at ")
    return re.findall(r"watch the map at (\S+)", bench.node.log)[-1]


def test_the_map_of_the_node_is_watched_and_ends_with_it(start_node):
    sequence = walk("orbit", frames=90, rate_hz=30.0)
    bench = start_node(focal=sequence.focal, keyframe_motion_young=0.02, viewer="web", viewer_address="127.0.0.1:0")
    with Client(watched(bench)) as client:
        status = mapped(bench, sequence, 30)
        newest = f"/keyframes/{status.keyframes - 1}"
        client.wait_for(lambda c: newest in c.nodes and "/points/0" in c.nodes, "keyframes and points")
        client.wait_for(lambda c: "/path/camera" in c.nodes and "/cameras/camera" in c.nodes, "the camera and its way")
        client.wait_for(lambda c: "**tracking**" in c.text and "30 frames" in c.text, "what the status says")
        assert bench.recorder.call(Trigger, "reset", Trigger.Request()).success
        client.wait_for(lambda c: not {"/keyframes/0", "/points/0"} & c.nodes.keys(), "nothing, after a reset")
        send(bench, sequence, 0, 30, start_ns=int(sequence.stamps_ns[-1]))
        client.wait_for(lambda c: "/points/0" in c.nodes and "/keyframes/2" in c.nodes, "the map that begins anew")
        assert bench.node.stop() == 0, bench.node.log
        client.wait_for(lambda c: c.closed, "the end")
        assert np.isfinite(list(client.places.values())).all()


def test_an_address_that_cannot_be_is_said_and_the_node_waits(start_node):
    bench = start_node(viewer="web", viewer_address="nowhere")
    bench.node.wait_for_log("viewer address is 'nowhere'; it must be HOST:PORT")
    bench.node.wait_for_log("the node stays unconfigured")
