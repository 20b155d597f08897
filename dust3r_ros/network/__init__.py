"""The DUSt3R network and its checkpoints. Needs torch, which is imported on first use of a name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dust3r_ros.network.checkpoint import load_checkpoint, save_checkpoint
    from dust3r_ros.network.config import Dust3rConfig
    from dust3r_ros.network.inference import normalise
    from dust3r_ros.network.model import Dust3r, PairOutput, Tokens

__all__ = [
    "Dust3r",
    "Dust3rConfig",
    "PairOutput",
    "Tokens",
    "load_checkpoint",
    "normalise",
    "save_checkpoint",
]

_HOMES = {
    "Dust3r": "model",
    "Dust3rConfig": "config",
    "PairOutput": "model",
    "Tokens": "model",
    "load_checkpoint": "checkpoint",
    "normalise": "inference",
    "save_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
