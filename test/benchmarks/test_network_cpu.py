"""The benchmark of the network counts its operations right and asks for pairs as the mapper does."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from scripts import script

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from dust3r_ros.network import Dust3r, Dust3rConfig  # noqa: E402

CONFIG = Dust3rConfig(
    head_type="linear", enc_embed_dim=48, enc_depth=2, enc_num_heads=3, dec_embed_dim=32, dec_depth=3, dec_num_heads=2
)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "network_cpu.py"
    return script(path, "network_cpu_benchmark")


def test_operations_are_those_that_torch_counts(benchmark: ModuleType) -> None:
    model, image = Dust3r(CONFIG).eval(), torch.rand(1, 3, 64, 64)
    encoded, decoded = benchmark.work_of(CONFIG, 64)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tokens = model.encode(image)
    assert encoded * 1e9 == pytest.approx(counter.get_total_flops(), rel=0.01)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.decode(tokens, tokens)
    assert decoded * 1e9 == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_keyframe_is_one_image_and_both_orders_of_its_pairs(benchmark: ModuleType) -> None:
    model = Dust3r(CONFIG).eval()
    asked: list[tuple[str, int]] = []

    def encode(image):
        asked.append(("encode", len(image)))
        return model.encode(image)

    def decode(first, second):
        asked.append(("decode", len(first)))
        assert not torch.equal(first.features, 0 * first.features) and len(first) == len(second)
        return model.decode(first, second)

    work = benchmark.keyframe(encode, decode, torch.rand(1, 3, 32, 48), pairs=3)
    asked.clear()
    times = benchmark.measured({"work": work}, rounds=2)
    assert asked == [("encode", 1), ("decode", 6)] * 3
    assert times["work"].wall > 0 and times["work"].cpu > 0
