"""benchmarks/albums.py: every photograph has a camera of its own; both programs are measured on the same ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/albums.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script(SCRIPT, "albums_benchmark")


@pytest.fixture(scope="module")
def album(bench: ModuleType) -> object:
    small, bench._LONG, bench._IMAGES = (bench._LONG, bench._IMAGES), (120, 240), (6, 6)
    made = bench.make_album(0)
    again = bench.make_album(0)
    bench._LONG, bench._IMAGES = small
    assert all(np.array_equal(*pair) for pair in zip(made.images, again.images, strict=True))
    return made


def test_each_photograph_has_a_size_and_a_focal_of_its_own(bench: ModuleType, album: object) -> None:
    assert len(album.images) == len(album.w_T_c) == len(album.focals) == 6 and album.layout == "room"
    assert len({image.shape for image in album.images}) > 3
    fields = [
        2 * np.degrees(np.arctan(max(image.shape) / 2 / focal))
        for image, focal in zip(album.images, album.focals, strict=True)
    ]
    low, high = bench._FIELDS[album.lenses]
    assert low < min(fields) < max(fields) < high and np.ptp(fields) > 0.2 * (high - low)


def test_pycolmap_is_given_the_same_images_and_asked_for_its_focals(
    bench: ModuleType, album: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> None:
        assert command[0] == "python" and "--own" in command
        images = sorted(Path(command[2]).iterdir())
        assert len(images) == 6
        poses = {path.name: album.w_T_c[k][:3].ravel().tolist() for k, path in enumerate(images[:5])}
        focals = {path.name: 1.1 * album.focals[k] for k, path in enumerate(images[:5])}
        Path(command[3]).write_text(json.dumps({"methods": {"incremental": {"poses": poses, "focals": focals}}}))

    monkeypatch.setattr(bench.subprocess, "run", run)
    found = bench.peers_of(album, "python")
    assert found.posed == 5 and found.error < 1e-9 and found.focal == pytest.approx(np.log(1.1))


def test_the_table_hides_nothing(bench: ModuleType) -> None:
    good, none = bench.Found(8, 0.01, [0.01] * 8), bench.Found(0, float("nan"), [])
    row = bench.Row("0 room", "around", "plain", 8, good, [0.5] * 8, False, 3.0, none)
    lines = bench.table([row, replace(row, said=True, ours=none, z=[])], {"cores": 2, "processor": "any"}).splitlines()
    assert lines[2] == "| 0 room, around, plain | 8 | 100% | 0% | 1.00% | – | 1.0% | – |"
    assert lines[3] == "| 0 room, around, plain, doubted | 8 | 0% | 0% | – | – | – | – |"
    assert lines[4] == "| **all** | 16 | 50% | 0% | – | – | 1.0% | – |", "half of the albums have no map"
    assert "not measured" in bench.table([replace(row, peer=None)], {"cores": 2, "processor": "any"})


def test_a_world_without_room_is_an_error(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_LEAST_PARALLAX", 1e9)
    with pytest.raises(InputError, match="300 paths were tried"):
        bench.make_album(0)
