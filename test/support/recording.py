"""A recorder of calls that works on any device, in place of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from dust3r_ros.network.inference import Recorded


class Recorder:
    """Records as a GPU does: a replay reads the inputs and writes the outputs of the recorded call."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, call: Callable[[], Sequence[Tensor]]) -> Recorded:
        self.recorded += 1
        outputs = [output.clone() for output in call()]

        def replay() -> None:
            for place, value in zip(outputs, call(), strict=True):
                place.copy_(value)

        return replay, outputs
