"""Cameras in a world, chosen on the rendering device: many tried at once on small images, the good ones kept.

The same kind of cameras as in ``scenes.endless.viewpoints``: groups around one thing each, as when somebody takes
pictures of it. Every camera has a centred principal point and square pixels, so renderings are trained on uncropped.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

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
    """Random numbers, float64, that depend on ``key`` alone and not on the device."""

    def __init__(self, key: tuple[int, ...], device: torch.device) -> None:
        seed = int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> np.uint64(1))
        self._generator, self._device = torch.Generator().manual_seed(seed), device

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1)."""
        return torch.rand(shape, generator=self._generator, dtype=torch.float64).to(self._device, non_blocking=True)

    def normal(self, *shape: int) -> Tensor:
        """Numbers of standard deviation 1."""
        return torch.randn(shape, generator=self._generator, dtype=torch.float64).to(self._device, non_blocking=True)

    def direction(self, *shape: int) -> Tensor:
        """Unit vectors (..., 3)."""
        way = self.normal(*shape, 3)
        return way / way.norm(dim=-1, keepdim=True)


def choose_cameras(
    caster: Raycaster, shapes: Shapes, stage: Stage, count: int, size: tuple[int, int], draws: Draws, zoom: float = 1.0
) -> Cameras:
    """At most ``count`` good cameras of ``size`` (H, W), at least one; the field of view shrinks by up to ``zoom``."""
    scene = _Scene(caster, shapes, stage)
    groups = math.ceil(1.25 * count / _GROUP)
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
    free = ~scene.holds(moved.flatten(0, 1), CLEAR * stage.reach[0])
    good = free & (scene.worth(poses, lenses.flatten(), size) > limit.repeat_interleave(_MOVES))
    good = good.reshape(groups, _MOVES)
    good &= good.cumsum(dim=1) < _GROUP  # of the good ones, as many as the group needs
    keep = torch.cat((torch.ones_like(good[:, :1]), good), dim=1).flatten().nonzero()[:count, 0]
    every = torch.cat((pose[:, None], poses.reshape(groups, _MOVES, 4, 4)), dim=1).flatten(0, 1)[keep]
    focals = torch.cat((focal[:, None], lenses), dim=1).flatten()[keep]
    return lens(focals, every, size)


def lens(focal: Tensor, w_T_c: Tensor, size: tuple[int, int]) -> Cameras:
    """Cameras of ``size`` (H, W) with focals (N,) in units of the shorter side, principal points in the middle."""
    height, width = size
    K = torch.zeros(len(focal), 3, 3, dtype=torch.float64, device=focal.device)
    K[:, 0, 0] = K[:, 1, 1] = focal * min(size)
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = (width - 1) / 2, (height - 1) / 2, 1.0
    return Cameras(K, w_T_c, width, height)


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
    """A world's shapes on the device, for queries by the choice of cameras."""

    def __init__(self, caster: Raycaster, shapes: Shapes, stage: Stage) -> None:
        self._caster, self._stage = caster, stage
        device = caster.device
        self._size = torch.from_numpy(shapes.size).to(device)
        self._flat = torch.from_numpy((shapes.kind == PANEL)[:, None] & (np.arange(3) == 2)).to(device)
        self._hall = torch.from_numpy(shapes.kind == HALL).to(device)
        self._body = torch.from_numpy(shapes.solid & (shapes.kind != HALL)).to(device)
        self._room = torch.from_numpy(np.asarray(stage.room, np.float64)).to(device)
        middles = shapes.center[shapes.solid & (shapes.radius < 60)] if stage.focus is None else stage.focus
        self._middles = torch.from_numpy(np.asarray(middles, np.float64).reshape(-1, 3)).to(device)

    def holds(self, points: Tensor, margin: float) -> Tensor:
        """(P,) as ``Shapes.holds``."""
        local = self._caster.shapes.local
        p = torch.einsum("nij,pnj->pni", local, points[:, None] - self._caster.shapes.center).abs()
        extent = torch.where(self._flat, 0.0, 1.0)
        near = (p < extent + margin / self._size).all(dim=-1) & self._body
        outside = (p > 1 - margin / self._size).any(dim=-1) & self._hall
        return (near | outside).any(dim=1)

    def places(self, draws: Draws, count: int) -> tuple[Tensor, Tensor]:
        """(count, 3) free places, and a target for each."""
        least, most = self._stage.reach
        spots = self._room[0] + draws.uniform(count, _SPOTS, 3) * (self._room[1] - self._room[0])
        free = ~self.holds(spots.flatten(0, 1), 2 * CLEAR * least).reshape(count, _SPOTS)
        position = spots[torch.arange(count, device=spots.device), free.long().argmax(dim=1)]
        angle = 2 * math.pi * draws.uniform(count)
        level = 0.1 * draws.normal(count) - 0.1
        anywhere = position + most * torch.stack((0.5 * angle.cos(), 0.5 * angle.sin(), level), dim=1)
        chance, nobody = draws.uniform(count, max(len(self._middles), 1)), draws.uniform(count) < 0.1
        if len(self._middles):
            far = (self._middles - position[:, None]).norm(dim=-1)
            near = (far > least) & (far < most)
            chosen = self._middles[torch.where(near, chance, -1.0).argmax(dim=1)]
            anywhere = torch.where((nobody | ~near.any(dim=1))[:, None], anywhere, chosen)
        away = (anywhere - position).norm(dim=1, keepdim=True)
        return position, anywhere + 0.1 * away * draws.normal(count, 3)

    def worth(self, pose: Tensor, focal: Tensor, size: tuple[int, int]) -> Tensor:
        """(N,) how good views are, 0 to about 1: things at a distance, several of them, not all of it sky."""
        shrunk = _SMALL / min(size)
        small = tuple(max(round(side * shrunk), 1) for side in size)
        depth, shape = self._caster.cast(lens(focal, pose, (small[0], small[1])))
        depth, shape = depth.flatten(1), shape.flatten(1) + 1
        known = depth.isfinite()
        share = known.double().mean(dim=1)
        near = (known & (depth < 0.35 * self._stage.reach[0])).sum(dim=1) / known.sum(dim=1).clip(min=1)
        counts = torch.zeros(len(pose), len(self._size) + 1, device=depth.device)
        counts.scatter_add_(1, shape, torch.ones_like(depth))
        many = (counts > 0.002 * shape.shape[1]).sum(dim=1)
        worth = (1 - (2 * near).clip(max=1)) * (share / 0.4).clip(max=1) * (many / 5).clip(max=1)
        return torch.where(share < 0.15, 0.0, worth)
