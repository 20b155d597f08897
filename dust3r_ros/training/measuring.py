"""Checks that a device computes the same as NumPy, and measures how fast it makes pairs and learns from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch

from dust3r_ros.errors import TrainingError
from dust3r_ros.geometry.processes import usable_cores
from dust3r_ros.network.model import Dust3r
from dust3r_ros.scenes.endless.casting import Eye
from dust3r_ros.scenes.endless.worlds import make_world
from dust3r_ros.training.batches import PairBatch
from dust3r_ros.training.learner import Learner
from dust3r_ros.training.on_device.gallery import TOGETHER, Gallery, Studio, Views
from dust3r_ros.training.on_device.makers import Makers
from dust3r_ros.training.on_device.source import views_of_world
from dust3r_ros.training.on_device.viewpoints import Draws, choose_cameras
from dust3r_ros.training.processes import Processes
from dust3r_ros.training.raycast import Raycaster
from dust3r_ros.training.recipe import Recipe, Stage, read_recipe
from dust3r_ros.training.start import new_model

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
    """Compare images and depths of a world with NumPy's."""
    world = make_world((0, 0), 0)
    rays = Raycaster(world.scenery, device=device)
    place = world.scenery.shapes, world.stage
    seen_by = choose_cameras(rays, [place], 4, (_SIDE, _SIDE), Draws(device, (0, 0)))
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
    """Make a batch twice, and compare with the processor's: cameras and depth (the pictures' noise differs)."""
    one, two, plain = (_batch(which) for which in (device, device, torch.device("cpu")))
    twice = all(torch.equal(value, two._tensors()[name]) for name, value in one._tensors().items())
    close = torch.isclose(one.points_1.cpu(), plain.points_1, rtol=1e-3, atol=1e-3).float().mean().item()
    found = {"same_twice": twice, "points_alike": close}
    _require(close > 0.98, "makes other pairs than the processor", found)
    return found


def network(device: torch.device) -> dict[str, Any]:
    """Compare a small network's points and confidence, in float32 and in training precision, with the processor's."""
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
    """Compare the loss and gradient norm of one step with the processor's."""
    changes = {"network": _NETWORK, "precision": "float32", "stride": 1}
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


_PAIRS = {"cpu": (8, 16, 32), "cuda": (64, 128, 256, 512, 1024)}  # of a step; the processor only rehearses
_FEW = (8, 16, 32)  # where the memory has no room for more, as for DPT heads
_ENOUGH = 0.92  # of the best rate: the smallest step that reaches it is taken, since more steps learn more
_STEP_SECONDS, _SIZE_SECONDS = 1.0, 20.0  # seconds per step size, and per image size
_MAKE_SECONDS = 8.0  # seconds to measure drawing up worlds
_VIEW_SECONDS, _PAIR_SECONDS = 2.0, 1.0  # seconds to measure rendering views, and a pair in use
_FILL_SECONDS = 20.0  # seconds allowed for filling the gallery
_MEMORY = 0.15  # of the device's memory, for the gallery
_WORLDS, _PER_WORLD = (8, 256), (32, 512)  # least and most
_SPARE, _BESIDE = 0.8, 0.4  # shares of the possible worlds and views that are counted on, while it trains
_CONTINUED, _MANY_PAIRS = 0.4, 1e5  # learning rate factor for continued weights, at this many pairs to come
_HELD_OUT_SECONDS = 8.0  # seconds allowed for an evaluation, which costs a third of a step


@dataclass(frozen=True)
class Choice:
    """The choices of a run. ``pairs`` of a step for every stage; ``rates``: the measurements."""

    pairs: tuple[int, ...]
    workers: int
    per_world: int
    worlds: int
    rates: Mapping[str, Any]

    def as_mapping(self) -> dict[str, Any]:
        """As stored."""
        return {**asdict(self), "pairs": list(self.pairs)}

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None, recipe: Recipe, device: torch.device, workers: int | None) -> Choice:
        """The stored choice; the recipe's own where measuring failed."""
        if stored is not None:
            return cls(**{**stored, "pairs": tuple(stored["pairs"])})
        pairs = tuple(stage.pairs for stage in recipe.stages)
        count = _workers(device) if workers is None else workers
        return cls(pairs, count, recipe.per_world, recipe.worlds_at_once, {})

    def applied(self, recipe: Recipe, continued: bool, seconds: float) -> dict[str, Any]:
        """The recipe for ``seconds`` on this machine, as a mapping.

        For ``continued`` weights, learning rates are lower, the more so the fewer pairs there will be: a few steps
        cannot recover from a high rate.
        """
        values, factor = recipe.as_mapping(), 1.0
        rate = min((max(by.values()) for by in self._steps() if by), default=0.0)
        if continued:
            factor = _CONTINUED * (min((seconds * rate / _MANY_PAIRS) ** 0.5, 1.0) if rate else 1.0)
        for stage, pairs in zip(values["stages"], self.pairs, strict=True):
            # The rate scales with the square root of the pairs per step (Krizhevsky 2014).
            stage["rate"] *= factor * min((pairs / stage["pairs"]) ** 0.5, 1.0)
            stage["pairs"] = pairs
        if rate:
            values["held_out"] = min(recipe.held_out, _within((16, recipe.held_out), _HELD_OUT_SECONDS * 3 * rate))
        return {
            **values, "workers": self.workers, "per_world": self.per_world, "worlds_at_once": self.worlds,
            "save_every": 10**6,
        }  # fmt: skip

    def _steps(self) -> list[Mapping[str, float]]:
        """Pairs per second by pairs per step, for each image size."""
        return [by for name, by in self.rates.items() if name.startswith("steps ")]


def choose(
    recipe: Recipe, device: torch.device, workers: int | None, over: Callable[[], bool], share: float = 1.0
) -> Choice:
    """Measure and choose; takes about a minute, or a ``share`` of it. Once ``over()``, the rest is skipped."""
    count = _workers(device) if workers is None else workers
    rates: dict[str, Any] = {"cores": usable_cores()}
    rates["worlds_per_second"] = drawn_up = _drawn_up(count, share * _MAKE_SECONDS)
    pairs, each = [], []
    for stage in recipe.stages:
        height, width = stage.sizes[0]
        name = f"{width}x{height}"
        rates[f"views {name}"] = rendered = _rendered((height, width), device, share * _VIEW_SECONDS)
        with torch.compiler.set_stance("force_eager"):  # each number of pairs would be compiled anew
            plain = _steps(recipe, stage, device, _PAIRS[device.type], over, share)
            rates[f"steps {name}"] = plain = plain or _steps(recipe, stage, device, _FEW, over, share)
        best = max(plain.values(), default=0.0)
        pairs.append(next((int(size) for size, rate in plain.items() if rate >= _ENOUGH * best), stage.pairs))
        if device.type == "cuda":
            rates[f"compiled {name}"] = _steps(recipe, stage, device, pairs[-1:], over, share)
            best = max([best, *rates[f"compiled {name}"].values()])
        each.append(_pairs_of_world(best, _SPARE * drawn_up, _BESIDE * rendered))
    per_world = max(each)
    views = views_of_world(per_world)
    room = _memory(device) * _MEMORY / (7 * views * height * width)  # 7 bytes a pixel
    seconds = 1 / max(drawn_up, 1e-3) + views / max(rendered, 1e-3)  # of a world
    worlds = _within(_WORLDS, min(room, share * _FILL_SECONDS / seconds))
    return Choice(tuple(pairs), count, per_world, worlds, rates)


def _pairs_of_world(needed: float, worlds: float, views: float) -> int:
    """The fewest pairs of a world at which ``worlds`` and ``views`` per second suffice for ``needed`` pairs."""
    candidates = range(_PER_WORLD[0], _PER_WORLD[1], 8)
    enough = (each for each in candidates if needed <= each * min(worlds, views / views_of_world(each)))
    return next(enough, _PER_WORLD[1])


def inference(recipe: Recipe, device: torch.device, over: Callable[[], bool], share: float = 1.0) -> dict[str, Any]:
    """Milliseconds per pair, both orders, in float32 and bfloat16, by image size; on a GPU also for the published
    network size, with random weights. ``share``: as ``choose``.
    """
    sizes = [(224, 224), (384, 512)]
    networks = {recipe.name: recipe.architecture(recipe.stages[-1])}
    if device.type == "cuda":
        large = read_recipe("large")
        networks["large"] = large.architecture(large.stages[0])
    found: dict[str, Any] = {}
    for name, config in networks.items():
        network = Dust3r(config).to(device).eval()
        for height, width in sizes:
            for half in (False, True):
                if over() or (half and device.type == "cpu"):
                    continue
                key = f"{name} {width}x{height} {'bfloat16' if half else 'float32'}"
                found[key] = round(1e3 * _pair_seconds(network, (height, width), device, half, share), 2)
    return found


def _workers(device: torch.device) -> int:
    """Number of worker processes; a processor shares its cores between them and training."""
    return max(usable_cores() - 2, 1) if device.type == "cuda" else 1


def _within(limits: tuple[int, int], value: float) -> int:
    """``value`` as a multiple of 8 within limits."""
    return int(min(max(8 * round(value / 8), limits[0]), limits[1]))


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _drawn_up(workers: int, seconds: float) -> float:
    """Worlds per second of ``workers`` processes, once they and their materials are warm."""
    makers = Makers((0, 0), 10**6, workers=workers, ahead=4 * max(workers, 1))
    try:
        for _ in range(2):
            makers.blueprint()
        start, made = perf_counter(), 0
        while made < 2 or (perf_counter() - start < seconds and made < 40 * max(workers, 1)):
            makers.blueprint()
            made += 1
        return round(made / (perf_counter() - start), 3)
    finally:
        makers.close()


def _rendered(size: tuple[int, int], device: torch.device, seconds: float) -> float:
    """Views per second, including the choice of cameras."""
    makers, together = Makers((0, 0), 0), TOGETHER[device.type]
    studio, views = Studio(makers, device), Views(size, 32 if device.type == "cuda" else 12, 32)
    worlds = [makers.blueprint() for _ in range(together)]
    studio.render(worlds, views)
    start, seen = perf_counter(), 0
    while seen == 0 or perf_counter() - start < seconds:
        seen += sum(len(world.images) for world in studio.render(worlds, views))
        _wait(device)
    return round(seen / (perf_counter() - start), 1)


def _steps(
    recipe: Recipe, stage: Stage, device: torch.device, sizes: Sequence[int], over: Callable[[], bool], share: float
) -> dict[str, float]:
    """Pairs per second by pairs per step, ``sizes``, as far as memory permits."""
    begun, rates = perf_counter(), dict[str, float]()
    learner = Learner(recipe, new_model(recipe.architecture(stage), recipe.seed), device, Processes())
    eight = _eight(stage, device)
    for pairs in sizes:
        if pairs > 2 * stage.pairs or over() or (rates and perf_counter() - begun > share * _SIZE_SECONDS):
            break
        try:
            rates[str(pairs)] = _rate(learner, _repeated(eight, pairs), device, share)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    return rates


def _eight(stage: Stage, device: torch.device) -> PairBatch:
    """Eight pairs of one world."""
    return Gallery(Studio(Makers((0, 0), 0), device), Views(stage.sizes[0], 12, 64), 1, 8).batch()


def _rate(learner: Learner, batch: PairBatch, device: torch.device, share: float) -> float:
    """Pairs per second of steps on ``batch``: the median, since a GPU's calls are recorded in the first few."""
    begun, taken = perf_counter(), list[float]()
    while len(taken) < (12 if device.type == "cuda" else 3) or perf_counter() - begun < share * _STEP_SECONDS:
        start = perf_counter()
        learner.step(batch, 0.0)
        _wait(device)
        taken.append(perf_counter() - start)
    return round(len(batch) / float(np.median(taken)), 1)


def _repeated(batch: PairBatch, pairs: int) -> PairBatch:
    times = max(pairs // len(batch), 1)
    tensors = {name: value.repeat(times, *[1] * (value.ndim - 1)) for name, value in batch._tensors().items()}
    return PairBatch(**tensors, skipped=())


def _pair_seconds(network: Dust3r, size: tuple[int, int], device: torch.device, half: bool, share: float) -> float:
    image = torch.zeros(1, 3, *size, device=device)
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        for _ in range(2):
            tokens = network.encode(image)
            network.decode_both(tokens, tokens)
        _wait(device)
        start, done = perf_counter(), 0
        while done < 3 or perf_counter() - start < share * _PAIR_SECONDS:
            tokens = network.encode(image)
            network.decode_both(tokens, network.encode(image))
            done += 1
        _wait(device)
    return (perf_counter() - start) / done


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
