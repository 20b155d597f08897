"""Rendered worlds of the evaluation, by fixed seeds, and the cloud of their true depth."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dust3r_ros.cloud.cloud import Cloud, keyframe_cloud, thin
from dust3r_ros.errors import GeometryError
from dust3r_ros.evaluation.errors import resample
from dust3r_ros.evaluation.protocols.clouds import distances
from dust3r_ros.evaluation.run import SceneRun, keyframe_depth
from dust3r_ros.io.files import make_folder
from dust3r_ros.products.results import cloud_of
from dust3r_ros.scenes.export import write_folder
from dust3r_ros.scenes.rooms import corridor, room
from dust3r_ros.scenes.sequence import FOCAL_PER_WIDTH, RenderedSequence, look_at, render_path, stamps, walk
from dust3r_ros.scenes.solids import Box, Lamp, Pillar, Solid, box_panels
from dust3r_ros.scenes.surfaces import Surface
from dust3r_ros.scenes.textures import brick, decorated, fabric, plaster, poster, tiles
from dust3r_ros.scenes.world import World, build, person, together
from dust3r_ros.types import Array, Array32, Image, Keyframe

_CUBES = 300  # per extent of the scene: the resolution of the comparison, and dense places count no more than others
_ASKED = 20_000  # points whose nearest neighbour is sought: enough for quantiles; distant ones are slow


def cloud_figures(run: SceneRun) -> Mapping[str, float | None]:
    """``accuracy``, ``completeness`` (medians) and ``*_90`` (90 % quantiles) in percent of ``extent``, the diagonal of
    the true cloud's box (unit of the truth). Empty where the scene has no depth or the map no points.

    The map's cloud is that of map.ply. Both are thinned to one point per cube. The map's is moved by the trajectory's
    Sim3 alone: a cloud is only as good as its poses. The true cloud is the depth of the keyframes' pixels at the true
    poses.
    """
    if run.errors is None or not run.mapper.keyframes:
        return {}
    truth = true_cloud(run)
    found = cloud_of(run.mapper.keyframes, run.config)
    if truth is None or not len(found):
        return {}
    extent = extent_of(truth.points.astype(np.float64))
    true_points = thin(truth, extent / _CUBES).points.astype(np.float64)
    moved = run.errors.to_truth(found.points.astype(np.float64)).astype(np.float32)
    points = thin(Cloud(moved, found.colors, found.confidence), extent / _CUBES).points.astype(np.float64)
    percent = 100.0 / extent
    to_truth = percent * distances(_some(points), true_points)
    to_map = percent * distances(_some(true_points), points)
    return {
        "accuracy": float(np.median(to_truth)),
        "accuracy_90": float(np.quantile(to_truth, 0.9)),
        "completeness": float(np.median(to_map)),
        "completeness_90": float(np.quantile(to_map, 0.9)),
        "extent": extent,
    }


def _some(points: Array) -> Array:
    """At most ``_ASKED`` of the points (N, 3), the same every time."""
    if len(points) <= _ASKED:
        return points
    return points[np.random.default_rng(0).choice(len(points), _ASKED, replace=False)]


def covered(run: SceneRun) -> float | None:
    """Percent of the keyframes' pixels with true depth that have depth in the map; None where there is no truth.

    Unlike the share of all pixels, this does not require points in the sky.
    """
    shares = []
    for keyframe in run.mapper.keyframes:
        native = run.scene.depth(keyframe.stamp_ns)
        true = None if native is None else resample(native, keyframe, run.mapper.cameras[keyframe.camera]) > 0
        if true is not None and true.any():
            shares.append(np.mean(keyframe_depth(keyframe, run.config.min_confidence)[true] > 0))
    return 100.0 * float(np.mean(shares)) if shares else None


def true_cloud(run: SceneRun) -> Cloud | None:
    """The surface that the keyframes really saw, in the truth's world; None where there is no true depth."""
    clouds = []
    for keyframe in run.mapper.keyframes:
        native, w_T_c = run.scene.depth(keyframe.stamp_ns), run.scene.pose(keyframe.stamp_ns)
        if native is not None and w_T_c is not None:
            clouds.append(_seen(run, keyframe, native, w_T_c))
    if not sum(map(len, clouds)):
        return None
    return Cloud(
        np.concatenate([cloud.points for cloud in clouds]),
        np.concatenate([cloud.colors for cloud in clouds]),
        np.concatenate([cloud.confidence for cloud in clouds]),
    )


def _seen(run: SceneRun, keyframe: Keyframe, native: Array32, w_T_c: Array) -> Cloud:
    """True depth along the true rays of the keyframe's pixels: from the true focal, not the estimated one."""
    camera = run.mapper.cameras[keyframe.camera]
    depth = resample(native, keyframe, camera)
    focal = keyframe.focal * run.scene.focal / run.scene.width * camera.width / camera.focal
    true = replace(keyframe, w_T_c=w_T_c, focal=focal, depth=depth, confidence=np.where(depth > 0, 2.0, 1.0))
    return keyframe_cloud(true, 1.0, stride=2)


def extent_of(points: Array) -> float:
    """Diagonal of the box that holds all but 1 % of the points (N, 3) at each end of each axis."""
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    extent = float(np.linalg.norm(high - low))
    if not extent > 0:
        raise GeometryError(f"a true cloud of {len(points)} points has no extent")
    return extent


RATE_HZ = 6.0
_SKY_HIGH, _SKY_LOW = np.array([96, 140, 200.0]), np.array([205, 216, 228.0])


def orbit(frames: int = 60, width: int = 400) -> RenderedSequence:
    """Around the table of a room of its own, hand-held."""
    poses = walk("orbit", frames, rate_hz=RATE_HZ, laps=0.6, seed=21)
    return render_path("orbit", room(21), poses, width=width, height=3 * width // 4, rate_hz=RATE_HZ)


def hallway(frames: int = 60, width: int = 400) -> RenderedSequence:
    """Forward through a corridor: new things appear small and in the middle."""
    poses = walk("corridor", frames, rate_hz=RATE_HZ, speed=1.0, seed=22)
    return render_path("corridor", corridor(22), poses, width=width, height=3 * width // 4, rate_hz=RATE_HZ)


def street(frames: int = 60, width: int = 400) -> RenderedSequence:
    """Along facades under an open sky, which has no depth; things from 4 to 30 m away."""
    s = np.linspace(0.0, 1.0, frames)
    at = np.stack([-9.0 + 18.0 * s, -1.0 + 0.5 * np.sin(5 * s), 1.6 + 0.05 * np.sin(30 * s)], axis=1)
    target = np.stack([at[:, 0] + 4.0 + 3.0 * np.sin(4 * s), 9.0 + 0 * s, 2.4 + 0 * s], axis=1)
    poses = np.stack([look_at(*place) for place in zip(at, target, strict=True)])
    sequence = render_path("street", _street(23), poses, width=width, height=3 * width // 4, rate_hz=RATE_HZ)
    return replace(sequence, images=_with_sky(sequence.images, sequence.depths))


def passer_by(frames: int = 60, width: int = 400) -> RenderedSequence:
    """Sideways through a room in which somebody walks across the view."""
    poses = walk("sweep", frames, rate_hz=RATE_HZ, laps=0.9, seed=24)
    world, walker = room(24), person(seed=24)
    height, focal = 3 * width // 4, FOCAL_PER_WIDTH * width
    views = []
    for index, pose in enumerate(poses):
        across = -2.2 + 4.4 * index / max(1, frames - 1)
        both = together(world, walker.shifted(np.array([-across, 0.9, 0.0])))
        views.append(both.render(pose, width, height, focal))
    images, depths = np.stack([view.image for view in views]), np.stack([view.depth for view in views])
    return RenderedSequence("passer-by", stamps(frames, RATE_HZ), images, depths, poses, width, height, focal)


WORLDS: dict[str, Callable[..., RenderedSequence]] = {
    "rendered_orbit": orbit,
    "rendered_corridor": hallway,
    "rendered_street": street,
    "rendered_passer_by": passer_by,
}


def write_world(name: str, folder: Path) -> Path:
    """The world as a scene in ``folder``/NAME; a complete one already there is reused.

    Raises ``OutputError`` where it cannot be written.
    """
    path = folder / name
    if (path / "intrinsics.json").is_file():
        return path
    make_folder(folder)
    shutil.rmtree(path, ignore_errors=True)
    write_folder(WORLDS[name](), path)
    return path


class _Overcast(Lamp):
    """A bright sky: distant light, and no shadows."""

    def shade(self, surface: Surface, solids: Sequence[Solid], height: int, width: int, per_metre: float) -> Array32:
        """(H, W) light on a texture."""
        far = Lamp(self.position, ambient=0.75, reach=80.0)
        return far.shade(surface, [], height, width, per_metre=1.0)


def _street(seed: int) -> World:
    rng = np.random.default_rng([seed, 4])
    ground = box_panels(np.array([-22.0, -6.0, -1.0]), np.array([22.0, 16.0, 0.0]))["+z"]
    solids: list[Solid] = []
    left = -20.0
    while left < 20.0:
        wide, back, high = rng.uniform(3.0, 6.0), rng.uniform(7.0, 12.0), rng.uniform(2.5, 5.5)
        paint = decorated((brick, plaster, tiles)[rng.integers(3)], 0.3)
        solids.append(Box(np.array([left, back, 0]), np.array([left + wide, back + 3.0, high]), paint, tiles))
        left += wide + rng.uniform(0.3, 1.5)
    for x in np.arange(-18.0, 18.0, 4.0):
        base = np.array([x + rng.uniform(-0.8, 0.8), rng.uniform(3.2, 6.0), 0.0])
        if rng.integers(2):
            solids.append(Pillar(base, rng.uniform(0.15, 0.4), rng.uniform(1.0, 3.0), poster, fabric))
        else:
            size = np.array([rng.uniform(0.4, 1.0), rng.uniform(0.3, 0.6), 0.0])
            top = np.array([0.0, 0.0, rng.uniform(0.6, 1.4)])
            solids.append(Box(base - size, base + size + top, poster, fabric, rng.uniform(-0.5, 0.5)))
    return build([(ground, tiles)], solids, _Overcast(np.array([-10.0, -20.0, 60.0])), seed, per_metre=40.0)


def _with_sky(images: Image, depths: Array32) -> Image:
    """Fills pixels that hit nothing with a sky that pales towards the horizon."""
    level = np.linspace(0.0, 1.0, images.shape[1])[:, None]
    sky = (_SKY_HIGH + level * (_SKY_LOW - _SKY_HIGH)).astype(np.uint8)[None, :, None, :]
    return np.where((depths > 0)[..., None], images, sky)
