"""Photographic effects of many images at once: NumPy's and Pillow's, one by one, but for rounding."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.scenes.endless import photography  # noqa: E402
from dust3r_ros.training.on_device.photographs import (  # noqa: E402
    Exposures,
    compressed,
    draw_exposures,
    hue_turned,
    jitter,
    photograph,
)
from dust3r_ros.training.on_device.viewpoints import Draws  # noqa: E402

PLAIN = {
    "gain": 1.0, "balance": (1.0, 1.0, 1.0), "gamma": 1.0, "vignette": 0.0, "noise": 0.0, "quality": 100.0,
    "automatic": 0.0, "saturation": 1.0, "motion": (0.0, 0.0), "soft": 0.0,
}  # fmt: skip


def draws(seed: int = 0) -> Draws:
    return Draws(torch.device("cpu"), (seed,))


def exposures(**changes: Any) -> Exposures:
    return Exposures(**{name: torch.tensor([value]) for name, value in {**PLAIN, **changes}.items()})


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """(64, 80, 3) uint8, smooth and with edges."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(20, 235, (9, 11, 3), np.uint8), (80, 64), interpolation=cv2.INTER_CUBIC)
    cv2.rectangle(image, (20, 10), (50, 40), (200, 40, 60), -1)
    return image


def tensor(image: np.ndarray) -> Any:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"gain": 1.3}, {"balance": (1.1, 0.9, 1.0), "saturation": 0.4}, {"gamma": 1.3}, {"vignette": 0.4},
        {"automatic": 0.7}, {"saturation": 0.0},
    ],
)  # fmt: skip
def test_exposure_is_numpys(picture: np.ndarray, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class NoChance:
        def random(self) -> float:
            return 1.0

        def normal(self, mean: float, deviation: float) -> float:
            return mean

    values = {**PLAIN, **changes}
    taken = photography.Exposure(**{f.name: values[f.name] for f in fields(photography.Exposure)})
    expected = photography.photograph(picture, taken, NoChance())  # type: ignore[arg-type]
    found = photograph(tensor(picture), exposures(**changes), None)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("length, angle", [(2.0, 0.3), (5.5, 1.2), (9.0, 2.9)])
def test_motion_blurs_as_numpys_kernel(picture: np.ndarray, length: float, angle: float) -> None:
    kernel = photography.motion_kernel(length, angle)
    expected = cv2.filter2D(picture.astype(np.float32), -1, kernel)
    found = photograph(tensor(picture), exposures(motion=(length, angle)), None)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1


def test_a_soft_lens_is_a_gaussian(picture: np.ndarray) -> None:
    expected = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.4)
    found = photograph(tensor(picture), exposures(soft=1.4), None)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1.5


@pytest.mark.parametrize("quality", [45, 70, 97])
def test_jpeg_loses_what_libjpeg_loses(picture: np.ndarray, quality: int) -> None:
    expected = photography._jpeg(picture, quality).astype(float)
    found = compressed(tensor(picture), torch.tensor([float(quality)]))[0].permute(1, 2, 0).numpy()
    lost = np.abs(expected - picture).mean()
    assert np.abs(found - expected).mean() < 0.35 * lost + 0.3
    odd = compressed(tensor(picture[:37, :51]), torch.tensor([float(quality)]))
    assert odd.shape == (1, 3, 37, 51)


def test_hues_turn_and_come_back(picture: np.ndarray) -> None:
    image = tensor(picture)
    assert (hue_turned(image, torch.tensor([1.0])) - image).abs().max() < 0.05
    red = torch.tensor([200.0, 20, 20])[None, :, None, None]
    green = hue_turned(red, torch.tensor([1 / 3]))
    assert green.flatten().tolist() == pytest.approx([20, 200, 20], abs=0.1)


def test_jitter_keeps_to_its_strength(picture: np.ndarray) -> None:
    image = tensor(picture).repeat(200, 1, 1, 1)
    assert torch.equal(jitter(image, draws(), 0.0), image)
    changed = jitter(image, draws(), 0.4)
    assert changed.min() >= 0 and changed.max() <= 255
    means = changed.mean(dim=(1, 2, 3)) / image.mean(dim=(1, 2, 3))
    assert 0.5 < means.min() < 0.75 and 1.2 < means.max() < 1.6


def test_exposures_are_shared_by_most_pairs() -> None:
    drawn = draw_exposures(draws(), 2000)
    same = drawn.gamma[:2000] == drawn.gamma[2000:]
    assert 0.55 < same.float().mean() < 0.65
    assert 0.1 < (drawn.motion[:, 0] > 0).float().mean() < 0.14
    assert 0.2 < (drawn.soft > 0).float().mean() < 0.26
    assert 0.65 < (drawn.quality < 100).float().mean() < 0.75
    assert drawn.noise.min() == 0 and 1.5 < drawn.noise.mean() < 2.0


def test_noise_grows_with_light() -> None:
    grain = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    dark, bright = (
        photograph(torch.full((1, 3, 64, 64), level), exposures(noise=4.0), grain).std() for level in (20.0, 200.0)
    )
    assert dark < bright and abs(float(bright) - 4 * (0.3 + 200 * 0.7 / 128) ** 0.5) < 0.4
