"""A headless Chromium, driven over its DevTools protocol: for pictures of the docs and tests of pages.

The program is Debian's or Ubuntu's (``chromium-headless-shell``, ``chromium``) or Google's; websockets comes with
the extra ``viewer``. WebGL is rendered on the CPU.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",  # needs a kernel that allows it; pages here are our own
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--remote-debugging-port=0",
)
_PATIENCE_S = 180.0


def program() -> str | None:
    """The browser of this machine, None if there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Page:
    """One page of ``width`` x ``height`` pixels; used in ``with``.

    ``messages`` has its log and errors since it was opened, ``requests`` the addresses that it requested, without data
    URLs. Raises ``RuntimeError`` when the browser refuses a command.
    """

    def __init__(self, *flags: str, width: int = 900, height: int = 700) -> None:
        from websockets.sync.client import connect

        found = program()
        if found is None:
            raise RuntimeError(f"no browser is installed: none of {', '.join(PROGRAMS)} is found")
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        words = [found, *_FLAGS, f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}", *flags]
        # A group of its own: the program may be a script that starts another one.
        self._process = subprocess.Popen(
            [*words, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._numbers = itertools.count(1)
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        try:
            self._socket = connect(self._address(), max_size=None, open_timeout=_PATIENCE_S)
            target = self._call("Target.getTargets")["targetInfos"]
            page = next(info["targetId"] for info in target if info["type"] == "page")
            self._session = None
            self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._call(f"{domain}.enable")
            self.resize(width, height)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and all processes it started; delete its profile."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._profile.cleanup()

    def open(self, address: str) -> None:
        """Load a page; returns once it has loaded."""
        self._loaded = False
        self.messages.clear()
        self.requests.clear()
        self._call("Page.navigate", url=address)
        until = time.monotonic() + _PATIENCE_S
        while not self._loaded:
            self._receive(until)

    def resize(self, width: int, height: int) -> None:
        """Resize the page, in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, scheme: str) -> None:
        """Set the preferred colour scheme: light or dark."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait_for(self, script: str, what: str = "") -> Any:
        """The value of an expression as soon as it is true."""
        return self.wait_until(lambda: self.evaluate(script), what or script)

    def wait_until(self, condition: Callable[[], Any], what: str) -> Any:
        """What ``condition`` returns as soon as that is true."""
        until = time.monotonic() + _PATIENCE_S
        while not (value := condition()):
            if time.monotonic() > until:
                raise RuntimeError(f"not within {_PATIENCE_S:g} s: {what}; the page said {self.messages}")
            time.sleep(0.1)
        return value

    def picture(self, clip: Mapping[str, float] | None = None) -> bytes:
        """The page, or the part ``clip`` (x, y, width, height) of it, as PNG."""
        more = {} if clip is None else {"clip": {**clip, "scale": 1}}
        return base64.b64decode(self._call("Page.captureScreenshot", format="png", **more)["data"])

    def drag(self, start: tuple[float, float], end: tuple[float, float], button: str = "left", steps: int = 8) -> None:
        """Press at one place, move, and release at another."""
        held = {"left": 1, "right": 2, "middle": 4}[button]
        self._mouse("mousePressed", start, button, held)
        for step in range(1, steps + 1):
            at = [a + (b - a) * step / steps for a, b in zip(start, end, strict=True)]
            self._mouse("mouseMoved", at, button, held)
        self._mouse("mouseReleased", end, button, 0)

    def wheel(self, at: tuple[float, float], pixels: float) -> None:
        """Turn the wheel; positive values towards the user."""
        self._call("Input.dispatchMouseEvent", type="mouseWheel", x=at[0], y=at[1], deltaX=0, deltaY=pixels)

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press a key by its name in the DOM; ``modifiers``: 8 is shift."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent", type=kind, key=key, modifiers=modifiers, **(text if kind == "keyDown" else {})
            )

    def touch(self, *path: list[tuple[float, float]]) -> None:
        """Touch with fingers, move them along ``path`` and lift them."""
        for number, places in enumerate(path):
            points = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(places)]
            self._call("Input.dispatchTouchEvent", type="touchMove" if number else "touchStart", touchPoints=points)
        self._call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def _mouse(self, kind: str, at: Sequence[float], button: str, held: int) -> None:
        self._call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button=button, buttons=held, clickCount=1)

    def _address(self) -> str:
        """Where the browser listens, once it prints that."""
        path, until = Path(self._profile.name) / "DevToolsActivePort", time.monotonic() + _PATIENCE_S
        while not path.exists() or len(lines := path.read_text().split()) < 2:
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the browser did not start (exit code {self._process.poll()})")
            time.sleep(0.05)
        return f"ws://127.0.0.1:{lines[0]}{lines[1]}"

    def _call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        session = getattr(self, "_session", None)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        self._socket.send(json.dumps(message))
        until = time.monotonic() + _PATIENCE_S
        while (answer := self._receive(until)).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _receive(self, until: float) -> Any:
        message = json.loads(self._socket.recv(timeout=max(0.0, until - time.monotonic())))
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, values: Any) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.messages.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.messages.append(" ".join(str(item.get("value", item.get("description"))) for item in values["args"]))
        elif event == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.messages.append(values["entry"]["text"])
        elif event == "Network.requestWillBeSent" and not values["request"]["url"].startswith(("data:", "blob:")):
            self.requests.append(values["request"]["url"])
