"""How far a run is: what is counted, and how many steps its stages have."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from dust3r_ros.training.recipe import Recipe


@dataclass
class Progress:
    """``step`` counts all steps, ``within`` those of ``stage``; ``position`` the pairs that came before the next
    batch; ``stage_start`` is the position of the stage's first pair. ``plan``: steps of every stage.

    ``bad`` batches without a finite gradient, ``bad_in_row`` of them just now; ``skipped`` samples that could not be
    used; ``seconds`` of training and ``waiting`` of these for data.
    """

    plan: list[int] = field(default_factory=list)
    step: int = 0
    stage: int = 0
    within: int = 0
    position: int = 0
    stage_start: int = 0
    bad: int = 0
    bad_in_row: int = 0
    skipped: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether every stage is behind."""
        return self.stage >= len(self.plan)

    @property
    def stage_done(self) -> bool:
        """Whether the stage has had its steps."""
        return self.within >= self.plan[self.stage]

    @property
    def total(self) -> int:
        """Steps of the whole run, as planned now."""
        return sum(self.plan)

    def next_stage(self) -> None:
        """Begin the next stage."""
        self.stage, self.within, self.stage_start = self.stage + 1, 0, self.position

    def count(self, pairs: int, good: bool) -> None:
        """One step more, of ``pairs`` pairs of all processes."""
        self.step, self.within, self.position = self.step + 1, self.within + 1, self.position + pairs
        self.bad, self.bad_in_row = self.bad + (not good), 0 if good else self.bad_in_row + 1

    def as_mapping(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)


UNKNOWN = 200
"""Steps of a stage in a run that is given a time, while its speed is not known."""


def planned(recipe: Recipe, steps: int | None = None, timed: bool = False) -> list[int]:
    """Steps of every stage: the recipe's, or ``steps`` altogether, shared out as the recipe's are.

    Of a ``timed`` run they are not known yet.
    """
    if timed:
        return [UNKNOWN] * len(recipe.stages)
    own = [stage.steps for stage in recipe.stages]
    if steps is None:
        return own
    ends = [round(steps * sum(own[: number + 1]) / sum(own)) for number in range(len(own))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
