"""Which backend a configuration makes."""

from __future__ import annotations

import pytest

from dust3r_ros.backends import make_backend
from dust3r_ros.backends.two_view import TwoViewBackend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError, Dust3rRosError


def test_the_default_needs_nothing() -> None:
    backend = make_backend(MapperConfig())
    assert isinstance(backend, TwoViewBackend) and backend.uses_poses and backend.name == "two_view"


def test_the_network_needs_weights() -> None:
    with pytest.raises(Dust3rRosError, match="checkpoint"):
        make_backend(MapperConfig(backend="dust3r"))


def test_weights_that_are_not_there(tmp_path) -> None:
    missing = tmp_path / "none.pth"
    with pytest.raises(Dust3rRosError, match=r"none\.pth|torch"):
        make_backend(MapperConfig(backend="dust3r", checkpoint=str(missing)))


def test_only_geometry_maps_without_depth() -> None:
    assert make_backend(MapperConfig(dense=False)).uses_poses
    with pytest.raises(ConfigError, match=r"'dense' is false.*dust3r.*only two_view"):
        make_backend(MapperConfig(backend="dust3r", dense=False))
