"""Image textures in metres, filtered by their footprint (mip pyramid, trilinear)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dust3r_ros.scenes import raster
from dust3r_ros.types import Array32, Image


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture of ``width`` x ``height`` metres; ``levels`` are uint8 RGB, each half the one before."""

    width: float
    height: float
    levels: tuple[Image, ...]

    @property
    def texels_per_metre(self) -> float:
        """Density of the finest level."""
        return self.levels[0].shape[1] / self.width

    def sample(self, u: Array32, v: Array32, footprint: Array32) -> Array32:
        """Colours (N, 3) float32 at (u right, v down) metres, averaged over ``footprint`` (N,) metres.

        The two pyramid levels that bracket the footprint are blended (Williams, "Pyramidal
        parametrics", 1983).
        """
        last = len(self.levels) - 1
        level = np.log2(np.maximum(footprint * self.texels_per_metre, 1.0))
        level = np.minimum(level, last).astype(np.float32)
        colors = np.zeros((len(u), 3), np.float32)
        for index in range(int(level.min()), min(int(np.ceil(level.max())), last) + 1):
            weight = 1.0 - np.abs(level - index)
            chosen = np.flatnonzero(weight > 0)
            if len(chosen):
                picked = self._bilinear(index, u[chosen], v[chosen])
                colors[chosen] += weight[chosen, None] * picked
        return colors

    def _bilinear(self, index: int, u: Array32, v: Array32) -> Image:
        image = self.levels[index]
        x = (u * (image.shape[1] / self.width) - 0.5).astype(np.float32)
        y = (v * (image.shape[0] / self.height) - 0.5).astype(np.float32)
        return np.asarray(raster.sample(image, x, y), np.uint8)


def texture(image: Image, width: float, height: float) -> Texture:
    """A texture of ``width`` x ``height`` metres from a picture (H, W, 3) uint8."""
    import cv2  # here, since rendered worlds to train on do without it

    levels = [image]
    while min(levels[-1].shape[:2]) > 1:
        rows, columns = levels[-1].shape[:2]
        half = ((columns + 1) // 2, (rows + 1) // 2)
        levels.append(np.asarray(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA), np.uint8))
    return Texture(width, height, tuple(levels))
