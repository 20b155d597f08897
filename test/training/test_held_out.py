"""What is held out: chosen fairly, never trained on, measured the same however many processes share it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_worlds import RECIPE, NoisyRoom
from training_trees import habitat

from dust3r_ros.scenes.sequence import render_sequence

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.errors import ConfigError, InputError  # noqa: E402
from dust3r_ros.training.losses import depth_errors  # noqa: E402
from dust3r_ros.training.processes import Processes  # noqa: E402
from dust3r_ros.training.recipe import from_mapping  # noqa: E402
from dust3r_ros.training.sources import open_sources, split  # noqa: E402
from dust3r_ros.training.start import new_model  # noqa: E402
from dust3r_ros.training.tasks import PairTask  # noqa: E402
from dust3r_ros.training.trainer import HeldOut, gather  # noqa: E402

RECIPE_ = from_mapping(RECIPE, {}, "small")
CPU = torch.device("cpu")


class Knowing(NoisyRoom):
    """A set whose makers say what to validate with."""

    def held_out(self) -> NoisyRoom | None:
        return NoisyRoom("validation", 2)


class Unknowing(NoisyRoom):
    """One whose makers do not, for this copy."""

    def held_out(self) -> NoisyRoom | None:
        return None


def test_split() -> None:
    sources = [NoisyRoom(), NoisyRoom("b", 40), Knowing("c", 40), Unknowing("d", 20)]
    parts = split(sources, 10)
    assert parts.train == tuple(sources)
    assert [len(chosen) for chosen in parts.chosen] == [3, 3, 2, 2]
    assert min(parts.chosen[0]) > 10**12 and parts.excluded[0] == frozenset(parts.chosen[0])
    assert parts.chosen[1] == (0, 13, 26) and parts.excluded[1] == {0, 13, 26}
    assert parts.held_out[2].name == "validation" and parts.chosen[2] == (0, 1) and parts.excluded[2] == frozenset()
    assert parts.held_out[3] is sources[3] and len(parts.excluded[3]) == 2
    assert split([NoisyRoom("tiny", 5)], 10).chosen == ((0,),)


def test_no_frame_of_a_held_out_group_is_trained_on() -> None:
    """Any of them may be the partner of another, so a pair alone would be known from other pairs."""
    scenes = NoisyRoom("scenes", 400)
    scenes.groups = lambda: np.arange(0, 401, 20)
    few = NoisyRoom("few", 9)
    few.groups = lambda: np.array([0, 4, 9])
    parts = split([scenes, few], 10)
    assert parts.excluded == (frozenset((*range(20), *range(200, 220))), frozenset(range(4)))
    assert parts.chosen == ((0, 8, 16, 204, 212), (0, 1, 2, 3))


def test_a_set_of_one_scene_is_evaluated_on_it() -> None:
    one, other = NoisyRoom("one", 20), NoisyRoom("other", 20)
    one.groups = lambda: np.array([0, 20])
    parts = split([one, other], 4)
    assert parts.mixed == ("one",) and parts.excluded == (frozenset({0, 10}), frozenset({0, 10}))


def test_sources_by_name() -> None:
    for wrong in ("nothing", "=path", "co3d="):
        with pytest.raises(ConfigError, match="NAME=PATH"):
            open_sources([wrong], RECIPE_, 1)
    with pytest.raises(InputError, match="'unknown' is unknown"):
        open_sources(["unknown=here"], RECIPE_, 1)


def test_what_is_worked_out_about_a_set_is_kept_where_one_says(tmp_path: Path) -> None:
    habitat(render_sequence("orbit", frames=6, width=64, height=48, seed=1), tmp_path / "set")
    (source,) = open_sources([f"habitat={tmp_path / 'set'}"], RECIPE_, 1, tmp_path / "kept")
    assert len(source) == 6
    assert source.pair(0, np.random.default_rng(0)).first.image.shape == (48, 64, 3)
    assert any(path.is_file() for path in (tmp_path / "kept").rglob("*"))


def test_gather_leaves_out_what_is_broken() -> None:
    room = NoisyRoom(broken=frozenset({1}))
    held_out = gather([room], [(0, 1, 2)], (32, 48), Processes())
    assert [pair.source for pair in held_out.pairs] == ["room 0", "room 2"]
    assert held_out.pairs[0].first.image.shape == (32, 48, 3)
    again = gather([room], [(0, 1, 2)], (32, 48), Processes())
    assert (again.pairs[1].second.image == held_out.pairs[1].second.image).all()
    with pytest.raises(InputError, match=r"no pairs to evaluate on.*room/1.jpg"):
        gather([room], [(1,)], (32, 48), Processes())


class Half(Processes):
    """One of two processes; what the other one has is added by the test."""

    def total(self, values, device):
        return list(values)


def test_figures_are_means_over_all_pairs() -> None:
    recipe = from_mapping(RECIPE, {}, "small")
    task = PairTask(new_model(recipe.architecture(recipe.stages[0]), 0), 0.2).eval()
    whole = gather([NoisyRoom()], [range(11)], (32, 48), Processes())
    figures = whole.evaluate(task, CPU)
    assert set(figures) == {"loss", "regression", "rel", "delta_1.25"}
    assert figures["regression"] == pytest.approx(
        np.mean([HeldOut([pair], Processes()).evaluate(task, CPU)["regression"] for pair in whole.pairs]), rel=1e-5
    )
    halves = [HeldOut(whole.pairs, Half(rank, 2, rank)).evaluate(task, CPU)["regression"] for rank in (0, 1)]
    assert (6 * halves[0] + 5 * halves[1]) / 11 == pytest.approx(figures["regression"], rel=1e-5)
    assert HeldOut(whole.pairs[:1], Half(1, 2, 1)).evaluate(task, CPU) == {}


def test_depth_errors() -> None:
    true = torch.tensor([[1.0, 2.0, 4.0]])
    valid = torch.ones(1, 3, dtype=torch.bool)
    rel, delta = depth_errors(5 * true, true, valid)
    assert (float(rel), float(delta)) == (0, 1)
    rel, delta = depth_errors(torch.tensor([[1.5, 2.0, 4.0]]), true, valid)
    assert float(rel) == pytest.approx(0.5 / 3) and float(delta) == pytest.approx(2 / 3)
    assert [float(x) for x in depth_errors(-true, true, valid)] == [1, 0]
    assert all(math.isnan(float(x)) for x in depth_errors(true, true, ~valid))


def test_a_view_without_depth_has_no_depth_error() -> None:
    recipe = from_mapping(RECIPE, {}, "small")
    task = PairTask(new_model(recipe.architecture(recipe.stages[0]), 0), 0.2).eval()
    pairs = gather([NoisyRoom()], [range(2)], (32, 48), Processes()).pairs
    seeing = HeldOut(pairs[1:], Processes()).evaluate(task, CPU)
    blind = replace(pairs[0], first=replace(pairs[0].first, depth=np.zeros((32, 48), np.float32)))
    figures = HeldOut([blind, pairs[1]], Processes()).evaluate(task, CPU)
    assert figures["rel"] == pytest.approx(seeing["rel"]) and math.isfinite(figures["regression"])
