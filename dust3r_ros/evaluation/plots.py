"""A page of plots per scene, to see where a run goes wrong (matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dust3r_ros.errors import BackendError
from dust3r_ros.evaluation.errors import resample
from dust3r_ros.evaluation.run import SceneRun, keyframe_depth
from dust3r_ros.io.files import atomic_path, make_folder
from dust3r_ros.types import Array, StampedPose

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRUTH, _ESTIMATE = "0.55", "tab:blue"


def write_plots(directory: Path, run: SceneRun) -> Path:
    """``<scene>.png`` in ``directory``: trajectory, its error, the focal over time, depth of three keyframes.

    Raises ``BackendError`` without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError(f"plots need matplotlib ({error}): pip install 'dust3r_ros[eval]'") from error
    figure = Figure(figsize=(15, 10), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 6, height_ratios=(2.2, 1, 1))
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
    keyframes = run.mapper.keyframes
    picked = sorted({0, len(keyframes) // 2, len(keyframes) - 1}) if keyframes else []
    for column, index in enumerate(picked):
        _depth(figure.add_subplot(grid[2, 2 * column : 2 * column + 2]), run, index)
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
    summary: dict[str, Any] = run.stopwatch.summary()
    names = [f"{name} ({stage['count']})" for name, stage in summary.items()]
    axes.barh(names, [stage["p95_ms"] for stage in summary.values()], color="0.8")
    axes.barh(names, [stage["p50_ms"] for stage in summary.values()], color=_ESTIMATE)
    axes.set(title="ms per call (number of calls): median (blue), 95th percentile (grey)")
    axes.invert_yaxis()


def _depth(axes: Axes, run: SceneRun, index: int) -> None:
    """Image, estimated depth and true depth of one keyframe, side by side, in one colour scale."""
    from matplotlib import colormaps

    keyframe = run.mapper.keyframes[index]
    depth = keyframe_depth(keyframe, run.config.min_confidence) * (run.errors.scale if run.errors else 1.0)
    maps = [depth]
    native = run.scene.depth(keyframe.stamp_ns)
    if native is not None:
        maps.append(resample(native, keyframe, run.mapper.cameras[keyframe.camera]))
    reference = maps[-1][maps[-1] > 0]
    low, high = np.percentile(reference, [2, 98]) if reference.size else (0.0, 1.0)
    colored = [
        np.where((m > 0)[..., None], colormaps["turbo"](np.clip((m - low) / max(high - low, 1e-9), 0, 1))[..., :3], 0)
        for m in maps
    ]
    axes.imshow(np.concatenate([keyframe.image / 255.0, *colored], axis=1))
    axes.set_title(f"keyframe {index}: image, depth{', truth' if len(maps) > 1 else ''}", fontsize=9)
    axes.axis("off")
