"""Deterministic weights: the recipe that the reference outputs were made with."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_SMALL = ("head.4.weight", "downstream_head1.proj.weight", "downstream_head2.proj.weight")


def recipe(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of one tensor, float32."""
    name = re.sub(r"layer_rn\.(\d)", lambda match: f"layer{int(match[1]) + 1}_rn", name)
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if len(shape) >= 2:
        gain = np.float32(0.1 if name.endswith(_SMALL) else 1.0)
        return values * gain / np.float32(math.sqrt(math.prod(shape[1:])))
    return 1 + np.float32(0.1) * values if name.endswith(".weight") else np.float32(0.02) * values


@pytest.fixture(scope="session")
def make_weights() -> Callable[[str, tuple[int, ...]], np.ndarray]:
    """``recipe`` for the tests."""
    return recipe


@pytest.fixture(scope="session")
def architectures(shared: Path) -> Mapping[str, Any]:
    """{network: {args, n_params, tensors: {name: shape}}} of tiny and published networks."""
    return json.loads((shared / "fixtures" / "state_dict_shapes.json").read_text())


@pytest.fixture(scope="session")
def make_state(architectures: Mapping[str, Any]) -> Callable[[str], dict[str, Any]]:
    """The state dict of a network as its ``.pth`` holds it, both names of a shared tensor included."""
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def make(network: str) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for name, shape in architectures[network]["tensors"].items():
            match = re.fullmatch(r"(.+)\.layer_rn\.(\d)\.weight", name)
            first = f"{match[1]}.layer{int(match[2]) + 1}_rn.weight" if match else name
            state[name] = state[first] if first in state else torch.from_numpy(recipe(name, tuple(shape)))
        return state

    return make


@pytest.fixture(scope="session")
def write_pth(
    architectures: Mapping[str, Any], make_state: Callable[[str], dict[str, Any]]
) -> Callable[[Path, str], Path]:
    """Writes a checkpoint in the published layout; ``args`` and ``state`` replace parts of it."""
    import argparse

    import torch

    def write(path: Path, network: str, *, args: str | None = None, state: dict[str, Any] | None = None) -> Path:
        content = {
            "args": argparse.Namespace(model=args or architectures[network]["args"]),
            "model": make_state(network) if state is None else state,
            "epoch": 0,
        }
        torch.save(content, path)
        return path

    return write


@pytest.fixture(scope="session")
def networks(write_pth: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The tiny networks, loaded from ``.pth`` files in the published layout."""
    import torch

    from dust3r_ros.network import load_checkpoint

    torch.set_num_threads(1)  # tiny networks: more threads mostly wait for each other
    folder = tmp_path_factory.mktemp("checkpoints")
    loaded = {}
    for name in ("tiny_linear", "tiny_dpt"):
        path = write_pth(folder / f"{name}.pth", name)
        loaded[name] = load_checkpoint(path)
        path.unlink()  # 158 MB; the network must not need its file any more
    return loaded
