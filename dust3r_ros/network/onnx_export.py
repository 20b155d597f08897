"""The network as two ONNX graphs, encoder and decoder, for ONNX Runtime; weights in int8 where wanted."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from dust3r_ros.errors import BackendError, OutputError
from dust3r_ros.network.checkpoint import CONFIG
from dust3r_ros.network.config import GRID_POSITIONS, PATCH
from dust3r_ros.network.model import Dust3r
from dust3r_ros.network.onnx_model import DECODER, ENCODER, OUTPUTS
from dust3r_ros.network.tokens import Tokens

_MOST = 64  # of any dimension that is free: images at once, rows and columns of patches
_INSTALL = "exporting to ONNX needs {}; install it with: pip install 'dust3r_ros[onnx]'"


class _Encoder(nn.Module):
    """(B, 3, H, W) and what is added to the patches (rows, columns, C), if anything -> (B, rows, columns, C)."""

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
    """Writes ``config.json``, ``encoder.onnx`` and ``decoder.onnx`` into ``folder``, which is made when missing.

    The graphs take images of any size in multiples of 16 up to 1024 and any number of them up to 64, as
    ``OnnxDust3r`` hands them over. ``int8``: the matrices are stored in 8 bits and what they are multiplied
    with is rounded on the way (dynamic quantisation). Only whole files get their names. Raises ``BackendError``
    when onnx, onnxscript or, for ``int8``, onnxruntime is missing, ``OutputError`` for a folder that cannot be written.
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
    """The exporters' own talk says nothing that a user could do."""
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
