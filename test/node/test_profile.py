"""What ran when, as the node writes it: both processes on one axis, also after the back end was killed."""

import json
import os
import signal
import time
from collections import defaultdict

from sequences import walk
from two_processes import back_end, mapped, send


def test_the_trace_has_both_processes_and_what_a_killed_one_did(start_node, tmp_path):
    sequence, path = walk("orbit", frames=60, rate_hz=30.0), tmp_path / "traces" / "run.json"
    begin = time.monotonic()
    bench = start_node(focal=sequence.focal, keyframe_motion_young=0.02, profile=str(path))
    mapped(bench, sequence, 30)
    bench.status(lambda s: s.backlog == 0, "the map is at rest")
    killed = back_end(bench)
    os.kill(killed, signal.SIGKILL)
    bench.node.wait_for_log("the mapping process is running again", 60)
    bench.status(lambda s: s.keyframes == 0, "the map begins anew")
    again = back_end(bench)
    send(bench, sequence, 30, 60)
    bench.status(lambda s: (s.waiting, s.backlog) == (0, 0) and s.keyframes > 2, "there is a map again")
    assert bench.node.stop() == 0, bench.node.log
    end = time.monotonic()

    events = json.loads(path.read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    node = bench.node.process.pid
    assert {pid: names[pid] for pid in (node, killed, again)} == {
        node: "front end", killed: "back end", again: "back end",
    }  # fmt: skip
    stages, counters = defaultdict(set), defaultdict(set)
    for event in events:
        if event["ph"] == "X":
            stages[event["pid"]].add(event["name"])
            assert 1e6 * begin <= event["ts"] <= event["ts"] + event["dur"] <= 1e6 * end
        elif event["ph"] == "C":
            counters[names[event["pid"]]].add(event["name"])
    assert {"decode", "follow", "publish"} <= stages[node]
    assert {"image", "track", "match", "work: depth"} <= stages[killed] & stages[again]
    assert counters == {"front end": {"waiting images", "lag (s)"}, "back end": {"depth backlog"}}


def test_a_trace_that_cannot_be_written_is_refused_at_the_start(start_node, tmp_path):
    bench = start_node(profile=str(tmp_path))
    bench.node.wait_for_log(f"'{tmp_path}' cannot be written")
    bench.node.wait_for_log("the node stays unconfigured")
