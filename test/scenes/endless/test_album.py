"""Albums: every view is what its camera sees, whoever renders, and no view is rendered twice."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes.endless.album import Album
from dust3r_ros.scenes.endless.eye import Eye
from dust3r_ros.scenes.endless.worlds import make_world

SEED, NUMBER, COUNT = (11, 0), 2, 10


def test_views_are_what_their_cameras_see_to_the_last_bit() -> None:
    album, scenery = Album(SEED, NUMBER, COUNT, 32), make_world(SEED, NUMBER).scenery
    views = {index: album.view(index) for index in (7, 0, *range(COUNT))}
    for index, view in views.items():
        height, width = view.depth.shape
        exact = scenery.render(Eye(*album.camera(index), width, height))
        assert np.array_equal(view.image, exact.image) and np.array_equal(view.depth, exact.depth)
        assert album.view(index) is view and not view.image.flags.writeable and not view.depth.flags.writeable
