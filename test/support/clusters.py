"""Tests on a Ray cluster, where there is Ray."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

# Not imported to find out: that takes a second in every process that collects tests, and Ray would read its settings.
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray (extra fleet) is not installed")
