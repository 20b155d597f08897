"""Worlds drawn up by other processes: the same, in order, and told when one is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.training.on_device.makers import Makers

ROOT = Path(__file__).resolve().parents[3]


def test_what_comes_does_not_depend_on_who_makes_it() -> None:
    with closing(Makers((0, 0), 3, step=2)) as alone, closing(Makers((0, 0), 3, step=2, workers=1, ahead=2)) as helped:
        for expected in (3, 5):
            (number, one), (other_number, other) = alone.blueprint(), helped.blueprint()
            assert number == other_number == expected
            assert one.materials == other.materials
            assert np.array_equal(one.light, other.light) and np.array_equal(one.charts.paint, other.charts.paint)
            name = one.materials[0]
            assert np.array_equal(alone.material(*name), helped.material(*name))


def test_a_process_that_is_ended_is_reported() -> None:
    with closing(Makers((0, 0), 0, workers=1)) as makers:
        makers.blueprint()
        assert makers._pool is not None
        for process in makers._pool._processes.values():
            os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(InputError, match=r"ended from outside.*--workers"):
            for _ in range(50):
                makers.blueprint()


def test_processes_know_no_torch() -> None:
    code = "import sys, dust3r_ros.training.on_device.makers; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
