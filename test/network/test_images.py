"""Normalisation as the published models were trained."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.errors import InputError  # noqa: E402
from dust3r_ros.network import normalise  # noqa: E402


def ramp(height, width):
    """Red grows with x, green with y: a pixel's colour says where it came from."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack((x, y, np.full_like(x, 128)), axis=-1).round().astype(np.uint8)


def test_normalised_range_and_layout():
    image = ramp(32, 48)
    tensor = normalise(image)
    assert tensor.shape == (1, 3, 32, 48) and tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor[0].permute(1, 2, 0), image / 127.5 - 1, atol=1e-6)
    assert float(tensor.min()) == -1.0 and float(tensor.max()) == 1.0
    np.testing.assert_array_equal(normalise(np.stack((image, image[:, ::-1])))[1], tensor[0].flip(-1))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((48, 64, 3), np.float64),
        np.zeros((16, 16, 3), np.int32),
        np.zeros((2, 3), np.uint8),
        np.zeros((0, 16, 16, 3), np.uint8),
    ],
)
def test_unusable_images(images):
    with pytest.raises(InputError):
        normalise(images)
