"""A world with hardly any texture: a dark cabinet on a pale floor, filmed by a camera that sets its exposure itself."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from movers import MovingSequence, walk_among

from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.scenes.solids import Box, Lamp, Solid
from dust3r_ros.scenes.surfaces import Panel
from dust3r_ros.scenes.textures import Pattern, noise, poster
from dust3r_ros.scenes.world import World, build
from dust3r_ros.types import Array32

_X, _Y, _Z = np.eye(3)


def plain_world(seed: int = 0) -> World:
    """The cabinet at (0, 0, 0), a grey wall behind it, a few printed boxes on the floor far from it."""
    floor = Panel(np.array([-5.0, 5.0, 0.0]), _X, -_Y, 10.0, 10.0)
    wall = Panel(np.array([-5.0, 5.0, 3.0]), _X, -_Z, 10.0, 3.0)
    solids: list[Solid] = [Box(np.array([-0.3, -0.4, 0]), np.array([0.3, 0.4, 0.6]), _drawers, _paint(0.25, 0.02), 0.2)]
    for turn in np.linspace(0.3, 5.9, 5):
        base = 2.6 * np.array([np.cos(turn), np.sin(turn), 0.0])
        half, top = np.array([0.2, 0.15, 0.0]), 0.3 * _Z
        solids.append(Box(base - half, base + half + top, poster, poster, turn))
    lamp = Lamp(np.array([1.5, -1.0, 2.6]), ambient=0.5)
    return build([(floor, _paint(0.7, 0.03)), (wall, _paint(0.7, 0.03))], solids, lamp, seed)


def plain_walk(frames: int = 24, width: int = 240, height: int = 176, seed: int = 0) -> MovingSequence:
    """By hand around a third of the cabinet, in which nothing moves; brightness as exposure and vignetting make it."""
    rng = np.random.default_rng(seed)
    poses = []
    for a in np.linspace(-1.2, 1.2, frames):
        eye = np.array([1.9 * np.sin(a), -1.9 * np.cos(a), 1.15 + 0.1 * np.sin(5 * a)])
        target = np.array([0.15 * np.sin(7 * a), 0.15 * np.cos(4 * a), 0.3])
        eye, target = np.stack([eye, target]) + 0.02 * rng.standard_normal((2, 3))
        poses.append(look_at(eye, target, 0.03 * np.sin(9 * a)))
    walk = walk_among([None] * frames, np.stack(poses), world=plain_world(seed), width=width, height=height)
    images = np.stack([_filmed(image, k, rng) for k, image in enumerate(walk.sequence.images)])
    return MovingSequence(replace(walk.sequence, images=images), walk.moving)


def bled(depth: Array32, reach: int) -> Array32:
    """Depth (H, W) that what is near has spread over what is behind it, by ``reach`` pixels."""
    return np.asarray(cv2.erode(depth, np.ones((2 * reach + 1,) * 2, np.uint8)), np.float32)


def _filmed(image: np.ndarray, index: int, rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] / image.shape[1]
    off_axis = (columns - columns.mean()) ** 2 + (rows - rows.mean()) ** 2
    light = (image / 255.0) ** 2.2 * (1 - off_axis)[..., None]
    light *= (0.3 + 0.12 * np.sin(0.6 * index)) / light.mean()
    return np.clip(np.round(255 * np.clip(light, 0, 1) ** (1 / 2.2) + rng.standard_normal(image.shape)), 0, 255).astype(
        np.uint8
    )


def _paint(level: float, strength: float) -> Pattern:
    def pattern(rng: np.random.Generator, height: int, width: int, scale: float) -> Array32:
        stains = noise(rng, height, width, 0.3 * scale, 5)[..., None]
        return (np.array([1.05, 1.0, 0.96], np.float32) * level * np.exp(strength * stains)).astype(np.float32)

    return pattern


def _drawers(rng: np.random.Generator, height: int, width: int, scale: float) -> Array32:
    picture = _paint(0.25, 0.02)(rng, height, width, scale)
    for part in (0.25, 0.5, 0.75):
        gap, handle = int(part * height), int((part - 0.1) * height)
        cv2.line(picture, (0, gap), (width, gap), (0.05, 0.05, 0.06), max(1, int(0.01 * scale)))
        ends = (int(0.35 * width), handle), (int(0.65 * width), handle)
        cv2.line(picture, *ends, (0.7, 0.7, 0.7), max(1, int(0.02 * scale)))
    return picture


__all__ = ["bled", "plain_walk", "plain_world"]
