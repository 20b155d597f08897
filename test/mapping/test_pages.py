"""Arrays that move to a file when memory is full."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.mapping.pages import Pages

SHAPE = (240, 320)


def noise(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_what_fits_into_memory_stays_as_it_is(tmp_path: Path) -> None:
    pages, values = Pages(1.0, str(tmp_path / "missing")), noise(0)
    assert pages.keep(values) is values and pages.keep(values) is values
    assert pages.in_memory_mb == pytest.approx(values.nbytes / 2**20) and pages.on_disk_mb == 0
    del values
    gc.collect()
    assert pages.in_memory_mb == 0


def test_what_does_not_fit_is_the_same_from_the_file(tmp_path: Path) -> None:
    pages = Pages(0.0, str(tmp_path))
    kept = [pages.keep(noise(seed)) for seed in range(300)]  # more than a chunk
    pages.trim()
    assert all(pages.keep(values) is values for values in kept), "they are there"
    for seed, values in enumerate(kept):
        assert values.dtype == np.float32 and np.array_equal(values, noise(seed))
    assert pages.on_disk_mb == pytest.approx(300 * kept[0].nbytes / 2**20) and pages.in_memory_mb == 0
    assert not list(tmp_path.iterdir()), "the file has no name"


def test_what_is_put_away_goes_to_the_file_at_once(tmp_path: Path) -> None:
    pages, values = Pages(512.0, str(tmp_path)), noise(0)
    away = pages.put_away(values)
    assert away is not values and np.array_equal(away, values)
    assert pages.in_memory_mb == 0 and pages.on_disk_mb == pytest.approx(values.nbytes / 2**20)
    nowhere = Pages(512.0, str(tmp_path / "missing"))
    assert nowhere.put_away(values) is values and "cannot be kept on disk" in nowhere.problem


def test_what_is_in_the_file_takes_no_memory_until_it_is_read(tmp_path: Path) -> None:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    pages, values = Pages(0.0, str(tmp_path)), np.zeros((50, 4096), np.float64)
    before = resident()
    kept = [pages.put_away(values + seed) for seed in range(30)]  # 47 MiB, less than a chunk
    assert resident() - before < 10
    assert all(np.array_equal(away, values + seed) for seed, away in enumerate(kept))
    assert resident() - before > 30, "or this measures nothing"


def test_gaps_are_filled_and_slices_hold_their_array(tmp_path: Path) -> None:
    pages = Pages(0.0, str(tmp_path))
    part = pages.keep(noise(1))[10:20]
    gc.collect()
    others = [pages.keep(noise(seed)) for seed in range(2, 100)]
    assert np.array_equal(part, noise(1)[10:20]), "not overwritten"
    size = pages.on_disk_mb
    del others
    gc.collect()
    others = [pages.keep(noise(seed)) for seed in range(2, 100)]
    assert len(others) == 98 and pages.on_disk_mb == size and len(pages._chunks) == 1


def test_small_arrays_are_not_worth_it(tmp_path: Path) -> None:
    pages, values = Pages(0.0, str(tmp_path)), noise(0, (10, 10))
    assert pages.keep(values) is values


def test_an_array_larger_than_a_chunk(tmp_path: Path) -> None:
    pages, values = Pages(0.0, str(tmp_path)), np.arange(20_000_000)
    assert np.array_equal(pages.keep(values), values) and pages.on_disk_mb > 150


def test_without_a_disk_arrays_stay_in_memory(tmp_path: Path) -> None:
    pages, values = Pages(0.0, str(tmp_path / "missing")), noise(0)
    assert pages.keep(values) is values and "stays in memory" in pages.problem and "missing" in pages.problem
    assert pages.in_memory_mb > 0


def test_a_full_disk(tmp_path: Path) -> None:
    """As a limit on the size of files has it: the process is not killed by a page that finds no room."""
    code = f"""
import resource, signal
import numpy as np
from dust3r_ros.mapping.pages import Pages
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 20, 100 << 20))
pages = Pages(0.0, {str(tmp_path)!r})
kept = [pages.keep(np.full((1024, 1024), k, np.float32)) for k in range(40)]
assert all((values == k).all() for k, values in enumerate(kept))
assert pages.on_disk_mb == 64 and pages.in_memory_mb == 96, (pages.on_disk_mb, pages.in_memory_mb)
assert "stays in memory" in pages.problem
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_memory_is_given_back(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
import numpy as np
from dust3r_ros.mapping.pages import Pages
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * {os.sysconf("SC_PAGE_SIZE")} / 2**20
pages = Pages(8.0, {str(tmp_path)!r})
before = resident()
kept = [pages.keep(np.full((1024, 1024), k, np.float32)) for k in range(64)]
pages.trim()
assert resident() - before < 24, resident() - before
assert sum(float(values[0, 0]) for values in kept) == sum(range(64))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
