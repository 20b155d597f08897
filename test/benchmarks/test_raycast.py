"""The benchmark of the ray caster measures what it says and tells what bounds it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from dust3r_ros.scenes.endless.worlds import make_world
from scripts import script

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.training.raycast import Raycaster, cameras  # noqa: E402


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "raycast.py"
    return script(path, "raycast_benchmark")


def test_stages_of_a_render_add_up(benchmark: ModuleType) -> None:
    world = make_world((11, 0), 0, "jumble")
    eyes = benchmark.square_eyes(world, 3, 32)
    assert [(eye.width, eye.height) for eye in eyes] == [(32, 32)] * 3
    shares = benchmark.stages(Raycaster(world.scenery), cameras(eyes), lambda: None)
    assert list(shares) == ["cameras", "cast", "places", "outlines", "colours"]
    assert sum(shares.values()) == pytest.approx(1)
    assert benchmark.bandwidth(torch.device("cpu"), lambda: None) > 1e8


@pytest.mark.parametrize("moved, words", [(0.9, "bound by memory traffic"), (0.1, "not by memory traffic")])
def test_the_report_gives_rates_and_what_bounds_them(benchmark: ModuleType, moved: float, words: str) -> None:
    row = {"world": "room", "shapes": 5, "numpy": 10.0, "casts_per_pixel": 3.0, "bandwidth_of_cast": moved}
    row |= {"stages": {"cast": 0.6, "colours": 0.4}}
    rows = [row | {"torch": 20.0}, row | {"torch": 60.0}]
    pairs = {"numpy": 21.0, "torch": 34.0}
    text = benchmark.report({"device": "CPU", "bytes_per_second": 1e10, "pairs": pairs, "rows": rows})
    assert "30.0 pairs/s over all kinds" in text and "2.00 x" in text and words in text
    assert "one process: numpy 21.0, torch 34.0 pairs/s" in text
