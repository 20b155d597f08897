"""The model card: what is known of a run, as text; nothing in it is typed by hand."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dust3r_ros import __version__
from dust3r_ros.training.progress import Progress
from dust3r_ros.training.recipe import Recipe
from dust3r_ros.training.views import PairSource, length


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
    """What a run works on."""
    from dust3r_ros.evaluation.report.machine import Machine

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
    parameters: int,
) -> str:
    """Markdown. ``about`` as ``run.json`` has it."""
    waiting = progress.waiting / max(progress.seconds, 1e-9)
    facts = [
        ("network", f"DUSt3R, {recipe.name}, {parameters / 1e6:.1f} million parameters, {recipe.stages[-1].head} head"),
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
    sets = [f"| {source.name} | {'endless' if length(source) is None else length(source)} |" for source in sources]
    measured = [
        f"| {name} | {first_figures.get(name, float('nan')):.4f} | {value:.4f} |" for name, value in figures.items()
    ]
    height, width = recipe.stages[-1].sizes[0]
    return "\n".join(
        [
            f"# Model card: {recipe.name}",
            "",
            "Written by `dust3r-train` from what it did. Weights: `model/` (the average over steps), to be given as",
            "`--checkpoint`.",
            "",
            "| what | |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in facts),
            "",
            "## Data",
            "",
            "| set | pairs |",
            "| --- | --- |",
            *sets,
            "",
            f"## Held-out pairs, {width}x{height} pixels",
            "",
            "| figure | before | now |",
            "| --- | --- | --- |",
            *measured,
            "",
            "regression: mean of |X / z - X̄ / z̄| over pixels. rel, delta_1.25: depth of image 1, scaled by its median.",
            *(
                ["matched: patches for which attention finds the true patch of the other view, or one that touches it."]
                if "matched" in figures
                else []
            ),
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


def _text(values: Mapping[str, Any]) -> str:
    """YAML; JSON, which is YAML too, where there is no PyYAML."""
    try:
        import yaml
    except ImportError:
        return json.dumps(values, indent=1)
    return str(yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=None, width=110)).rstrip()


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, ""))
