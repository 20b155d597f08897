"""Geometry and a network of single images, on rendered pairs and walks: it helps where it is right, harms nowhere."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import depth_graphs
import numpy as np
import pytest
from pairs import smooth
from scoring import alignment, frame_of, play
from sequences import SMALL, cut, walk

from dust3r_ros.backends.base import Monocular
from dust3r_ros.backends.depth_graph import AffinePoints, DepthGraph, InverseDepth
from dust3r_ros.backends.mono import MonoBackend, PointView, ViewDepths, fit_inverse, focal_and_shift, shift_at
from dust3r_ros.backends.two_view import TwoViewBackend
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.resize import Resize
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import RenderedSequence, look_at, render_path
from dust3r_ros.session.session import Session
from dust3r_ros.types import Frame, PairPrediction, View
from dust3r_ros.world.evidence import ScaleState

WIDTH, HEIGHT = 320, 240
LITTLE, WIDE, NONE = (0, 1), (0, 2), (0, 3)


def cloud(rng: np.random.Generator, focal: float, count: int = 800) -> tuple[np.ndarray, np.ndarray]:
    """Points of a camera, and their pixels from its centre."""
    pixels = rng.uniform(-1, 1, (count, 2)) * [WIDTH / 2, HEIGHT / 2]
    z = np.exp(rng.uniform(0, 1.5, (count, 1)))
    return np.concatenate([pixels / focal * z, z], axis=1), pixels


@pytest.mark.parametrize("focal", [150.0, 280.0, 900.0])
@pytest.mark.parametrize("shift", [-0.9, 0.0, 0.7, 5.0])
def test_focal_and_shift_of_points(focal: float, shift: float) -> None:
    rng = np.random.default_rng(1)
    points, pixels = cloud(rng, focal)
    points[:, 2] -= shift
    points += 0.003 * rng.standard_normal(points.shape)
    points[:30] += rng.standard_normal((30, 3)) * [0.5, 0.5, 0]  # what is nowhere near its pixel
    f, t, std = focal_and_shift(points, pixels, WIDTH)
    assert abs(f / focal - 1) < max(0.02, 2 * std) and std < (0.1 if focal < 500 else 0.25)
    assert shift_at(points, pixels, WIDTH, focal) == pytest.approx(shift, abs=0.05)
    assert t == pytest.approx(shift, abs=0.05 + 5 * std)


def test_points_that_tell_no_focal() -> None:
    rng = np.random.default_rng(2)
    points, pixels = cloud(rng, 280.0)
    assert focal_and_shift(points[:20], pixels[:20], WIDTH)[0] == 0
    wall = np.concatenate([pixels / 280, np.ones((len(pixels), 1))], axis=1)  # any focal, at its own distance
    wall += 0.01 * rng.standard_normal(wall.shape)
    f, _, std = focal_and_shift(wall, pixels, WIDTH)
    assert f == 0 or std > 0.1
    assert shift_at(wall, pixels, WIDTH, 560.0) == pytest.approx(1.0, abs=0.05)


def test_inverse_depth_is_fitted_in_spite_of_outliers() -> None:
    rng = np.random.default_rng(3)
    depth = np.exp(rng.uniform(0, 1.5, 3000))
    values = 40 / depth + 3
    noisy = depth * np.exp(0.03 * rng.standard_normal(3000))
    noisy[:500] *= 3
    a, b, sign = fit_inverse(values, noisy, np.ones(3000))
    assert sign == 1
    np.testing.assert_allclose(a * values + b, 1 / depth, rtol=0.03)
    assert fit_inverse(-values, noisy, np.ones(3000))[2] == -1
    for nothing in (np.full(3000, 2.0), rng.standard_normal(3000)):
        assert fit_inverse(nothing, noisy, np.ones(3000))[2] == 0
    assert fit_inverse(values[:50], noisy[:50], np.ones(50))[2] == 0


@pytest.fixture(scope="module")
def views() -> RenderedSequence:
    """Four places, in a fog that shows depth."""
    at = np.array([1.9, -0.2, 1.4])
    poses = np.stack([
        look_at(at + np.array([0.0, step, 0.1 * step]), np.array([0.0, 0.3, 0.9])) for step in (0, 0.06, 0.4, 0.005)
    ])  # fmt: skip
    seen = render_path("pairs", room(0), poses, width=WIDTH, height=HEIGHT)
    return replace(seen, images=depth_graphs.blue(seen.images, seen.depths))


def graph_of(kind: str, folder: Path, focal: float = 1.0, **what) -> DepthGraph:
    """``focal`` in image widths."""
    path = folder / f"{kind}.onnx"
    made = depth_graphs.moge(path, focal, **what) if kind == "moge" else depth_graphs.depth_anything(path, **what)
    return DepthGraph(made, "cpu")


def predict(backend, views: RenderedSequence, pairs: list) -> list[PairPrediction]:
    for index, image in enumerate(views.images):
        backend.add(View(index, "front", image))
    return backend.predict(pairs, {"front": views.focal}, dict(enumerate(views.w_T_c)))


@pytest.fixture(scope="module")
def alone(views: RenderedSequence) -> dict[tuple[int, int], PairPrediction]:
    pairs = [LITTLE, WIDE]
    return dict(zip(pairs, predict(TwoViewBackend(), views, pairs), strict=True))


@pytest.mark.parametrize("kind", ["moge", "depth_anything"])
def test_a_network_adds_depth_and_sees_each_view_once(views, alone, tmp_path: Path, kind: str, monkeypatch) -> None:
    graph = graph_of(kind, tmp_path, views.focal / WIDTH)
    seen: list[bytes] = []
    infer = graph.infer
    monkeypatch.setattr(graph, "infer", lambda image: (seen.append(image.tobytes()), infer(image))[1])
    backend = MonoBackend(graph)
    found = dict(zip((LITTLE, WIDE), predict(backend, views, [LITTLE, WIDE]), strict=True))
    for pair in (LITTLE, WIDE):
        own, both = alone[pair].confidence_first, found[pair].confidence_first
        assert (both > 1.5).mean() > 1.25 * (own > 1.5).mean()
        added = (own == 1) & (both > 1.5)
        off = np.abs(np.log(found[pair].points_first[..., 2] / views.depths[0]))[added]
        assert added.mean() > 0.02 and np.median(off) < 0.03
        assert np.median(off * np.sqrt(both[added] - 1) / 0.03) < 1, "its confidence is honest"
    assert len(seen) == len(set(seen)) == 3
    backend.clear()
    assert not backend.has(0)
    predict(backend, views, [WIDE])
    assert len(seen) == 3, "what it said of an image stays"


def test_where_geometry_knows_nothing_nobody_is_asked(views, tmp_path: Path) -> None:
    backend = MonoBackend(graph_of("moge", tmp_path, views.focal / WIDTH))
    (found,) = predict(backend, views, [NONE])
    assert (found.confidence_first == 1).all() and (found.confidence_second == 1).all()
    assert backend.metric_depth(views.images[0], views.focal) is None


@pytest.mark.parametrize(
    ("kind", "what"),
    [("moge", {"least": 2.0}), ("depth_anything", {"gives": "nan"}), ("depth_anything", {"gives": "metric"})],
)
def test_a_network_without_use_changes_nothing(views, alone, tmp_path: Path, kind: str, what: dict) -> None:
    """All of its mask is empty; its numbers are none; it gives depth in place of inverse depth."""
    backend = MonoBackend(graph_of(kind, tmp_path, **what))
    for pair, found in zip((LITTLE, WIDE), predict(backend, views, [LITTLE, WIDE]), strict=True):
        np.testing.assert_array_equal(found.points_first, alone[pair].points_first)
        np.testing.assert_array_equal(found.confidence_second, alone[pair].confidence_second)
    metric = what.get("gives") == "metric"
    assert (backend.network.empty > 0, backend.network.not_finite > 0) == (not metric, what.get("gives") == "nan")
    assert backend.guess_focal(views.images[0]) is None


def test_a_metric_variant_is_reported(views, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = MonoBackend(graph_of("depth_anything", tmp_path, gives="metric"))
    for _ in range(6):
        predict(backend, views, [LITTLE, WIDE])
    assert caplog.text.count("gave depth in place of inverse depth") == 1


def test_one_image_tells_focal_and_metres(views, tmp_path: Path) -> None:
    backend = MonoBackend(graph_of("moge", tmp_path, views.focal / WIDTH))
    assert isinstance(backend, Monocular) and not isinstance(TwoViewBackend(), Monocular)
    guess = backend.guess_focal(views.images[0])
    assert guess is not None and guess[0] == pytest.approx(views.focal, rel=0.01) and 0.09 < guess[1] < 0.15
    for focal in (views.focal, 0.0):
        metres = backend.metric_depth(views.images[0], focal)
        assert metres is not None
        ratio = metres / views.depths[0]
        assert np.median(np.abs(ratio - 1)) < 0.02
    longer = backend.metric_depth(views.images[0], 1.5 * views.focal)
    assert longer is not None and np.median(longer / views.depths[0]) > 1.1, "a longer focal sees from further away"


def test_the_oldest_images_leave_beyond_the_budget(views, tmp_path: Path) -> None:
    kept = ViewDepths(graph_of("moge", tmp_path, views.focal / WIDTH), budget=2 * WIDTH * HEIGHT * 4 + 100_000)
    for image in views.images[:3]:
        assert isinstance(kept.of(image), PointView)
    assert [kept.known(image) is not None for image in views.images[:3]] == [False, True, True]


@pytest.fixture(scope="module")
def foggy() -> RenderedSequence:
    """A walk around a table, part of whose walls and floor is plain."""
    sequence = cut(walk("orbit"), 14)
    return replace(sequence, images=depth_graphs.blue(sequence.images, sequence.depths))


def depths(mapper: Mapper, sequence: RenderedSequence) -> tuple[np.ndarray, np.ndarray]:
    """Depth of all keyframes over the truth, 0 = none, and the truth, one above the other."""
    scale = alignment(mapper.keyframes, sequence)[0].scale
    resize = Resize.fit(sequence.width, sequence.height, SMALL.working_size)
    u, v = np.meshgrid(np.arange(resize.width), np.arange(resize.height))
    at = np.round(resize.to_native(np.stack([u, v], axis=-1))).astype(int)
    found, true = [], []
    for keyframe in mapper.keyframes:
        depth = sequence.depths[frame_of(sequence, keyframe.stamp_ns)]
        true.append(depth[np.clip(at[..., 1], 0, len(depth) - 1), np.clip(at[..., 0], 0, depth.shape[1] - 1)])
        found.append(np.where(keyframe.confidence > SMALL.min_confidence, scale * keyframe.depth, 0) / true[-1])
    return np.stack(found), np.stack(true)


@pytest.mark.parametrize("kind", ["moge", "depth_anything"])
def test_a_map_with_it_is_fuller_and_as_right(foggy: RenderedSequence, tmp_path: Path, kind: str) -> None:
    """Through the mapper as configured by a user, beside geometry alone."""
    config = replace(SMALL, focal=foggy.focal)
    graph = graph_of(kind, tmp_path, foggy.focal / foggy.width)
    ratios = []
    for settings in (config, replace(config, backend="mono", checkpoint=str(graph.path), device="cpu")):
        mapper = Mapper(settings)
        play(mapper, foggy)
        mapper.finish()
        ratios.append(depths(mapper, foggy)[0])
    geometry, both = ratios
    assert geometry.shape == both.shape, "the poses are geometry's"
    added = (geometry == 0) & (both > 0)
    assert (both > 0).mean() > 0.98 and added.mean() > 0.08
    assert np.median(np.abs(both[added] - 1)) < 0.03
    assert np.median(np.abs(both[both > 0] - 1)) <= np.median(np.abs(geometry[geometry > 0] - 1))


class Bent:
    """A network whose depth bends smoothly over each view, by ``warp``, in place of a graph."""

    path, device = "bent.onnx", "cpu"

    def __init__(self, kind: str, focal: float, warp: float) -> None:
        self._kind, self._focal, self._warp, self._rng = kind, focal, warp, np.random.default_rng(0)

    def infer(self, image: np.ndarray) -> AffinePoints | InverseDepth:
        z = depth_graphs.NEAREST * 255 / np.maximum(image[..., 2], 1.0)
        z *= np.exp(self._warp * smooth(z.shape, self._rng) + 0.01 * self._rng.standard_normal(z.shape))
        if self._kind == "depth_anything":
            return InverseDepth((40 / z + 3).astype(np.float32), 0)
        points = unproject(z, self._focal * image.shape[1]) - [0, 0, 0.8]
        return AffinePoints(points.astype(np.float32), 1.0, 0)


@pytest.mark.parametrize("kind", ["moge", "depth_anything"])
def test_a_network_that_bends_views_adds_less_and_harms_nothing(foggy: RenderedSequence, kind: str) -> None:
    config, found = replace(SMALL, focal=foggy.focal), []
    bent = [MonoBackend(Bent(kind, foggy.focal / foggy.width, warp)) for warp in (0.05, 0.15)]
    for backend in (None, *bent):
        mapper = Mapper(config, backend=backend)
        play(mapper, foggy)
        mapper.finish()
        found.append(depths(mapper, foggy)[0])
    alone, little, much = found
    for own in (little, much):
        known = (alone > 0) & (own > 0)
        assert known.mean() > 0.99 * (alone > 0).mean()
        assert np.median(np.abs(own[known] - 1)) < 1.1 * np.median(np.abs(alone[known] - 1))
    added = (alone == 0) & (little > 0)
    assert added.mean() > 0.075 and np.median(np.abs(little[added] - 1)) < 0.03
    assert (much > 0).mean() < (alone > 0).mean() + 0.03


def test_a_session_knows_about_how_long_a_unit_is_and_begins_near_the_focal(foggy, tmp_path: Path) -> None:
    graph = graph_of("moge", tmp_path, foggy.focal / foggy.width)
    log = logging.getLogger("session")
    session = Session(replace(SMALL, backend="mono", checkpoint=str(graph.path), device="cpu"), log)
    first = session.process(Frame(int(foggy.stamps_ns[0]), "camera", foggy.images[0]))
    assert first.cameras["camera"].focal == pytest.approx(foggy.focal, rel=0.01)
    for stamp, image in zip(foggy.stamps_ns[1:], foggy.images[1:], strict=True):
        session.process(Frame(int(stamp), "camera", image))
    session.finish()
    estimate = session.estimate
    assert [source.source for source in estimate.sources] == ["network"]
    assert estimate.state is ScaleState.CONVERGING and 0.15 <= estimate.relative_std < 0.2
    assert estimate.scale == pytest.approx(alignment(session.mapper.keyframes, foggy)[0].scale, rel=0.05)
    assert session.mapper.cameras["camera"].focal == pytest.approx(foggy.focal, rel=0.02)
