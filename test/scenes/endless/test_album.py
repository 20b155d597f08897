"""Albums: every view is what its camera sees, whoever renders, and no view is rendered twice."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes.endless.album import Album, paint
from dust3r_ros.scenes.endless.eye import Eye
from dust3r_ros.scenes.endless.scenery import Scenery
from dust3r_ros.scenes.endless.worlds import make_world
from dust3r_ros.scenes.world import RenderedView

SEED, NUMBER, COUNT = (11, 0), 2, 10


def test_views_are_what_their_cameras_see_to_the_last_bit() -> None:
    album, scenery = Album(SEED, NUMBER, COUNT, 32), make_world(SEED, NUMBER).scenery
    views = {index: album.view(index) for index in (7, 0, *range(COUNT))}
    for index, view in views.items():
        height, width = view.depth.shape
        exact = scenery.render(Eye(*album.camera(index), width, height))
        assert np.array_equal(view.image, exact.image) and np.array_equal(view.depth, exact.depth)
        assert album.view(index) is view and not view.image.flags.writeable and not view.depth.flags.writeable


def test_another_renderer_is_given_all_views_at_once() -> None:
    asked: list[int] = []

    def render(scenery: Scenery, taken) -> list[RenderedView]:
        asked.append(len(taken))
        return [RenderedView(255 - view.image, view.depth) for view in paint(scenery, taken)]

    plain, other = Album(SEED, NUMBER, COUNT, 32), Album(SEED, NUMBER, COUNT, 32, render)
    assert asked == [] and np.array_equal(plain.shared, other.shared)
    for index in (3, 0, 9):
        assert np.array_equal(255 - other.view(index).image, plain.view(index).image)
        assert all(map(np.array_equal, plain.camera(index), other.camera(index)))
    assert asked == [COUNT]
