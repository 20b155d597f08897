"""The PyTorch ray caster shows what the NumPy renderer shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.scenes.endless.casting import Eye
from dust3r_ros.scenes.endless.painting import lay_out
from dust3r_ros.scenes.endless.stock import material
from dust3r_ros.scenes.endless.viewpoints import choose_eyes
from dust3r_ros.scenes.endless.worlds import LAYOUTS, World, draw_up, make_world

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.training.raycast import Cameras, Raycaster, cameras  # noqa: E402

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


WorldOf = Callable[[str], World]


@pytest.fixture(scope="module")
def world_of() -> WorldOf:
    """A world of a layout, made once."""
    return lru_cache(maxsize=None)(lambda layout: make_world((11, 0), 3, layout))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [maker.__name__ for maker in LAYOUTS])
def test_images_and_depths_are_those_of_numpy(world_of: WorldOf, layout: str, device: str) -> None:
    world = world_of(layout)
    # A size that is no multiple of the tiles.
    eyes = [eye for eye, _ in choose_eyes(world, np.random.default_rng(1), 3, 70)]
    images, depths = Raycaster(world.scenery, device=device).render(cameras(eyes, device))
    assert images.dtype == torch.uint8 and depths.dtype == torch.float32
    for eye, image, depth in zip(eyes, images.cpu().numpy(), depths.cpu().numpy(), strict=True):
        exact = world.scenery.render(eye)
        known = exact.depth > 0
        # A ray that grazes an edge may fall on either side of it.
        assert ((depth > 0) == known).mean() > 0.9995
        away = np.abs(depth - exact.depth)[known] / exact.depth[known]
        assert (away < 1e-5).mean() > 0.999 and np.median(away) < 1e-6
        off = np.abs(image.astype(int) - exact.image).max(axis=-1)
        # OpenCV before 5 rounds places between texels to 1/32.
        assert off.mean() < 0.7 and (off <= 8).mean() > 0.995


def test_many_small_parts_give_what_one_gives(world_of: WorldOf) -> None:
    world = world_of("works")
    eyes = [eye for eye, _ in choose_eyes(world, np.random.default_rng(1), 2, 40)]
    whole, parts = (Raycaster(world.scenery, chunk=chunk).render(cameras(eyes)) for chunk in (1 << 15, 7))
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])


def test_a_batch_is_its_cameras_one_by_one(world_of: WorldOf) -> None:
    world = world_of("jumble")
    eyes = [eye for eye, _ in choose_eyes(world, np.random.default_rng(3), 3, 40)]
    caster = Raycaster(world.scenery)
    images, depths = caster.render(cameras(eyes))
    for number, eye in enumerate(eyes):
        image, depth = caster.render(cameras([eye]))
        assert torch.equal(image[0], images[number]) and torch.equal(depth[0], depths[number])


@pytest.mark.parametrize("device", DEVICES)
def test_worlds_that_are_rendered_together_look_as_alone(world_of: WorldOf, device: str) -> None:
    """Different numbers of shapes and charts, lights of different sizes, with and without sky."""
    layouts = ("street", "room", "still_life")
    worlds, drawn = [world_of(layout) for layout in layouts], [draw_up((11, 0), 3, layout) for layout in layouts]
    eyes = [[eye for eye, _ in choose_eyes(world, np.random.default_rng(2), 2, 40)] for world in worlds]
    K, w_T_c = (
        torch.from_numpy(np.stack([getattr(eye, name) for seen in eyes for eye in seen])) for name in ("K", "w_T_c")
    )
    place = torch.arange(3).repeat_interleave(2)
    sheet, corners = lay_out([material((11, 0), *name) for each in drawn for name in each.materials])
    of_each = np.split(corners, np.cumsum([len(each.materials) for each in drawn])[:-1])
    sceneries = [
        replace(world.scenery, charts=each.charts_at(at))
        for world, each, at in zip(worlds, drawn, of_each, strict=True)
    ]
    together = Raycaster(*sceneries, device=device, sheet=torch.from_numpy(sheet).to(device))
    images, depths = together.render(Cameras(K.to(device), w_T_c.to(device), 40, 30, place.to(device)))
    for number, world in enumerate(worlds):
        chosen = slice(2 * number, 2 * number + 2)
        alone = Raycaster(world.scenery, device=device)
        zeros = torch.zeros(2, dtype=torch.int64, device=device)
        image, depth = alone.render(Cameras(K[chosen].to(device), w_T_c[chosen].to(device), 40, 30, zeros))
        assert torch.equal(depth, depths[chosen]) and torch.equal(image, images[chosen])


def test_stages_are_reported_in_order(world_of: WorldOf) -> None:
    world = world_of("room")
    stages: list[str] = []
    eyes = [eye for eye, _ in choose_eyes(world, np.random.default_rng(3), 1, 32)]
    Raycaster(world.scenery).render(cameras(eyes), stages.append)
    assert stages == ["cameras", "cast", "places", "outlines", "colours"]


def test_cameras_of_several_sizes_are_refused() -> None:
    K = np.diag([20.0, 20.0, 1.0])
    with pytest.raises(InputError, match="one size"):
        cameras([Eye(K, np.eye(4), 16, 16), Eye(K, np.eye(4), 16, 12)])
    with pytest.raises(InputError, match="one size"):
        cameras([])
