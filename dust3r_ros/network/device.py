"""Where the network runs."""

from __future__ import annotations

import torch

from dust3r_ros.errors import BackendError


def pick_device(name: str) -> torch.device:
    """``name`` as a device: "cpu", "cuda", "cuda:N", or "auto" for CUDA when there is one.

    Raises ``BackendError`` for a name that torch does not know or CUDA that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"device '{name}' is not known; it must be auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"device '{name}' is not supported; it must be auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(
            f"device '{name}' is not there: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices; "
            "use cpu or install torch with CUDA"
        )
    return device
