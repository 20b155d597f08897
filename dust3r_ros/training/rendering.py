"""All views of a rendered world at once, by the PyTorch ray caster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dust3r_ros.errors import TrainingError
from dust3r_ros.scenes.endless.casting import Seen
from dust3r_ros.scenes.endless.eye import Eye
from dust3r_ros.scenes.endless.scenery import Scenery
from dust3r_ros.scenes.world import RenderedView
from dust3r_ros.training.raycast import Raycaster, cameras

_PIXELS = 1 << 21  # rendered at once: a bound on memory whatever the size of images


@dataclass(frozen=True)
class TorchRenderer:
    """``album.Render`` on ``device`` (as torch names it). It holds no tensors, so that it travels to other processes.

    Images and depth are NumPy's but for rounding, see ``raycast``; on one kind of device they are the same each time.
    """

    device: str = "cpu"

    def __call__(self, scenery: Scenery, taken: Sequence[tuple[Eye, Seen]]) -> list[RenderedView]:
        """Views of eyes of one size; raises ``TrainingError`` when the device cannot, or has too little memory."""
        eyes = [eye for eye, _ in taken]
        step = max(_PIXELS // (eyes[0].width * eyes[0].height), 1)
        views: list[RenderedView] = []
        try:
            caster = Raycaster(scenery, self.device)
            for start in range(0, len(eyes), step):
                images, depths = caster.render(cameras(eyes[start : start + step], self.device))
                views.extend(map(RenderedView, images.cpu().numpy(), depths.cpu().numpy()))
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"the memory of '{self.device}' is too small for rendering worlds beside what else is there; fewer "
                "processes that make batches (--workers) need less, a run with --set caster=numpy none"
            ) from error
        except RuntimeError as error:  # of CUDA: a device that is lost, busy or too old
            line = str(error).strip().partition("\n")[0][:200]
            raise TrainingError(f"worlds cannot be rendered on '{self.device}': {line}") from error
        return views
