"""The processes of a training run, as started by torchrun (one per GPU, or several on a CPU)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from dust3r_ros.errors import ConfigError, TrainingError

_PATIENCE = timedelta(minutes=5)  # a process silent for this long counts as dead


@dataclass(frozen=True)
class Processes:
    """This process among ``world`` of them; ``rank`` 0 writes the files."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """The device of this process: its own of several GPUs."""
        return torch.device("cuda", self.local) if device.type == "cuda" and self.world > 1 else device

    def total(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Sums of ``values`` over all processes, the same in each."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        with others_named():
            dist.all_reduce(tensor)
        return tensor.tolist()

    def broadcast(self, value: Any) -> Any:
        """The first process's ``value``."""
        if self.world == 1:
            return value
        box = [value]
        with others_named():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """``value`` of every process, by rank."""
        if self.world == 1:
            return [value]
        box: list[Any] = [None] * self.world
        with others_named():
            dist.all_gather_object(box, value)
        return box


@contextmanager
def joined(cuda: bool) -> Iterator[Processes]:
    """This process among the others, from the environment that torchrun sets; alone without it.

    Raises ``ConfigError`` for an incomplete environment and ``TrainingError`` when the others do not join.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Processes()
        return
    try:
        rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError) as error:
        raise ConfigError(f"WORLD_SIZE is set but {error} is not as torchrun sets it; start with torchrun") from error
    if cuda:
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=world, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise TrainingError(f"process {rank} of {world} did not find the others: {line}") from error
    yield Processes(rank, world, local)
    dist.destroy_process_group()  # not after an error: it would wait for lost processes


@contextmanager
def others_named() -> Iterator[None]:
    """Turns a communication error in its block into a ``TrainingError`` that says what happened."""
    try:
        yield
    except RuntimeError as error:  # torch's DistBackendError and gloo's errors are RuntimeErrors
        line = " ".join(str(error).split())
        if dist.is_initialized() and any(
            word in line.lower()
            for word in ("connection", "gloo", "nccl", "timed out", "peer", "socket", "broken pipe")
        ):
            raise TrainingError(
                f"another process of this training is gone, so this one (rank {dist.get_rank()}) ends too; "
                f"continue with --resume ({line[:160]})"
            ) from error
        raise
