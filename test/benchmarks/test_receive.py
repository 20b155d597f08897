"""benchmarks/receive.py: two processes, real DDS, and the table."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from scripts import script

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")

from dust3r_ros.node import image_losses

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/receive.py"


@pytest.fixture(scope="module")
def receiving() -> Iterator[ModuleType]:
    path = list(sys.path)
    module = script(SCRIPT, "receive_benchmark")
    yield module
    del sys.modules[module.__name__]
    sys.path[:] = path


@pytest.fixture(autouse=True)
def environment_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        monkeypatch.setenv(name, "0")  # measure sets them


@pytest.mark.parametrize("serialised", [pytest.param(False, marks=pytest.mark.long), True])
def test_with_room_in_shared_memory_best_effort_images_arrive(receiving: ModuleType, serialised: bool) -> None:
    row = receiving.measure(receiving.Row("best_effort", profiled=True, serialised=serialised), 1.0, 20.0)
    assert row["arrived"] > 60, "of the default settings, a third arrives"
    assert 0 < row["p50_ms"] <= row["p95_ms"] and 0 < row["processor"] <= 100
    line = receiving.table([row]).splitlines()[-1]
    assert line.startswith("| best effort, fastdds.xml | as this node") and ("serialised" in line) == serialised


@pytest.mark.long
def test_with_room_in_sockets_those_of_default_settings_arrive(receiving: ModuleType) -> None:
    if not image_losses.sockets_hold_images():
        pytest.skip("Linux lets no socket hold an image here: net.core.rmem_max is small")
    assert receiving.measure(receiving.Row("best_effort"), 2.0, 20.0)["arrived"] > 90
