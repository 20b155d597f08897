"""Cameras in worlds, chosen on the rendering device: many tried at once on small images, the good ones kept.

The same kind of cameras as in ``scenes.endless.viewpoints``: groups around one thing each, as when somebody takes
pictures of it. Every camera has a centred principal point and square pixels, so renderings are trained on uncropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from dust3r_ros.scenes.endless.shapes import HALL, PANEL, Shapes
from dust3r_ros.scenes.endless.site import Stage
from dust3r_ros.scenes.endless.viewpoints import CLEAR, FIELD_OF_VIEW, SHAPES
from dust3r_ros.training.raycast import Cameras, Raycaster

_GROUP = 8  # cameras that look at one thing
_TRIES = 12  # places tried for a group, which takes the first good one
_MOVES = 2 * (_GROUP - 1)  # further cameras tried
_SPOTS = 24
_SMALL = 28  # pixels along the shorter side of the trial images
_OFF_CENTRE = (0.3, 0.12)  # share of lenses with an off-centre principal point, and its largest offset


class Draws:
    """Random numbers, float64, that depend on ``keys`` alone and not on the device. Of several keys, each gives an
    equal part of the first axis: what it would give alone.
    """

    def __init__(self, device: torch.device, *keys: tuple[int, ...]) -> None:
        seeds = (np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] for key in keys)
        self._generators = [torch.Generator().manual_seed(int(seed >> np.uint64(1))) for seed in seeds]
        self._device = device

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1)."""
        return self._drawn(torch.rand, shape)

    def normal(self, *shape: int) -> Tensor:
        """Numbers of standard deviation 1."""
        return self._drawn(torch.randn, shape)

    def uneven(self, count: int, widths: Sequence[int]) -> Tensor:
        """(count, most of ``widths``): numbers in [0, 1), as many in each key's rows as its width; 0 beside them."""
        parts = (
            torch.rand(count // len(widths), width, generator=generator, dtype=torch.float64)
            for generator, width in zip(self._generators, widths, strict=True)
        )
        return torch.cat([pad(part, (0, max(widths) - part.shape[1])) for part in parts]).to(self._device)

    def _drawn(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        each = (shape[0] // len(self._generators), *shape[1:])
        parts = [draw(each, generator=generator, dtype=torch.float64) for generator in self._generators]
        return torch.cat(parts).to(self._device, non_blocking=True)

    def direction(self, *shape: int) -> Tensor:
        """Unit vectors (..., 3)."""
        way = self.normal(*shape, 3)
        return way / way.norm(dim=-1, keepdim=True)


def choose_cameras(
    caster: Raycaster,
    places: Sequence[tuple[Shapes, Stage]],
    count: int,
    size: tuple[int, int],
    draws: Draws,
    zoom: float = 1.0,
) -> Cameras:
    """At most ``count`` good cameras of ``size`` (H, W) in each world of ``caster``, at least one; those of one world
    follow each other. The field of view shrinks by up to ``zoom``. ``draws``: a key for each world.
    """
    scene = _Scene(caster, places)
    groups = math.ceil(1.25 * count / _GROUP) * len(places)
    position, target = scene.places(draws, groups * _TRIES)
    focal = _focals(draws, groups, size, zoom).repeat_interleave(_TRIES)
    pose = aimed(draws, position, target)
    worth = scene.worth(pose, focal, size).reshape(groups, _TRIES)
    order = torch.arange(_TRIES, device=worth.device, dtype=worth.dtype)
    best = torch.where(worth > 0.5, 2 - order / _TRIES, worth).argmax(dim=1)
    first = best + torch.arange(groups, device=best.device) * _TRIES
    limit = 0.3 * worth.flatten()[first].clip(max=1.0)
    position, target, pose, focal = position[first], target[first], pose[first], focal[first]

    moved, other = moves(draws, position[:, None].expand(-1, _MOVES, -1), target[:, None].expand(-1, _MOVES, -1))
    lenses = torch.where(
        draws.uniform(groups, 1) < 0.3, _focals(draws, groups * _MOVES, size, zoom).reshape(groups, -1), focal[:, None]
    )
    poses = aimed(draws, moved.flatten(0, 1), other.flatten(0, 1))
    good = ~scene.holds(moved.flatten(0, 1), CLEAR)
    good &= scene.worth(poses, lenses.flatten(), size) > limit.repeat_interleave(_MOVES)
    good = good.reshape(groups, _MOVES)
    good &= good.cumsum(dim=1) < _GROUP  # of the good ones, as many as the group needs
    good = torch.cat((torch.ones_like(good[:, :1]), good), dim=1).reshape(len(places), -1)
    keep = (good & (good.cumsum(dim=1) <= count)).flatten().nonzero()[:, 0]
    every = torch.cat((pose[:, None], poses.reshape(groups, _MOVES, 4, 4)), dim=1).flatten(0, 1)[keep]
    focals = torch.cat((focal[:, None], lenses), dim=1).flatten()[keep]
    return lens(focals, every, size, keep // good.shape[1])


def lens(focal: Tensor, w_T_c: Tensor, size: tuple[int, int], world: Tensor) -> Cameras:
    """Cameras of ``size`` (H, W) with focals (N,) in units of the shorter side, principal points in the middle, in the
    worlds ``world`` (N,)."""
    height, width = size
    K = torch.zeros(len(focal), 3, 3, dtype=torch.float64, device=focal.device)
    K[:, 0, 0] = K[:, 1, 1] = focal * min(size)
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = (width - 1) / 2, (height - 1) / 2, 1.0
    return Cameras(K, w_T_c, width, height, world)


def _focals(draws: Draws, count: int, size: tuple[int, int], zoom: float) -> Tensor:
    """(count,) in units of the shorter side: those of crops of ``size`` around the principal point of pictures of
    random shape and field of view.
    """
    half = torch.deg2rad(FIELD_OF_VIEW[0] + (FIELD_OF_VIEW[1] - FIELD_OF_VIEW[0]) * draws.uniform(count)) / 2
    sides = torch.tensor(SHAPES, dtype=torch.float64, device=half.device)
    wide, high = sides[(draws.uniform(count) * len(sides)).long()].T
    focal = torch.maximum(wide, high) / 2 / torch.tan(half)
    aside = torch.where(draws.uniform(count) < _OFF_CENTRE[0], _OFF_CENTRE[1] * draws.uniform(count), 0.0)
    room = torch.minimum(wide / size[1], high / size[0]) * (1 - 2 * aside) / focal  # focal lengths per pixel
    return zoom ** draws.uniform(count) / room / min(size)


def aimed(draws: Draws, position: Tensor, target: Tensor) -> Tensor:
    """(N, 4, 4) poses at ``position`` (N, 3) whose axes meet ``target``, slightly tilted, occasionally sideways."""
    count = len(position)
    tilt = torch.where(
        draws.uniform(count) < 0.85, math.radians(4) * draws.normal(count), math.pi * (draws.uniform(count) - 0.5)
    )
    forward = target - position
    steep = forward[:, :2].norm(dim=1) < 1e-3 * forward[:, 2].abs() + 1e-9
    forward = forward + steep[:, None] * torch.tensor([1e-2, 0, 0], dtype=forward.dtype, device=forward.device)
    forward = forward / forward.norm(dim=1, keepdim=True)
    up = torch.tensor([0.0, 0, 1], dtype=forward.dtype, device=forward.device).expand_as(forward)
    right = torch.linalg.cross(forward, up)
    right = right / right.norm(dim=1, keepdim=True)
    down = torch.linalg.cross(forward, right)
    c, s = tilt.cos()[:, None], tilt.sin()[:, None]
    pose = torch.zeros(count, 4, 4, dtype=torch.float64, device=forward.device)
    pose[:, :3, :3] = torch.stack((c * right + s * down, c * down - s * right, forward), dim=2)
    pose[:, :3, 3], pose[:, 3, 3] = position, 1.0
    return pose


def moves(draws: Draws, position: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and targets (..., 3) after a small step, a step around the target, one towards it or away, or a
    turn on the spot."""
    shape = position.shape[:-1]
    way = target - position
    far, kind = way.norm(dim=-1, keepdim=True), draws.uniform(*shape, 1)
    step = far * torch.exp(math.log(0.02) + math.log(0.25 / 0.02) * draws.uniform(*shape, 1))
    small = position + step * draws.direction(*shape), target + 0.7 * step * draws.direction(*shape)
    angle = torch.deg2rad(8 + 72 * draws.uniform(*shape)) * torch.where(draws.uniform(*shape) < 0.5, -1.0, 1.0)
    circled = _turned(way, angle, way[..., 2] * (0.6 + 0.8 * draws.uniform(*shape)))
    aside = 0.1 * far * draws.direction(*shape)
    around = target - circled * (0.75 + 0.5 * draws.uniform(*shape, 1)), target + aside
    nearer = position + (1.2 * draws.uniform(*shape, 1) - 0.6) * way, target + aside
    yaw, pitch = math.radians(25) * draws.normal(*shape), math.radians(10) * draws.normal(*shape)
    turned = _turned(way, yaw, way[..., 2] + far[..., 0] * torch.tan(pitch))
    spot = position + 0.01 * far * draws.direction(*shape), position + turned
    found = []
    for k in range(2):
        found.append(
            torch.where(
                kind < 0.3, small[k], torch.where(kind < 0.7, around[k], torch.where(kind < 0.85, nearer[k], spot[k]))
            )
        )
    return found[0], found[1]


def _turned(way: Tensor, angle: Tensor, height: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return torch.stack((c * way[..., 0] - s * way[..., 1], s * way[..., 0] + c * way[..., 1], height), dim=-1)


class _Scene:
    """The shapes of worlds on the device, for queries by the choice of cameras: what has rows, has equally many of each
    world.
    """

    def __init__(self, caster: Raycaster, places: Sequence[tuple[Shapes, Stage]]) -> None:
        self._caster, self._count = caster, len(places)
        size, kind, solid = (
            np.concatenate([getattr(shapes, name) for shapes, _ in places]) for name in ("size", "kind", "solid")
        )
        self._size = self._tensor(size)
        self._flat = self._tensor((kind == PANEL)[:, None] & (np.arange(3) == 2))
        self._hall, self._body = self._tensor(kind == HALL), self._tensor(solid & (kind != HALL))
        self._room = self._tensor(np.array([stage.room for _, stage in places], np.float64))
        self._reach = self._tensor(np.array([stage.reach for _, stage in places], np.float64))
        middles = [_middles(*place) for place in places]
        self._widths = [max(len(each), 1) for each in middles]
        self._middles = self._tensor(
            np.stack(
                [np.pad(each, ((0, max(self._widths) - len(each)), (0, 0)), constant_values=np.inf) for each in middles]
            )
        )

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._caster.device)

    def _rows(self, values: Tensor, count: int) -> Tensor:
        """``values`` (W, ...) of each world for ``count`` rows."""
        return values.repeat_interleave(count // self._count, dim=0)

    def _worlds(self, count: int) -> Tensor:
        """(count,) the world of each row."""
        return self._rows(torch.arange(self._count, device=self._caster.device), count)

    def holds(self, points: Tensor, margin: float) -> Tensor:
        """(P,) as ``Shapes.holds``; ``margin`` in units of the world's least reach."""
        local, wide = self._caster.shapes.local, margin * self._rows(self._reach[:, 0], len(points))[:, None, None]
        p = torch.einsum("nij,pnj->pni", local, points[:, None] - self._caster.shapes.center).abs()
        extent = torch.where(self._flat, 0.0, 1.0)
        near = (p < extent + wide / self._size).all(dim=-1) & self._body
        outside = (p > 1 - wide / self._size).any(dim=-1) & self._hall
        return ((near | outside) & (self._worlds(len(points))[:, None] == self._caster.of)).any(dim=1)

    def places(self, draws: Draws, count: int) -> tuple[Tensor, Tensor]:
        """(count, 3) free places, and a target for each."""
        least, most = self._rows(self._reach, count).T[..., None]
        low, high = self._rows(self._room, count).transpose(0, 1)[:, :, None]
        spots = low + draws.uniform(count, _SPOTS, 3) * (high - low)
        free = ~self.holds(spots.flatten(0, 1), 2 * CLEAR).reshape(count, _SPOTS)
        position = spots[torch.arange(count, device=spots.device), free.long().argmax(dim=1)]
        angle = 2 * math.pi * draws.uniform(count)
        level = 0.1 * draws.normal(count) - 0.1
        anywhere = position + most * torch.stack((0.5 * angle.cos(), 0.5 * angle.sin(), level), dim=1)
        chance, nobody = draws.uneven(count, self._widths), draws.uniform(count) < 0.1
        middles = self._rows(self._middles, count)
        far = (middles - position[:, None]).norm(dim=-1)
        near = (far > least) & (far < most)
        chosen = torch.where(near, chance, -1.0).argmax(dim=1)
        chosen = middles[torch.arange(count, device=spots.device), chosen]
        anywhere = torch.where((nobody | ~near.any(dim=1))[:, None], anywhere, chosen)
        away = (anywhere - position).norm(dim=1, keepdim=True)
        return position, anywhere + 0.1 * away * draws.normal(count, 3)

    def worth(self, pose: Tensor, focal: Tensor, size: tuple[int, int]) -> Tensor:
        """(N,) how good views are, 0 to about 1: things at a distance, several of them, not all of it sky."""
        shrunk = _SMALL / min(size)
        small = tuple(max(round(side * shrunk), 1) for side in size)
        seen_by = lens(focal, pose, (small[0], small[1]), self._worlds(len(pose)))
        depth, shape = self._caster.cast(seen_by)
        depth, shape = depth.flatten(1), shape.flatten(1) + 1
        known = depth.isfinite()
        share = known.double().mean(dim=1)
        close = 0.35 * self._rows(self._reach[:, :1], len(pose))
        near = (known & (depth < close)).sum(dim=1) / known.sum(dim=1).clip(min=1)
        counts = torch.zeros(len(pose), len(self._size) + 1, device=depth.device)
        counts.scatter_add_(1, shape, torch.ones_like(depth))
        many = (counts > 0.002 * shape.shape[1]).sum(dim=1)
        worth = (1 - (2 * near).clip(max=1)) * (share / 0.4).clip(max=1) * (many / 5).clip(max=1)
        return torch.where(share < 0.15, 0.0, worth)


def _middles(shapes: Shapes, stage: Stage) -> np.ndarray:
    """(M, 3) points worth looking at."""
    chosen = shapes.center[shapes.solid & (shapes.radius < 60)] if stage.focus is None else stage.focus
    return np.asarray(chosen, np.float64).reshape(-1, 3)
