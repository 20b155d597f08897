"""Worlds to train on by the PyTorch ray caster: NumPy's pairs but for rounding, in any process, resumable."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_worlds import RECIPE

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from dust3r_ros.errors import ConfigError, TrainingError  # noqa: E402
from dust3r_ros.training import rendering  # noqa: E402
from dust3r_ros.training.batches import PairBatches, load  # noqa: E402
from dust3r_ros.training.crops import Cropping  # noqa: E402
from dust3r_ros.training.log import read_metrics  # noqa: E402
from dust3r_ros.training.raycast import Raycaster  # noqa: E402
from dust3r_ros.training.recipe import from_mapping  # noqa: E402
from dust3r_ros.training.rendering import TorchRenderer  # noqa: E402
from dust3r_ros.training.sampling import Sampling  # noqa: E402
from dust3r_ros.training.session import Options, Outcome, train  # noqa: E402
from dust3r_ros.training.sources import open_sources, sized  # noqa: E402
from dust3r_ros.training.synthetic import RenderedPairs  # noqa: E402

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
ROOT = Path(__file__).resolve().parents[2]
STAGE = {"sizes": [[32, 32]], "pairs": 2, "steps": 4, "rate": 1e-3}
WORLDS = {**RECIPE, "stages": [STAGE], "held_out": 1, "caster": "torch"}


def source(device: str | None, **changes: Any) -> RenderedPairs:
    """Pairs of 48 pixels from one world at a time; None: by NumPy."""
    options = {"short_side": 48, "lanes": 1, "mixed": 1, "batch": 2, "per_world": 8, "views": 8} | changes
    return RenderedPairs(seed=3, render=None if device is None else TorchRenderer(device), **options)


def batches(device: str) -> PairBatches:
    return PairBatches(Sampling([source(device)], 20, 3), 0, 2, [(32, 32)], Cropping())


@pytest.mark.parametrize("device", DEVICES)
def test_pairs_are_those_of_numpy_but_for_rounding(device: str) -> None:
    plain, cast = (source(which, photographic=False) for which in (None, device))
    for index in range(10):  # of two worlds
        one, other = (kind.pair(index, np.random.default_rng(index)) for kind in (plain, cast))
        assert one.source == other.source
        for exact, view in ((one.first, other.first), (one.second, other.second)):
            assert np.array_equal(exact.K, view.K) and np.array_equal(exact.w_T_c, view.w_T_c)
            assert view.image.dtype == np.uint8 and view.depth.dtype == np.float32
            known = exact.depth > 0
            # A ray that grazes an edge may fall on either side of it.
            assert ((view.depth > 0) == known).mean() > 0.999
            away = np.abs(view.depth - exact.depth)[known] / exact.depth[known]
            assert (away < 1e-5).mean() > 0.998
            off = np.abs(view.image.astype(int) - exact.image).max(axis=-1)
            assert off.mean() < 0.7 and (off <= 8).mean() > 0.99


def test_what_is_held_out_is_numpys_always() -> None:
    for one, other in zip(*(sized([source(which).held_out()], [(32, 32)]) for which in (None, "cpu")), strict=True):
        assert other.render is None
        first, second = (kind.pair(0, np.random.default_rng(0)).first for kind in (one, other))
        assert np.array_equal(first.image, second.image) and np.array_equal(first.depth, second.depth)


def test_many_images_are_rendered_in_parts_of_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, render = list[int](), Raycaster.render

    def counted(self: Raycaster, seen_by: Any) -> Any:
        counts.append(len(seen_by))
        return render(self, seen_by)

    monkeypatch.setattr(Raycaster, "render", counted)
    whole = source("cpu").album(0).view(0)
    monkeypatch.setattr(rendering, "_PIXELS", 3 * whole.depth.size)
    parts = source("cpu").album(0).view(0)
    assert counts == [8, 3, 3, 2]
    assert np.array_equal(whole.image, parts.image) and np.array_equal(whole.depth, parts.depth)


@pytest.mark.parametrize("device", DEVICES)
def test_processes_that_start_afresh_make_the_same_batches(device: str) -> None:
    alone = list(islice(load(batches(device), 0, 0), 2))
    helped = list(islice(load(batches(device), 0, 1), 2))
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(value, other._tensors()[name]) for name, value in one._tensors().items())


@pytest.mark.parametrize(
    "error, words",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), r"of 'cpu' is too small.*--workers.*=numpy"),
        (
            RuntimeError("CUDA error: device busy\nCompile with"),
            r"rendered on 'cpu': CUDA error: device busy$",
        ),
    ],
)
def test_a_device_that_cannot_is_an_error_and_no_broken_sample(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Raycaster, seen_by: Any) -> Any:
        raise error

    monkeypatch.setattr(Raycaster, "render", fails)
    with pytest.raises(TrainingError, match=words):
        next(load(batches("cpu"), 0, 0))


def test_the_recipe_says_who_renders() -> None:
    with pytest.raises(ConfigError, match="'caster' is 'fortran'; it must be numpy or torch"):
        from_mapping(WORLDS, {"caster": "fortran"}, "small")
    for caster, render in (("numpy", None), ("torch", TorchRenderer("cuda:1"))):
        (worlds,) = open_sources([], from_mapping(WORLDS, {"caster": caster}, "small"), 1, device="cuda:1")
        assert isinstance(worlds, RenderedPairs) and worlds.render == render


def run(folder: Path, until: float = np.inf, told: list[str] | None = None, **options: Any) -> Outcome:
    """A run in ``folder``, ended by somebody at step ``until``."""
    folder.mkdir(exist_ok=True)
    recipe, step = folder / "small.yaml", [-2]
    recipe.write_text(yaml.safe_dump(WORLDS), encoding="utf-8")
    given = {"out": folder / "run", "config": str(recipe), "device": "cpu", **options}
    tell = lambda progress, made, figures: step.__setitem__(0, progress.step)  # noqa: E731
    return train(Options(**given), lambda: step[0] + 1 >= until, tell, [].append if told is None else told.append)


def losses(folder: Path) -> list[tuple[int, float]]:
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    return [(row["step"], row["loss"]) for row in rows if row["kind"] == "train"]


def test_a_run_goes_on_exactly_and_only_where_it_was(tmp_path: Path) -> None:
    whole, parts, told = tmp_path / "whole", tmp_path / "parts", list[str]()
    assert run(whole, told=told).finished
    assert any("by torch on the processor" in words for words in told)
    assert not run(parts, until=2).finished
    about = json.loads((parts / "run" / "run.json").read_text())
    assert (about["recipe"]["caster"], about["rendered_on"]) == ("torch", "cpu")
    with pytest.raises(ConfigError, match="started with recipe"):
        run(parts, resume=True, changes={"caster": "numpy"})
    (parts / "run" / "run.json").write_text(json.dumps({**about, "rendered_on": "cuda"}))
    with pytest.raises(ConfigError, match='started with rendered_on "cuda"; to go on with "cpu"'):
        run(parts, resume=True)
    (parts / "run" / "run.json").write_text(json.dumps(about))
    assert run(parts, resume=True, changes={"caster": "torch"}).finished
    assert losses(parts) == losses(whole) and len(losses(whole)) == 4


_CTRL_C = """
import os, signal, threading, time
from dust3r_ros.training.batches import PairBatches, load
from dust3r_ros.training.crops import Cropping
from dust3r_ros.training.rendering import TorchRenderer
from dust3r_ros.training.sampling import Sampling
from dust3r_ros.training.synthetic import RenderedPairs

def press():
    while not done:
        time.sleep(0.05)
        os.killpg(0, signal.SIGINT)
        presses.append(None)

done, presses, heard = [], [], []
signal.signal(signal.SIGINT, lambda *_: heard.append(None))
worlds = RenderedPairs(short_side=32, lanes=1, mixed=1, batch=1, views=4, render=TorchRenderer())
threading.Thread(target=press, daemon=True).start()
stream = load(PairBatches(Sampling([worlds], 20, 3), 0, 1, [(16, 16)], Cropping()), 0, 1)
print(len(next(stream)))
done.append(True)
assert presses and heard
stream.close()
"""


def test_ctrl_c_does_not_end_processes_that_are_just_starting() -> None:
    """A terminal sends it to all of them; the first process ends the run when the step is made."""
    ran = subprocess.run(
        [sys.executable, "-c", _CTRL_C], cwd=ROOT, start_new_session=True, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout.strip()) == (0, "1"), ran.stderr
