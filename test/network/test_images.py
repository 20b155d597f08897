"""Image preparation as the published models were trained."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Pillow

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.errors import InputError  # noqa: E402
from dust3r_ros.network import normalise, prepare_image  # noqa: E402


def ramp(height, width):
    """Red grows with x, green with y: a pixel's colour says where it came from."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack((x, y, np.full_like(x, 128)), axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("native", "size", "prepared"),
    [  # (H, W)
        ((480, 640), 512, (384, 512)),
        ((640, 480), 512, (512, 384)),
        ((1080, 1920), 512, (288, 512)),
        ((600, 600), 512, (384, 512)),
        ((120, 160), 512, (384, 512)),
        ((375, 500), 512, (384, 512)),
        ((640, 639), 512, (512, 496)),
        ((384, 512), 512, (384, 512)),
        ((480, 640), 320, (240, 320)),
        ((480, 640), 224, (224, 224)),
        ((1920, 1080), 224, (224, 224)),
        ((100, 100), 224, (224, 224)),
    ],
)
def test_sizes(native, size, prepared):
    assert prepare_image(ramp(*native), size).image.shape == (*prepared, 3)


@pytest.mark.parametrize(
    ("native", "size"), [((481, 643), 512), ((700, 350), 512), ((333, 333), 512), ((480, 640), 224)]
)
def test_pixels_map_back(native, size):
    image = ramp(*native)
    prepared = prepare_image(image, size)
    height, width = prepared.image.shape[:2]
    u, v = np.meshgrid(np.arange(8, width - 8, 37), np.arange(8, height - 8, 37))
    there = prepared.to_original(np.stack((u, v), axis=-1))
    expected = there / (np.array(native[::-1]) - 1) * 255  # the ramp's colours at those places
    np.testing.assert_allclose(prepared.image[v, u, :2], expected, atol=1.0)
    np.testing.assert_allclose(prepared.from_original(there), np.stack((u, v), axis=-1), atol=1e-9)


def test_crop_is_centred():
    prepared = prepare_image(ramp(600, 600), 512)
    np.testing.assert_allclose(prepared.to_original(np.array([255.5, 191.5])), [299.5, 299.5], atol=1e-9)


@pytest.mark.parametrize(
    ("native", "filter_"), [((768, 1024), Pillow.Resampling.LANCZOS), ((192, 256), Pillow.Resampling.BICUBIC)]
)
def test_filters(native, filter_):
    image = np.random.default_rng(0).integers(0, 256, (*native, 3), dtype=np.uint8)
    expected = np.asarray(Pillow.fromarray(image).resize((512, 384), filter_))
    np.testing.assert_array_equal(prepare_image(image, 512).image, expected)


def test_normalised_range_and_layout():
    image = ramp(32, 48)
    tensor = normalise(image)
    assert tensor.shape == (1, 3, 32, 48) and tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor[0].permute(1, 2, 0), image / 127.5 - 1, atol=1e-6)
    assert float(tensor.min()) == -1.0 and float(tensor.max()) == 1.0
    np.testing.assert_array_equal(normalise(np.stack((image, image[:, ::-1])))[1], tensor[0].flip(-1))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((48, 64, 3), np.float64),
        np.zeros((2, 2000, 3), np.uint8),
    ],
)
@pytest.mark.parametrize("size", [224, 512])
def test_unusable_images(image, size):
    with pytest.raises(InputError):
        prepare_image(image, size)


def test_unusable_arguments():
    with pytest.raises(InputError, match="image size 500"):
        prepare_image(ramp(48, 64), 500)
    for images in (np.zeros((2, 3), np.uint8), np.zeros((0, 16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.int32)):
        with pytest.raises(InputError):
            normalise(images)
