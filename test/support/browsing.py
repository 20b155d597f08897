"""A headless browser for tests of pages; they skip where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))


@pytest.fixture(scope="module")
def browse() -> Iterator[Callable[..., Any]]:
    """Opens a browser, a ``browser.Page``, with flags and a size; closed when the tests of a module end."""
    pytest.importorskip("websockets", reason="websockets (extra test), which drives the browser, is not installed")
    import browser

    if browser.program() is None:
        pytest.skip(f"no browser is installed (one of {', '.join(browser.PROGRAMS)})")
    with ExitStack() as stack:
        yield lambda *flags, **size: stack.enter_context(browser.Page(*flags, **size))
