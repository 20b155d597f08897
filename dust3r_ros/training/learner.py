"""The network in training: one optimisation step, the averaged weights, and the complete state."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dust3r_ros.network.heads import Raster
from dust3r_ros.network.inference import CallGraphs, Record, is_out_of_memory, pick_precision, record_on_gpu, uncompile
from dust3r_ros.network.model import Dust3r
from dust3r_ros.training.batches import PairBatch
from dust3r_ros.training.optimiser import Average, clip, make_optimiser
from dust3r_ros.training.processes import Processes, others_named
from dust3r_ros.training.recipe import Recipe
from dust3r_ros.training.tasks import AnyTask, PairTask, make_task, supervised


@dataclass(frozen=True)
class Step:
    """Result of a step over all processes: mean ``loss`` and ``regression``, the gradient's ``norm``, whether the
    weights were updated (``good``; else something was not finite), the number of samples ``skipped``, and how many
    processes made each request (``asked``).
    """

    loss: float
    regression: float
    norm: float
    good: bool
    skipped: int
    asked: tuple[bool, ...]


class Learner:
    """Model, task, optimiser and average of one stage; ``before``: the task of the stage before, if there was one."""

    def __init__(
        self,
        recipe: Recipe,
        model: Dust3r,
        device: torch.device,
        processes: Processes,
        task: str = "pairs",
        before: AnyTask | None = None,
    ) -> None:
        self.recipe, self.device, self.processes = recipe, device, processes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.task = make_task(task, model, recipe).to(device)
        if before is not None:
            self.task.follow(before)
        model.checkpointing = recipe.checkpointing
        self._half = precision(recipe, device) == "bfloat16"
        self.optimiser = make_optimiser(recipe.optimiser, self.task, recipe.decay, recipe.betas, self._half)
        self.average = Average(self.task, recipe.ema)
        self._run: nn.Module = self.task
        if processes.world > 1:
            with others_named():
                self._run = DistributedDataParallel(self.task)
        self._graphs: CallGraphs | None = None
        self._gradients: list[tuple[nn.Parameter, Tensor]] = []
        self._compiled = False
        self.uncompiled = ""  # why the network is not compiled although it could be
        if device.type == "cuda" and processes.world == 1 and not recipe.checkpointing and task == "pairs":
            self.record(record_on_gpu(device), "inductor")

    def step(self, batch: PairBatch, rate: float, asks: Sequence[bool] = ()) -> Step:
        """One step at a learning ``rate``. A batch whose loss or gradient is not finite changes nothing.

        ``asks``: requests of this process, shared with all processes in the same exchange (equally many in each).

        Raises ``TrainingError`` when another process is lost.
        """
        self.task.train()
        self.optimiser.set_rate(rate)
        skipped, batch = len(batch.skipped), batch.to(self.device)
        total, regression = self._recorded(batch) if self._graphs else self._backward(batch)
        norm = clip((value for value in self.task.parameters() if value.grad is not None), self.recipe.clip)
        loss, plain, length = torch.stack((total, regression, norm.detach())).double().tolist()
        bad = not all(map(_finite, (loss, plain, length)))
        # All decide alike: by now the gradients are the same in all processes, unlike the losses.
        sums = self.processes.total(
            [0.0 if bad else loss, 0.0 if bad else plain, float(bad), float(skipped), *map(float, asks)], self.device
        )
        world = self.processes.world
        good = sums[2] == 0
        if good:
            self.optimiser.step()
            self.average.update(self.task)
        mean = (sums[0] / world, sums[1] / world) if good else (float("nan"),) * 2
        return Step(*mean, length, good, int(sums[3]), tuple(value > 0 for value in sums[4:]))

    def record(self, record: Record, compiler: str = "") -> None:
        """Record losses and gradients once for each size of batch and raster, by ``record``, and replay them. The
        network's blocks are compiled before by ``compiler``, a backend of ``torch.compile``, where that works.

        A step has thousands of operations, and a GPU computes most of them faster than a host launches them. Most of
        the time of a narrow network is spent on reading and writing what compiled blocks keep in registers.
        """
        self._graphs, self._compiled = CallGraphs(record), bool(compiler)
        if compiler:
            assert isinstance(self.task, PairTask)
            _compile(self.task, compiler)

    def _recorded(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """As ``_backward``."""
        assert self._graphs is not None and isinstance(self.task, PairTask)
        if not self._gradients:
            losses = self._first(batch)
            self._gradients = [(value, value.grad) for value in self.task.parameters() if value.grad is not None]
            return losses
        for value, gradient in self._gradients:
            value.grad = gradient  # a replay fills this one

        def call(*own: Tensor) -> Sequence[Tensor]:
            torch._foreach_zero_([gradient for _, gradient in self._gradients])
            return self._losses(PairBatch(**dict(zip(tensors, own, strict=True)), skipped=()), raster)

        raster, tensors = self.task.raster(), batch._tensors()
        total, regression = self._graphs(raster, call, *tensors.values())
        return total, regression

    def _first(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """As ``_backward``; without compiled blocks, if compiling fails."""
        before = torch.random.get_rng_state()
        try:
            return self._backward(batch)
        except Exception as error:  # the compiler may raise anything
            if not self._compiled or is_out_of_memory(error):
                raise
            self.uncompiled = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        uncompile(self.task.model)
        torch.random.set_rng_state(before)
        return self._backward(batch)

    def _backward(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Losses of a batch; gradients are left in the parameters."""
        self.optimiser.zero_grad()
        return self._losses(batch)

    def _losses(self, batch: PairBatch, *given: Raster) -> tuple[Tensor, Tensor]:
        with others_named():
            with self.autocast():
                total, regression = self._run(batch, *given)
            total.backward()
        return total.detach(), regression.detach()

    def autocast(self) -> torch.autocast:
        """bfloat16 if the recipe asks for it; heads and losses stay in float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._half)

    def judge(self) -> AnyTask:
        """A copy of the task with the averaged weights, for evaluation."""
        self.optimiser.zero_grad()  # gradients would be copied too
        task = copy.deepcopy(self.task)
        self.average.copy_to(task)
        return task.eval()

    def result(self) -> Dust3r:
        """A network with the averaged weights, on the CPU, for storing."""
        task = self.judge().cpu()
        return task.finish(task.model)

    def state(self) -> dict[str, Any]:
        """Everything needed to continue; tensors are not copied."""
        return {
            "task": self.task.state_dict(),
            "average": self.average.state(),
            "updates": self.average.updates,
            "optimiser": self.optimiser.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from the ``state`` of a learner of the same stage."""
        self.task.load_state_dict(state["task"])
        self.average.load(state["average"], state["updates"])
        self.optimiser.load_state_dict(state["optimiser"])


def _compile(task: PairTask, compiler: str) -> None:
    """Blocks as a whole, so that all of a kind share their code; those whose cross-attention is supervised in parts,
    since the inputs of that one are read.
    """
    model = task.model
    parts: list[nn.Module] = list(model.enc_blocks)
    for blocks in (model.dec_blocks, model.dec_blocks2):
        count = supervised(model) if task.matching > 0 else 0
        parts += [getattr(block, name) for block in blocks[:count] for name in ("attn", "mlp")]
        parts += blocks[count:]
    for part in parts:
        part.compile(backend=compiler, dynamic=False)


def precision(recipe: Recipe, device: torch.device) -> str:
    """float32 or bfloat16: the recipe's, or with auto the faster one on this device."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bfloat16" if pick_precision("auto", device) == torch.bfloat16 else "float32"


def _finite(value: float) -> bool:
    return value - value == 0.0
