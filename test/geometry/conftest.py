"""What the tests of geometry share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# The same examples every time, and no verdict on speed of a busy machine.
settings.register_profile("geometry", max_examples=30, deadline=None, derandomize=True)
settings.load_profile("geometry")


@pytest.fixture(scope="session")
def reference(shared: Path) -> dict[str, np.ndarray]:
    """Inputs and published results of the method's geometry, by name."""
    with np.load(shared / "fixtures" / "geometry_reference.npz") as arrays:
        return dict(arrays)
