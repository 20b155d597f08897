"""What tests of training share."""

from __future__ import annotations

import pytest


@pytest.fixture
def narrow_dpt(monkeypatch: pytest.MonkeyPatch) -> None:
    """DPT heads with few features: whole ones have 38 million weights, however small the network before them."""
    heads = pytest.importorskip("dust3r_ros.network.heads", reason="torch is not installed")
    monkeypatch.setattr(heads, "_FEATURES", 16)
    monkeypatch.setattr(heads, "_LEVELS", (8, 8, 16, 16))
