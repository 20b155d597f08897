"""Pairs per second of a network on the CPU, as the mapper asks for them: a view is encoded once, both orders decoded.

    python benchmarks/network_cpu.py [--config tiny] [--set enc_embed_dim=256 …] [--threads 2] [--onnx]

A keyframe is one image to encode and ``--pairs`` pairs to decode in both orders, in one batch. Baseline: torch in
float32. Weights are random. ``--onnx`` exports the network first (extra: onnx; a minute). The variants take turns;
wall time is that of the best round. With one thread, pairs per second of processor time hardly depend on other
programs; several threads wait for each other, which also counts (less so with OMP_WAIT_POLICY=PASSIVE). The limit is
operations per pair, whose rate is compared with that of one large product by torch in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dust3r_ros.cli.command import settings  # noqa: E402
from dust3r_ros.io.files import make_folder, write_text  # noqa: E402
from dust3r_ros.network import Dust3r, Dust3rConfig, Tokens  # noqa: E402
from dust3r_ros.network.config import PATCH  # noqa: E402
from dust3r_ros.training.recipe import read_recipe  # noqa: E402

_BASELINE, _TARGET = "torch float32", 10.0


@dataclass(frozen=True)
class Times:
    """Seconds per keyframe: ``wall`` of the best round, ``cpu`` of the median one, over all threads."""

    wall: float
    cpu: float


def work_of(config: Dust3rConfig, size: int) -> tuple[float, float]:
    """Floating-point operations (GFLOP) of the matrix products of one encoded image and of one ordered pair."""
    tokens = (size // PATCH) ** 2
    enc, dec = config.enc_embed_dim, config.dec_embed_dim
    encoder = config.enc_depth * tokens * (24 * enc**2 + 4 * tokens * enc) + 2 * tokens * 3 * PATCH**2 * enc
    block = tokens * (32 * dec**2 + 8 * tokens * dec)
    decoder = 2 * (config.dec_depth * block + 2 * tokens * (enc * dec + dec * 4 * PATCH**2))
    return encoder / 1e9, decoder / 1e9


def keyframe(encode: Callable[[Tensor], Tokens], decode: Any, image: Tensor, pairs: int) -> Callable[[], None]:
    """The work of one keyframe; the tokens of the others already exist."""
    with torch.inference_mode():
        old = encode(image)

    def work() -> None:
        with torch.inference_mode():
            new = encode(image)
            first, second = Tokens.cat([old] * pairs), Tokens.cat([new] * pairs)
            decode(Tokens.cat([first, second]), Tokens.cat([second, first]))

    return work


def variants(model: Dust3r, threads: int, onnx: bool) -> dict[str, tuple[Any, Any]]:
    """(encode, decode) by name."""

    def reduced(call: Any) -> Any:
        def run(*arguments: Any) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return call(*arguments)

        return run

    found: dict[str, tuple[Any, Any]] = {_BASELINE: (model.encode, model.decode)}
    found["torch bfloat16"] = reduced(model.encode), reduced(model.decode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    found["torch int8 dynamic"] = small.encode, small.decode
    if not onnx:
        return found
    from dust3r_ros.network.onnx import OnnxDust3r, export_onnx

    for name, int8 in (("onnx float32", False), ("onnx int8 dynamic", True)):
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(model, folder, int8)
            graphs = OnnxDust3r(folder, threads)
        found[name] = graphs.encode, graphs.decode
    return found


def measured(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, Times]:
    """Times of each, in turn, after a warm-up round."""
    wall: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            start, busy = time.perf_counter(), time.process_time()
            work()
            if turn:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - busy)
    return {name: Times(min(wall[name]), float(np.median(cpu[name]))) for name in works}


def product() -> Callable[[], None]:
    """One large matrix product of 2.1 GFLOP."""
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    out = torch.empty(1024, 1024)

    def work() -> None:
        torch.mm(a, b, out=out)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="tiny", help="recipe of dust3r-train")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of its network")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--onnx", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results/network_cpu.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    recipe = read_recipe(options.config)
    config = replace(recipe.architecture(recipe.stages[-1]), **settings(options.set))
    model = Dust3r(config).eval()
    image = torch.rand(1, 3, options.size, options.size) * 2 - 1
    calls = variants(model, options.threads, options.onnx)
    works = {name: keyframe(*pair, image, options.pairs) for name, pair in calls.items()}
    times = measured({**works, "product": product()}, options.rounds)
    peak = 2 * 1.024**3 / times.pop("product").cpu
    report(options, config, model, times, peak)


def report(options: argparse.Namespace, config: Dust3rConfig, model: Dust3r, times: dict, peak: float) -> None:
    """Prints and writes the table."""
    encoded, decoded = work_of(config, options.size)
    work = encoded / options.pairs + 2 * decoded
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(
        f"{options.config}, {config.enc_embed_dim} wide, {config.enc_depth} + {config.dec_depth} deep, {millions:.1f} M"
        f" weights, {options.size}x{options.size}, {options.threads} threads; target {_TARGET:g} pairs/s"
    )
    print(f"{work:.1f} GFLOP per pair of both orders; one large float32 product: {peak:.0f} GFLOP/s of processor time")
    rows: dict[str, dict[str, float]] = {}
    for name, found in times.items():
        row = {
            "pairs_per_second": options.pairs / found.wall,
            "pairs_per_cpu_second": options.pairs / found.cpu,
            "against_float32": times[_BASELINE].cpu / found.cpu,
            "of_product_rate": work * options.pairs / found.cpu / peak,
        }
        rows[name] = row
        print(
            f"{name:20s} {row['pairs_per_second']:6.1f} pairs/s {row['pairs_per_cpu_second']:6.1f} per core"
            f" {row['against_float32']:5.2f} x {_BASELINE}  {100 * row['of_product_rate']:4.0f} % of the product's rate"
        )
    make_folder(options.out.parent)
    about = {"network": config.as_mapping(), "threads": options.threads, "pairs": options.pairs, "size": options.size}
    text = json.dumps({**about, "gflop_per_pair": work, "rows": rows, "target": _TARGET}, indent=2, default=str)
    write_text(options.out, text + "\n")


if __name__ == "__main__":
    main()
