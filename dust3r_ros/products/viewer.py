"""A server that shows the growing map in a browser; no ROS."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import BackendError, ConfigError, OutputError
from dust3r_ros.products.viewer_scene import News, Scene
from dust3r_ros.types import Array, Camera, Image, Keyframe, MapCounts, MapUpdate

if TYPE_CHECKING:
    from dust3r_ros.mapping.mapper import Mapper

_log = logging.getLogger(__name__)

_PORTS = 20  # ports to try, from the requested one on
_PERIOD_S = 0.1  # minimum between two updates
_REST = 3.0  # the thread rests this many times as long as it worked, to leave the CPU to the mapper


class Viewer:
    """Serves the map at ``url``; use it in ``with``, or call ``close``.

    A separate thread does the work: ``begin`` and ``show`` only hand over the changes, and the thread shows the newest
    state when it is free. Errors are logged, and mapping continues.
    """

    def __init__(self, address: str, *, min_confidence: float = 1.5) -> None:
        """``address``: HOST:PORT; if that port is taken, the next free one. ``min_confidence`` as for the cloud.

        Raises ``BackendError`` without viser, ``ConfigError`` for an address of another form, and ``OutputError`` if
        nothing can be served there.
        """
        host, port = _host_and_port(address)
        self._scene = Scene(_server(host, port), min_confidence)
        named = {"127.0.0.1": "localhost", "0.0.0.0": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
        self.url = f"http://{named}:{self._scene.port}"
        self._news, self._lock = News(), threading.Lock()
        self._wake, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="viewer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, keyframes: Iterable[Keyframe]) -> None:
        """Show a new map instead: ``keyframes`` are all of it."""
        with self._lock:
            self._news = News(anew=True, changed={keyframe.index: keyframe for keyframe in keyframes})
        self._wake.set()

    def show(self, update: MapUpdate, mapper: Mapper, image: Image | None = None, *, metric: bool = False) -> None:
        """Take in what an image or a piece of work changed; call it in the thread of the ``mapper``.

        ``image``: RGB (H, W, 3) uint8, that of the update. ``metric``: lengths are metres.
        """
        moved = bool(update.changed or update.removed)
        edges = mapper.edges if moved else None
        landmarks = mapper.landmarks() if moved and not mapper.config.dense else None
        status = _status(update, mapper.counts, metric)
        with self._lock:
            news = self._news
            for index in update.removed:
                news.changed.pop(index, None)
                news.removed.add(index)
            news.changed.update((keyframe.index, keyframe) for keyframe in update.changed)
            if image is not None:
                news.seen[update.camera] = update.w_T_c, update.cameras.get(update.camera), image
            news.edges = news.edges if edges is None else edges
            news.landmarks = news.landmarks if landmarks is None else landmarks
            news.status = status
        self._wake.set()

    def move(self, camera: str, w_T_c: Array, model: Camera) -> None:
        """Show a camera at ``w_T_c`` (4, 4), with the last image of it that was shown; call it as ``show``."""
        with self._lock:
            image = self._news.seen.get(camera, (None, None, None))[2]
            self._news.seen[camera] = w_T_c, model, image
        self._wake.set()

    def close(self) -> None:
        """Show the last state, then end the thread and the server; further calls do nothing."""
        if self._ending.is_set():
            return
        self._ending.set()
        self._wake.set()
        self._thread.join(timeout=10.0)
        self._scene.close()

    def _run(self) -> None:
        last = False
        while not last:
            self._wake.wait()
            self._wake.clear()
            last = self._ending.is_set()
            with self._lock:
                news, self._news = self._news, News()
            begin = time.thread_time()
            try:
                self._scene.show(news)
            except Exception:  # mapping survives any error of the server
                _log.warning("the viewer cannot show the newest state of the map", exc_info=True)
            self._ending.wait(max(_PERIOD_S, _REST * (time.thread_time() - begin)))


def _host_and_port(address: str) -> tuple[str, int]:
    """HOST:PORT, or PORT for this machine only; raises ``ConfigError`` for anything else."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"viewer address is '{address}'; it must be HOST:PORT, such as {NodeConfig.viewer_address}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _server(host: str, port: int) -> Any:
    """A viser server at the first free port from ``port`` on; raises as ``Viewer`` does."""
    try:
        import viser
    except ImportError as error:
        raise BackendError(
            f"the viewer needs viser, which is not installed: {sys.executable} -m pip install 'viser>=1.1,<2'"
        ) from error
    if [int(part) for part in viser.__version__.split(".")[:2]] < [1, 1]:
        raise BackendError(
            f"the viewer needs a newer viser than {viser.__version__}: {sys.executable} -m pip install 'viser>=1.1,<2'"
        )
    port = _free_port(host, port)  # viser itself would wait forever for an address that is not this machine's
    with contextlib.redirect_stdout(io.StringIO()):  # viser prints a box; the caller reports the address
        server: Any = viser.ViserServer(host, port, label="dust3r_ros", verbose=False)
    server.request_share_url = lambda: None  # any page could request that, and it would expose the map to the internet
    return server


def _free_port(host: str, port: int) -> int:
    """The first free port from ``port`` on; 0 means any. Raises ``OutputError`` if there is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    refused: OSError | None = None
    for wanted in range(port, min(port + _PORTS, 65536)):
        try:
            with socket.create_server((host, wanted), family=family):
                return wanted
        except OSError as error:
            refused = error
    raise OutputError(f"nothing can be served at '{host}:{port}': {(refused and refused.strerror) or refused}")


def _status(update: MapUpdate, counts: MapCounts, metric: bool) -> str:
    """Markdown: state, counts, scale, cameras."""
    lines = [
        f"**{update.state.value}**",
        "",
        f"- {counts.frames} frames, {counts.tracked} tracked, {counts.lost} lost",
        f"- {counts.keyframes} keyframes, {counts.pairs} pairs",
        f"- lengths in {'metres' if metric else 'map units'}",
    ]
    for name, camera in sorted(update.cameras.items()):
        spread = f" ± {camera.focal_std:.1f}" if np.isfinite(camera.focal_std) and not camera.fixed else ""
        how = "given" if camera.fixed else f"from {camera.support} pairs"
        lines.append(f"- {name}: f = {camera.focal:.1f}{spread} px at {camera.width} x {camera.height}, {how}")
    return "\n".join(lines) + "\n"
