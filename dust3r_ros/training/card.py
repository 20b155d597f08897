"""Documents of a run: the model card, and a picture of losses and held-out pairs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dust3r_ros import __version__
from dust3r_ros.errors import BackendError
from dust3r_ros.io.files import atomic_path
from dust3r_ros.network.model import Dust3r
from dust3r_ros.training.batches import collate
from dust3r_ros.training.log import Progress
from dust3r_ros.training.recipe import Recipe
from dust3r_ros.training.views import PairSource, ViewPair, length

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_Panel = tuple[Any, dict[str, Any]]  # image and its display options
_PITCH = 1.05  # distance of panels, in panels
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
    panels = [_panels(network, pair) for pair in pairs]
    below = sum(2.1 * pair.first.depth.shape[0] / pair.first.depth.shape[1] for pair in pairs)  # inches
    figure = Figure(figsize=(12, 3.5 + below), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(3.5, max(below, 0.1)))
    _curve(figure.add_subplot(grid[0, 0]), rows, "loss", "loss")
    _curve(figure.add_subplot(grid[0, 1]), rows, "regression", "regression loss")
    if panels:
        _table(figure.add_subplot(grid[1, :]), panels)
    with atomic_path(path) as temporary:
        canvas.print_png(str(temporary))


def _curve(axes: Axes, rows: Sequence[dict[str, Any]], name: str, label: str) -> None:
    train, held_out = (_over_steps(rows, kind, name) for kind in ("train", "held_out"))
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


def _table(axes: Axes, panels: Sequence[Sequence[_Panel]]) -> None:
    """A row of panels for every pair, all on the same axes, since creating axes takes longer than drawing."""
    high, wide = panels[0][0][0].shape[:2]
    for row, of_pair in enumerate(panels):
        for column, (image, options) in enumerate(of_pair):
            left, top = _PITCH * column * wide, _PITCH * row * high
            axes.imshow(image, extent=(left, left + wide, top + high, top), **options)
    for column, name in enumerate(_COLUMNS):
        axes.text((_PITCH * column + 0.5) * wide, -0.03 * high, name, fontsize=9, ha="center", va="bottom")
    axes.set_xlim(0, _PITCH * len(_COLUMNS) * wide)
    axes.set_ylim(_PITCH * len(panels) * high, 0)
    axes.set_axis_off()


def _over_steps(rows: Sequence[dict[str, Any]], kind: str, name: str) -> list[tuple[Any, Any]]:
    """(step, value) of the rows of ``kind`` with a value of ``name``."""
    return [(row["step"], row[name]) for row in rows if row.get("kind") == kind and row.get(name) is not None]


def _panels(network: Dust3r, pair: ViewPair) -> list[_Panel]:
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


def code_version() -> str:
    """Version of the package, and the commit where the code is a checkout; ``-dirty`` when files differ from it."""
    folder = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__} ({done.stdout.strip()})" if (folder / ".git").exists() else __version__


def hardware(device: torch.device, world: int, threads: int) -> dict[str, Any]:
    """Hardware and software of a run."""
    from dust3r_ros.evaluation.report.run_file import Machine

    about = Machine().about()
    about.pop("others_cores", None)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else about["processor"]
    return {**about, "device": name, "processes": world, "threads": threads, "torch": torch.__version__}


def card(
    recipe: Recipe,
    about: Mapping[str, Any],
    progress: Progress,
    sources: Sequence[PairSource],
    first_figures: Mapping[str, float],
    figures: Mapping[str, float],
    network: Dust3r,
    failure: str = "",
) -> str:
    """The model card as Markdown. ``about`` as in ``run.json``; ``failure``: why training ended early, if it did."""
    sets = [f"| {source.name} | {'endless' if length(source) is None else length(source)} |" for source in sources]
    return "\n".join(
        [
            f"# Model card: {recipe.name}",
            "",
            "Written by `dust3r-train`. Weights: `model/` (the average over steps), to be given as `--checkpoint`.",
            "",
            "| what | |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in _facts(recipe, about, progress, network)),
            *([f"| ended early | {failure} |"] if failure else []),
            "",
            "## Data",
            "",
            "| set | pairs |",
            "| --- | --- |",
            *sets,
            "",
            *_held_out(recipe.stages[-1].sizes[0], first_figures, figures),
            "",
            "![losses and predictions](picture.png)",
            "",
            "## Recipe",
            "",
            "```yaml",
            _text(recipe.as_mapping()),
            "```",
            "",
        ]
    )


def _facts(recipe: Recipe, about: Mapping[str, Any], progress: Progress, network: Dust3r) -> list[tuple[str, object]]:
    """Facts by name: what was trained, on what data and for how long."""
    millions, head = sum(value.numel() for value in network.parameters()) / 1e6, network.config.head_type
    waiting = progress.waiting / max(progress.seconds, 1e-9)
    return [
        ("network", f"DUSt3R, {recipe.name}, {millions:.1f} million parameters, {head} head"),
        ("task", "pointmaps of image pairs" if about["task"] == "pairs" else "cross-view completion (pretraining)"),
        ("code", about["code"]),
        ("command", f"`{about['command']}`"),
        ("seed", recipe.seed),
        ("start", about["start"] or "random weights"),
        ("steps", f"{progress.step} of {progress.total} planned"),
        ("pairs seen", f"{progress.position}, each in both orders" if about["task"] == "pairs" else progress.position),
        ("samples left out", progress.skipped),
        ("batches left out", f"{progress.bad} (loss or gradient not finite)"),
        ("time", f"{progress.seconds / 3600:.2f} h, {100 * waiting:.1f} % waiting for data"),
        ("hardware", _words(about["hardware"])),
    ]  # fmt: skip


def _held_out(size: tuple[int, int], first_figures: Mapping[str, float], figures: Mapping[str, float]) -> list[str]:
    """The section on held-out pairs of ``size`` (H, W): figures before and now, with explanations."""
    measured = [
        f"| {name} | {first_figures.get(name, float('nan')):.4f} | {value:.4f} |" for name, value in figures.items()
    ]
    height, width = size
    matched = "matched: patches for which attention finds the true patch of the other view, or one that touches it."
    return [
        f"## Held-out pairs, {width}x{height} pixels",
        "",
        "| figure | before | now |",
        "| --- | --- | --- |",
        *measured,
        "",
        "regression: mean of |X / z - X̄ / z̄| over pixels. rel, delta_1.25: depth of image 1, scaled by its median.",
        *([matched] if "matched" in figures else []),
    ]


def _text(values: Mapping[str, Any]) -> str:
    """YAML; JSON, which is YAML too, where there is no PyYAML."""
    try:
        import yaml
    except ImportError:
        return json.dumps(values, indent=1)
    return str(yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=None, width=110)).rstrip()


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, ""))
