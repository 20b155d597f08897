"""Pairs per second of rendered worlds at 224 x 224: NumPy renderer, PyTorch ray caster, and training pairs of both.

    python benchmarks/raycast.py [--device cuda] [--batch 64] [--side 224] [--out results/raycast.json]

Baseline "numpy": ``Scenery.render`` of the same cameras in one process. "pairs" is what training gets per process
with either caster, including worlds, choice of cameras, overlap and photographic effects; with "torch", torch does all
but the worlds. For the ray caster it reports the share of each stage, and the least data it moves (arrays of rays
read and written once) as a share of what a copy on that device moves per second.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from targets import leave  # noqa: E402

from dust3r_ros.errors import InputError  # noqa: E402
from dust3r_ros.scenes.endless.casting import Eye  # noqa: E402
from dust3r_ros.scenes.endless.viewpoints import choose_eyes  # noqa: E402
from dust3r_ros.scenes.endless.worlds import LAYOUTS, World, make_world  # noqa: E402
from dust3r_ros.training.on_device.source import DeviceWorlds  # noqa: E402
from dust3r_ros.training.raycast import TILE, Cameras, Raycaster, cameras  # noqa: E402
from dust3r_ros.training.sources import RenderedPairs  # noqa: E402
from dust3r_ros.training.views import Cropping  # noqa: E402

TARGET = 2000.0  # pairs per second on a data-centre GPU
_PASSES = 30  # arrays of one number per ray and shape that casting reads or writes


def square_eyes(world: World, count: int, side: int) -> list[Eye]:
    """``count`` cameras of ``side`` x ``side`` pixels with good views."""
    chosen = choose_eyes(world, np.random.default_rng(0), min(count, 32), side)
    eyes = []
    for number in range(count):
        eye = chosen[number % len(chosen)][0]
        K = np.array([[eye.K[0, 0], 0, (side - 1) / 2], [0, eye.K[0, 0], (side - 1) / 2], [0, 0, 1]])
        eyes.append(Eye(K, eye.w_T_c, side, side))
    return eyes


def seconds(work: Callable[[], object], wait: Callable[[], None], rounds: int) -> float:
    """Median time of some rounds after a warm-up."""
    work()
    taken = []
    for _ in range(rounds):
        wait()
        start = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def stages(caster: Raycaster, seen_by: Cameras, wait: Callable[[], None]) -> dict[str, float]:
    """Share of the time of every stage of a render."""
    taken: dict[str, float] = defaultdict(float)
    last = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal last
        wait()
        now = time.perf_counter()
        taken[stage] += now - last
        last = now

    caster.render(seen_by, lap)
    whole = sum(taken.values())
    return {stage: value / whole for stage, value in taken.items()}


def bandwidth(device: torch.device, wait: Callable[[], None]) -> float:
    """Bytes per second that a copy on the device reads and writes."""
    size = 1 << (28 if device.type == "cuda" else 24)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), wait, 5)


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """One row per kind of world and the rates over all."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    speed, rows = bandwidth(device, wait), []
    for number, layout in enumerate(LAYOUTS):
        world = make_world((0, 0), number, layout.__name__)
        eyes = square_eyes(world, 2 * options.batch, options.side)
        seen_by, caster = cameras(eyes, device), Raycaster(world.scenery, device=device)
        casts = len(caster._tiles(seen_by)[0]) * TILE**2
        torch_s = seconds(lambda c=caster, s=seen_by: c.render(s), wait, options.rounds)  # type: ignore[misc]
        some = eyes[: min(8, len(eyes))]
        numpy_s = seconds(lambda w=world, e=some: [w.scenery.render(eye) for eye in e], lambda: None, options.rounds)  # type: ignore[misc]
        share = stages(caster, seen_by, wait)
        rows.append(
            {
                "world": layout.__name__,
                "shapes": len(world.scenery.shapes),
                "numpy": len(some) / 2 / numpy_s,
                "torch": options.batch / torch_s,
                "casts_per_pixel": casts / (len(eyes) * options.side**2),
                "stages": share,
                "bandwidth_of_cast": casts * 4 * _PASSES / max(share["cast"] * torch_s, 1e-9) / speed,
            }
        )
    pairs = {
        "numpy": training_pairs(options.side, options.pairs),
        "torch": device_pairs(options.side, options.pairs, device, wait),
    }
    return {"device": _name(device), "bytes_per_second": speed, "pairs": pairs, "rows": rows}


def device_pairs(side: int, count: int, device: torch.device, wait: Callable[[], None]) -> float:
    """Pairs per second rendered and made on ``device``, including the design of worlds by this process."""
    worlds = DeviceWorlds(device=str(device), worlds=4)
    with closing(worlds.batches(0, 0, 32, [(side, side)], Cropping(1.3, colour=0.4), 0)) as batches:
        next(batches)
        start, made = time.perf_counter(), 0
        while made < count:
            made += len(next(batches))
        wait()
    return made / (time.perf_counter() - start)


def training_pairs(side: int, count: int = 256) -> float:
    """Pairs per second of one process, over worlds of all kinds, of views with ``side`` x ``side`` pixels."""
    source = RenderedPairs(short_side=side, lanes=1)
    source.pair(0, np.random.default_rng(0))
    start, pixels = time.perf_counter(), 0
    for index in range(source.batch, source.batch + count):
        pixels += source.pair(index, np.random.default_rng(index)).first.depth.size
    return pixels / side**2 / (time.perf_counter() - start)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"


def report(found: dict[str, object]) -> str:
    """The results as text."""
    rows: list[dict] = found["rows"]  # type: ignore[assignment]
    lines = [f"{found['device']}; a copy moves {found['bytes_per_second'] / 1e9:.1f} GB/s"]  # type: ignore[operator]
    for row in rows:
        share = ", ".join(f"{stage} {100 * value:.0f} %" for stage, value in row["stages"].items())
        lines.append(
            f"{row['world']:11s} {row['shapes']:4d} shapes  numpy {row['numpy']:7.1f}  torch {row['torch']:8.1f} "
            f"pairs/s  {row['torch'] / row['numpy']:6.2f} x   {row['casts_per_pixel']:.1f} casts per pixel; {share}"
        )
    rate = 1 / float(np.mean([1 / row["torch"] for row in rows]))
    cast = float(np.mean([row["stages"]["cast"] for row in rows]))
    moved = float(np.mean([row["bandwidth_of_cast"] for row in rows]))
    bound = "memory traffic" if moved > 0.4 else "arithmetic and the starting of operations, not by memory traffic"
    lines.append(f"torch: {rate:.1f} pairs/s over all kinds (target on a data-centre GPU: {TARGET:g})")
    lines.append(
        f"casting takes {100 * cast:.0f} % and moves {100 * moved:.0f} % of what a copy does: bound by {bound}"
    )
    pairs = ", ".join(f"{caster} {rate:.1f}" for caster, rate in found["pairs"].items())  # type: ignore[attr-defined]
    lines.append(f"training pairs, everything included, one process: {pairs} pairs/s")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=64 if torch.cuda.is_available() else 4, help="pairs at once")
    parser.add_argument("--side", type=int, default=224, help="pixels along a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=256, help="training pairs to make with each caster")
    parser.add_argument("--out", type=Path, default=Path("results/raycast.json"))
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.exit(InputError.exit_code, "there is no CUDA device; use --device cpu\n")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found = measure(options, torch.device(options.device))
    leave(options.out, found, report(found))


if __name__ == "__main__":
    main()
