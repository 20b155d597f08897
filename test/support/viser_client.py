"""A browser's end of the viewer, without a browser: takes what the server sends and keeps what would be shown."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import viser
import zstandard
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

_PATIENCE_S = 60.0
_NODES = ("PointCloudMessage", "CameraFrustumMessage", "LineSegmentsMessage", "FrameMessage")


class Client:
    """Connected to a viewer's ``url``; used in ``with``.

    ``nodes`` are those of the scene by name, with what they were made of, ``places`` where they are, ``hidden`` which
    are not shown, ``text`` what is written. ``made`` counts how often a node was made. ``closed``: the server has
    ended.
    """

    def __init__(self, url: str) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.places: dict[str, Any] = {}
        self.hidden: set[str] = set()
        self.made: Counter[str] = Counter()
        self.text = ""
        self.closed = False
        self._socket = connect(
            url.replace("http", "ws"), subprotocols=[f"viser-v{viser.__version__}"], max_size=None, open_timeout=30
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait_for(self, condition: Callable[[Client], object], what: str) -> None:
        """Take what comes until ``condition(self)`` holds."""
        until = time.monotonic() + _PATIENCE_S
        while not condition(self):
            there = f"there are {sorted(self.nodes)} and the words {self.text!r}"
            assert time.monotonic() < until, f"{what}: not within {_PATIENCE_S:g} s; {there}"
            assert not self.closed, f"{what}: the server ended before; {there}"
            try:
                self._take(self._socket.recv(timeout=0.2))
            except TimeoutError:
                continue
            except ConnectionClosed:
                self.closed = True

    def _take(self, window: bytes) -> None:
        """Some messages: sizes of their text, unpacked and packed, the text, and arrays, each at a multiple of 8."""
        end = 16 + int.from_bytes(window[8:16], "little")
        content = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(window[16:end]))
        arrays = []
        for length in content["binaryBufferLengths"]:
            end += -end % 8
            arrays.append(window[end : end + length])
            end += length
        for message in content["messages"]:
            self._do(message, arrays)

    def _do(self, message: dict[str, Any], arrays: list[bytes]) -> None:
        kind, name = message["type"], message.get("name", "")
        if kind in _NODES:
            self.nodes[name] = {key: _array(value, arrays) for key, value in message["props"].items()}
            self.made[name] += 1
            self.hidden.discard(name)
        elif kind == "SceneNodeUpdateMessage":
            self.nodes[name].update((key, _array(value, arrays)) for key, value in message["updates"].items())
        elif kind == "RemoveSceneNodeMessage":
            for gone in [node for node in self.nodes if f"{node}/".startswith(f"{name}/")]:
                del self.nodes[gone]
        elif kind == "SetPositionMessage":
            self.places[name] = np.array(message["position"])
        elif kind == "SetSceneNodeVisibilityMessage":
            (self.hidden.discard if message["visible"] else self.hidden.add)(name)
        elif kind == "GuiMarkdownMessage":
            self.text = message["props"]["_markdown"]
        elif kind == "GuiUpdateMessage":
            self.text = message["updates"].get("_markdown", self.text)


def _array(value: Any, arrays: list[bytes]) -> Any:
    """What a message holds; arrays are sent apart, flat."""
    if isinstance(value, dict) and "__binary_index" in value:
        return np.frombuffer(arrays[value["__binary_index"]], value["dtype"])
    return value
