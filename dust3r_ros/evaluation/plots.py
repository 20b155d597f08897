"""A page of plots per scene, to see where a run goes wrong (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dust3r_ros.errors import BackendError
from dust3r_ros.evaluation.errors import resample
from dust3r_ros.evaluation.run import SceneRun, keyframe_depth
from dust3r_ros.features.masks import Mask
from dust3r_ros.io.files import atomic_path, make_folder
from dust3r_ros.types import Array, Array32, Camera, Image, Keyframe, StampedPose

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRUTH, _ESTIMATE = "0.55", "tab:blue"
_WITHIN = 1.25  # factor by which depth that is right may be off
_SHOWN = 3  # keyframes
_NEAR, _FAR, _NONE, _DIM = (0.15, 0.3, 1.0), (1.0, 0.15, 0.15), (0.1, 0.75, 0.2), 0.4  # colours; how dark the rest is


def write_plots(directory: Path, run: SceneRun) -> Path:
    """``<scene>.png`` in ``directory``: trajectory, its error, focal, time, and the depth of the three worst keyframes.

    Raises ``BackendError`` without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError(f"plots need matplotlib ({error}): pip install 'dust3r_ros[eval]'") from error
    figure = Figure(figsize=(15, 11), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 6, height_ratios=(2.2, 1, 1.6))
    result = run.result
    ate = "no alignment" if result.ate is None else f"ATE {result.ate:.4f} ({result.ate_percent:.2f} % of path)"
    figure.suptitle(
        f"{result.scene}: {ate}, focal {result.focal_error:+.1f} %, tracked {result.tracked:.0f} %, "
        f"{result.keyframes} keyframes, {result.frames_per_second:.1f} frames/s"
        if result.focal_error is not None
        else f"{result.scene}: nothing mapped"
    )
    _trajectory(figure.add_subplot(grid[0, :3]), run)
    _position_error(figure.add_subplot(grid[0, 3:]), run)
    _focal(figure.add_subplot(grid[1, :3]), run)
    _time(figure.add_subplot(grid[1, 3:]), run)
    keyframes, cameras = run.mapper.keyframes, run.mapper.cameras
    depths = [ShownDepth.of(run, k, keyframe, cameras[keyframe.camera]) for k, keyframe in enumerate(keyframes)]
    for column, depth in enumerate(worst(depths)):
        _depth(figure.add_subplot(grid[2, 2 * column : 2 * column + 2]), depth)
    path = make_folder(directory) / f"{result.scene}.png"
    with atomic_path(path) as temporary:
        canvas.print_figure(str(temporary), dpi=90, format="png")
    return path


def _positions(poses: list[StampedPose] | tuple[StampedPose, ...]) -> Array:
    return np.array([pose.w_T_c[:3, 3] for pose in poses]).reshape(-1, 3)


def _seconds(run: SceneRun, stamps_ns: list[int]) -> Array:
    return (np.array(stamps_ns, dtype=np.float64) - run.scene.truth[0].stamp_ns) * 1e-9


def _matched(run: SceneRun) -> tuple[list[int], Array]:
    """Stamps of the estimate that have a true pose at that stamp, and the error vectors (N, 3) there."""
    truth = {pose.stamp_ns: pose.w_T_c[:3, 3] for pose in run.scene.truth}
    poses = [pose for pose in run.trajectory if pose.stamp_ns in truth]
    if run.errors is None or not poses:
        return [], np.zeros((0, 3))
    aligned = run.errors.to_truth(_positions(poses))
    return [pose.stamp_ns for pose in poses], aligned - np.array([truth[pose.stamp_ns] for pose in poses])


def _trajectory(axes: Axes, run: SceneRun) -> None:
    """Both paths, in the plane in which the true path is widest."""
    truth = _positions(run.scene.truth)
    middle = truth.mean(axis=0)
    plane = np.linalg.svd(truth - middle, full_matrices=False)[2][:2].T
    axes.plot(*((truth - middle) @ plane).T, "-", color=_TRUTH, lw=3, label="truth")
    if run.errors is not None:
        to_plane = lambda poses: ((run.errors.to_truth(_positions(poses)) - middle) @ plane).T  # noqa: E731
        axes.plot(*to_plane(run.trajectory), "-", color=_ESTIMATE, lw=1.2, label="estimate (Sim3)")
        keyframes = [StampedPose(k.stamp_ns, k.camera, k.w_T_c) for k in run.mapper.keyframes]
        axes.plot(*to_plane(keyframes), "o", color=_ESTIMATE, ms=3, label="keyframes")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title("trajectory")
    axes.legend(fontsize=8)


def _position_error(axes: Axes, run: SceneRun) -> None:
    stamps, errors = _matched(run)
    axes.plot(_seconds(run, stamps), np.linalg.norm(errors, axis=1), ".-", lw=0.8)
    tracked = {pose.stamp_ns for pose in run.trajectory}
    for second in _seconds(run, [stamp for stamp, _ in run.focals if stamp not in tracked]):
        axes.axvline(second, color="tab:red", alpha=0.3, lw=1)
    axes.set(title="position error (red: no pose)", xlabel="s", ylim=(0, None))


def _focal(axes: Axes, run: SceneRun) -> None:
    if run.focals:
        seconds = _seconds(run, [stamp for stamp, _ in run.focals])
        axes.plot(seconds, [focal for _, focal in run.focals], color=_ESTIMATE)
    axes.axhline(run.scene.focal, color=_TRUTH, lw=2)
    axes.set(title="focal, pixels (grey: truth)", xlabel="s")


def _time(axes: Axes, run: SceneRun) -> None:
    """Seconds of every stage, and those outside all of them."""
    calls = {name: stage["count"] for name, stage in run.stopwatch.summary().items()}
    seconds = {f"{name} ({count:.0f})": run.stopwatch.total(name) for name, count in calls.items()}
    seconds["other"] = max(run.result.seconds - sum(seconds.values()), 0.0)
    axes.barh(list(seconds), list(seconds.values()), color=_ESTIMATE)
    axes.set(title=f"where {run.result.seconds:.1f} s went, by stage (number of calls)", xlabel="s")
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()


@dataclass(frozen=True, eq=False)
class ShownDepth:
    """Depth (H, W) of a keyframe and its ``truth``, both in the truth's unit, 0 = none; None without a true one."""

    index: int
    image: Image
    depth: Array32
    truth: Array32 | None

    @classmethod
    def of(cls, run: SceneRun, index: int, keyframe: Keyframe, camera: Camera) -> ShownDepth:
        """That of a keyframe of the map, taken by ``camera``."""
        scale = np.float32(run.errors.scale if run.errors else 1.0)
        depth, native = keyframe_depth(keyframe, run.config.min_confidence) * scale, run.scene.depth(keyframe.stamp_ns)
        truth = None if native is None else resample(native, keyframe, camera)
        return cls(index, keyframe.image, depth, truth)

    @property
    def mistakes(self) -> tuple[Mask, Mask, Mask]:
        """Which true pixels (H, W) are too near, too far, and without depth."""
        assert self.truth is not None
        known, found = self.truth > 0, self.depth > 0
        near, far = self.depth * _WITHIN < self.truth, self.depth > self.truth * _WITHIN
        return known & found & near, known & far, known & ~found

    @property
    def wrong(self) -> float:
        """The share of the pixels that have both depths at which they differ."""
        assert self.truth is not None
        near, far, none = self.mistakes
        return float((near | far).sum() / max(1, ((self.truth > 0) & ~none).sum()))

    def marked(self) -> Array32:
        """The image (H, W, 3), dark, with all mistakes in their colours."""
        picture = (self.image * np.float32(_DIM / 255)).astype(np.float32)
        for where, color in zip(self.mistakes, (_NEAR, _FAR, _NONE), strict=True):
            picture[where] = color
        return picture


def worst(depths: Sequence[ShownDepth]) -> list[ShownDepth]:
    """Three keyframes: the worst of those with true depth, or, without, the first, the middle one and the last."""
    true = sorted((depth for depth in depths if depth.truth is not None), key=lambda depth: -depth.wrong)[:_SHOWN]
    if true or not depths:
        return sorted(true, key=lambda depth: depth.index)
    return [depths[at] for at in sorted({0, len(depths) // 2, len(depths) - 1})]


def _depth(axes: Axes, shown: ShownDepth) -> None:
    """Image, estimated depth and true depth of one keyframe, in one colour scale, and where it is wrong."""
    from matplotlib import colormaps

    maps = [shown.depth] if shown.truth is None else [shown.depth, shown.truth]
    reference = maps[-1][maps[-1] > 0]
    low, high = np.percentile(reference, [2, 98]) if reference.size else (0.0, 1.0)
    panels: list[Array | Array32] = [shown.image / 255.0]
    for m in maps:
        colored = colormaps["turbo"](np.clip((m - low) / max(high - low, 1e-9), 0, 1))[..., :3]
        panels.append(np.where((m > 0)[..., None], colored, 0))
    title = f"keyframe {shown.index}: image, depth"
    if shown.truth is not None:
        near, far, none = (100 * where.sum() / max(1, (shown.truth > 0).sum()) for where in shown.mistakes)
        panels.append(shown.marked())
        title += f", truth\ntoo near {near:.0f} % (blue), too far {far:.0f} % (red), none {none:.0f} % (green)"
    axes.imshow(np.vstack([np.hstack(panels[:2]), np.hstack(panels[2:])]) if len(panels) > 3 else np.hstack(panels))
    axes.set_title(title, fontsize=8)
    axes.axis("off")
