"""One picture of a run: its losses over time, and what the network says of pairs that were held out (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dust3r_ros.errors import BackendError
from dust3r_ros.io.files import atomic_path
from dust3r_ros.network.model import Dust3r
from dust3r_ros.training.batches import collate
from dust3r_ros.training.views import ViewPair

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("image 1", "image 2", "true depth 1", "predicted depth 1", "predicted z of image 2", "confidence 1")


def write_picture(path: Path, rows: Sequence[dict[str, Any]], network: Dust3r, pairs: Sequence[ViewPair]) -> None:
    """``rows`` of the metrics and up to four ``pairs`` as a PNG. Raises ``BackendError`` without matplotlib and
    ``OutputError``.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("matplotlib is not installed; install the extra 'train' for the picture") from error
    pairs = pairs[:: max(len(pairs) // 4, 1)][:4]
    figure = Figure(figsize=(12, 3.5 + 2.1 * len(pairs)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + len(pairs), 6, height_ratios=(1.6, *(1.0,) * len(pairs)))
    _curve(figure.add_subplot(grid[0, :3]), rows, "loss", "confidence loss")
    _curve(figure.add_subplot(grid[0, 3:]), rows, "regression", "regression loss")
    for row, pair in enumerate(pairs, start=1):
        for column, (image, options) in enumerate(_panels(network, pair)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(image, **options)
            axes.set_axis_off()
            if row == 1:
                axes.set_title(_COLUMNS[column], fontsize=9)
    with atomic_path(path) as temporary:
        canvas.print_png(str(temporary))


def _curve(axes: Axes, rows: Sequence[dict[str, Any]], name: str, label: str) -> None:
    train = [(row["step"], row[name]) for row in rows if row.get("kind") == "train" and row.get(name) is not None]
    held_out = [(row["step"], row[name]) for row in rows if row.get("kind") == "held_out" and row.get(name) is not None]
    if train:
        steps, values = np.array(train).T
        axes.plot(steps, values, color="0.8", linewidth=0.6)
        width = max(len(values) // 50, 1)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color="tab:blue", label="training, mean of recent")
    if held_out:
        axes.plot(*np.array(held_out).T, "o-", color="tab:orange", markersize=4, label="held out")
    axes.set_xlabel("step")
    axes.set_title(label, fontsize=10)
    axes.grid(alpha=0.3)
    if train or held_out:
        axes.legend(fontsize=8)


def _panels(network: Dust3r, pair: ViewPair) -> list[tuple[Any, dict[str, Any]]]:
    """Image and options of each of ``_COLUMNS``."""
    batch = collate([pair])
    with torch.inference_mode():
        output = network.eval()(batch.image_1, batch.image_2)
    true = np.where(pair.first.depth > 0, pair.first.depth, np.nan)
    z = output.points_1[0, ..., 2].numpy()
    known = pair.first.depth > 0
    middle = float(np.median(z[known])) if known.any() else 0.0
    scaled = z * (float(np.median(pair.first.depth[known])) / middle) if middle > 0 else z
    limits = {"vmin": 0.0, "vmax": float(np.nanpercentile(true, 98)) if known.any() else 1.0}
    depth = {"cmap": "viridis", **limits}
    return [
        (pair.first.image, {}),
        (pair.second.image, {}),
        (true, depth),
        (scaled, depth),
        (output.points_2[0, ..., 2].numpy(), {"cmap": "viridis"}),
        (np.log(output.confidence_1[0].numpy()), {"cmap": "magma", "vmin": 0.0}),
    ]
