"""``dust3r_node`` that writes which modules of the package each of its images passed through.

``python traced_node.py FILE [arguments of the node]``: FILE is a JSON list with an entry per image that the front end
was given: the functions (module, name) that ran for it, in ``messages`` those that read its message or wrote others,
in ``front_end`` the rest.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import dust3r_ros

PACKAGE = f"{Path(dust3r_ros.__file__).parent}/"
FRONT_END = ("node/pipeline.py", "_frame")  # from here an image is the front end's, until it is through with it
MESSAGES = {("node/conversions.py", "frame_of"), ("node/publishers.py", "show")}


class Trace:
    """The functions that every image passed through, in the thread that it is in."""

    def __init__(self) -> None:
        self.images: list[dict[str, list[Any]]] = []
        self._thread = threading.local()

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        """As ``threading.setprofile`` wants it."""
        path, here = frame.f_code.co_filename, self._thread
        if event not in ("call", "return") or not path.startswith(PACKAGE):
            return
        function = path[len(PACKAGE) :], frame.f_code.co_name
        if event == "call" and function == FRONT_END:
            here.seen, here.message = {"front_end": set(), "messages": set()}, None
        if getattr(here, "seen", None) is None:
            return
        if event == "call" and here.message is None and function in MESSAGES:
            here.message = function
        here.seen["messages" if here.message else "front_end"].add(function)
        if event == "return" and function == here.message:
            here.message = None
        if event == "return" and function == FRONT_END:
            self.images.append({part: sorted(functions) for part, functions in here.seen.items()})
            here.seen = None


def run(path: Path) -> int:
    """The node until it ends."""
    trace = Trace()
    threading.setprofile(trace)
    from dust3r_ros.node.main import main

    code = main()
    path.write_text(json.dumps(trace.images))
    return code


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv.pop(1))))
