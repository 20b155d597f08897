"""A network by what its checkpoint is: weights for torch, or graphs for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import torch

from dust3r_ros.errors import BackendError
from dust3r_ros.network.checkpoint import find_checkpoint, load_checkpoint, pick_device
from dust3r_ros.network.model import Dust3r
from dust3r_ros.network.onnx import OnnxDust3r, is_onnx


def load_network(checkpoint: str | Path, device: str = "auto") -> tuple[Dust3r | OnnxDust3r, torch.device]:
    """A network in evaluation mode and where it runs; ``checkpoint`` as for ``load_checkpoint``, or an ONNX folder.

    ONNX graphs run on the CPU: for "auto" too. Raises what ``load_checkpoint`` and ``OnnxDust3r`` raise.
    """
    path = find_checkpoint(checkpoint)
    if not is_onnx(path):
        target = pick_device(device)
        return load_checkpoint(path, str(target)), target
    if device not in ("auto", "cpu"):
        raise BackendError(f"device '{device}' does not run the ONNX graphs of '{path}'; use cpu, or the weights")
    return OnnxDust3r(path), torch.device("cpu")
