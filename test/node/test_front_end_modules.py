"""How many modules an image passes through in the front end: who wants to know how it gets its pose reads these."""

from __future__ import annotations

import json
from pathlib import Path

from messages import image_message
from sequences import walk

TRACED = Path(__file__).resolve().parents[1] / "support" / "traced_node.py"
MOST = 15


def test_a_tracked_image_passes_through_few_modules(start_node, tmp_path: Path) -> None:
    sequence, trace = walk("orbit", frames=90, rate_hz=30.0), tmp_path / "trace.json"
    bench = start_node(program=(str(TRACED), str(trace)), dense=False, focal=sequence.focal, keyframe_motion_young=0.02)
    poses, sent = bench.recorder.counts, 0
    while sent < 12 or poses["pose"] == 0:  # the first poses come when the map has begun
        bench.send(image_message(sequence.images[sent], int(sequence.stamps_ns[sent])))
        sent += 1
        if sent >= 12:
            bench.status(lambda s, sent=sent: s.waiting == 0 and s.frames + s.dropped == sent, "it is taken in")
    for index in range(sent, sent + 20):
        before = poses["pose"]
        bench.send(image_message(sequence.images[index], int(sequence.stamps_ns[index])))
        bench.recorder.wait(lambda before=before: poses["pose"] > before, 60, "the image has a pose")
    assert bench.node.stop() == 0
    images = [
        {part: {module for module, _ in functions} for part, functions in image.items()}
        for image in json.loads(trace.read_text())
        if ["node/back_end_link.py", "report"] in image["front_end"]  # it has a pose, and the map needs no more of it
    ]
    assert len(images) >= 5
    longest = max((image["front_end"] for image in images), key=len)
    assert {"node/pipeline.py", "tracking/front_end.py", "geometry/pose.py"} <= longest
    assert len(longest) <= MOST, ", ".join(sorted(longest))
    messages = set().union(*(image["messages"] for image in images))
    assert {"node/publishers.py", "node/conversions.py"} <= messages
