"""Inference of the network beside the plain forward pass: pairs per second, memory, deviation, by size and device.

    python benchmarks/inference.py [--sizes mini large] [--threads 1] [--onnx] [--also FILE] [--page docs/inference.md]

A keyframe is one new image and three earlier ones: six ordered pairs, each order counts as a pair. "Plain" is what the
papers' equations say, in float32: both images of every ordered pair through the encoder, decoder and heads, pair by
pair. "Once" encodes the new image once and decodes the six in one batch, still in float32; "fast" is what the backend
does, in the device's own number format. All take turns in one process; rates are those of the best round, with one
thread by processor time. Where the network is large, a CPU has one round, and a third of the pairs for "plain".
Memory is the most that a process of its own holds while it computes a keyframe (on a GPU: of the GPU), weights
included. Weights are random, except those of mini; the deviation is the median distance between points of "fast" and
"plain", relative to the mean distance of the points from the first camera. ``--onnx``: ONNX graphs in int8, too (extra:
onnx).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from targets import Machine, errors_said, leave, target, target_lines, where_and_when  # noqa: E402

from dust3r_ros.cli.command import positive  # noqa: E402
from dust3r_ros.errors import InputError  # noqa: E402
from dust3r_ros.evaluation.report.metrics import table_lines  # noqa: E402
from dust3r_ros.geometry.processes import memory_held  # noqa: E402
from dust3r_ros.network import Dust3r, Dust3rConfig, PairOutput, Tokens, load_checkpoint  # noqa: E402
from dust3r_ros.network.checkpoint import pick_device  # noqa: E402
from dust3r_ros.network.config import PATCH  # noqa: E402
from dust3r_ros.network.inference import FastDust3r, pair_memory, pick_compiler  # noqa: E402
from dust3r_ros.training.recipe import read_recipe  # noqa: E402

BEGIN, END = "<!-- inference: begin, made by benchmarks/inference.py -->", "<!-- inference: end -->"
COMMAND = "python3 benchmarks/inference.py --page docs/inference.md"  # make's own torch is one without CUDA
SIZES = {"mini": (224, 224), "tiny": (224, 224), "small": (384, 512), "base": (384, 512), "large": (384, 512)}
_PAIRS = 3  # of a keyframe
_LARGE = 50e6  # weights
_LIVE = 15.0  # keyframes per second
# Dense bfloat16 products (TFLOP/s, float32 sums) and memory (GB) as NVIDIA's data sheets and white papers give them.
_GPUS = {"RTX 3080": (59.5, 10), "RTX 3090": (71, 24), "L4": (121, 24), "RTX 4090": (165, 24), "A100": (312, 40),
         "H100": (989, 80)}  # fmt: skip
_SHARE = 0.4  # of that peak, the target


def network(name: str) -> Dust3r:
    """A network of a recipe's size in evaluation mode: shipped weights, or random ones."""
    if name == "mini":
        return load_checkpoint(name)
    torch.manual_seed(0)
    recipe = read_recipe(name)
    model = Dust3r(recipe.architecture(recipe.stages[-1])).eval()
    if model.config.head_type == "dpt":
        _enliven(model)
    return model


@torch.no_grad()
def _enliven(model: Dust3r) -> None:
    """Random filters of the heads that pass on what varies from pixel to pixel, and points at distances around 1.

    With torch's own, biases outweigh it: all points would be nearly the same, and deviations meaningless.
    """
    for head in (model.downstream_head1, model.downstream_head2):
        for module in head.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                spread = module.in_channels * (prod(module.kernel_size) if isinstance(module, nn.Conv2d) else 1)
                nn.init.normal_(module.weight, std=spread**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    output = model(*torch.rand(2, 1, 3, 64, 96) * 2 - 1)
    for head, points in ((model.downstream_head1, output.points_1), (model.downstream_head2, output.points_2)):
        head.dpt.head[-1].weight /= points.norm(dim=-1).log1p().median()  # a distance is exp() of the output, less 1


def work_of(config: Dust3rConfig, size: tuple[int, int]) -> tuple[float, float]:
    """Floating-point operations (GFLOP) of products and filters: of an encoded image (H, W), of an ordered pair."""
    rows, columns = (side // PATCH for side in size)
    tokens, enc, dec = rows * columns, config.enc_embed_dim, config.dec_embed_dim
    encoder = config.enc_depth * tokens * (24 * enc**2 + 4 * tokens * enc) + 2 * tokens * 3 * PATCH**2 * enc
    decoder = config.dec_depth * tokens * (32 * dec**2 + 8 * tokens * dec) + 2 * tokens * enc * dec
    head = 2 * tokens * dec * 4 * PATCH**2 if config.head_type == "linear" else _dpt_work(config, rows, columns)
    return encoder / 1e9, 2 * (decoder + head) / 1e9


def _dpt_work(config: Dust3rConfig, rows: int, columns: int) -> float:
    tokens, dec = rows * columns, config.dec_embed_dim
    coarse = -(-rows // 2) * -(-columns // 2)
    work = 2.0 * tokens * (config.enc_embed_dim * 96 + dec * (192 + 384 + 768))
    work += 2.0 * (tokens * (16 * 96**2 + 4 * 192**2) + coarse * 9 * 768**2)
    pixels = (16 * tokens, 4 * tokens, tokens, coarse)  # of the four levels
    for level, (count, channels) in enumerate(zip(pixels, (96, 192, 384, 768), strict=True)):
        filters = 2 if level == 3 else 4  # the coarsest has nothing to fuse
        work += 2.0 * count * (9 * channels * 256 + filters * 9 * 256**2 + 256**2)
    return work + 2.0 * tokens * (64 * 9 * 256 * 128 + 256 * (9 * 128**2 + 128 * 4))


@dataclass(frozen=True)
class Keyframe:
    """Images (1, 3, H, W) on their device: a new one, and the earlier ones it is paired with."""

    new: Tensor
    earlier: Sequence[Tensor]

    @classmethod
    def of(cls, size: tuple[int, int], device: torch.device) -> Keyframe:
        """Smooth random images."""
        torch.manual_seed(1)
        coarse = torch.rand(1 + _PAIRS, 3, size[0] // 32, size[1] // 32) * 2 - 1
        images = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(-1, 1).to(device)
        return cls(images[:1], [images[k : k + 1] for k in range(1, len(images))])

    def plain(self, model: Dust3r, most: int) -> list[PairOutput]:
        """The first ``most`` ordered pairs by forward passes of the whole network."""
        orders = [order for image in self.earlier for order in ((image, self.new), (self.new, image))]
        with torch.inference_mode():
            return [model(*order) for order in orders[:most]]

    def shared(self, network: Any, kept: Sequence[Tokens]) -> PairOutput:
        """All of them in one batch, from one encoded image; ``kept``: the tokens of the earlier ones."""
        with torch.inference_mode():
            new = network.encode(self.new)
            orders = [order for tokens in kept for order in ((tokens, new), (new, tokens))]
            first, second = (Tokens.cat([order[side] for order in orders]) for side in (0, 1))
            return network.decode(first, second)

    def tokens(self, network: Any) -> list[Tokens]:
        """Those of the earlier images."""
        with torch.inference_mode():
            return [network.encode(image) for image in self.earlier]


def deviation(fast: PairOutput, plain: Sequence[PairOutput]) -> float:
    """Median distance of points, relative to their mean distance from the first camera; of both views."""
    away, norm = [], []
    for k, exact in enumerate(plain):
        for name in ("points_1", "points_2"):
            a, b = getattr(fast, name)[k].cpu(), getattr(exact, name)[0].cpu()
            away.append((a - b).norm(dim=-1).flatten())
            norm.append(b.norm(dim=-1).mean())
    return float((torch.stack(away) / torch.stack(norm)[:, None]).median())


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of one call, and its result. With one thread, processor time, in which other programs hardly count."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start, result


def product_rate(kind: torch.dtype, device: torch.device, rounds: int = 5) -> float:
    """GFLOP/s of one large matrix product, the best of some."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
    out = torch.mm(a, b)
    return 2 * side**3 / min(timed(lambda: torch.mm(a, b, out=out), device)[0] for _ in range(rounds)) / 1e9


def measure(name: str, device: torch.device, rounds: int, onnx: bool, compiled: bool) -> dict[str, Any]:
    """Rates, deviation and work of one size of network."""
    size, model = SIZES[name], network(name).to(device)
    compiler = pick_compiler(device, compiled)
    weights = sum(parameter.numel() for parameter in model.parameters())
    fast, once = FastDust3r(model, device, "auto", compiler), FastDust3r(model, device)
    frame, orders = Keyframe.of(size, device), 2 * _PAIRS
    part = orders if weights < _LARGE or device.type == "cuda" else 2
    kept = {"once": frame.tokens(once), "fast": frame.tokens(fast)}
    works: dict[str, tuple[Callable[[], Any], int]] = {
        "plain": (lambda: frame.plain(model, part), part),
        "once": (lambda: frame.shared(once, kept["once"]), orders),
        "fast": (lambda: frame.shared(fast, kept["fast"]), orders),
    }
    if onnx:
        graphs = _graphs(model)
        kept["int8"] = frame.tokens(graphs)
        works["int8"] = (lambda: frame.shared(graphs, kept["int8"]), orders)
    first = {key: timed(work, device) for key, (work, _) in works.items()}
    best, found = {key: taken for key, (taken, _) in first.items()}, {key: result for key, (_, result) in first.items()}
    for _ in range(0 if part < orders else rounds):
        for key, (work, _) in works.items():
            best[key] = min(best[key], timed(work, device)[0])
    encoded, decoded = work_of(model.config, size)
    rate = product_rate(fast.kind, device)
    row = {
        "size": name, "device": device.type, "machine": _machine(device), "image": f"{size[1]}x{size[0]}",
        "head": model.config.head_type, "weights": weights, "kind": str(fast.kind).removeprefix("torch."),
        "compiled": fast.compiled,
        "pairs_per_second": {key: works[key][1] / value for key, value in best.items()},
        "keyframes_per_second": 1 / best["fast"],
        "gflop_per_keyframe": encoded + orders * decoded,
        "share_of_products": (encoded + orders * decoded) / best["fast"] / rate, "product_gflops": rate,
        "deviation": deviation(found["fast"], found["plain"]),
    }  # fmt: skip
    if onnx:
        row["deviation_int8"] = deviation(found["int8"], found["plain"])
    return row


def _machine(device: torch.device) -> str:
    """The GPU, or the processor with its cores and threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = Machine().about()
    return f"{torch.get_num_threads()} of {about['cores']} cores, {about['processor']}"


def _graphs(model: Dust3r) -> Any:
    from dust3r_ros.network.onnx import OnnxDust3r, export_onnx

    with tempfile.TemporaryDirectory() as folder:
        export_onnx(model, folder, int8=True)
        return OnnxDust3r(folder, torch.get_num_threads())


def peak_memory(name: str, way: str, device: torch.device, compiled: bool) -> float:
    """MB held at most while a keyframe is computed; of this process, which must do nothing else, or of the GPU."""
    model: Any = network(name)
    fast = way == "fast"
    model = FastDust3r(model, device, "auto", pick_compiler(device, compiled)) if fast else model.to(device)
    frame = Keyframe.of(SIZES[name], device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    if fast:
        frame.shared(model, frame.tokens(model))
    else:
        frame.plain(model, 1)
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e6
    return memory_held("VmHWM") / 1e6


def memories(name: str, device: torch.device, threads: int, compiled: bool) -> dict[str, float | None]:
    """``peak_memory`` of both ways, each in its own process; None where one ended, such as for lack of memory."""
    found: dict[str, float | None] = {}
    for way in ("plain", "fast"):
        command = [sys.executable, __file__, "--memory", name, way, str(device), "--threads", str(threads)]
        done = subprocess.run([*command, *["--compile"] * compiled], capture_output=True, text=True, check=False)
        found[way] = float(done.stdout.split()[-1]) if done.returncode == 0 else None
    return found


def targets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of targets."""
    found = []
    for row in (row for row in rows if row["device"] == "cpu"):
        rates = row["pairs_per_second"]
        ratio = rates["fast"] / rates["plain"]
        found.append(target(f"{row['size']}, CPU: fast / plain", ratio, ">= 4", ratio >= 4))
    large = max(
        (row for row in rows if row["device"] == "cuda" and row["size"] == "large"),
        key=lambda row: row["pairs_per_second"]["fast"], default=None,
    )  # fmt: skip
    rates = large["pairs_per_second"] if large else {}
    held = large["memory_mb"]["fast"] if large else None
    figures: list[tuple[str, float | None, str, Callable[[float], bool], str]] = [
        ("large, GPU: fast / plain", rates["fast"] / rates["plain"] if large else None, ">= 8", lambda v: v >= 8, ""),
        ("large, GPU: share of the rate of a large product", 100 * large["share_of_products"] if large else None,
         ">= 40 %", lambda v: v >= 40, "%"),
        ("large, GPU: memory", held and held / 1e3, "<= 4 GB", lambda v: v <= 4, "GB"),
        ("large, GPU: keyframes of three pairs per second", large["keyframes_per_second"] if large else None,
         f">= {_LIVE:g}", lambda v: v >= _LIVE, ""),
    ]  # fmt: skip
    for name, value, limit, met, unit in figures:
        found.append(
            target(name, value, limit, None if value is None else met(value), unit="" if value is None else unit)
        )
    for row in (row for row in rows if row["kind"] != "float32"):
        share, trained = 100 * row["deviation"], row["size"] == "mini"
        weights = "trained" if trained else "random"
        words = f"{row['size']}, {_device(row)}: deviation in {row['kind']}, {weights} weights"
        found.append(target(words, share, "<= 1 %", share <= 1, unit="%"))
    return found


def _device(row: dict[str, Any]) -> str:
    return f"{row['device']}{', compiled' if row['compiled'] else ''}"


def table(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Markdown: rates, targets with what was missed in bold, and what is to be expected of GPUs."""
    head = ("network", "device", "image", "plain", "once", "fast", "fast / plain", "int8 (ONNX)")
    head += ("memory, plain -> fast", "of a large product's rate")
    found = []
    for row in rows:
        rates, memory = row["pairs_per_second"], row["memory_mb"]
        ratio = rates["fast"] / rates["plain"]
        cells = [f"{row['size']}, {row['weights'] / 1e6:.0f} M, {row['head']}", _device(row), row["image"]]
        cells += [_shown(rates[key]) for key in ("plain", "once", "fast")] + [f"{ratio:.1f}"]
        int8 = f"{_shown(rates['int8'])} ({100 * row['deviation_int8']:.1f} %)" if "int8" in rates else "–"
        held = " -> ".join("–" if memory[way] is None else f"{memory[way] / 1e3:.2f}" for way in ("plain", "fast"))
        cells += [int8, f"{held} GB", f"{100 * row['share_of_products']:.0f} %"]
        found.append(cells)
    if not any(row["device"] == "cuda" for row in rows):
        found.append(["large, 571 M, dpt", "cuda", "512x384", *["not measured"] * 7])
    lines = table_lines(head, found, range(3))
    rates_of = {(row["machine"], row["kind"]): row["product_gflops"] for row in rows}
    lines += ["", "Ordered pairs per second. A large product:"]
    lines += [f"- {rate:.0f} GFLOP/s in {kind} on {machine}" for (machine, kind), rate in rates_of.items()]
    if about["others_cores"] is not None:
        lines += ["", f"Cores used by other programs meanwhile: {about['others_cores']:.1f}. {where_and_when(about)}."]
    lines += [""]
    lines += target_lines(targets(rows))
    lines += ["", f"On a GPU, with a torch for CUDA: `{COMMAND}`.", "", *_computed()]
    return "\n".join(lines)


def _computed() -> list[str]:
    """The table of GPUs, from operations and bytes alone."""
    config, size = Dust3rConfig(), SIZES["large"]
    encoded, decoded = work_of(config, size)
    grid = size[0] // PATCH, size[1] // PATCH
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in Dust3r(config).parameters())
    work = encoded + 2 * _PAIRS * decoded
    each = pair_memory(config, [grid, grid], torch.bfloat16, "cuda") / 1e9
    held = 2 * weights / 1e9 + 2 * _PAIRS * each
    said = (
        f"Computed, not measured: a keyframe of the published size (512x384, DPT heads) takes {work / 1e3:.1f} TFLOP; "
        f"its {weights / 1e6:.0f} M weights take {2 * weights / 1e9:.1f} GB in bfloat16 and a pair {each:.2f} GB, "
        f"{held:.1f} GB in all. At {100 * _SHARE:.0f} % of the peak that NVIDIA states:"
    )
    cells = []
    for name, (peak, memory) in _GPUS.items():
        rate = _SHARE * peak * 1e3 / work
        fits = "a keyframe at once" if held < 0.8 * memory else "pair by pair"
        cells.append((name, memory, f"{peak:g}", f"{rate:.1f}", f"{2 * _PAIRS * rate:.0f}", fits))
    head = ("GPU", "memory, GB", "peak, bfloat16, TFLOP/s", "keyframes/s", "ordered pairs/s", "fits")
    return [said, "", *table_lines(head, cells, (0, 5))]


def _shown(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _rows(path: Path) -> list[dict[str, Any]]:
    """Of a file that ``--out`` wrote. Raises ``InputError``."""
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["rows"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is no file that this benchmark wrote with --out ({error})") from error


@errors_said("inference")
def main() -> int:
    """Exit code: 1 if a size could not be measured, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=[name for name in SIZES if name != "base"])
    parser.add_argument("--device", default="", help="cpu or cuda; both, where there is a GPU")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=5, help="after the first")
    parser.add_argument("--onnx", action="store_true", help="also int8 by ONNX Runtime, for networks of small size")
    parser.add_argument("--compile", action="store_true", help="compile the blocks on a GPU")
    parser.add_argument("--out", type=Path, default=ROOT / "results/inference.json")
    parser.add_argument("--page", type=Path, help="page whose table is replaced")
    parser.add_argument("--also", nargs="+", type=Path, default=[], help="files that --out wrote on other machines")
    parser.add_argument("--memory", nargs=3, metavar=("SIZE", "WAY", "DEVICE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        name, way, device = options.memory
        print(peak_memory(name, way, pick_device(device), options.compile))
        return 0
    named = [options.device] if options.device else ["cpu", "cuda"][: 1 + torch.cuda.is_available()]
    machine, rows = Machine(), []
    others = [row for path in options.also for row in _rows(path)]
    for device in map(pick_device, named):
        for name in options.sizes:
            onnx = options.onnx and device.type == "cpu" and prod(SIZES[name]) < 100_000
            row = measure(name, device, options.rounds, onnx, options.compile)
            row["memory_mb"] = memories(name, device, options.threads, options.compile)
            rows.append(row)
            print(json.dumps(row), flush=True)
    about = machine.about()
    rows += others
    report = {"machine": about, "rows": rows, "targets": targets(rows)}
    leave(options.out, report, table(rows, about), options.page, (BEGIN, END))
    return 0


if __name__ == "__main__":
    sys.exit(main())
