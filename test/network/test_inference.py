"""Compiled, reduced, batched and recorded inference against the plain network in float32."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from recording import Recorder  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from dust3r_ros.errors import BackendError, InputError  # noqa: E402
from dust3r_ros.network import (  # noqa: E402
    Dust3r,
    Dust3rConfig,
    Tokens,
    inference,
    load_checkpoint,
    normalise,
)
from dust3r_ros.network.blocks import _attend_in_parts  # noqa: E402
from dust3r_ros.network.heads import _doubled, _filtered_double  # noqa: E402
from dust3r_ros.network.inference import (  # noqa: E402
    CallGraphs,
    FastDust3r,
    FreeCores,
    HostCopy,
    pair_memory,
    reduced,
)

CPU = torch.device("cpu")
SMALL = Dust3rConfig(
    head_type="linear", enc_embed_dim=32, enc_depth=2, enc_num_heads=2, dec_embed_dim=24, dec_depth=2, dec_num_heads=2
)
PARTS = ("points_1", "confidence_1", "points_2", "confidence_2")


@pytest.fixture
def small() -> Dust3r:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Dust3r(SMALL).eval()


def images(height: int, width: int, count: int = 2) -> list[Tensor]:
    """Smooth pictures with a few edges."""
    rng, found = np.random.default_rng(3), []
    for _ in range(count):
        coarse = torch.from_numpy(rng.uniform(-1, 1, (1, 3, height // 16, width // 16)).astype(np.float32))
        found.append(torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(-1, 1))
    return found


def deviation(found: Tensor, exact: Tensor) -> float:
    """Median distance of points, relative to the pointmap's norm: the mean distance from the origin."""
    return float((found - exact).norm(dim=-1).median() / exact.norm(dim=-1).mean())


def both_ways(network: Any, pair: Sequence[Tensor]) -> Any:
    one, other = (network.encode(image) for image in pair)
    return network.decode(Tokens.cat([one, other]), Tokens.cat([other, one]))


def exact_of(model: Dust3r, pair: Sequence[Tensor]) -> list[Any]:
    """Both orders, each by the plain network from its images."""
    with torch.inference_mode():
        return [model(*pair), model(*pair[::-1])]


@pytest.mark.parametrize("precision, most", [("float32", 1e-5), ("bfloat16", 0.01), ("float16", 0.0015)])
@pytest.mark.parametrize("head", ["tiny_linear", "tiny_dpt"])
def test_points_stay_close(networks: Mapping[str, Dust3r], head: str, precision: str, most: float) -> None:
    """Both orders of a pair in one batch, against one float32 forward pass per order."""
    most *= 2 if head == "tiny_dpt" else 1  # filters of white noise, unlike trained ones, amplify what is rounded
    pair, model = images(80, 112), copy.deepcopy(networks[head])
    output = both_ways(FastDust3r(model, CPU, precision), pair)
    for order, exact in enumerate(exact_of(networks[head], pair)):
        spread = (exact.points_1 - exact.points_1.mean(dim=(1, 2))).norm(dim=-1).median()
        assert spread > 0.05 * exact.points_1.norm(dim=-1).median()  # a network that says something
        for name in ("points_1", "points_2"):
            found = getattr(output, name)[order]
            assert found.dtype == torch.float32
            assert deviation(found, getattr(exact, name)[0]) < most


def test_trained_weights_in_bfloat16_stay_within_a_percent() -> None:
    model = load_checkpoint("mini")
    pair = images(*reversed(model.config.img_size))
    output = both_ways(FastDust3r(model, CPU, "bfloat16"), pair)
    for order, exact in enumerate(exact_of(model, pair)):
        assert 0 < deviation(output.points_1[order], exact.points_1[0]) < 0.01
        assert deviation(output.points_2[order], exact.points_2[0]) < 0.01


def test_reduced_weights_are_half_as_large_and_leave_the_network_as_it_was(small: Dust3r) -> None:
    before = {name: value.clone() for name, value in small.state_dict().items()}
    half = reduced(small, torch.bfloat16)
    for name, value in small.state_dict().items():
        assert torch.equal(value, before[name]) and value.dtype == torch.float32
    kinds = {name: value.dtype for name, value in half.state_dict().items()}
    assert {kinds[name] for name in kinds if "norm" in name or "downstream_head" in name} == {torch.float32}
    assert kinds["enc_blocks.0.mlp.fc1.weight"] == kinds["patch_embed.proj.weight"] == torch.bfloat16
    halves = {name: value.dtype for name, value in reduced(small, torch.float16).state_dict().items()}
    assert halves["downstream_head1.proj.weight"] == torch.float32 and halves["decoder_embed.weight"] == torch.float16
    shared = half.dec_norm.weight.data_ptr() == small.dec_norm.weight.data_ptr()
    assert shared and not any(parameter.requires_grad for parameter in half.parameters())
    assert all(parameter.requires_grad for parameter in small.parameters())


@pytest.mark.parametrize("tokens, others", [(30, 30), (30, 7), (700, 1600)])
def test_attention_in_parts_is_attention(tokens: int, others: int) -> None:
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 3, n, 16) for n in (tokens, others, others))
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    with torch.inference_mode():
        torch.testing.assert_close(_attend_in_parts(q, k, v), exact, atol=1e-5, rtol=1e-5)
        half = _attend_in_parts(*(x.bfloat16() for x in (q, k, v)))
    assert (half.float() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("height, width", [(8, 12), (20, 37)])
def test_a_filter_of_a_doubled_map_is_computed_before_it_is_doubled(height: int, width: int) -> None:
    torch.manual_seed(1)
    x, filters = torch.randn(1, 24, height, width), torch.nn.Conv2d(24, 8, 3, padding=1)
    with torch.inference_mode():
        exact = filters(_doubled(x))
        strips = list(_filtered_double(x, filters))
        torch.testing.assert_close(torch.cat(strips).permute(2, 0, 1)[None], exact, atol=1e-5, rtol=1e-5)
        half = torch.cat(list(_filtered_double(x.bfloat16(), filters.bfloat16()))).permute(2, 0, 1)[None]
    assert len(strips) == -(-2 * height // 16) and (half.float() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("head", ["linear", "dpt"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_network_gives_the_same(networks: Mapping[str, Dust3r], head: str, precision: str) -> None:
    """Traced and run as the compiler gets it, in batches of several sizes."""
    pair, model = images(32, 48), networks[f"tiny_{head}"]
    plain, compiled = (FastDust3r(copy.deepcopy(model), CPU, precision, way) for way in ("", "aot_eager"))
    torch.compiler.reset()
    one, other = (plain.encode(image) for image in pair)
    for count in (1, 2, 5):
        first, second = Tokens.cat([one] * count), Tokens.cat([other] * count)
        exact, found = plain.decode(first, second), compiled.decode(first, second)
        for name in PARTS:
            if precision == "float32" or head == "linear":
                torch.testing.assert_close(getattr(found, name), getattr(exact, name), atol=1e-5, rtol=1e-4)
            elif "points" in name:  # filters' results are rounded in other places
                assert deviation(getattr(found, name), getattr(exact, name)) < 0.01
    torch.testing.assert_close(compiled.encode(pair[0]).features, one.features, atol=1e-5, rtol=1e-4)
    parts = [*compiled.model.dec_blocks2, *([compiled.model.downstream_head2.dpt] if head == "dpt" else [])]
    assert all(part._compiled_call_impl is not None for part in parts)


@pytest.mark.long
def test_a_network_compiled_to_machine_code_gives_the_same(
    small: Dust3r, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was compiled is on disk, where the next process finds it."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pair = images(32, 48)
    exact = exact_of(small, pair)
    compiled = FastDust3r(small, CPU, "bfloat16", "inductor")
    output = both_ways(compiled, pair)
    if not compiled.compiled:
        pytest.skip("there is no compiler here")
    for order in (0, 1):
        assert deviation(output.points_1[order], exact[order].points_1[0]) < 0.01
    assert list((tmp_path / "dust3r_ros" / "inductor").rglob("*.py"))


def test_a_compiler_that_fails_leaves_the_network_as_it_is(
    small: Dust3r, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    pair, exact = images(32, 48), exact_of(small, images(32, 48))
    torch.compiler.reset()
    network = FastDust3r(small, CPU, "float32", broken)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be encoded"):
        network.encode(torch.zeros(1, 3, 20, 32))  # this is not the compiler's fault
    assert network.compiled
    output = both_ways(network, pair)
    assert not network.compiled and caplog.text.count("cannot be compiled") == 1
    torch.testing.assert_close(output.points_1[:1], exact[0].points_1, atol=1e-5, rtol=1e-4)


def test_compiling_for_a_gpu_needs_its_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="needs triton"):
        inference.pick_compiler(torch.device("cuda"), True)
    assert inference.pick_compiler(torch.device("cuda"), False) == inference.pick_compiler(CPU, True) == ""


def test_recorded_calls_are_replayed_with_new_inputs(small: Dust3r) -> None:
    """The backend's path on a GPU, with another recorder: one recording per size, outputs that outlive a replay."""
    recorder = Recorder()
    plain, graphs = FastDust3r(small, CPU), FastDust3r(small, CPU)
    graphs._graphs = CallGraphs(recorder)
    wide, tall = images(32, 48, 3), images(48, 32, 2)
    kept = [graphs.encode(image) for image in (*wide, *tall)]
    assert recorder.recorded == 2
    for image, tokens in zip((*wide, *tall), kept, strict=True):
        assert torch.equal(tokens.features, plain.encode(image).features)
    for a, b in ((0, 1), (1, 2), (0, 3), (3, 0), (2, 1)):
        found, exact = graphs.decode(kept[a], kept[b]), plain.decode(kept[a], kept[b])
        for name in PARTS:
            assert torch.equal(getattr(found, name), getattr(exact, name))
    assert recorder.recorded == 5  # two sizes of images; pairs of wide and wide, wide and tall, tall and wide


def test_few_recordings_are_kept() -> None:
    recorder = Recorder()
    graphs = CallGraphs(recorder, most=2)

    def twice(x: Tensor) -> Sequence[Tensor]:
        return (2 * x,)

    for count in (1, 2, 1, 3, 1, 2):
        (found,) = graphs("twice", twice, torch.full((count,), float(count)))
        assert found.tolist() == [2.0 * count] * count
    assert recorder.recorded == 4  # 1, 2, 3, and 2 again, which 3 had replaced


@pytest.mark.parametrize("head", ["linear", "dpt"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_memory_of_a_pair_is_about_what_it_takes(head: str, kind: torch.dtype) -> None:
    """Within a factor of two of what torch allocates at most at a time."""
    config = Dust3rConfig(
        head_type=head, enc_embed_dim=96, enc_depth=1, enc_num_heads=2, dec_embed_dim=96, dec_depth=4, dec_num_heads=2
    )
    network, grid = FastDust3r(Dust3r(config).eval(), CPU, str(kind).removeprefix("torch.")), (12, 16)
    tokens = Tokens(torch.randn(1, 192, 96), grid)
    network.decode(tokens, tokens)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        network.decode(tokens, tokens)
    now = most = 0
    for event in sorted(found.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    assert 0.5 < pair_memory(config, [grid, grid], kind) / most < 2


def test_batches_by_free_memory(small: Dust3r, monkeypatch: pytest.MonkeyPatch) -> None:
    network, grids = FastDust3r(small, CPU), [(2, 3), (2, 3)]
    pair = pair_memory(SMALL, grids, torch.float32)
    for free, count in ((0, 1), (7 * pair, 3), (10**12, 8)):
        monkeypatch.setattr(inference, "free_memory", lambda device, free=free: free)
        assert network.pairs_that_fit(grids, 8) == count
    monkeypatch.undo()
    assert 1 << 20 < inference.free_memory(CPU) < 1 << 50


def test_results_on_the_host_are_the_networks(small: Dust3r) -> None:
    output = both_ways(FastDust3r(small, CPU), images(32, 48))
    for array, name in zip(HostCopy(output).arrays(), PARTS, strict=True):
        assert isinstance(array, np.ndarray) and np.array_equal(array, getattr(output, name).numpy())


def test_images_on_a_device_are_those_on_the_host() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    assert torch.equal(normalise(pixels, CPU), normalise(pixels))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu(small: Dust3r, precision: str) -> None:
    pair, exact = images(32, 48), exact_of(small, images(32, 48))
    network = FastDust3r(copy.deepcopy(small), torch.device("cuda"), precision)
    for _ in range(2):  # recorded, then replayed
        output = both_ways(network, [image.cuda() for image in pair])
        points = HostCopy(output).arrays()[0]
        for order in (0, 1):
            limit = 1e-3 if precision == "float32" else 0.01
            assert deviation(torch.from_numpy(points[order]), exact[order].points_1[0]) < limit


def ramp(height, width):
    """Red grows with x, green with y: a pixel's colour says where it came from."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack((x, y, np.full_like(x, 128)), axis=-1).round().astype(np.uint8)


def test_normalised_range_and_layout():
    image = ramp(32, 48)
    tensor = normalise(image)
    assert tensor.shape == (1, 3, 32, 48) and tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor[0].permute(1, 2, 0), image / 127.5 - 1, atol=1e-6)
    assert float(tensor.min()) == -1.0 and float(tensor.max()) == 1.0
    np.testing.assert_array_equal(normalise(np.stack((image, image[:, ::-1])))[1], tensor[0].flip(-1))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((48, 64, 3), np.float64),
        np.zeros((16, 16, 3), np.int32),
        np.zeros((2, 3), np.uint8),
        np.zeros((0, 16, 16, 3), np.uint8),
    ],
)
def test_unusable_images(images):
    with pytest.raises(InputError):
        normalise(images)


def test_threads_are_as_many_as_other_programs_leave_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs that both use all cores would wait for each other at every step."""
    now, used = [0.0], [0.0]
    monkeypatch.setattr(inference, "time", SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: used[0]))
    before, cores = torch.get_num_threads(), FreeCores()

    def call(seconds: float, share: float) -> int:
        """The threads that are left after a call that gets a ``share`` of the cores its threads could use."""
        with cores:
            used[0] += share * seconds * torch.get_num_threads()
            now[0] += seconds
        return torch.get_num_threads()

    try:
        torch.set_num_threads(4)
        assert [call(0.5, 0.95), call(0.001, 0.1), call(0.5, 0.55)] == [4, 4, 2], "a short one says nothing"
        assert [call(0.5, 0.9), call(0.5, 0.2)] == [2, 1]
        assert {call(0.5, 1.0) for _ in range(15)} == {1}, "twice in vain: eight seconds"
        assert [call(0.5, 0.97) for _ in range(3)] == [1, 4, 4]
    finally:
        torch.set_num_threads(before)
