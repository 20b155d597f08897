"""Effects of real cameras, including JPEG, on many images at once on the device.

The effects of ``scenes.endless.photography`` and ``training.views.jitter`` with the same probabilities and strengths:
blur, exposure, white balance, vignette, noise, JPEG; then changes of brightness, contrast, saturation, hue. Geometry is
untouched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from dust3r_ros.training.on_device.viewpoints import Draws

_BLOCK = 8
# Steps of quantisation at quality 50, T.81 annex K.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *[(99,) * 8] * 4,
)  # fmt: skip
# Y, Cb, Cr of red, green, blue (JFIF).
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def compressed(images: Tensor, quality: Tensor) -> Tensor:
    """``images`` (N, 3, H, W), whole numbers 0 to 255, compressed as JPEG of ``quality`` (N,) 1 to 99."""
    height, width = images.shape[2:]
    padded = F.pad(images, (0, -width % (2 * _BLOCK), 0, -height % (2 * _BLOCK)), mode="replicate")
    matrix = torch.tensor(_YCC, device=images.device)
    luma, blue, red = torch.einsum("kc,nchw->knhw", matrix, padded)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None]
    luma = _quantised(luma - 128, _steps(_LUMINANCE, scale)) + 128
    steps = _steps(_CHROMINANCE, scale)
    colours = torch.stack([_quantised(F.avg_pool2d(part[:, None], 2)[:, 0], steps) for part in (blue, red)], dim=1)
    colours = F.interpolate(colours, scale_factor=2, mode="bilinear", align_corners=False)
    back = torch.einsum("ck,nkhw->nchw", torch.linalg.inv(matrix), torch.cat((luma[:, None], colours), dim=1))
    return back[..., :height, :width].round().clip(0, 255)


def _steps(table: tuple[tuple[int, ...], ...], scale: Tensor) -> Tensor:
    base = torch.tensor(table, dtype=torch.float32, device=scale.device)
    return ((base * scale + 50) / 100).floor().clip(1, 255)


def _quantised(plane: Tensor, steps: Tensor) -> Tensor:
    """(N, H, W) with the DCT of every 8 x 8 block quantised in ``steps`` (N, 8, 8)."""
    count, height, width = plane.shape
    k = torch.arange(_BLOCK, device=plane.device, dtype=torch.float32)
    cosines = torch.cos((2 * k + 1) * k[:, None] * (math.pi / (2 * _BLOCK))) / 2
    cosines[0] /= math.sqrt(2)
    blocks = plane.reshape(count, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).transpose(2, 3)
    found = cosines @ blocks @ cosines.T
    steps = steps[:, None, None]
    found = (found / steps).round() * steps
    return (cosines.T @ found @ cosines).transpose(2, 3).reshape(plane.shape)


_REACH = 7  # radius of a blur's kernel, pixels
_MIDDLE = 115.0  # grey level that an automatic exposure aims at
_GREY = (0.299, 0.587, 0.114)  # luma weights of red, green, blue (ITU-R BT.601)
_SAMENESS = 0.6  # share of pairs with one exposure for both pictures
_MOST_HUE = 0.1  # of the colour circle, at strength 1


@dataclass(frozen=True, eq=False)
class Exposures:
    """Camera settings for N images, as ``photography.Exposure``: numbers (N,), ``balance`` (N, 3).

    ``motion`` (N, 2): length (pixels; 0 for none) and angle; ``soft`` (N,) sigma of a Gaussian blur,
    0 for none. ``quality`` 100 is no JPEG.
    """

    gain: Tensor
    balance: Tensor
    gamma: Tensor
    vignette: Tensor
    noise: Tensor
    quality: Tensor
    automatic: Tensor
    saturation: Tensor
    motion: Tensor
    soft: Tensor


def draw_exposures(draws: Draws, pairs: int) -> Exposures:
    """Exposures (2 x pairs: all first images, then all second ones): mostly good pictures, sometimes poor ones."""
    count = 2 * pairs
    shared = draws.uniform(pairs) < _SAMENESS

    def both(values: Tensor) -> Tensor:
        first, second = values[:pairs], values[pairs:]
        same = shared.reshape(-1, *[1] * (values.ndim - 1))
        return torch.cat((first, torch.where(same, first, second))).float()

    def at_times(chance: float, values: Tensor, otherwise: float) -> Tensor:
        return torch.where(draws.uniform(count) < chance, values, otherwise)

    kind = draws.uniform(count)
    length = torch.where(kind < 0.12, 2 + 7 * draws.uniform(count), 0.0)
    return Exposures(
        gain=both(torch.exp(0.05 + 0.22 * draws.normal(count))) * torch.exp(0.06 * draws.normal(count)).float(),
        balance=both(torch.exp(0.07 * draws.normal(count, 3))),
        gamma=both(torch.exp(0.15 * draws.normal(count))),
        vignette=both(at_times(0.4, 0.45 * draws.uniform(count), 0.0)),
        noise=both(at_times(0.7, -2.5 * torch.log1p(-draws.uniform(count)), 0.0)),
        quality=both(at_times(0.7, torch.floor(45 + 53 * draws.uniform(count)), 100.0)),
        automatic=both(0.9 * draws.uniform(count)),
        saturation=both(at_times(0.97, 0.35 + 0.7 * draws.uniform(count), 0.0)),
        motion=torch.stack((length, math.pi * draws.uniform(count)), dim=1).float(),
        soft=torch.where((kind >= 0.12) & (kind < 0.35), 0.4 + 1.2 * draws.uniform(count), 0.0).float(),
    )


def photograph(images: Tensor, taken: Exposures, grain: Tensor | None) -> Tensor:
    """Pictures (N, 3, H, W) float32, whole numbers 0 to 255, of ``images`` (N, 3, H, W) in that range.

    ``grain`` (N, 3, H, W): noise of standard deviation 1; None: none.
    """
    light = _blurred(images, taken)
    gain = taken.gain * (_MIDDLE / light.mean(dim=(1, 2, 3)).clip(min=0.2 * _MIDDLE)) ** taken.automatic
    grey = torch.tensor(_GREY, device=light.device)
    mean = torch.einsum("nchw,c->nhw", light, grey)[:, None]
    light = torch.lerp(mean, light, _spread(taken.saturation)) * (gain[:, None] * taken.balance)[..., None, None]
    height, width = light.shape[2:]
    y = torch.linspace(-1, 1, height, device=light.device)[:, None]
    x = torch.linspace(-1, 1, width, device=light.device)
    light = (light * (1 - _spread(taken.vignette) * (x * x + y * y) / 2)).clip(0, 255)
    light = torch.where(_spread((taken.gamma - 1).abs() > 0.02), 255 * (light / 255) ** _spread(taken.gamma), light)
    if grain is not None:  # shot noise grows with the root of the light, read noise does not
        light = light + _spread(taken.noise) * grain * torch.sqrt(0.3 + light * (0.7 / 128))
    picture = (light + 0.5).floor().clip(0, 255)
    squeezed = compressed(picture, taken.quality.clip(max=99))
    return torch.where(_spread(taken.quality) < 100, squeezed, picture)


def jitter(images: Tensor, draws: Draws, strength: float) -> Tensor:
    """``images`` (N, 3, H, W), 0 to 255, as ``views.jitter``: brightness, contrast, saturation in random order, then
    hue and balance of channels."""
    if strength <= 0:
        return images
    count = len(images)
    grey = torch.tensor(_GREY, device=images.device)
    order = draws.uniform(count, 3).argsort(dim=1)
    factors = (max(1 - strength, 0.0) + (1 + strength - max(1 - strength, 0.0)) * draws.uniform(count, 3)).float()
    for turn in range(3):
        which = _spread(order[:, turn])
        lightness = torch.einsum("nchw,c->nhw", images, grey)[:, None]
        middle = lightness.mean(dim=(1, 2, 3), keepdim=True).round()
        toward = torch.where(which == 0, torch.zeros_like(middle), torch.where(which == 1, middle, lightness))
        images = torch.lerp(toward, images, _spread(factors[:, turn])).clip(0, 255)
    images = hue_turned(images, (_MOST_HUE * strength * (2 * draws.uniform(count) - 1)).float())
    gains = torch.exp(0.2 * strength * (2 * draws.uniform(count, 3) - 1)).float()
    return (images * gains[..., None, None] + 0.5).clip(0, 255).floor()


def hue_turned(images: Tensor, turn: Tensor) -> Tensor:
    """``images`` (N, 3, H, W) with hues rotated by ``turn`` (N,) of the colour circle; value and saturation stay."""
    value, low = images.amax(dim=1), images.amin(dim=1)
    chroma = value - low
    red, green, blue = images.unbind(1)
    safe = chroma.clip(min=1e-6)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turn[:, None, None]
    channels = []
    for offset in (5.0, 3.0, 1.0):  # red, green, blue (Smith 1978)
        k = torch.remainder(offset + hue, 6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clip(0, 1))
    return torch.stack(channels, dim=1)


def _spread(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _blurred(images: Tensor, taken: Exposures) -> Tensor:
    """Each image convolved with its own kernel; edges are mirrored."""
    kernels = _kernels(taken.motion, taken.soft)
    count, channels, height, width = images.shape
    reach = min(_REACH, height - 1, width - 1)
    kernels = kernels[:, _REACH - reach : _REACH + reach + 1, _REACH - reach : _REACH + reach + 1]
    padded = F.pad(images, (reach,) * 4, mode="reflect").reshape(
        1, count * channels, *(s + 2 * reach for s in (height, width))
    )
    weights = kernels[:, None].expand(-1, channels, -1, -1).reshape(count * channels, 1, *kernels.shape[1:])
    return F.conv2d(padded, weights, groups=count * channels).reshape(images.shape)


def _kernels(motion: Tensor, soft: Tensor) -> Tensor:
    """(N, 15, 15) kernels that sum to 1: a line, a Gaussian, or one pixel."""
    at = torch.arange(-_REACH, _REACH + 1, device=motion.device, dtype=torch.float32)
    length, angle = motion.unbind(1)
    samples = 4 * torch.ceil(length / 2) + 1  # as ``photography.motion_kernel``; a length of 1 stands for no motion
    number = torch.arange(4 * math.ceil(4.5) + 1, device=motion.device)
    along = -length[:, None] / 2 + length[:, None] * number / (samples[:, None] - 1).clip(min=1)
    counted = (number < samples[:, None]).float()
    x, y = along * angle.cos()[:, None], along * angle.sin()[:, None]
    near_x = (1 - (x[..., None] - at).abs()).clip(min=0) * counted[..., None]
    near_y = (1 - (y[..., None] - at).abs()).clip(min=0)
    line = torch.einsum("nsy,nsx->nyx", near_y, near_x)
    bell = torch.exp(-(at**2) / (2 * soft.clip(min=1e-3)[:, None] ** 2))
    kernels = torch.where((soft > 0)[:, None, None], bell[:, :, None] * bell[:, None, :], line)
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)
