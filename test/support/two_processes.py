"""A node's back end from outside, and images that it maps."""

from contextlib import suppress
from pathlib import Path

from forked_node import BACK_END
from messages import image_message


def back_end(bench):
    """The process id of a node's back end; None while there is none."""
    found = []
    for task in Path(f"/proc/{bench.node.process.pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # threads and processes end meanwhile
            for child in (task / "children").read_text().split():
                process = Path("/proc", child)
                words = (process / "cmdline").read_bytes().split(b"\0")
                if b"dust3r_ros.mapping.process" in words or (process / "comm").read_text().strip() == BACK_END:
                    found.append(int(child))
    assert len(found) < 2, "there is never more than one"
    return found[0] if found else None


def send(bench, sequence, first, last, start_ns=0):
    for index in range(first, last):
        bench.send(image_message(sequence.images[index], int(sequence.stamps_ns[index]) + start_ns))


def mapped(bench, sequence, last):
    """The first images, mapped one after the other, until the front end knows the map."""
    send(bench, sequence, 0, last)
    return bench.status(
        lambda s: s.frames + s.dropped == last and s.waiting == 0 and s.state == "tracking" and s.keyframes > 2,
        "the map has begun",
    )
