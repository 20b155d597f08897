"""The client that has a node save once it is through, against a node made of a status and two services."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from dust3r_ros.msg import MappingStatus
from dust3r_ros.srv import SaveCalibration, SaveMap
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from dust3r_ros.node.interface import OUTPUTS, qos_profile

ROOT = Path(__file__).resolve().parents[3]


class Mapping:
    """Says how many images wait, fewer each time; notes who asks it to save what, and how many waited then."""

    def __init__(self, node: Any, waiting: int, refuses: str = "") -> None:
        self.waiting, self._refuses = waiting, refuses
        self.asked: list[tuple[str, str, int]] = []
        self._publisher = node.create_publisher(MappingStatus, "~/status", qos_profile(OUTPUTS["status"].quality))
        node.create_service(SaveMap, "~/save_map", self._answer("save_map"))
        node.create_service(SaveCalibration, "~/save_calibration", self._answer("save_calibration"))
        node.create_timer(0.3, self._report)

    def _report(self) -> None:
        if self._publisher.get_subscription_count():
            self._publisher.publish(MappingStatus(frames=10 - self.waiting, dropped=3, waiting=self.waiting))
            self.waiting = max(0, self.waiting - 1)

    def _answer(self, name: str) -> Any:
        def answer(request: Any, response: Any) -> Any:
            self.asked.append((name, request.path, self.waiting))
            response.success, response.message = name != self._refuses, f"{name} answered"
            return response

        return answer


@pytest.fixture
def mapping(request: pytest.FixtureRequest) -> Iterator[Mapping]:
    context = Context()
    rclpy.init(context=context, args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("worker", namespace="/fake", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    made = Mapping(node, 3, getattr(request, "param", ""))
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    yield made
    executor.shutdown(timeout_sec=1.0)
    rclpy.shutdown(context=context)
    thread.join(5.0)


def finish(out: Path) -> subprocess.CompletedProcess[str]:
    return run("--node", "/fake/worker", "--out", str(out))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dust3r_ros.node.tools.finish", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_it_saves_when_no_image_waits_any_more(mapping: Mapping, tmp_path: Path) -> None:
    done = finish(tmp_path)
    assert done.returncode == 0, done.stderr
    assert mapping.asked == [
        ("save_map", str(tmp_path / "map.db"), 0),
        ("save_calibration", str(tmp_path / "calibration"), 0),
    ]
    assert "10 images mapped, 3 dropped, 0 refused" in done.stdout and "save_map answered" in done.stdout


@pytest.mark.parametrize("mapping", ["save_map"], indirect=True)
def test_a_refusal_is_reported(mapping: Mapping, tmp_path: Path) -> None:
    done = finish(tmp_path)
    assert done.returncode == 1
    assert "save_map answered" in done.stderr and [name for name, _, _ in mapping.asked] == ["save_map"]


def test_it_waits_for_all_nodes(mapping: Mapping) -> None:
    done = run("--node", "/fake/worker", "/fake/worker")
    assert done.returncode == 0 and not mapping.asked, done.stderr


def test_a_folder_is_for_one_node(tmp_path: Path) -> None:
    done = run("--node", "/one", "/two", "--out", str(tmp_path))
    assert done.returncode == 2 and "--node names 2" in done.stderr
