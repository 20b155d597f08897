"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Helpers that several test modules import: oracle, scoring.
sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference data beside the checkout; skips where there is none."""
    if not (SHARED / "fixtures").is_dir():
        pytest.skip("no reference data beside the checkout (../shared)")
    return SHARED
