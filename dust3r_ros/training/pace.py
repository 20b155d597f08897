"""The number of steps of a timed run.

A plan is made after a few steps of a stage, when the caches are warm, and renewed as the stage proceeds. The state is
written at once with a new plan, so that a run that is killed and resumed follows the plan of its earlier steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dust3r_ros.training.log import Progress
from dust3r_ros.training.recipe import Recipe

_WARM = 2  # first steps of a stage, which are slower than the others
_FIRST_LOOK = 8  # steps after which the first plan is made
_LOOKS = (0.3, 0.6, 0.8, 0.9)  # shares of a stage's plan after which it is renewed


@dataclass
class Pace:
    """The clock of a run. ``seconds``: its total budget, of which ``reserve`` is kept for the work after training."""

    seconds: float
    reserve: float = 0.0
    _spent: list[float] = field(default_factory=list)
    _stage: int = -1
    _looked: int = 0

    def over(self, elapsed: float) -> bool:
        """Whether training has to end now, after ``elapsed`` seconds of this and earlier sittings."""
        return elapsed >= self.seconds - self.reserve

    def update(self, progress: Progress, recipe: Recipe, elapsed: float, step_seconds: float) -> bool:
        """Record the time of a step and renew the plan of the stage in ``progress`` if it is due; returns whether it
        was.

        The time left is divided among this and the later stages by the recipe's shares.
        """
        stage = progress.stage
        if stage != self._stage:
            self._stage, self._spent, self._looked = stage, [], 0
        self._spent.append(step_seconds)
        looks = [_FIRST_LOOK] + [int(progress.plan[stage] * share) for share in _LOOKS]
        due = sum(progress.within >= look for look in looks)
        if due <= self._looked or len(self._spent) <= _WARM:
            return False
        self._looked = due
        recent = sorted(self._spent[_WARM:][-200:])
        # Among the first steps are some in which a GPU's calls are recorded.
        usual = recent[len(recent) // 2] if self._looked == 1 else sum(recent) / len(recent)
        left = self.seconds - self.reserve - elapsed
        done = min(progress.within / progress.plan[stage], 0.95) if self._looked > 1 else 0.0
        here = recipe.shares[stage] * (1 - done)
        own = here / (here + sum(recipe.shares[stage + 1 :]))
        progress.plan[stage] = progress.within + max(round(own * left / max(usual, 1e-6)), 1)
        return True
