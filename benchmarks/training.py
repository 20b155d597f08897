"""Training steps and pairs per second, and the share of time spent waiting for data, per stage.

    python benchmarks/training.py [--config tiny] [--steps 20] [--device auto] [--caster torch] [--out FILE]

Baseline "compute": the same steps on one ready batch. Waiting is what ``dust3r-train`` logs. The first steps of a
stage, with cold caches, do not count. Target: less than 5 % waiting on a GPU. For inference, a pair means both orders
decoded and its images encoded once, at 224 pixels.
"""

from __future__ import annotations

import argparse
import os
import sys
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in dust3r-train, before torch is loaded

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from targets import Machine, leave  # noqa: E402

from dust3r_ros.cli.command import guarded  # noqa: E402
from dust3r_ros.network.checkpoint import pick_device  # noqa: E402
from dust3r_ros.network.model import Dust3r  # noqa: E402
from dust3r_ros.training.batches import Sampling  # noqa: E402
from dust3r_ros.training.learner import Learner  # noqa: E402
from dust3r_ros.training.processes import Processes  # noqa: E402
from dust3r_ros.training.recipe import Recipe, Stage, read_recipe  # noqa: E402
from dust3r_ros.training.sources import open_sources  # noqa: E402
from dust3r_ros.training.start import new_model  # noqa: E402
from dust3r_ros.training.trainer import stream  # noqa: E402

_COLD = 5


def stage_figures(recipe: Recipe, stage: Stage, steps: int, device: torch.device, workers: int) -> dict[str, Any]:
    """One row: a stage with its batch processes, then the same steps without them."""
    learner = Learner(recipe, new_model(recipe.architecture(stage), recipe.seed), device, Processes())
    sources = open_sources([], recipe, 1, device=str(device))
    sampling = Sampling(sources, recipe.epoch, recipe.seed)
    batches = stream(recipe, stage, sampling, device, workers, Processes())
    for batch in islice(batches, _COLD):
        learner.step(batch, stage.rate)
    start, waited = perf_counter(), 0.0
    for _ in range(steps):
        asked = perf_counter()
        batch = next(batches)
        waited += perf_counter() - asked
        learner.step(batch, stage.rate)
    whole = perf_counter() - start
    batches.close()
    start = perf_counter()
    for _ in range(steps):
        learner.step(batch, stage.rate)
    compute = perf_counter() - start
    height, width = stage.sizes[0]
    return {
        "stage": f"{width}x{height} {stage.head}", "caster": recipe.caster, "pairs_per_step": stage.pairs,
        "steps_per_second": steps / whole, "pairs_per_second": steps * stage.pairs / whole,
        "compute_steps_per_second": steps / compute, "waiting_share": waited / whole, "over_compute": whole / compute,
    }  # fmt: skip


def network_figures(recipe: Recipe, device: torch.device, pairs: int = 8) -> dict[str, float]:
    """Pairs per second of inference at 224 pixels; both orders count as one pair."""
    network = Dust3r(recipe.architecture(recipe.stages[0])).to(device).eval()
    image = torch.zeros(1, 3, 224, 224, device=device)
    seconds = {}
    with torch.inference_mode():
        tokens = network.encode(image)
        for name, body in (
            ("encode", lambda: network.encode(image)),
            ("decode", lambda: network.decode_both(tokens, tokens)),
        ):
            body()
            start = perf_counter()
            for _ in range(pairs):
                body()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name] = (perf_counter() - start) / pairs
    return {
        "encode_ms": 1e3 * seconds["encode"], "decode_both_ms": 1e3 * seconds["decode"],
        "pairs_per_second_with_one_new_image_each": 1 / (seconds["encode"] + seconds["decode"]),
    }  # fmt: skip


def main() -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, help="pairs per step, overriding the recipe")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--caster", help="numpy or torch, overriding the recipe")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=ROOT / "results/training.json")
    arguments = parser.parse_args()
    changes = {"pairs": arguments.pairs, "caster": arguments.caster}
    recipe = read_recipe(arguments.config, {name: value for name, value in changes.items() if value is not None})
    device, machine = pick_device(arguments.device), Machine()
    workers = recipe.workers if arguments.workers is None else arguments.workers
    rows = [stage_figures(recipe, stage, arguments.steps, device, workers) for stage in recipe.stages]
    said = [
        f"{row['stage']:16} {row['caster']:6} {row['steps_per_second']:8.2f} steps/s "
        f"{row['pairs_per_second']:9.1f} pairs/s  waiting {100 * row['waiting_share']:5.1f} %  "
        f"{row['over_compute']:.2f} of compute alone"
        for row in rows
    ]
    use = network_figures(recipe, device)
    said.append("in use, 224 pixels: " + ", ".join(f"{name} {value:.1f}" for name, value in use.items()))
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    about = {**machine.about(), "gpu": gpu, "torch": torch.__version__, "workers": workers, "config": arguments.config}
    leave(arguments.out, {"about": about, "stages": rows, "use": use}, "\n".join(said))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("training.py", main, debug=False))
