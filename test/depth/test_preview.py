"""A first look at depth."""

from __future__ import annotations

import numpy as np
import pytest
from sequences import walk

from dust3r_ros.depth.preview import DepthPreview, Posed
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.scenes.sequence import RenderedSequence


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return walk("orbit")


def posed(sequence: RenderedSequence, frame: int) -> Posed:
    """A frame at its true pose, with landmarks at every twelfth pixel."""
    height, width = sequence.depths[frame].shape
    v, u = np.mgrid[4:height:12, 4:width:12].reshape(2, -1)
    z = sequence.depths[frame][v, u].astype(np.float64)
    x, y = (u - (width - 1) / 2) / sequence.focal, (v - (height - 1) / 2) / sequence.focal
    points = transform(sequence.w_T_c[frame], np.stack([x * z, y * z, z], axis=1)[z > 0])
    return Posed("camera", sequence.images[frame], sequence.focal, sequence.w_T_c[frame], points)


def test_depth_at_the_size_of_the_image(sequence: RenderedSequence) -> None:
    found = DepthPreview().look(8, {frame: posed(sequence, frame) for frame in (4, 8)}, [4])
    assert found is not None
    depth, confidence = found
    assert depth.shape == confidence.shape == sequence.images[8].shape[:2]
    good = (confidence > 1.5) & (sequence.depths[8] > 0)
    assert good.mean() > 0.2
    assert np.median(np.abs(depth[good] / sequence.depths[8][good] - 1)) < 0.03


def test_another_view_tells_more(sequence: RenderedSequence) -> None:
    views = {frame: posed(sequence, frame) for frame in (0, 4, 8)}
    one, two = (DepthPreview().look(8, views, sources) for sources in ([4], [4, 0]))
    assert one is not None and two is not None
    assert (two[1] > 1.5).mean() > (one[1] > 1.5).mean()


def test_nothing_is_seen_from_one_place(sequence: RenderedSequence) -> None:
    assert DepthPreview().look(8, {8: posed(sequence, 8)}, []) is None


def test_images_are_let_go_and_taken_in_again(sequence: RenderedSequence) -> None:
    preview, views = DepthPreview(), {frame: posed(sequence, frame) for frame in range(24)}
    first = preview.look(1, {frame: views[frame] for frame in (0, 1)}, [0])
    for index in range(2, 24):
        sources = [index - 1, index - 2]
        assert preview.look(index, {frame: views[frame] for frame in (index, *sources)}, sources) is not None
    again = preview.look(1, {frame: views[frame] for frame in (0, 1)}, [0])
    assert first is not None and again is not None
    np.testing.assert_allclose(again[0], first[0], atol=1e-3)
