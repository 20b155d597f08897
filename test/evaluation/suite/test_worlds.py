"""The rendered worlds: what they are said to be, the same every time, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.evaluation.scene import read_scene
from dust3r_ros.evaluation.suite import worlds
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.scenes.sequence import RenderedSequence


def test_the_street_has_a_sky_and_is_wide() -> None:
    street = worlds.street(frames=2, width=120)
    sky = street.depths == 0
    assert 0.02 < sky.mean() < 0.6 and sky[:, 0].mean() > sky[:, -1].mean()
    assert np.all(street.images[sky].astype(int) >= 90)  # bright and blue, not what was not rendered
    seen = street.depths[~sky]
    assert np.quantile(seen, 0.05) < 8 and seen.max() > 10


def test_somebody_walks_through_the_room() -> None:
    """Where two frames look at the same still thing, depth agrees; not where the person stands."""
    walk = worlds.passer_by(frames=4, width=120)
    empty = worlds.room(24)
    shown = []
    for pose, depth in zip(walk.w_T_c, walk.depths, strict=True):
        still = empty.render(pose, walk.width, walk.height, walk.focal, 1).depth
        shown.append(depth < still - 1e-3)
        assert np.array_equal(depth[~shown[-1]], still[~shown[-1]])
    assert np.mean([mask.any() for mask in shown]) >= 0.5 and np.mean(shown) < 0.25
    places = []
    for pose, depth, mask in zip(walk.w_T_c, walk.depths, shown, strict=True):
        if mask.any():
            rows, columns = np.nonzero(mask)
            ray = np.array([(columns.mean() - 59.5) / walk.focal, (rows.mean() - 44.5) / walk.focal, 1.0])
            places.append((invert(invert(pose)) @ [*(np.median(depth[mask]) * ray), 1.0])[:3])
    assert np.linalg.norm(places[0] - places[-1]) > 0.8


@pytest.mark.parametrize("make", [worlds.orbit, worlds.hallway])
def test_paths_are_long_enough_to_map(make: Callable[..., RenderedSequence]) -> None:
    sequence = make(frames=2, width=60)
    assert np.all(sequence.depths > 0) and sequence.images.std() > 10
    assert np.linalg.norm(sequence.w_T_c[1, :3, 3] - sequence.w_T_c[0, :3, 3]) > 0.05


def test_a_world_is_rendered_once_and_a_broken_one_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def small(frames: int = 2) -> RenderedSequence:
        made.append(frames)
        return worlds.orbit(frames=frames, width=40)

    monkeypatch.setitem(worlds.WORLDS, "rendered_orbit", small)
    path = worlds.write_world("rendered_orbit", tmp_path)
    before = (path / "groundtruth.txt").read_bytes()
    assert worlds.write_world("rendered_orbit", tmp_path) == path and made == [2]
    (path / "intrinsics.json").unlink()
    worlds.write_world("rendered_orbit", tmp_path)
    assert made == [2, 2] and (path / "groundtruth.txt").read_bytes() == before
    assert read_scene(path).name == "rendered_orbit" and len(read_scene(path).truth) == 2
