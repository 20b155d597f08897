"""The network in training: one optimisation step, the averaged weights, and the complete state."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dust3r_ros.network.inference import pick_precision
from dust3r_ros.network.model import Dust3r
from dust3r_ros.training.batches import PairBatch
from dust3r_ros.training.compiling import try_compiled
from dust3r_ros.training.optimiser import Average, clip, make_optimiser
from dust3r_ros.training.processes import Processes, others_named
from dust3r_ros.training.recipe import Recipe
from dust3r_ros.training.tasks import CompletionTask, PairTask, make_task


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
    """Model, task, optimiser and average of one stage."""

    def __init__(
        self, recipe: Recipe, model: Dust3r, device: torch.device, processes: Processes, task: str = "pairs"
    ) -> None:
        self.recipe, self.device, self.processes = recipe, device, processes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.task = make_task(task, model, recipe).to(device)
        model.checkpointing = recipe.checkpointing
        self._half = precision(recipe, device) == "bfloat16"
        self.optimiser = make_optimiser(recipe.optimiser, self.task, recipe.decay, recipe.betas, self._half)
        self.average = Average(self.task, recipe.ema)
        self._run: nn.Module = self.task
        if processes.world > 1:
            with others_named():
                self._run = DistributedDataParallel(self.task)
        self._untried = recipe.compiled
        self.uncompiled = ""  # why the network is not compiled although the recipe asks for it

    def step(self, batch: PairBatch, rate: float, asks: Sequence[bool] = ()) -> Step:
        """One step at a learning ``rate``. A batch whose loss or gradient is not finite changes nothing.

        ``asks``: requests of this process, shared with all processes in the same exchange (equally many in each).

        Raises ``TrainingError`` when another process is lost.
        """
        self.task.train()
        self.optimiser.set_rate(rate)
        self.optimiser.zero_grad()
        skipped, batch = len(batch.skipped), batch.to(self.device)
        if self._untried:
            self._untried = False
            self.uncompiled = try_compiled(self.task.model, lambda: self._backward(batch))
            self.optimiser.zero_grad()
        total, regression = self._backward(batch)
        norm = clip((value for value in self.task.parameters() if value.grad is not None), self.recipe.clip)
        loss, plain, length = torch.stack((total.detach(), regression.detach(), norm.detach())).double().tolist()
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

    def _backward(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Losses of a batch; gradients are left in the parameters."""
        with others_named():
            with self.autocast():
                total, regression = self._run(batch)
            total.backward()
        return total, regression

    def autocast(self) -> torch.autocast:
        """bfloat16 if the recipe asks for it; heads and losses stay in float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._half)

    def judge(self) -> PairTask | CompletionTask:
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


def precision(recipe: Recipe, device: torch.device) -> str:
    """float32 or bfloat16: the recipe's, or with auto the faster one on this device."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bfloat16" if pick_precision("auto", device) == torch.bfloat16 else "float32"


def _finite(value: float) -> bool:
    return value - value == 0.0
