"""Drawing with OpenCV and without it gives the same but for rounding and outlines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dust3r_ros.scenes import raster
from dust3r_ros.scenes.endless.stock import USES, material

pytest.importorskip("cv2", reason="OpenCV is not installed")


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], np.ndarray]], tuple[np.ndarray, np.ndarray]]:
    def run(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        exact = work()
        with monkeypatch.context() as without:
            without.setattr(raster, "cv2", None)
            return exact, work()

    return run


def test_resampling_is_opencvs_but_for_rounding(both) -> None:
    rng = np.random.default_rng(0)
    rough, picture = rng.standard_normal((7, 9), np.float32), rng.random((64, 32, 3), np.float32)
    x, y = rng.uniform(-2, 34, 500).astype(np.float32), rng.uniform(-2, 66, 500).astype(np.float32)
    for work, close in (
        (lambda: raster.enlarge(rough, 100, 37), 1e-5),
        (lambda: raster.enlarge(rough, 9, 7), 1e-5),
        (lambda: raster.halve(picture), 1e-6),
        (lambda: raster.blur(rough.repeat(6, 0).repeat(6, 1), 1.3), 2e-2),
        (lambda: raster.sample(picture, x, y), 3e-2),  # OpenCV's weights are multiples of 1/32
    ):
        exact, other = both(work)
        assert exact.shape == other.shape and exact.dtype == other.dtype
        assert np.abs(exact - other).max() < close


def test_figures_cover_the_same_but_for_outlines(both) -> None:
    corners = np.array([[10, 5], [50, 20], [40, 58], [4, 40]], np.int32)

    def drawn(draw: Callable[[np.ndarray], None]) -> Callable[[], np.ndarray]:
        def work() -> np.ndarray:
            picture = np.zeros((64, 64, 3), np.float32)
            draw(picture)
            return picture

        return work

    for draw in (
        lambda picture: raster.ellipse(picture, (30, 28), (20, 9), 35.0, (0.5, 1.0, 0.25)),
        lambda picture: raster.ellipse(picture, (2, 60), (14, 14), 0.0, (1.0, 1.0, 1.0)),
        lambda picture: raster.ellipse(picture, (200, 200), (5, 5), 0.0, (1.0, 1.0, 1.0)),
        lambda picture: raster.polygon(picture, corners, (1.0, 0.5, 0.25)),
        lambda picture: raster.frame(picture, (0, 0), (63, 63), (1.0, 0.5, 0.25), 4),
        lambda picture: raster.disc(picture, (20, 40), 12, (1.0, 0.5, 0.25)),
    ):
        exact, other = both(drawn(draw))
        differ = (np.abs(exact - other).max(axis=-1) > 0.1).sum()
        assert differ <= 0.2 * (exact.max(axis=-1) > 0).sum()


def test_words_take_as_much_room(both) -> None:
    def work() -> np.ndarray:
        ink = np.zeros((80, 300), np.uint8)
        raster.text(ink, "Hello world", (10, 60), raster.FONTS[0], 1.5, 3)
        return ink

    exact, other = both(work)
    for ink in (exact, other):
        rows, columns = np.nonzero(ink > 128)
        assert rows.min() > 10 and 50 < rows.max() < 75 and columns.min() >= 8 and columns.max() > 200
    assert 0.3 < other.sum() / exact.sum() < 4


@pytest.mark.parametrize("use", sorted(USES))
def test_every_material_can_be_made_without_opencv(use: str, both) -> None:
    for number in range(3):
        exact, other = both(lambda n=number: material.__wrapped__((0, 0), use, n))
        assert np.abs(exact.astype(int) - other).mean() < 40
