"""Images and a network made ready for inference: number format, layout, compiled blocks, recorded calls, batch sizes.

On a CPU, bfloat16 pays where the processor multiplies it. On a GPU, calls are recorded as CUDA graphs, one per size of
images and batch: a single image keeps a large GPU busy for less time than launching its operations one by one takes.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust3r_ros.errors import BackendError, Dust3rRosError, InputError
from dust3r_ros.network.config import PATCH, Dust3rConfig
from dust3r_ros.network.heads import DptHead
from dust3r_ros.network.model import Dust3r, PairOutput, Tokens
from dust3r_ros.types import Image

_log = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Call = Callable[..., Sequence[Tensor]]
Recorded = tuple[Callable[[], object], Sequence[Tensor]]
Record = Callable[[Callable[[], Sequence[Tensor]]], Recorded]


def normalise(images: Image, device: torch.device | None = None) -> Tensor:
    """RGB uint8 (B, H, W, 3) or (H, W, 3) -> float32 (B, 3, H, W) in [-1, 1] on ``device``, B = 1 for a single one.

    A GPU gets the bytes, through pinned memory, while the caller continues. Raises ``InputError`` for another shape.
    """
    batch = images[None] if images.ndim == 3 else images
    if batch.ndim != 4 or not len(batch):
        raise InputError(f"images of shape {images.shape} cannot be normalised; they must be (B, H, W, 3)")
    check_image(batch[0])
    pixels = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
    if device is not None and device.type == "cuda":
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    return (pixels.float() / 255.0 - 0.5) / 0.5


def check_image(image: Image) -> None:
    """Raises ``InputError`` unless ``image`` is a non-empty RGB array (H, W, 3) of uint8."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError(
            f"image of shape {image.shape} and type {image.dtype} cannot be used; it must be (H, W, 3) uint8 RGB"
        )


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """A name in ``PRECISIONS`` as a type; "auto" is bfloat16 where the device multiplies it faster, else float32."""
    if name != "auto":
        return PRECISIONS[name]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return torch.bfloat16 if fast else torch.float32


# What stays in float32 at a negligible cost: norms, and the layer whose output is exp()'s argument. float16 has too
# small a range for the sums in a DPT head.
_EXACT = {
    torch.bfloat16: re.compile(r"norm|downstream_head\d\.(proj|dpt\.head\.4)\.|mask_token"),
    torch.float16: re.compile(r"norm|downstream_head|mask_token"),
}


def reduced(model: Dust3r, kind: torch.dtype) -> Dust3r:
    """``model`` with the weights of its products in ``kind``, bfloat16 or float16; norms, residuals and the heads' last
    layers, for float16 all of the heads, stay as they are. Weights that stay are shared with ``model``, which does not
    change.
    """
    with torch.device("meta"):
        small = Dust3r(model.config)
    exact = _EXACT[kind]
    state = {name: value if exact.search(name) else value.to(kind) for name, value in model.state_dict().items()}
    small.load_state_dict(state, assign=True)
    return small.train(model.training).requires_grad_(False)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def pair_memory(config: Dust3rConfig, grids: Sequence[tuple[int, int]], kind: torch.dtype, device: str = "cpu") -> int:
    """About the most bytes that decoding an ordered pair takes, weights not counted.

    ``grids``: (rows, columns) of patches of both views. ``device``: "cpu" or "cuda".
    """
    size = kind.itemsize
    tokens = [rows * columns for rows, columns in grids]
    kept = 4 * sum(tokens) * (config.enc_embed_dim + (config.dec_depth + 2) * config.dec_embed_dim)
    most = max(tokens)
    block = most * config.dec_embed_dim * 12 * size + 3 * most * max(tokens) * size
    pixels = most * PATCH**2
    outputs = 4 * 4 * sum(tokens) * PATCH**2
    if config.head_type == "linear":
        return kept + block + 3 * outputs
    # The widest maps: 128 channels before and after the last filter of 3 x 3 pixels, and what their fusion left.
    widest = pixels * 128 * size * 3
    if kind == torch.bfloat16 and device == "cpu":  # by strips: what the filter before left, of half the size
        widest //= 4
    return kept + 2 * outputs + max(block, widest)


_LONG_S = 0.02  # a call that says how many cores there are
_SHARE = 0.75  # of a core for each thread: less is too few
_PAUSE_S, _LONGEST_S = 4.0, 64.0  # until all threads are tried again, doubled each time in vain


class FreeCores:
    """Around calls on a CPU: as many of torch's threads as other programs leave cores.

    Threads wait for each other at every step, and those that wait keep their cores: with another program on one of two
    cores, a call takes ten times as long. What it gives does not depend on their number.
    """

    def __init__(self) -> None:
        self._most = 0  # threads, while fewer are used
        self._again_s, self._pause_s = 0.0, _PAUSE_S

    def __enter__(self) -> None:
        if self._most and time.monotonic() >= self._again_s:
            torch.set_num_threads(self._most)
            self._most = 0
        self._begun_s, self._used_s = time.monotonic(), time.process_time()

    def __exit__(self, *error: object) -> None:
        now_s, threads = time.monotonic(), torch.get_num_threads()
        cores = (time.process_time() - self._used_s) / max(now_s - self._begun_s, 1e-9)
        if threads == 1 or now_s - self._begun_s < _LONG_S:
            return
        if cores >= _SHARE * threads:
            if not self._most:
                self._pause_s = _PAUSE_S
            return
        self._most, self._again_s = self._most or threads, now_s + self._pause_s
        self._pause_s = min(2.0 * self._pause_s, _LONGEST_S)
        torch.set_num_threads(max(1, int(cores)))


class FastDust3r:
    """A network for inference on one device, with the interface of ``OnnxDust3r``.

    ``model``: stays as it is unless it can be used itself, in float32. ``precision``: of the products, a name in
    ``PRECISIONS`` or "auto". ``compiler``: for the blocks, a backend of ``torch.compile``; empty: none. What
    inductor compiles is kept in ``$XDG_CACHE_HOME/dust3r_ros``, for the next process. Where compiling fails, the
    network runs as it is, with a warning.
    """

    def __init__(self, model: Dust3r, device: torch.device, precision: str = "float32", compiler: str = "") -> None:
        self.config, self.device = model.config, device
        self.kind = pick_precision(precision, device)
        if self.kind != torch.float32:
            model = reduced(model, self.kind)  # before it is moved: a GPU never holds both
        self.model = model.to(device).eval()
        for head in (self.model.downstream_head1, self.model.downstream_head2):
            head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._graphs = CallGraphs(record_on_gpu(device)) if device.type == "cuda" else None
        self._cores = FreeCores() if device.type == "cpu" else nullcontext()
        self.compiled = bool(compiler)
        if compiler:
            _compile(self.model, compiler)

    def encode(self, image: Tensor) -> Tokens:
        """As ``Dust3r.encode``."""
        grid = (image.shape[-2] // PATCH, image.shape[-1] // PATCH)
        (features,) = self._run(("encode", grid), lambda image: (self.model.encode(image).features,), image)
        return Tokens(features, grid)

    def decode(self, tokens_1: Tokens, tokens_2: Tokens) -> PairOutput:
        """As ``Dust3r.decode``."""
        grids = tokens_1.grid, tokens_2.grid

        def call(first: Tensor, second: Tensor) -> Sequence[Tensor]:
            output = self.model.decode(Tokens(first, grids[0]), Tokens(second, grids[1]))
            return output.points_1, output.confidence_1, output.points_2, output.confidence_2

        return PairOutput(*self._run(("decode", *grids), call, tokens_1.features, tokens_2.features))

    def pairs_that_fit(self, grids: Sequence[tuple[int, int]], most: int) -> int:
        """How many pairs of views of ``grids`` patches to decode at once, at most ``most``, at least one.

        Half of the free memory is left: to tokens, to the workspace of filters, to others.
        """
        pair = pair_memory(self.config, grids, self.kind, self.device.type)
        return max(min(most, free_memory(self.device) // 2 // pair), 1)

    @torch.inference_mode()
    def _run(self, name: Hashable, call: Call, *inputs: Tensor) -> Sequence[Tensor]:
        try:
            with self._cores:
                return self._graphs(name, call, *inputs) if self._graphs else call(*inputs)
        except Exception as error:
            if not self.compiled or is_out_of_memory(error) or isinstance(error, Dust3rRosError):
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        _log.warning("the network's blocks cannot be compiled and run as they are (%s)", reason)
        self.compiled = False
        uncompile(self.model)
        return self._run(name, call, *inputs)


class CallGraphs:
    """Calls recorded once per name and shapes of inputs, and replayed from then on.

    ``record``: runs a call without arguments, and returns what runs it again and its outputs, which that fills anew.
    The last ``most`` recorded are kept.
    """

    def __init__(self, record: Record, most: int = 32) -> None:
        self._record, self._most = record, most
        self._kept: OrderedDict[Hashable, tuple[list[Tensor], Recorded]] = OrderedDict()

    def __call__(self, name: Hashable, call: Call, *inputs: Tensor) -> Sequence[Tensor]:
        """``call(*inputs)``; the tensors returned are the caller's own."""
        key = (name, *(tuple(value.shape) for value in inputs))
        if key not in self._kept:
            own = [value.clone() for value in inputs]
            self._kept[key] = own, self._record(lambda: call(*own))
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        own, (replay, outputs) = self._kept[key]
        for place, value in zip(own, inputs, strict=True):
            place.copy_(value)
        replay()
        return [output.clone() for output in outputs]


def record_on_gpu(device: torch.device) -> Record:
    """Recording as CUDA graphs, which share their memory: one runs at a time, and outputs are copied."""
    pool = torch.cuda.graph_pool_handle()

    def record(call: Callable[[], Sequence[Tensor]]) -> Recorded:
        here, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(2):  # libraries choose their kernels in the first run, which cannot be recorded
                call()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile.
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            outputs = call()
        return graph.replay, outputs

    return record


def pick_compiler(device: torch.device, wanted: bool) -> str:
    """The compiler of a device. On a CPU, compiled blocks are no faster: none.

    Raises ``BackendError`` if one is wanted for a GPU and missing.
    """
    if not wanted or device.type == "cpu":
        return ""
    if importlib.util.find_spec("triton") is None:
        raise BackendError(
            "'compile_network' is true, but torch's compiler needs triton; install it or set it to false"
        )
    return "inductor"


def _compile(model: Dust3r, compiler: str) -> None:
    """Blocks and DPT heads, one by one: those of a kind share their code, so that compiling takes seconds and not
    minutes.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "dust3r_ros" / "inductor"))
    for blocks in (model.enc_blocks, model.dec_blocks, model.dec_blocks2):
        for block in blocks:
            block.compile(backend=compiler)
    for head in (model.downstream_head1, model.downstream_head2):
        if isinstance(head, DptHead):
            head.dpt.compile(backend=compiler)


def uncompile(model: torch.nn.Module) -> None:
    """Let compiled modules run as they are again."""
    for module in model.modules():
        module._compiled_call_impl = None
    torch.compiler.reset()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory did not suffice."""
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


class HostCopy:
    """A result on its way to the host: on a GPU, the copy into pinned memory runs while the caller continues."""

    def __init__(self, output: PairOutput) -> None:
        self._parts = [output.points_1, output.confidence_1, output.points_2, output.confidence_2]
        self._event: Any = None
        if self._parts[0].device.type == "cuda":
            self._source = self._parts  # kept until the copy has ended
            self._parts = [torch.empty(part.shape, dtype=part.dtype, pin_memory=True) for part in self._source]
            for place, part in zip(self._parts, self._source, strict=True):
                place.copy_(part, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(self._source[0].device))

    def arrays(self) -> list[Any]:
        """Points and confidence of both views as NumPy arrays (float32), once they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return [part.numpy() for part in self._parts]
