"""benchmarks/walks.py: its walks are possible, exact and of the pace they claim; its table hides nothing."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/walks.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script(SCRIPT, "walks_benchmark")


@pytest.fixture(scope="module")
def world(bench: ModuleType) -> object:
    return bench.make_world(bench._SEED, 0, "room")


@pytest.mark.parametrize("motion", ["around", "sideways", "forward", "looking about", "strolling"])
def test_paths_are_smooth_and_lead_through_nothing(bench: ModuleType, world: object, motion: str) -> None:
    rng = np.random.default_rng(0)
    eye = bench.eye_of(80, 60, 60.0, np.eye(4))
    for _ in range(100):
        path = bench._path(rng, world, motion)
        flow = bench._flow(world, eye, path)
        if flow is not None:
            break
    assert flow is not None, "a room is large enough"
    assert not world.scenery.shapes.holds(path[:, :3, 3], 0.0).any()
    assert np.all(np.diff(flow[0]) >= 0) and 0 < flow[1] < flow[0][-1]
    assert np.diff(flow[0]).max() < 10 * np.diff(flow[0]).mean()
    ends = bench.resampled(path, np.array([0.0, len(path) - 1.0]))
    np.testing.assert_allclose(ends, path[[0, -1]], atol=1e-9)


def test_a_walk_is_the_same_each_time_and_as_fast_as_it_says(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_SIZES", [(120, 90)])
    monkeypatch.setattr(bench, "_IMAGES", (15, 30))
    calm, again, brisk = (bench.make_walk(0, pace) for pace in ("calm", "calm", "brisk"))
    assert len(calm.images) == len(calm.w_T_c) >= 15 and calm.images[0].shape == (90, 120, 3)
    assert all(np.array_equal(*pair) for pair in zip(calm.images, again.images, strict=True))
    assert len(brisk.images) <= len(calm.images) and calm.layout == "room"


def test_a_phone_shows_what_its_lens_and_its_shutter_make_of_the_world(bench: ModuleType, world: object) -> None:
    """Straight lines bend, the centre is off, and what passes leans."""
    eye, at_once = bench.eye_of(160, 120, 100.0, np.eye(4)), bench.Phone(-0.2, np.array([4.0, -3.0]), 0.0)
    wide, sources = at_once.sources(eye)
    assert sources.shape == (120, 160, 2) and wide.focal == eye.focal
    middle = (np.array([wide.width, wide.height]) - 1) / 2
    np.testing.assert_allclose(sources[56:58, 83:85].mean(axis=(0, 1)) - middle, [0.0, 0.0], atol=0.01)
    bent = sources[0, 83] - middle
    assert bent[1] < -60.0 and sources.min() >= 0 and np.all(sources.max(axis=(0, 1)) <= 2 * middle)
    upwards = -bent[1] / 100.0
    assert upwards * (1 - 0.2 * upwards**2) == pytest.approx(0.565, abs=0.001), "0.565 = 56.5 / 100, at the first row"
    drawn = [bench._draw_phone(np.random.default_rng(k), eye) for k in range(40)]
    assert 0.1 < np.mean([phone.readout == 0 for phone in drawn]) < 0.45
    assert all(phone.readout == 0 or 0.005 <= phone.readout <= 0.03 for phone in drawn)


def test_a_phone_on_a_walk_is_where_it_says_in_the_middle_of_the_readout(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_SIZES", [(120, 90)])
    monkeypatch.setattr(bench, "_IMAGES", (6, 6))
    monkeypatch.setattr(bench, "_draw_phone", lambda rng, eye: bench.Phone(0.0, np.zeros(2), 0.04))
    monkeypatch.setattr(bench, "photograph", lambda image, exposure, rng: image)
    rolled, plain = bench.make_walk(1, "calm", "phone"), bench.make_walk(1, "calm")
    np.testing.assert_array_equal(rolled.w_T_c, plain.w_T_c)
    off = np.mean(
        [np.abs(a.astype(float) - b) for a, b in zip(rolled.images, plain.images, strict=True)], axis=(0, 2, 3)
    )
    assert off[40:50].mean() < 0.6 * min(off[:15].mean(), off[-15:].mean())


def test_the_table_names_what_went_wrong(bench: ModuleType) -> None:
    good = bench.Row("0 room", "room", "around", "calm", "pinhole", 40, 20, 1.0, 0.001, 0.002, 0.01, False, 5.0)
    bent = replace(good, name="8 park", layout="park", pace="brisk", error=0.2, focal=-0.05, posed=0.9)
    lost = replace(bent, name="9 park", error=float("nan"), said=True)
    table = bench.table([good, bent, lost], {"cores": 2, "processor": "p"})
    assert "| calm | 1 | 100% | 0.10% | 100% | 0 | 0 |" in table
    assert "| park | 2 | 90% |" in table and "| 0% | 2 | 1 | 5.00% | 0% | 0% | 5.0 |" in table
    assert table.index("- 9 park, around, brisk, pinhole: error nan%") < table.index(
        "- 8 park, around, brisk, pinhole: error 20.0%"
    )
    assert "- 0 room" not in table and "2 cores of p" in table


def test_a_walk_is_mapped_and_drawn(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")
    monkeypatch.setattr(bench, "_SIZES", [(320, 240)])
    monkeypatch.setattr(bench, "_IMAGES", (10, 12))
    (tmp_path / "pictures").mkdir()
    monkeypatch.setattr(bench, "_measured", lambda measure, numbers: map(measure, numbers))
    page = tmp_path / "page.md"
    page.write_text(f"{bench.BEGIN}\n{bench.END}\n")
    monkeypatch.setattr(sys, "argv", ["walks.py", "--cases", "0 room", "--out", str(tmp_path), "--page", str(page)])
    assert bench.main() == 0
    assert "| room | 1 |" in page.read_text() and (tmp_path / "pictures/walks.jpg").is_file()
