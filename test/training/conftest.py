"""What tests of training share."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pytest

from dust3r_ros.scenes.endless import viewpoints, worlds
from dust3r_ros.scenes.endless.painting import SIDE, pyramid
from dust3r_ros.types import Image


@pytest.fixture
def narrow_dpt(monkeypatch: pytest.MonkeyPatch) -> None:
    """DPT heads with few features: whole ones have 38 million weights, however small the network before them."""
    heads = pytest.importorskip("dust3r_ros.network.heads", reason="torch is not installed")
    monkeypatch.setattr(heads, "_FEATURES", 16)
    monkeypatch.setattr(heads, "_LEVELS", (8, 8, 16, 16))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without their picture, which takes longer than their steps."""
    session = pytest.importorskip("dust3r_ros.training.session", reason="torch is not installed")
    monkeypatch.setattr(session, "write_picture", lambda *_: None)


@lru_cache(maxsize=256)
def _squares(seed: tuple[int, ...], use: str, number: int) -> Image:
    """In place of a material: 16 x 16 squares of its own colours."""
    colors = np.random.default_rng([*seed, zlib.crc32(use.encode()), number]).random((16, 16, 3), np.float32)
    return pyramid(colors.repeat(SIDE // 16, 0).repeat(SIDE // 16, 1))


@pytest.fixture(scope="module")
def quick_worlds() -> Iterator[None]:
    """Worlds that are drawn up once each, of materials that take no time, where neither is what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        drawn = lru_cache(maxsize=32)(worlds.draw_up)
        patch.setattr(worlds, "draw_up", drawn)
        patch.setattr(worlds, "material", _squares)
        patch.setattr(viewpoints, "make_world", lru_cache(maxsize=4)(worlds.make_world))
        try:
            from dust3r_ros.training.on_device import makers
        except ImportError:  # no torch
            pass
        else:
            patch.setattr(makers, "draw_up", drawn)
            patch.setattr(makers, "material", _squares)
        yield
