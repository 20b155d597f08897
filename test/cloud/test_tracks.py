"""Points with the keyframes that see them: right places, honest observations, spread evenly, the same every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from true_map import room_walk, true_keyframes

from dust3r_ros.cloud.tracks import DenseTracks, dense_tracks, joined, landmark_tracks, limited
from dust3r_ros.geometry.pinhole import center_of, project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Keyframe


@pytest.fixture(scope="module")
def keyframes() -> list[Keyframe]:
    return true_keyframes(room_walk("sweep", 12))


@pytest.fixture(scope="module")
def tracks(keyframes: list[Keyframe]) -> DenseTracks:
    return dense_tracks(keyframes, 4000)


def reprojection_errors(tracks: DenseTracks, keyframes: list[Keyframe]) -> np.ndarray:
    """(O,) pixels."""
    errors = np.zeros(len(tracks.point))
    for view, keyframe in enumerate(keyframes):
        mine = tracks.view == view
        local = transform(invert(keyframe.w_T_c), tracks.points[tracks.point[mine]])
        where = project(local, keyframe.focal, center_of(*keyframe.depth.shape))
        errors[mine] = np.linalg.norm(where - tracks.pixels[mine], axis=1)
    return errors


def test_every_point_is_seen_twice_or_more_within_a_pixel(tracks: DenseTracks, keyframes: list[Keyframe]) -> None:
    assert 1000 < len(tracks) <= 4000
    assert (np.diff(tracks.point) >= 0).all()
    observations = np.bincount(tracks.point, minlength=len(tracks))
    assert observations.min() >= 2 and observations.mean() > 3
    pairs = set(zip(tracks.point.tolist(), tracks.view.tolist(), strict=True))
    assert len(pairs) == len(tracks.point)  # no keyframe sees a point twice
    errors = reprojection_errors(tracks, keyframes)
    assert errors.max() < 1.0
    assert np.allclose(np.bincount(tracks.point, errors) / observations, tracks.errors, atol=1e-6)


def test_observations_are_measured_in_the_images_not_made_up(tracks: DenseTracks, keyframes: list[Keyframe]) -> None:
    """With poses a little wrong, most observations stay where the image says they are."""
    wrong = [replace(k, w_T_c=k.w_T_c.copy()) for k in keyframes]
    for keyframe in wrong[1::2]:
        keyframe.w_T_c[:3, 3] += 0.012 * keyframe.w_T_c[:3, 0]  # about half a pixel at 3 m
    errors = reprojection_errors(dense_tracks(wrong, 4000), wrong)
    right = reprojection_errors(tracks, keyframes)
    assert (right > 1e-6).mean() > 0.3  # the others have no texture
    assert np.median(right[right > 1e-6]) < 0.25
    assert np.median(errors[errors > 1e-6]) > 1.3 * np.median(right[right > 1e-6])


def test_cameras_may_have_images_of_different_sizes(tracks: DenseTracks, keyframes: list[Keyframe]) -> None:
    """As photographs of which some were taken upright; here every second one is cropped, alike on all sides."""
    mixed = list(keyframes)
    for view in range(1, len(mixed), 2):
        whole = mixed[view]
        cut = {name: getattr(whole, name)[4:-4, 16:-16] for name in ("image", "depth", "confidence")}
        mixed[view] = replace(whole, **cut)
    found = dense_tracks(mixed, 4000)
    assert len(found) > 0.8 * len(tracks) and reprojection_errors(found, mixed).max() < 1.0
    assert np.unique(found.view).size == len(mixed)
    errors = [reprojection_errors(of, kept)[of.view % 2 == 1] for of, kept in ((found, mixed), (tracks, keyframes))]
    assert np.median(errors[0][errors[0] > 1e-6]) < 1.1 * np.median(errors[1][errors[1] > 1e-6])


def test_points_lie_on_surfaces_with_their_colour(tracks: DenseTracks, keyframes: list[Keyframe]) -> None:
    assert np.abs(tracks.points[:, 0]).max() < 3.25 and tracks.points[:, 2].min() > -0.02
    first = tracks.view == 0
    pixels = np.rint(tracks.pixels[first]).astype(int)
    seen = keyframes[0].image[pixels[:, 1], pixels[:, 0]].astype(int)
    assert np.median(np.abs(seen - tracks.colors[tracks.point[first]])) < 12
    assert len(tracks.cloud) == len(tracks) and tracks.cloud.confidence.min() >= 2


def test_a_surface_is_sampled_once_however_many_keyframes_see_it(keyframes: list[Keyframe]) -> None:
    one = dense_tracks(keyframes[:3], 3000)
    again = [replace(k, index=k.index + 100 * i) for i in range(3) for k in keyframes[:3]]
    many = dense_tracks(again, 3000)
    assert len(many) < 1.2 * len(one) + 300


def test_the_same_every_time(tracks: DenseTracks, keyframes: list[Keyframe]) -> None:
    again = dense_tracks(keyframes, 4000)
    for name in ("points", "colors", "errors", "point", "view", "pixels"):
        assert np.array_equal(getattr(again, name), getattr(tracks, name))


def test_what_others_do_not_confirm_gives_no_point(keyframes: list[Keyframe]) -> None:
    shifted = [replace(k, depth=k.depth * np.float32(1 + 0.2 * (i % 2))) for i, k in enumerate(keyframes[:4])]
    assert len(dense_tracks(shifted[:2], 2000)) < 0.1 * len(dense_tracks(keyframes[:2], 2000))
    blind = [replace(k, depth=np.zeros_like(k.depth)) for k in keyframes[:3]]
    for few in ([], keyframes[:1], blind):
        assert len(dense_tracks(few, 1000)) == len(dense_tracks(few, 1000).point) == 0


def test_landmarks_are_tracks_of_the_observations_that_fit(tracks: DenseTracks, keyframes: list[Keyframe]) -> None:
    named = [replace(keyframe, index=7 + 3 * keyframe.index) for keyframe in keyframes]
    names = np.array([keyframe.index for keyframe in named])
    pixels = tracks.pixels.copy()
    first = np.flatnonzero(np.diff(tracks.point, prepend=-1))  # the first observation of every point
    pixels[first[:50]] += 5.0
    again = landmark_tracks(named, tracks.points, tracks.colors, names[tracks.view], tracks.point, pixels)
    observations = np.bincount(tracks.point)
    assert len(again) == len(tracks) - np.count_nonzero(observations[:50] == 2)
    assert len(again.point) == len(tracks.point) - 50 - np.count_nonzero(observations[:50] == 2)
    assert reprojection_errors(again, named).max() < 2.0
    untouched = landmark_tracks(named, tracks.points, tracks.colors, names[tracks.view], tracks.point, tracks.pixels)
    assert np.allclose(untouched.errors, tracks.errors) and np.array_equal(untouched.view, tracks.view)
    stranger = landmark_tracks(named[:1], tracks.points, tracks.colors, names[tracks.view], tracks.point, pixels)
    assert len(stranger) == 0  # seen by keyframes that are not exported


def test_landmarks_are_seen_inside_images_only(tracks: DenseTracks, keyframes: list[Keyframe]) -> None:
    """A rectified image shows less than a wide lens sees: here, half the width."""
    half = [
        replace(k, image=k.image[:, 40:120], depth=k.depth[:, 40:120], confidence=k.confidence[:, 40:120])
        for k in keyframes
    ]
    names, pixels = np.array([keyframe.index for keyframe in keyframes]), tracks.pixels - [40.0, 0.0]
    found = landmark_tracks(half, tracks.points, tracks.colors, names[tracks.view], tracks.point, pixels)
    assert 100 < len(found) < len(tracks) and np.bincount(found.point).min() >= 2
    assert found.pixels.min() >= -0.5 and found.pixels[:, 0].max() < 79.5 < pixels[:, 0].max()
    assert reprojection_errors(found, half).max() < 2.0


def test_fewer_points_keep_their_observations(tracks: DenseTracks, keyframes: list[Keyframe]) -> None:
    few = limited(tracks, 100)
    assert len(few) == 100 and limited(tracks, len(tracks)) is tracks
    rows = np.flatnonzero((tracks.points[:, None] == few.points).all(axis=2).any(axis=1))
    assert np.ptp(np.diff(rows)) <= 1  # evenly
    assert len(few.point) == np.isin(tracks.point, rows).sum()
    assert np.allclose(np.bincount(few.point, reprojection_errors(few, keyframes)) / np.bincount(few.point), few.errors)
    assert len(dense_tracks(keyframes, 0)) == 0


def test_parts_are_joined_in_order(tracks: DenseTracks) -> None:
    both = joined(tracks, tracks)
    assert len(both) == 2 * len(tracks) and both.point.max() == 2 * len(tracks) - 1
    assert np.array_equal(both.points[both.point[len(tracks.point) :]], tracks.points[tracks.point])
    assert len(joined()) == 0
