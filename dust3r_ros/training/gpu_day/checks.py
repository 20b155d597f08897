"""Whether a device computes what NumPy and the processor do: ray caster, batches, network, losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dust3r_ros.errors import TrainingError
from dust3r_ros.scenes.endless.eye import Eye
from dust3r_ros.scenes.endless.worlds import make_world
from dust3r_ros.training.batches import PairBatch
from dust3r_ros.training.on_device.gallery import Gallery, Studio, Views
from dust3r_ros.training.on_device.makers import Makers
from dust3r_ros.training.on_device.viewpoints import Draws, choose_cameras
from dust3r_ros.training.processes import Processes
from dust3r_ros.training.raycast import Raycaster
from dust3r_ros.training.recipe import read_recipe

_SIDE = 64
_VIEWS = Views((_SIDE, _SIDE), 6, 8)
_NETWORK = {
    "enc_embed_dim": 64,
    "enc_depth": 2,
    "enc_num_heads": 2,
    "dec_embed_dim": 64,
    "dec_depth": 2,
    "dec_num_heads": 2,
}


def caster(device: torch.device) -> dict[str, Any]:
    """Images and depths of a world beside NumPy's."""
    world = make_world((0, 0), 0)
    rays = Raycaster(world.scenery, device)
    seen_by = choose_cameras(rays, world.scenery.shapes, world.stage, 4, (_SIDE, _SIDE), Draws((0, 0), device))
    images, depths = (part.cpu().numpy() for part in rays.render(seen_by))
    exact = [
        world.scenery.render(Eye(K, pose, _SIDE, _SIDE))
        for K, pose in zip(seen_by.K.cpu().numpy(), seen_by.w_T_c.cpu().numpy(), strict=True)
    ]
    depth = np.stack([view.depth for view in exact])
    known = depth > 0
    away = np.abs(depths - depth)[known] / depth[known]
    off = np.abs(images.astype(int) - np.stack([view.image for view in exact])).max(axis=-1)
    found = {"depth_alike": float((away < 1e-4).mean()), "colour_alike": float((off <= 8).mean())}
    _require(found["depth_alike"] > 0.99 and found["colour_alike"] > 0.98, "renders other images than NumPy", found)
    return found


def batches(device: torch.device) -> dict[str, Any]:
    """The same batch twice, and beside the processor's: cameras, depth; its pictures carry other noise."""
    one, two, plain = (_batch(which) for which in (device, device, torch.device("cpu")))
    twice = all(torch.equal(value, two._tensors()[name]) for name, value in one._tensors().items())
    close = torch.isclose(one.points_1.cpu(), plain.points_1, rtol=1e-3, atol=1e-3).float().mean().item()
    found = {"same_twice": twice, "points_alike": close}
    _require(close > 0.98, "makes other pairs than the processor", found)
    return found


def network(device: torch.device) -> dict[str, Any]:
    """A small network's points and confidence, in float32 and as it is trained, beside the processor's."""
    from dust3r_ros.training.start import new_model

    recipe = read_recipe("mini", {"network": _NETWORK, "head": "linear"})
    model = new_model(recipe.architecture(recipe.stages[0]), 0).eval()
    batch = _batch(torch.device("cpu"))
    with torch.inference_mode():
        exact = model(batch.image_1, batch.image_2).points_1
        model.to(device)
        there = model(batch.image_1.to(device), batch.image_2.to(device)).points_1.cpu()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            half = model(batch.image_1.to(device), batch.image_2.to(device)).points_1.float().cpu()
    found = {"float32": _away(there, exact), "bfloat16": _away(half, exact)}
    _require(found["float32"] < 2e-3 and found["bfloat16"] < 0.1, "computes another network", found)
    return found


def losses(device: torch.device) -> dict[str, Any]:
    """Loss and gradient's norm of one step beside the processor's."""
    from dust3r_ros.training.learner import Learner
    from dust3r_ros.training.start import new_model

    changes = {"network": _NETWORK, "precision": "float32", "compiled": False, "stride": 1}
    recipe = read_recipe("mini", changes)
    batch, rows = _batch(torch.device("cpu")), []
    for which in (torch.device("cpu"), device):
        learner = Learner(recipe, new_model(recipe.architecture(recipe.stages[0]), 0), which, Processes())
        rows.append([learner.step(batch, 1e-3) for _ in range(3)])
    away = max(abs(a.loss - b.loss) / abs(a.loss) for a, b in zip(*rows, strict=True))
    found = {"loss": away, "norm": abs(rows[0][0].norm - rows[1][0].norm) / rows[0][0].norm}
    _require(found["loss"] < 5e-3, "gives other losses", found)
    return found


CHECKS: dict[str, Callable[[torch.device], dict[str, Any]]] = {
    "caster": caster, "batches": batches, "network": network, "losses": losses,
}  # fmt: skip


def _batch(device: torch.device) -> PairBatch:
    return Gallery(Studio(Makers((0, 1), 0), device), _VIEWS, 1, 4).batch()


def _away(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def _require(good: bool, words: str, found: dict[str, Any]) -> None:
    if not good:
        raise TrainingError(f"the device {words}: {found}")
