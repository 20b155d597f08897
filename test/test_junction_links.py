"""Junctions as landmarks: of a plain box that has nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from plain_box import CORNERS, FOCAL, HEIGHT, WIDTH, picture, pixels_of, viewpoint

from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.alignment.sparse_view import Focal
from dust3r_ros.config import MapperConfig
from dust3r_ros.junction_links import JunctionLinks
from dust3r_ros.streams import CameraStream
from dust3r_ros.tracking import no_tracks


def corner_of(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """(N,) which corner of the box each pixel shows, -1 for none."""
    apart = np.linalg.norm(pixels[:, None] - pixels_of(CORNERS, viewpoint(degrees))[None], axis=2)
    return np.where(apart.min(axis=1) < 2.0, apart.argmin(axis=1), -1)


def before(index: int) -> list[int]:
    return list(range(index - 1, max(-1, index - 4), -1))


@pytest.fixture
def stream() -> CameraStream:
    return CameraStream("camera", 0, WIDTH, HEIGHT, MapperConfig())


@pytest.fixture
def sparse() -> SparseMap:
    result = SparseMap(1.0)
    result.focals.append(Focal(FOCAL, FOCAL, std=0.0, fixed=True))
    return result


def test_a_corner_keeps_its_landmark_around_the_box(sparse: SparseMap, stream: CameraStream) -> None:
    links, corners = JunctionLinks(sparse), {}
    for k, degrees in enumerate(range(20, 80, 6)):
        sparse.add(0, no_tracks(), None)
        count = links.add(k, stream, picture(viewpoint(degrees), seed=k), before(k))
        assert count >= 5 if k else count == 0
        seen = sparse.views[k].seen
        assert len(np.unique(seen.ids)) == len(seen.ids)
        which = corner_of(seen.pixels - stream.centred(np.zeros(2)), degrees)
        for landmark, corner in zip(seen.ids[which >= 0].tolist(), which[which >= 0].tolist(), strict=True):
            corners.setdefault(landmark, []).append(corner)
    lasting = [seen for seen in corners.values() if len(seen) >= 5]
    assert len(lasting) >= 5
    assert all(len(set(seen)) == 1 for seen in lasting), "a landmark is one corner"


def test_an_image_is_linked_without_becoming_a_view(sparse: SparseMap, stream: CameraStream) -> None:
    links = JunctionLinks(sparse)
    assert len(links.find(stream, picture(viewpoint(20.0))).ids) == 0
    sparse.add(0, no_tracks(), None)
    links.add(0, stream, picture(viewpoint(20.0)), [])
    count = len(sparse.points)
    found = links.find(stream, picture(viewpoint(29.0), seed=1))
    assert len(sparse.points) == count and len(sparse.views) == 1
    first = sparse.views[0].seen
    at = {landmark: pixel for landmark, pixel in zip(first.ids.tolist(), first.pixels, strict=True)}
    old = np.array([at[landmark] for landmark in found.ids.tolist()]) - stream.centred(np.zeros(2))
    same = corner_of(old, 20.0) == corner_of(found.pixels - stream.centred(np.zeros(2)), 29.0)
    assert len(found.ids) >= 5 and same.mean() > 0.8


def test_only_the_last_views_are_known(sparse: SparseMap, stream: CameraStream) -> None:
    links = JunctionLinks(sparse)
    sparse.add(0, no_tracks(), None)
    links.add(0, stream, picture(viewpoint(20.0)), [])
    old = sparse.views[0].seen.ids
    assert np.isin(links.find(stream, picture(viewpoint(23.0), seed=1)).ids, old).sum() >= 5
    sparse.add(0, no_tracks(), None)
    assert links.add(1, stream, np.full((HEIGHT, WIDTH), 128, np.uint8), [0]) == 0
    assert len(links.find(stream, picture(viewpoint(23.0), seed=1)).ids) >= 5
    sparse.add(0, no_tracks(), None)
    links.add(2, stream, np.full((HEIGHT, WIDTH), 128, np.uint8), [1])
    assert len(links.find(stream, picture(viewpoint(23.0), seed=1)).ids) == 0


def test_junctions_of_another_map_are_known_by_their_new_names(sparse: SparseMap, stream: CameraStream) -> None:
    other = SparseMap(1.0)
    theirs, mine = JunctionLinks(other), JunctionLinks(sparse)
    other.add(0, no_tracks(), None)
    theirs.add(0, stream, picture(viewpoint(20.0)), [])
    names = 7 + np.arange(len(other.points))
    sparse.new_ids(7 + len(names))
    mine.absorb(theirs, 4, names)
    found = mine.find(stream, picture(viewpoint(23.0), seed=1))
    expected = theirs.find(stream, picture(viewpoint(23.0), seed=1))
    assert len(found.ids) >= 5 and np.array_equal(found.ids, names[expected.ids])
