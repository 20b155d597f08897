"""The products that pass between stages."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dust3r_ros.geometry.pinhole import center_of, project
from dust3r_ros.types import Camera, MapCounts, MapUpdate, TrackingState


def test_a_camera_projects_as_the_pinhole_does() -> None:
    camera = Camera("front", 320, 240, 250.0)
    assert camera.center == center_of(240, 320) == (159.5, 119.5)
    point = np.array([0.3, -0.2, 2.0])
    image = camera.matrix @ point
    np.testing.assert_allclose(image[:2] / image[2], project(point, camera.focal, camera.center))
    assert camera.focal_std == float("inf") and not camera.fixed


def test_the_principal_point_counts_from_the_middle() -> None:
    camera = Camera("front", 320, 240, 250.0, principal_offset=(4.0, -2.5))
    assert camera.center == (163.5, 117.0)
    np.testing.assert_array_equal(camera.matrix, [[250, 0, 163.5], [0, 250, 117], [0, 0, 1]])


def test_products_do_not_change() -> None:
    for product in (Camera("front", 320, 240, 250.0), MapUpdate(1, "front", TrackingState.LOST), MapCounts()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            product.camera = "other"  # type: ignore[union-attr]


def test_states_read_as_text() -> None:
    assert TrackingState("lost") is TrackingState.LOST
    assert [state.value for state in TrackingState] == ["initialising", "tracking", "bridged", "lost"]


def test_an_update_says_nothing_it_does_not_know() -> None:
    update = MapUpdate(1, "front", TrackingState.INITIALISING)
    assert update.w_T_c is None and update.covariance is None and update.keyframe is None
    assert update.changed == () and update.removed == () and dict(update.cameras) == {}
    assert MapUpdate(2, "back", TrackingState.LOST).cameras is not update.cameras
