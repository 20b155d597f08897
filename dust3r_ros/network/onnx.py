"""The network as two ONNX graphs, encoder and decoder: export, optionally in int8, and inference."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dust3r_ros.errors import BackendError, CheckpointError, InputError, OutputError
from dust3r_ros.network.blocks import grid_waves
from dust3r_ros.network.checkpoint import CONFIG, find_checkpoint, load_checkpoint, pick_device
from dust3r_ros.network.config import GRID_POSITIONS, PATCH, Dust3rConfig
from dust3r_ros.network.model import Dust3r, PairOutput, Tokens

_MOST = 64  # of the free dimensions: batch size, rows and columns of patches
_INSTALL = "exporting to ONNX needs {}; install it with: pip install 'dust3r_ros[onnx]'"


class _Encoder(nn.Module):
    """(B, 3, H, W) and optional terms added to the patches (rows, columns, C) -> (B, rows, columns, C)."""

    def __init__(self, model: Dust3r) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, places: Tensor | None = None) -> Tensor:
        patches = self.model.patch_embed(image)
        if places is not None:
            patches = patches + places.flatten(0, 1)
        grid = (image.shape[2] // PATCH, image.shape[3] // PATCH)
        return self.model.encode_patches(patches, grid).features.unflatten(1, grid)


class _Decoder(nn.Module):
    """(B, rows, columns, C) of both views -> points (B, H, W, 3) and confidence (B, H, W) of both."""

    def __init__(self, model: Dust3r) -> None:
        super().__init__()
        self.model = model

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        one, other = (Tokens(view.flatten(1, 2), (view.shape[1], view.shape[2])) for view in (first, second))
        output = self.model.decode_equal(one, other)
        return tuple(getattr(output, name) for name in OUTPUTS)


def export_onnx(model: Dust3r, folder: str | Path, int8: bool = False) -> None:
    """Write ``config.json``, ``encoder.onnx`` and ``decoder.onnx`` into ``folder``, created if missing.

    The graphs take images of any size in multiples of 16 up to 1024, in batches of up to 64, as ``OnnxDust3r``
    passes them. ``int8``: the matrices are stored in 8 bits and their inputs are quantised at run time (dynamic
    quantisation). A file gets its name only once complete. Raises ``BackendError`` if onnx, onnxscript or, for
    ``int8``, onnxruntime is missing, ``OutputError`` for a folder that cannot be written.
    """
    _check_installed(int8)
    folder, model = Path(folder), model.cpu().float().eval()
    config = model.config
    image = torch.zeros(2, 3, 5 * PATCH, 7 * PATCH)
    first, second = torch.zeros(2, 5, 7, config.enc_embed_dim), torch.zeros(2, 9, 6, config.enc_embed_dim)
    batch = torch.export.Dim("batch", min=1, max=_MOST)
    dims = [torch.export.Dim(name, min=1, max=_MOST) for name in ("rows", "columns", "rows_2", "columns_2")]
    grids = [{0: batch, 1: dims[k], 2: dims[k + 1]} for k in (0, 2)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".onnx.", dir=folder) as work:
            made = Path(work)
            sides = {0: batch, 2: PATCH * dims[0], 3: PATCH * dims[1]}
            encoder = {"image": (image, sides)}
            if config.pos_embed == GRID_POSITIONS:
                encoder["places"] = first[0], {0: dims[0], 1: dims[1]}
            _export(_Encoder(model), encoder, ["features"], made / ENCODER)
            decoder = {"first": (first, grids[0]), "second": (second, grids[1])}
            _export(_Decoder(model), decoder, list(OUTPUTS), made / DECODER)
            for name in (ENCODER, DECODER):
                if int8:
                    _to_int8(made / name)
                shutil.move(made / name, folder / name)
            (made / CONFIG).write_text(config.to_json(), encoding="utf-8")
            (made / CONFIG).replace(folder / CONFIG)
    except OSError as error:
        raise OutputError(f"folder '{folder}' cannot be written: {error}") from error


def _export(module: nn.Module, inputs: dict[str, tuple[Tensor, dict]], outputs: list[str], path: Path) -> None:
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            module,
            tuple(example for example, _ in inputs.values()),
            path,
            dynamo=True,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes={name: free for name, (_, free) in inputs.items()},
            external_data=False,
            verbose=False,
        )


def _to_int8(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = path.with_suffix(".int8")
    with _quiet():
        quantize_dynamic(path, small, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
    small.replace(path)


def _check_installed(int8: bool) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

        if int8:
            import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise BackendError(_INSTALL.format(error.name or "onnx")) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters: nothing in their output helps the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
OUTPUTS = ("points_1", "confidence_1", "points_2", "confidence_2")


def is_onnx(path: Path) -> bool:
    """Whether a folder holds the graphs that ``export_onnx`` writes."""
    return (path / ENCODER).is_file()


class OnnxDust3r:
    """Encoder and decoder from a folder written by ``export_onnx``, with the interface ``Dust3rBackend`` uses.

    ``threads``: per call, 0 for as many as torch uses. Raises ``CheckpointError`` for a folder that cannot be
    used, ``BackendError`` if onnxruntime is missing.
    """

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        folder = Path(folder)
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError(
                f"'{folder}' needs onnxruntime; install it with: pip install 'dust3r_ros[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        # Threads that spin between calls take the cores from the corner trackers
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        for name in (CONFIG, ENCODER, DECODER):
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"checkpoint '{folder}' cannot be used: '{name}' is missing; there must be {CONFIG}, {ENCODER}"
                    f" and {DECODER}"
                )
        self.config = Dust3rConfig.from_json((folder / CONFIG).read_text(encoding="utf-8"))
        self._encoder, self._decoder = (_session(onnxruntime, folder / name, options) for name in (ENCODER, DECODER))

    def encode(self, image: Tensor) -> Tokens:
        """Tokens of normalised images, float (B, 3, H, W) in [-1, 1], H and W multiples of 16.

        Raises ``InputError`` for another shape.
        """
        if image.ndim != 4 or image.shape[1] != 3 or any(side < 1 or side % PATCH for side in image.shape[2:]):
            raise InputError(
                f"image tensor of shape {tuple(image.shape)} cannot be encoded; "
                f"it must be (B, 3, H, W) with H and W multiples of {PATCH}"
            )
        rows, columns = (side // PATCH for side in image.shape[2:])
        inputs = {"image": image.numpy()}
        if self.config.pos_embed == GRID_POSITIONS:
            places = grid_waves(rows, columns, self.config.enc_embed_dim, image.device)
            inputs["places"] = places.unflatten(0, (rows, columns)).numpy()
        (features,) = self._encoder.run(None, inputs)
        return Tokens(torch.from_numpy(features).flatten(1, 2), (rows, columns))

    def decode(self, tokens_1: Tokens, tokens_2: Tokens) -> PairOutput:
        """Pointmaps of the pairs (image i of ``tokens_1``, image i of ``tokens_2``)."""
        inputs = {
            name: tokens.features.unflatten(1, tokens.grid).numpy()
            for name, tokens in (("first", tokens_1), ("second", tokens_2))
        }
        return PairOutput(*(torch.from_numpy(part) for part in self._decoder.run(list(OUTPUTS), inputs)))


def _session(onnxruntime: Any, path: Path, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base class
        text = " ".join(str(error).split())
        raise CheckpointError(f"checkpoint '{path}' is not a graph for ONNX Runtime: {text[:200]}") from error


def load_network(checkpoint: str | Path, device: str = "auto") -> Dust3r | OnnxDust3r:
    """A network on the CPU in evaluation mode, to run on ``device``; ``checkpoint`` as for ``load_checkpoint``, or an
    ONNX folder.

    ONNX graphs run on the CPU, also for "auto". Raises what ``load_checkpoint``, ``OnnxDust3r`` and ``pick_device``
    raise, ``BackendError`` for ONNX graphs on another device.
    """
    path = find_checkpoint(checkpoint)
    if not is_onnx(path):
        pick_device(device)
        return load_checkpoint(path)
    if device not in ("auto", "cpu"):
        raise BackendError(f"device '{device}' cannot run the ONNX graphs of '{path}'; use cpu, or the weights")
    return OnnxDust3r(path)
