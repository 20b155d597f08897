"""The network run by ONNX Runtime: the same calls as ``Dust3r``, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dust3r_ros.errors import BackendError, CheckpointError, InputError
from dust3r_ros.network.checkpoint import CONFIG
from dust3r_ros.network.config import GRID_POSITIONS, PATCH, Dust3rConfig
from dust3r_ros.network.model import PairOutput
from dust3r_ros.network.positions import grid_waves
from dust3r_ros.network.tokens import Tokens

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
OUTPUTS = ("points_1", "confidence_1", "points_2", "confidence_2")


def is_onnx(path: Path) -> bool:
    """Whether a folder holds the graphs that ``export_onnx`` writes."""
    return (path / ENCODER).is_file()


class OnnxDust3r:
    """Encoder and decoder of a folder that ``export_onnx`` wrote, as ``Dust3rBackend`` calls them.

    ``threads``: of one call, 0 for as many as torch has. Raises ``CheckpointError`` for a folder that cannot be
    used, ``BackendError`` when onnxruntime is missing.
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
        # Threads that spin between calls take the cores from those that track corners
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
    except Exception as error:  # its errors share no base
        text = " ".join(str(error).split())
        raise CheckpointError(f"checkpoint '{path}' is no graph of ONNX Runtime: {text[:200]}") from error
