"""Runs on worlds rendered by torch, on the device that trains: what a recipe says, exact resuming, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_worlds import RECIPE

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from dust3r_ros.errors import ConfigError  # noqa: E402
from dust3r_ros.training.log import read_metrics  # noqa: E402
from dust3r_ros.training.on_device.source import DeviceWorlds  # noqa: E402
from dust3r_ros.training.recipe import from_mapping  # noqa: E402
from dust3r_ros.training.session import Options, Outcome, train  # noqa: E402
from dust3r_ros.training.sources import RenderedPairs, open_sources  # noqa: E402

STAGES = [
    {"sizes": [[32, 32]], "pairs": 2, "steps": 3, "rate": 1e-3},
    {"sizes": [[32, 48]], "pairs": 2, "steps": 2, "rate": 1e-3, "restart": False},
]
WORLDS = {**RECIPE, "stages": STAGES, "held_out": 1, "caster": "torch", "per_world": 4, "worlds_at_once": 2}


def test_the_recipe_says_who_renders() -> None:
    with pytest.raises(ConfigError, match="'caster' is 'fortran'; it must be numpy or torch"):
        from_mapping(WORLDS, {"caster": "fortran"}, "small")
    for caster, kind in (("numpy", RenderedPairs), ("torch", DeviceWorlds)):
        (worlds,) = open_sources([], from_mapping(WORLDS, {"caster": caster}, "small"), 1, device="cuda:1")
        assert isinstance(worlds, kind)
    with pytest.raises(ConfigError, match=r"--data is worlds tum=/data .* take caster=numpy"):
        open_sources(["worlds", "tum=/data"], from_mapping(WORLDS, {}, "small"), 1)


def run(folder: Path, until: float = np.inf, told: list[str] | None = None, **options: Any) -> Outcome:
    """A run in ``folder``, ended by somebody at step ``until``."""
    folder.mkdir(exist_ok=True)
    recipe, step = folder / "small.yaml", [-2]
    recipe.write_text(yaml.safe_dump(WORLDS), encoding="utf-8")
    given = {"out": folder / "run", "config": str(recipe), "device": "cpu", **options}
    report = lambda progress, made, figures: step.__setitem__(0, progress.step)  # noqa: E731
    return train(Options(**given), lambda: step[0] + 1 >= until, report, [].append if told is None else told.append)


def losses(folder: Path) -> list[tuple[int, float]]:
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    return [(row["step"], row["loss"]) for row in rows if row["kind"] == "train"]


def test_a_run_goes_on_exactly_and_only_where_it_was(tmp_path: Path, quick_worlds: None, undrawn: None) -> None:
    whole, parts, told = tmp_path / "whole", tmp_path / "parts", list[str]()
    assert run(whole, told=told).finished
    assert any("by torch on the processor" in words for words in told)
    assert not run(parts, until=2).finished
    about = json.loads((parts / "run" / "run.json").read_text())
    assert (about["recipe"]["caster"], about["rendered_on"]) == ("torch", "cpu")
    with pytest.raises(ConfigError, match="started with recipe"):
        run(parts, resume=True, changes={"caster": "numpy"})
    (parts / "run" / "run.json").write_text(json.dumps({**about, "rendered_on": "cuda"}))
    with pytest.raises(ConfigError, match='started with rendered_on "cuda"; "cpu" would be another run'):
        run(parts, resume=True)
    (parts / "run" / "run.json").write_text(json.dumps(about))
    assert run(parts, resume=True, changes={"caster": "torch"}).finished
    assert losses(parts) == losses(whole) and len(losses(whole)) == 5
