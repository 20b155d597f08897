"""Cameras around a cloud of points, and what they see of it: problems with a known answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.sparse.sparse_map import Intrinsics, SparseMap
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array

WIDTH, HEIGHT = 400, 300
CENTER = (0.0, 0.0)  # offsets count from the principal point
PLAIN = Lens(WIDTH / 2)


@dataclass(frozen=True, eq=False)
class Scene:
    """``w_T_c`` (C, 4, 4), ``points`` (P, 3) and ``focal`` (C,) pixels."""

    w_T_c: Array
    points: Array
    focal: Array

    def seen(self, view: int) -> Array:
        """(P, 2) where a view sees the points: offsets from the principal point, pixels."""
        return project(transform(invert(self.w_T_c[view]), self.points), float(self.focal[view]), CENTER)


def arc(views: int = 6, points: int = 80, focal: float = 300.0, seed: int = 0, degrees: float = 70.0) -> Scene:
    """Cameras on an arc of 4 m around a cloud of 2 m, at different heights and distances."""
    rng = np.random.default_rng(seed)
    turn = np.radians(np.linspace(0, degrees, views))
    radius = 4.0 + rng.uniform(-0.4, 0.4, views)
    at = np.stack([radius * np.cos(turn), radius * np.sin(turn), rng.uniform(-0.5, 0.9, views)], axis=1)
    poses = np.stack([look_at(p, rng.uniform(-0.1, 0.1, 3), rng.uniform(-0.1, 0.1)) for p in at])
    cloud = rng.uniform([-1.2, -1.2, -0.9], [1.2, 1.2, 0.9], (points, 3))
    return Scene(poses, cloud, np.full(views, focal))


def turning(views: int = 5, points: int = 400, focal: float = 300.0, seed: int = 0) -> Scene:
    """Cameras that turn on the spot; not everything is in sight of each."""
    rng = np.random.default_rng(seed)
    directions = np.radians(np.linspace(-12, 12, views))
    poses = np.stack([look_at(np.zeros(3), np.array([np.cos(d), np.sin(d), 0.02 * d])) for d in directions])
    cloud = rng.uniform([3, -3, -1.2], [7, 3, 1.2], (points, 3))
    return Scene(poses, cloud, np.full(views, focal))


def past_a_wall(views: int = 8, points: int = 900, focal: float = 330.0) -> Scene:
    """On the way past things that fill the image: what tells the focal are the views' turns, which are small."""
    rng = np.random.default_rng(0)
    at = np.stack([np.zeros(views), np.linspace(-1.2, 1.2, views), 0.2 * rng.standard_normal(views)], axis=1)
    poses = np.stack([look_at(p, np.array([5.0, 0.3 * p[1], 0.0])) for p in at])
    return Scene(poses, rng.uniform([3.5, -4.5, -3.0], [7.0, 4.5, 3.0], (points, 3)), np.full(views, focal))


def sparse_of(scene: Scene, noise: float = 0.0, seed: int = 0, posed: int | None = None) -> SparseMap:
    """All points seen from all views; the first ``posed`` views (all by default) have their true pose."""
    rng = np.random.default_rng(seed)
    sparse = SparseMap(1.0)
    focal = float(scene.focal[0])
    sparse.intrinsics.append(Intrinsics(focal, focal))
    ids = sparse.landmarks.new(len(scene.points))
    for view in range(len(scene.w_T_c)):
        known = posed is None or view < posed
        offsets = scene.seen(view) + noise * rng.standard_normal((len(ids), 2))
        sparse.add(0, Tracks(ids, offsets), scene.w_T_c[view].copy() if known else None)
    return sparse


def unposed(scene: Scene, noise: float = 0.3, seed: int = 0, wrong: float = 0.0, lens: Lens = PLAIN) -> SparseMap:
    """What the views see through ``lens`` within their images; nobody has a pose, and nobody knows the lens.

    A part ``wrong`` of the observations is anywhere.
    """
    rng = np.random.default_rng(seed)
    sparse = SparseMap(1.0)
    sparse.intrinsics.append(Intrinsics(float(WIDTH), float(WIDTH), lens=PLAIN))
    ids = sparse.landmarks.new(len(scene.points))
    for view in range(len(scene.w_T_c)):
        offsets = lens.seen(scene.seen(view)) + noise * rng.standard_normal((len(ids), 2))
        swapped = rng.random(len(ids)) < wrong
        offsets[swapped] = rng.uniform([-WIDTH / 2, -HEIGHT / 2], [WIDTH / 2, HEIGHT / 2], (swapped.sum(), 2))
        inside = np.all(np.abs(offsets) < [WIDTH / 2, HEIGHT / 2], axis=1)
        sparse.add(0, Tracks(ids[inside], offsets[inside]), None)
    return sparse
