"""Small renders that the tests of this folder share."""

from __future__ import annotations

import pytest

from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence


@pytest.fixture(scope="session")
def orbit() -> RenderedSequence:
    """Eight frames of a walk around the table, 160 x 120."""
    return render_sequence("orbit", 8, 160, 120, rate_hz=10, seed=3)
