"""Robust means of rotations and of directions, with how sure they are."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.metric.evidence import block_std
from dust3r_ros.types import Array

_ITERATIONS = 12
_FLOOR = 1e-3  # radians: nearer ones count no more
Z = np.array([0.0, 0.0, 1.0])


def mean_rotation(rotations: Array) -> tuple[Array, float]:
    """The (3, 3) rotation nearest to ``rotations`` (N, 3, 3) by the sum of angles, and its deviation, radians.

    Iteratively re-weighted chordal means (Hartley et al., "Rotation averaging", IJCV 2013, section 5.3 and 5.4).
    """
    weight = np.ones(len(rotations))
    for _ in range(_ITERATIONS):
        U, _, Vt = np.linalg.svd(np.einsum("n,nij->ij", weight, rotations))
        mean = (U * [1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt
        off = Rotation.from_matrix(mean.T @ rotations).as_rotvec()
        weight = 1.0 / np.maximum(np.linalg.norm(off, axis=1), _FLOOR)
    return mean, _deviation(off, weight)


def mean_direction(directions: Array) -> tuple[Array, float]:
    """The unit vector nearest to ``directions`` (N, 3), unit vectors, by the sum of distances; deviation, radians."""
    weight = np.ones(len(directions))
    for _ in range(_ITERATIONS):
        mean = weight @ directions
        mean /= max(float(np.linalg.norm(mean)), 1e-12)
        off = directions - mean
        weight = 1.0 / np.maximum(np.linalg.norm(off, axis=1), _FLOOR)
    return mean, _deviation(off, weight)


def _deviation(off: Array, weight: Array) -> float:
    """Of a mean from which samples (N, 3), in the order of time, are ``off``; the largest of the three axes'."""
    found = max(block_std(weight * axis, weight) for axis in off.T)
    if math.isfinite(found):
        return found
    return float(np.sqrt(np.mean(np.sum(off**2, axis=1)))) + math.radians(1.0)  # too few to tell how they scatter


def least_rotation(source: Array, target: Array) -> Array:
    """(3, 3) the smallest rotation that takes unit vector ``source`` (3,) to ``target`` (3,)."""
    axis, cosine = np.cross(source, target), float(source @ target)
    sine = float(np.linalg.norm(axis))
    if sine < 1e-12:
        if cosine > 0:
            return np.eye(3)
        side = np.cross(source, np.eye(3)[np.argmin(np.abs(source))])
        return Rotation.from_rotvec(math.pi * side / np.linalg.norm(side)).as_matrix()
    return Rotation.from_rotvec(math.atan2(sine, cosine) * axis / sine).as_matrix()


def about_z(angle: float) -> Array:
    """(3, 3) rotation by ``angle`` radians about z."""
    return Rotation.from_rotvec([0.0, 0.0, angle]).as_matrix()


def heading(rotation: Array) -> float:
    """By how many radians a rotation (3, 3) turns about z, as the nearest rotation about z does."""
    return math.atan2(rotation[1, 0] - rotation[0, 1], rotation[0, 0] + rotation[1, 1])
