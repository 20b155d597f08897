"""The benchmark of inference counts operations right, asks for pairs as the mapper does and judges what it measures."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scripts import script

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from dust3r_ros.network import Dust3r, Dust3rConfig  # noqa: E402
from dust3r_ros.network.inference import FastDust3r  # noqa: E402

SMALL = {"enc_embed_dim": 48, "enc_depth": 2, "enc_num_heads": 3, "dec_embed_dim": 32, "dec_num_heads": 2}
CONFIGS = {head: Dust3rConfig(head_type=head, dec_depth=4, **SMALL) for head in ("linear", "dpt")}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "inference.py"
    return script(path, "inference_benchmark")


@pytest.mark.parametrize("head", list(CONFIGS))
def test_operations_are_those_that_torch_counts(benchmark: ModuleType, head: str) -> None:
    model, image = Dust3r(CONFIGS[head]).eval(), torch.rand(1, 3, 48, 80)
    encoded, decoded = benchmark.work_of(CONFIGS[head], (48, 80))
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tokens = model.encode(image)
    assert encoded * 1e9 == pytest.approx(counter.get_total_flops(), rel=0.01)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.decode(tokens, tokens)
    assert decoded * 1e9 == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_keyframe_is_one_image_and_both_orders_of_its_pairs(benchmark: ModuleType) -> None:
    model = Dust3r(CONFIGS["linear"]).eval()
    frame, fast = benchmark.Keyframe.of((32, 64), CPU), FastDust3r(model, CPU)
    kept = frame.tokens(fast)
    encoded, decoded = [], []
    model.patch_embed.register_forward_hook(lambda module, inputs, output: encoded.append(len(output)))
    model.decoder_embed.register_forward_hook(lambda module, inputs, output: decoded.append(len(output)))
    shared = frame.shared(fast, kept)
    assert (encoded, decoded) == ([1], [6, 6])
    encoded.clear(), decoded.clear()
    plain = frame.plain(model, 6)
    assert (encoded, decoded) == ([1] * 12, [1] * 12)
    assert benchmark.deviation(shared, plain) < 1e-5
    far = [replace(output, points_1=1.1 * output.points_1, points_2=1.1 * output.points_2) for output in plain]
    assert benchmark.deviation(shared, [far[0], *plain[1:]]) < 1e-5  # the median pixel is in one of the other five
    assert 0.01 < benchmark.deviation(shared, far) < 0.1


def row(size: str, device: str, fast: float, **more: Any) -> dict[str, Any]:
    """A measured size, as ``measure`` gives it."""
    return {
        "size": size, "device": device, "machine": "a machine", "compiled": False, "image": "512x384",
        "head": "dpt", "weights": 571e6, "kind": "bfloat16",
        "pairs_per_second": {"plain": 10.0, "once": 20.0, "fast": fast}, "keyframes_per_second": fast / 6,
        "share_of_products": 0.5, "product_gflops": 400.0, "deviation": 0.002,
        "memory_mb": {"plain": 5000.0, "fast": 3500.0},
    } | more  # fmt: skip


def test_figures_stand_beside_their_targets(benchmark: ModuleType) -> None:
    rows = [row("tiny", "cpu", 39), row("mini", "cpu", 41, deviation=0.02)]
    judged = {found["name"]: (found["measured"], found["met"]) for found in benchmark.targets(rows)}
    assert judged["tiny, CPU: fast / plain"] == ("3.9", False) and judged["mini, CPU: fast / plain"] == ("4.1", True)
    assert judged["mini, cpu: deviation in bfloat16, trained weights"] == ("2 %", False)
    unknown = [found for name, found in judged.items() if "GPU" in name]
    assert len(unknown) == 4 and set(unknown) == {("not measured", None)}
    judged = {found["name"]: found["met"] for found in benchmark.targets([row("large", "cuda", 100)])}
    assert [met for name, met in judged.items() if "GPU" in name] == [True] * 4
    compiled = row("large", "cuda", 120, compiled=True)
    judged = {found["name"]: found["measured"] for found in benchmark.targets([row("large", "cuda", 100), compiled])}
    assert judged["large, GPU: fast / plain"] == "12"
    assert "large, cuda, compiled: deviation in bfloat16, random weights" in judged
    slow = row("large", "cuda", 79, share_of_products=0.3, memory_mb={"plain": 1.0, "fast": 4100.0})
    judged = {found["name"]: found["met"] for found in benchmark.targets([slow])}
    assert [met for name, met in judged.items() if "GPU" in name] == [False, False, False, False]


def test_a_lack_of_memory_is_no_figure(benchmark: ModuleType) -> None:
    rows = [row("large", "cuda", 100, memory_mb={"plain": None, "fast": None})]
    judged = {found["name"]: (found["measured"], found["met"]) for found in benchmark.targets(rows)}
    assert judged["large, GPU: memory"] == ("not measured", None)


def test_the_command_measures_and_writes(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{benchmark.BEGIN}\n{benchmark.END}\nafter\n")
    monkeypatch.setitem(benchmark.SIZES, "mini", (64, 96))
    options = ["--sizes", "mini", "--device", "cpu", "--threads", "1", "--rounds", "1"]
    (tmp_path / "gpu.json").write_text(json.dumps({"rows": [row("large", "cuda", 100)]}))
    options += ["--out", str(tmp_path / "found.json"), "--page", str(page), "--also", str(tmp_path / "gpu.json")]
    monkeypatch.setattr(sys, "argv", ["inference", *options])
    assert benchmark.main() == 0
    found, other = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert other["device"] == "cuda" and "| large, 571 M, dpt | cuda | 512x384 |" in page.read_text()
    assert found["pairs_per_second"]["plain"] > 0 and found["deviation"] < 0.01
    assert all(100 < held < 10_000 for held in found["memory_mb"].values())
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "| mini, 27 M, linear | cpu | 96x64 |" in text
    assert "Computed, not measured" in text and "H100" in text


def test_a_file_of_another_kind_is_refused_before_anything_is_measured(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.json").write_text("[]")
    monkeypatch.setattr(sys, "argv", ["inference", "--also", str(tmp_path / "other.json")])
    assert benchmark.main() == 1
    assert "is no file that this benchmark wrote" in capsys.readouterr().err
