"""Speed and memory."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.protocols.cost import Cost, rate


def test_a_rate_by_hand() -> None:
    """30 in 1.5 s are 20 per second."""
    assert rate(30, 1.5) == 20.0
    assert rate(0, 1.0) == 0.0


@pytest.mark.parametrize(("count", "seconds"), [(1, 0.0), (1, -1.0), (1, math.nan), (1, math.inf), (-1, 1.0)])
def test_what_is_no_rate_is_refused(count: int, seconds: float) -> None:
    with pytest.raises(InputError, match="not a rate"):
        rate(count, seconds)


def test_only_what_is_timed_counts_and_it_adds_up() -> None:
    cost = Cost()
    time.sleep(0.05)
    assert cost.seconds == 0.0
    with cost.timed():
        time.sleep(0.01)
    first = cost.seconds
    with pytest.raises(ZeroDivisionError), cost.timed():
        time.sleep(0.01)
        1 / 0  # noqa: B018
    assert first >= 0.01 and cost.seconds >= first + 0.01


def peak_can_be_reset() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return "VmHWM:" in Path("/proc/self/status").read_text()
    except OSError:
        return False


def test_the_peak_is_of_what_was_held_meanwhile() -> None:
    resets = peak_can_be_reset()
    earlier = np.ones(40_000_000)  # 320 MB, gone before the second one starts
    first = Cost()
    held = first.peak_memory_mb
    del earlier
    second = Cost()
    before = second.peak_memory_mb
    if resets:
        assert before < held - 200
    block = np.ones(20_000_000)
    assert second.peak_memory_mb > before + (100 if resets else -1)
    assert block.sum() == 20_000_000


def test_without_cuda_in_use_there_is_no_device_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether torch is not loaded, or loaded and has not touched a device."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert Cost().peak_device_mb is None
    cuda = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert Cost().peak_device_mb is None


def test_cuda_in_use_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for torch: two devices, 300 and 200 MB."""

    class Cuda:
        reset: list[int] = []  # noqa: RUF012
        waited = 0

        is_initialized = staticmethod(lambda: True)
        device_count = staticmethod(lambda: 2)
        max_memory_allocated = staticmethod(lambda index: (300_000_000, 200_000_000)[index])
        reset_peak_memory_stats = staticmethod(lambda index: Cuda.reset.append(index))

        @staticmethod
        def synchronize() -> None:
            Cuda.waited += 1

    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=Cuda))
    cost = Cost()
    with cost.timed():
        pass
    assert cost.peak_device_mb == 500.0
    assert Cuda.reset == [0, 1] and Cuda.waited == 2
