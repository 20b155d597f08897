"""How an image looks: the same place is alike from another place, another place is not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sequences import walk

from dust3r_ros.appearance import DIMENSIONS, Appearance
from dust3r_ros.features import Features, extract
from dust3r_ros.geometry.pinhole import center_of, project, unproject
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.sequence import RenderedSequence

GAP = 3  # frames so close in time are no news


def gray_of(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def overlap(sequence: RenderedSequence, a: int, b: int) -> float:
    """Part of what frame a shows that frame b shows too, by depth and poses."""
    points = unproject(sequence.depths[a].astype(np.float64), sequence.focal)[::8, ::8].reshape(-1, 3)
    points = transform(invert(sequence.w_T_c[b]) @ sequence.w_T_c[a], points)
    height, width = sequence.depths.shape[1:]
    pixels = np.nan_to_num(project(points, sequence.focal, center_of(height, width)), nan=-1.0)
    u, v = np.round(pixels).astype(int).T
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (points[:, 2] > 0)
    depth = sequence.depths[b][np.clip(v, 0, height - 1), np.clip(u, 0, width - 1)]
    return float((inside & (np.abs(points[:, 2] - depth) < 0.05 * depth)).mean())


@pytest.fixture(scope="module")
def features() -> dict[str, list[Features]]:
    return {kind: [extract(gray_of(image)) for image in walk(kind).images] for kind in ("orbit", "sweep", "corridor")}


def described(features: list[Features], appearance: Appearance | None = None) -> np.ndarray:
    appearance = appearance or Appearance()
    return np.stack([appearance.describe(one) for one in features])


def test_unit_vectors_of_a_few_kilobytes(features: dict[str, list[Features]]) -> None:
    looks = described(features["orbit"])
    assert looks.shape == (24, DIMENSIONS) and looks.dtype == np.float32 and looks[0].nbytes <= 4096
    np.testing.assert_allclose(np.linalg.norm(looks, axis=1), 1, rtol=1e-5)
    assert described(features["orbit"]).tobytes() == looks.tobytes(), "the same images give the same bytes"


def test_neighbours_are_the_most_alike(features: dict[str, list[Features]]) -> None:
    looks = described(features["orbit"])
    likeness = looks @ looks.T - 2 * np.eye(len(looks))
    assert (np.abs(likeness.argmax(axis=1) - np.arange(len(looks))) <= 2).all()


def test_what_overlaps_is_alike(features: dict[str, list[Features]]) -> None:
    """Two walks through one room and one through a corridor: what is most alike shows the same part of the room."""
    appearance = Appearance()
    looks = {kind: described(found, appearance) for kind, found in features.items()}
    room, sequence = looks["orbit"], walk("orbit")
    hits = 0
    for index in range(len(room)):
        far = np.abs(np.arange(len(room)) - index) > GAP
        scores = np.where(far, room @ room[index], -1.0)
        assert scores.max() > (looks["corridor"] @ room[index]).max(), "nothing in the corridor is as alike"
        best = int(scores.argmax())
        shared = [overlap(sequence, index, other) for other in np.flatnonzero(far)]
        hits += overlap(sequence, index, best) >= 0.5 * max(shared)
    assert hits >= 0.9 * len(room)


def test_light_noise_and_a_shifted_view(features: dict[str, list[Features]]) -> None:
    appearance = Appearance()
    looks = described(features["sweep"], appearance)
    rng = np.random.default_rng(0)
    for index in (2, 9, 17):
        gray = gray_of(walk("sweep").images[index])
        changed = np.clip(0.6 * gray[20:, 30:] + 25 + rng.normal(0, 4, gray[20:, 30:].shape), 0, 255).astype(np.uint8)
        best = int((looks @ appearance.describe(extract(changed))).argmax())
        assert abs(best - index) <= 1


def test_an_image_that_shows_nothing_is_like_nothing(features: dict[str, list[Features]]) -> None:
    nothing = extract(np.full((120, 160), 90, np.uint8))
    appearance = Appearance()
    assert not appearance.describe(nothing).any(), "before any other"
    first = appearance.describe(features["orbit"][0])
    assert not appearance.describe(nothing).any(), "and after"
    assert first @ Appearance().describe(features["orbit"][0]) == pytest.approx(1, abs=1e-6)
    assert np.isfinite(appearance.describe(Features(np.zeros((1, 2)), np.zeros((1, 128), np.uint8)))).all()
