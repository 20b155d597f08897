"""What an outdoor camera sees above everything: no part of the map."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from movers import walk_among
from sequences import SMALL

from dust3r_ros.geometry.resize import Resize
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.sequence import RenderedSequence, look_at
from dust3r_ros.scenes.solids import Box, Lamp
from dust3r_ros.scenes.surfaces import Panel
from dust3r_ros.scenes.textures import brick, fabric, noise, planks, poster, texture, tiles
from dust3r_ros.scenes.world import World, build, together

CONFIG = replace(SMALL, working_size=240)
FAR = 1000.0  # metres; all else is within 30
BOXES = [(-2, 4, 1, 1.5, brick), (0.5, 5, 1.2, 2, poster), (2.5, 4.2, 0.8, 1, planks), (-4, 7, 1.5, 2.5, planks)]


def yard(clouds: float, distance: float) -> World:
    """Boxes on paved ground before a sky, or a wall as plain, at ``distance``; ``clouds``: contrast, grey levels."""
    ground = Panel(np.array([-15.0, 20.0, 0.0]), np.array([1.0, 0, 0]), np.array([0, -1.0, 0]), 30.0, 22.0)
    solids = [Box(np.array([x, y, 0.0]), np.array([x + w, y + w, h]), p, fabric) for x, y, w, h, p in BOXES]
    lamp = Lamp(np.array([0, 2.0, 30.0]), ambient=0.9, reach=100.0)
    size = 4 * distance
    sky = Panel(np.array([-size / 2, distance, size / 2]), np.array([1.0, 0, 0]), np.array([0, 0, -1.0]), size, size)
    grain = noise(np.random.default_rng(3), 1024, 1024, 40, 5)[..., None]
    paint = np.clip(np.array([120, 160, 220]) + clouds * np.clip(grain, 0, 1.5), 0, 255).astype(np.uint8)
    return together(
        build([(ground, tiles)], solids, lamp, 0, per_metre=60.0), World((sky,), (texture(paint, size, size),))
    )


@lru_cache(maxsize=1)
def passing(clouds: float, distance: float) -> RenderedSequence:
    """A camera that goes sideways past the boxes of a yard."""
    xs = np.linspace(-1.2, 1.2, 14)
    poses = [look_at(np.array([x, 0.2 * np.sin(2 * x), 1.5]), np.array([0.6 * x, 6.0, 1.9])) for x in xs]
    return walk_among([None] * len(xs), np.stack(poses), world=yard(clouds, distance)).sequence


def grainy(sequence: RenderedSequence, grain: float) -> RenderedSequence:
    """The same with noise of the camera; ``grain``: its deviation, grey levels."""
    shaken = sequence.images + np.random.default_rng(0).normal(0, grain, sequence.images.shape)
    return replace(sequence, images=np.clip(np.round(shaken), 0, 255).astype(np.uint8))


def kept(sequence: RenderedSequence, beyond: float, focal: float | None = None) -> tuple[float, float, Mapper]:
    """Parts of the keyframes' pixels with depth in the map: of those ``beyond`` and of the others; the mapper.

    ``focal``: what the mapper is given, 0: nothing; by default the true one.
    """
    mapper = Mapper(replace(CONFIG, focal=sequence.focal if focal is None else focal))
    for k, image in enumerate(sequence.images):
        mapper.process(int(sequence.stamps_ns[k]), "camera", image)
    mapper.finish()
    resize = Resize.fit(sequence.width, sequence.height, CONFIG.working_size)
    assert (resize.width, resize.height) == (sequence.width, sequence.height)
    far, near = [], []
    for keyframe in mapper.keyframes:
        frame = int(np.searchsorted(sequence.stamps_ns, keyframe.stamp_ns))
        behind, sure = sequence.depths[frame] > beyond, keyframe.confidence > CONFIG.min_confidence
        far.append(sure[behind])
        near.append(sure[~behind])
    return float(np.concatenate(far).mean()), float(np.concatenate(near).mean()), mapper


@pytest.mark.parametrize(("clouds", "grain"), [(0.0, 0.0), (0.0, 2.0), (60.0, 0.0)], ids=["plain", "noisy", "clouds"])
def test_the_sky_stays_out(clouds: float, grain: float) -> None:
    far, near, mapper = kept(grainy(passing(clouds, 3000.0), grain), FAR)
    assert far < 0.01 and near > 0.75
    assert mapper.masked_share.far > 0.4, "it is counted"


def test_noise_of_a_sky_through_a_lens_is_no_wall() -> None:
    """Rectified, noise is smoother, and a sixth of it matches somewhere."""
    sequence = grainy(passing(0.0, 3000.0), 3.0)
    far, near, mapper = kept(sequence, FAR, 0.0)
    assert any(mapper.submap.intrinsics[0].lens.center), "or else this shows nothing"
    assert far < 0.01 and near > 0.75


def test_a_plain_wall_far_behind_stays_out() -> None:
    far, near, _ = kept(passing(0.0, 40.0), 30.0)
    assert far < 0.01 and near > 0.75
