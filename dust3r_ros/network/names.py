"""Names of the tensors in checkpoint files against those of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from dust3r_ros.errors import CheckpointError

State = dict[str, Tensor]

_STORED_TWICE = re.compile(r"(?P<scratch>.+\.scratch)\.layer_rn\.(?P<index>[0-3])\.weight")
_ALIASED = re.compile(r"(?P<scratch>.+\.scratch)\.layer(?P<number>[1-4])_rn\.weight")


def aliases(names: Iterable[str]) -> dict[str, str]:
    """{second name: name} of the tensors that a ``.pth`` holds under two names."""
    found = {}
    for name in names:
        if match := _ALIASED.fullmatch(name):
            found[f"{match['scratch']}.layer_rn.{int(match['number']) - 1}.weight"] = name
    return found


def to_model(state: State) -> State:
    """A checkpoint's tensors under the model's names.

    Second names are folded into the first; a missing second decoder starts as a copy of the first
    (weights of the pretraining). Raises ``CheckpointError`` when both names of a tensor differ in content.
    """
    renamed = {}
    for name, tensor in state.items():
        if match := _STORED_TWICE.fullmatch(name):
            first = f"{match['scratch']}.layer{int(match['index']) + 1}_rn.weight"
            if first in state and not _equal(state[first], tensor):
                raise CheckpointError(f"'{name}' and '{first}' differ; they must be one tensor")
            name = first
        renamed[name] = tensor
    if not any(name.startswith("dec_blocks2.") for name in renamed):
        for name in [name for name in renamed if name.startswith("dec_blocks.")]:
            renamed[name.replace("dec_blocks.", "dec_blocks2.", 1)] = renamed[name]
    return renamed


def _equal(a: Tensor, b: Tensor) -> bool:
    # Twice in one .pth they are one storage: nothing to compare then.
    return a.shape == b.shape and a.dtype == b.dtype and (a.data_ptr() == b.data_ptr() or torch.equal(a, b))
