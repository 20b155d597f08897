"""Views of many rendered worlds on the device, and batches of their pairs, without per-pair work on the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dust3r_ros.errors import TrainingError
from dust3r_ros.scenes.endless.materials import stencils
from dust3r_ros.scenes.endless.painting import SLOT
from dust3r_ros.scenes.endless.worlds import Blueprint, Scenery
from dust3r_ros.training.batches import PairBatch
from dust3r_ros.training.on_device.makers import Makers
from dust3r_ros.training.on_device.photographs import draw_exposures, jitter, photograph
from dust3r_ros.training.on_device.viewpoints import Draws, choose_cameras
from dust3r_ros.training.raycast import CHUNK, Raycaster

_CAMERAS, _PAIRS, _LOOKS, _GRAIN = 2, 3, 4, 5  # purposes of random numbers
_PIXELS = 1 << 21  # rendered at once: bounds memory at any image size
_PORTION, _MOST = 16e9, 4  # bytes of a GPU for each such portion; more portions at once are fewer, larger operations
_SAMPLES = 20  # points along the shorter side of a view for its overlap
_HIDDEN = 0.02  # a point behind the visible surface by this share of its depth is hidden
_SAME_IMAGE = 0.03  # share of pairs of one image with itself (monocular depth)
TOGETHER = {"cpu": 1, "cuda": 8}
"""Worlds rendered at once, by kind of device: one takes a GPU thousands of launches, and so do eight."""

_BANK = (8, 32)  # rows and columns of materials that are kept on the device


@dataclass(frozen=True)
class Views:
    """Views per world: ``count`` of ``size`` (H, W), and ``pairs`` of them whose smaller share of overlap is within
    ``overlap``. ``zoom``: fields of view shrink by up to this; ``colour``: strength of the jitter.
    """

    size: tuple[int, int]
    count: int
    pairs: int
    overlap: tuple[float, float] = (0.1, 1.0)
    zoom: float = 1.0
    colour: float = 0.0


@dataclass(frozen=True, eq=False)
class Rendered:
    """The views of one world: ``images`` (V, H, W, 3) uint8, ``depths`` (V, H, W), ``K`` (V, 3, 3) and ``w_T_c``
    (V, 4, 4) float64, ``pairs`` (Q, 2)."""

    images: Tensor
    depths: Tensor
    K: Tensor
    w_T_c: Tensor
    pairs: Tensor


class Bank:
    """Materials on the device, side by side on one sheet, shared by worlds. The least recently used is evicted."""

    def __init__(self, makers: Makers, device: torch.device) -> None:
        self._makers = makers
        rows, columns = _BANK
        # 300 MB; a slot is read only once it holds a material.
        self.sheet = torch.empty(rows * SLOT[0], columns * SLOT[1], 3, dtype=torch.uint8, device=device)
        self._places: dict[tuple[str, int], int] = {}
        self._free = list(range(rows * columns))

    def corners(self, names: list[tuple[str, int]]) -> np.ndarray:
        """(N, 2) float32 corners (x, y) of materials, which are uploaded if missing."""
        found = np.zeros((len(names), 2), np.float32)
        for name in names:  # mark those present as used, so that none of them is evicted
            if name in self._places:
                self._places[name] = self._places.pop(name)
        for number, name in enumerate(names):
            if name not in self._places:
                place = self._free.pop() if self._free else self._places.pop(next(iter(self._places)))
                self._places[name] = place
                top, left = (self._places[name] // _BANK[1]) * SLOT[0], (self._places[name] % _BANK[1]) * SLOT[1]
                slot = torch.from_numpy(self._makers.material(*name).copy())
                self.sheet[top : top + SLOT[0], left : left + SLOT[1]] = slot.to(self.sheet.device)
            row, column = divmod(self._places[name], _BANK[1])
            found[number] = column * SLOT[1], row * SLOT[0]
        return found


class Studio:
    """Renders worlds on ``device``, ``together`` at once, and leaves out the first ``skip``: the last bits of a world
    depend on those it is rendered with, so a run that is resumed begins at the same group.

    Raises ``TrainingError`` when the device cannot, or has too little memory.
    """

    def __init__(self, makers: Makers, device: torch.device, together: int = 1, skip: int = 0) -> None:
        self.makers, self.device, self.together, self._skip = makers, device, together, skip
        self._ready: deque[Rendered] = deque()
        memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
        self._portions = int(min(max(memory // _PORTION, 1), _MOST))
        self.bank = Bank(makers, device)

    def next(self, views: Views) -> Rendered:
        """The next world's views; ``views`` are the same in every call."""
        if not self._ready:
            rendered = self._rendered([self.makers.blueprint() for _ in range(self.together)], views)
            self._ready.extend(rendered[self._skip :])
            self._skip = 0
        return self._ready.popleft()

    def _rendered(self, worlds: Sequence[tuple[int, Blueprint]], views: Views) -> list[Rendered]:
        try:
            return self.render(worlds, views)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"the memory of '{self.device}' has no room left for rendering worlds; use fewer worlds "
                "(--set worlds_at_once=…) or pairs, or render on the host (--set caster=numpy)"
            ) from error
        except RuntimeError as error:  # CUDA: a device that is lost, busy or too old
            line = str(error).strip().partition("\n")[0][:200]
            raise TrainingError(f"worlds cannot be rendered on '{self.device}': {line}") from error

    @torch.no_grad()
    def render(self, worlds: Sequence[tuple[int, Blueprint]], views: Views) -> list[Rendered]:
        """Worlds from their numbers and blueprints."""
        keys, drawn = [(*self.makers.seed, number) for number, _ in worlds], [blueprint for _, blueprint in worlds]
        caster = Raycaster(
            *self._sceneries(drawn), device=self.device, chunk=self._portions * CHUNK, sheet=self.bank.sheet
        )
        draws = Draws(self.device, *((*key, _CAMERAS) for key in keys))
        places = [(each.shapes, each.stage) for each in drawn]
        seen_by = choose_cameras(caster, places, views.count, views.size, draws, views.zoom)
        step = max(self._portions * _PIXELS // (views.size[0] * views.size[1]), 1)
        parts = [caster.render(seen_by.part(at, at + step)) for at in range(0, len(seen_by), step)]
        images, depths = (torch.cat(part) for part in zip(*parts, strict=True))
        ends = seen_by.world.bincount(minlength=len(worlds)).cumsum(0).tolist()
        rendered = []
        for key, first, end in zip(keys, [0, *ends], ends, strict=False):
            seen = depths[first:end], seen_by.K[first:end], seen_by.w_T_c[first:end]
            pairs = choose_pairs(overlaps(*seen), views, Draws(self.device, (*key, _PAIRS)))
            rendered.append(Rendered(images[first:end], *seen, pairs))
        return rendered

    def _sceneries(self, drawn: Sequence[Blueprint]) -> list[Scenery]:
        """Worlds with their textures on the bank's sheet, all of which are there at once."""
        corners = self.bank.corners([name for each in drawn for name in each.materials])
        of_each = np.split(corners, np.cumsum([len(each.materials) for each in drawn])[:-1])
        nothing = np.zeros((1, 1, 3), np.uint8)
        return [
            Scenery(each.shapes, each.charts_at(at), nothing, each.light, stencils())
            for each, at in zip(drawn, of_each, strict=True)
        ]


class Gallery:
    """``worlds`` rendered worlds at a time, from which every batch takes its pairs in turn.

    Each world gives ``views.pairs`` pairs before the next one replaces it. Batches are deterministic: the first may
    have any number, later ones must be asked for in order.
    """

    def __init__(self, studio: Studio, views: Views, worlds: int, pairs: int, number: int = 0) -> None:
        self.studio, self.views, self.worlds, self.pairs, self.number = studio, views, worlds, pairs, number
        height, width = views.size
        device = studio.device
        self._images = torch.zeros(worlds, views.count, height, width, 3, dtype=torch.uint8, device=device)
        self._depths = torch.zeros(worlds, views.count, height, width, device=device)
        self._K = torch.zeros(worlds, views.count, 3, 3, dtype=torch.float64, device=device)
        self._w_T_c = torch.zeros(worlds, views.count, 4, 4, dtype=torch.float64, device=device)
        self._pairs = torch.zeros(worlds, views.pairs, 2, dtype=torch.int64, device=device)
        self._come = first_world(number, pairs, views.pairs)

    def batch(self) -> PairBatch:
        """The next batch. Raises as ``Studio.next`` and ``Makers.blueprint``."""
        due = first_world(self.number, self.pairs, self.views.pairs) + self.worlds
        while self._come < due:
            self._hang(self.studio.next(self.views), self._come % self.worlds)
            self._come += 1
        made = self._batch()
        self.number += 1
        return made

    def _hang(self, world: Rendered, place: int) -> None:
        count = len(world.images)
        for kept, new in (
            (self._images, world.images), (self._depths, world.depths), (self._K, world.K), (self._w_T_c, world.w_T_c),
        ):  # fmt: skip
            kept[place, :count] = new
        self._pairs[place] = world.pairs

    @torch.no_grad()
    def _batch(self) -> PairBatch:
        device, seed = self.studio.device, self.studio.makers.seed
        turn = self.number * self.pairs + torch.arange(self.pairs, device=device)
        world = turn % self.worlds
        views = self._pairs[world, turn // self.worlds % self.views.pairs]
        place, view = world.repeat(2), views.T.flatten()
        draws = Draws(device, (*seed, self.number, _LOOKS))
        taken = draw_exposures(draws, self.pairs)
        images = self._images[place, view].movedim(3, 1).float()
        grain = torch.randn(images.shape, generator=self._grain(device, seed), device=device)
        pictures = jitter(photograph(images, taken, grain), draws, self.views.colour)
        return as_batch(pictures, self._depths[place, view], self._K[place, view], self._w_T_c[place, view])

    def _grain(self, device: torch.device, seed: tuple[int, ...]) -> torch.Generator:
        words = np.random.SeedSequence([*seed, self.number, _GRAIN]).generate_state(1, np.uint64)
        return torch.Generator(device).manual_seed(int(words[0] >> np.uint64(1)))


def first_world(number: int, pairs: int, per_world: int) -> int:
    """How many worlds are finished before batch ``number``."""
    return number * pairs // per_world


def as_batch(pictures: Tensor, depths: Tensor, K: Tensor, w_T_c: Tensor) -> PairBatch:
    """The batch of pictures (2B, 3, H, W), 0 to 255, first images before second ones, with depths (2B, H, W)."""
    count = len(pictures) // 2
    valid = depths > 0
    known = valid.reshape(2, count, -1).sum(dim=(0, 2))
    total = depths.double().reshape(2, count, -1).sum(dim=(0, 2))
    unit = torch.where(known > 0, total / known.clip(min=1), 1.0)
    height, width = depths.shape[1:]
    v = torch.arange(height, device=depths.device, dtype=torch.float64)[:, None]
    u = torch.arange(width, device=depths.device, dtype=torch.float64)
    x = (u - K[:, 0, 2, None, None]) / K[:, 0, 0, None, None]
    y = (v - K[:, 1, 2, None, None]) / K[:, 1, 1, None, None]
    z = depths / unit.repeat(2)[:, None, None]
    points = torch.stack((x * z, y * z, z), dim=-1).float()
    first, second = w_T_c[:count], w_T_c[count:]
    pose = torch.linalg.solve(first, second)
    pose[:, :3, 3] /= unit[:, None]
    images = pictures / 127.5 - 1
    return PairBatch(
        images[:count], images[count:], points[:count], points[count:], valid[:count], valid[count:],
        K[:count].float(), K[count:].float(), pose.float(),
    )  # fmt: skip


def overlaps(depths: Tensor, K: Tensor, w_T_c: Tensor) -> Tensor:
    """(V, V): [i, j] is the share of view i's pixels with depth that view j sees, as ``viewpoints.overlaps``."""
    count, height, width = depths.shape
    step = max(min(height, width) // _SAMPLES, 1)
    v = torch.arange(step // 2, height, step, device=depths.device)
    u = torch.arange(step // 2, width, step, device=depths.device)
    z = depths[:, v][:, :, u].double().flatten(1)
    v, u = (part.double().flatten() for part in torch.meshgrid(v, u, indexing="ij"))
    x, y = ((p - K[:, k, 2, None]) / K[:, k, k, None] for k, p in ((0, u), (1, v)))
    known = z > 0
    points = torch.stack((x * z, y * z, z, torch.ones_like(z)), dim=-1)
    points = torch.einsum("vij,vpj->vpi", w_T_c, points)
    local = torch.einsum("wij,vpj->vwpi", torch.linalg.inv(w_T_c), points)
    far = torch.where(local[..., 2] > 0, local[..., 2], torch.nan)
    column = local[..., 0] / far * K[None, :, None, 0, 0] + K[None, :, None, 0, 2]
    row = local[..., 1] / far * K[None, :, None, 1, 1] + K[None, :, None, 1, 2]
    inside = (column > -0.5) & (column < width - 0.5) & (row > -0.5) & (row < height - 0.5)
    left = torch.where(inside, column, 0).floor().clip(0, max(width - 2, 0)).long()
    top = torch.where(inside, row, 0).floor().clip(0, max(height - 2, 0)).long()
    base = (torch.arange(count, device=depths.device)[None, :, None] * height + top) * width + left
    flat, down, right = depths.flatten(), width * (height > 1), int(width > 1)
    there = torch.stack([flat[base + beside] for beside in (0, right, down, down + right)]).amax(dim=0)
    sees = inside & (far < (1 + _HIDDEN) * there) & known[:, None]
    return sees.sum(dim=-1) / known.sum(dim=-1).clip(min=1)[:, None]


def choose_pairs(shared: Tensor, views: Views, draws: Draws) -> Tensor:
    """(Q, 2) views whose smaller share in ``shared`` (V, V) is close to a number drawn from the limits.

    Occasionally one view twice, and always where no two share enough.
    """
    low, high = views.overlap
    both = torch.minimum(shared, shared.T)
    count = len(both)
    usable = torch.ones_like(both, dtype=torch.bool).triu(1) & (both >= low) & (both <= high)
    wanted = low + (high - low) * draws.uniform(views.pairs, 1)
    away = torch.where(usable.flatten(), (both.flatten() - wanted).abs(), torch.inf)
    near = away.topk(
        min(4, away.shape[1]), largest=False
    )  # one of several, so that a rare overlap is not always the same pair
    pick = (draws.uniform(views.pairs, 1) * near.values.isfinite().sum(dim=1, keepdim=True).clip(min=1)).long()
    chosen = near.indices.gather(1, pick)[:, 0]
    pairs = torch.stack((chosen // count, chosen % count), dim=1)
    pairs = torch.where(draws.uniform(views.pairs, 1) < 0.5, pairs, pairs.flip(1))
    one = (draws.uniform(views.pairs, 1) * count).long().expand(-1, 2)
    alone = (draws.uniform(views.pairs, 1) < _SAME_IMAGE) | ~usable.any()
    return torch.where(alone, one, pairs)
