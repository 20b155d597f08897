"""Recipes: the four that come along, learning rates over their stages, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_worlds import RECIPE

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.errors import ConfigError  # noqa: E402
from dust3r_ros.network import Dust3r, Dust3rConfig  # noqa: E402
from dust3r_ros.training.log import Progress, planned  # noqa: E402
from dust3r_ros.training.optimiser import rate  # noqa: E402
from dust3r_ros.training.recipe import from_mapping, read_recipe, recipe_names  # noqa: E402


def test_the_recipes_of_the_package() -> None:
    assert recipe_names() == ("base", "large", "micro", "mini", "small", "tiny")
    recipes = {name: read_recipe(name) for name in recipe_names()}
    sizes = {}
    for name, recipe in recipes.items():
        assert recipe.name == name
        with torch.device("meta"):
            model = Dust3r(recipe.architecture(recipe.stages[-1]))
        sizes[name] = sum(value.numel() for value in model.parameters())
    assert sizes["micro"] < sizes["tiny"] < sizes["mini"] < sizes["small"] < sizes["base"] < sizes["large"]
    assert 2 * sizes["mini"] < 60e6, "as float16 it must travel with its card in 64 MB"
    last = recipes["large"].architecture(recipes["large"].stages[-1])
    official = Dust3rConfig()
    for name in vars(official):
        if name.startswith(("enc_", "dec_")) or name == "head_type":
            assert getattr(last, name) == getattr(official, name)
    for name in ("small", "base", "large"):
        heads = [stage.head for stage in recipes[name].stages]
        longest = [max(max(size) for size in stage.sizes) for stage in recipes[name].stages]
        assert heads == ["linear", "linear", "dpt"] and longest == [224, 512, 512]
        assert len(recipes[name].stages[1].sizes) >= 5
    for name in ("micro", "mini", "tiny"):
        assert {stage.head for stage in recipes[name].stages} == {"linear"}
        others = ((160, 224), (112, 224)) if name == "mini" else ()
        assert recipes[name].stages[-1].sizes == ((224, 224), *others), "held-out pairs have the first size"


def test_rate() -> None:
    steps = [rate((k + 1) / 1000, 2.0, 0.1, 0.01) for k in range(1000)]
    assert steps[0] == pytest.approx(0.02) and steps[99] == pytest.approx(2.0, rel=1e-3)
    assert max(steps) <= 2.0 and steps[-1] == pytest.approx(0.02)
    assert all(a < b for a, b in pairwise(steps[:100]))
    assert all(a > b for a, b in pairwise(steps[100:]))
    assert rate(0.55, 2.0, 0.1, 0.0) == pytest.approx(1.0), "half of the way down is half of the rate"
    assert rate(0.5, 1.0, 0.0) == rate(0.5, 1.0, 0.0)


def stages(*more: dict[str, Any]) -> dict[str, Any]:
    base = {"sizes": [[32, 32]], "pairs": 4, "steps": 100, "rate": 1e-3}
    return {**RECIPE, "warmup": 0.1, "stages": [{**base, **one} for one in more]}


def test_one_schedule_over_stages_until_it_is_begun_anew() -> None:
    recipe = from_mapping(stages({}, {"restart": False, "steps": 300}, {"rate": 5e-4}), {}, "small")
    assert recipe.shares == (0.2, 0.6, 0.2)
    assert recipe.rate(0, 0.4) == pytest.approx(1e-3), "the warm-up is a tenth of both stages"
    assert recipe.rate(0, 1.0) == pytest.approx(recipe.rate(1, 1e-12))
    assert recipe.rate(1, 1.0) == pytest.approx(1e-5)
    assert recipe.rate(2, 0.1) == pytest.approx(5e-4) and recipe.rate(2, 1.0) == pytest.approx(5e-6)


def test_steps() -> None:
    recipe = from_mapping(stages({}, {"steps": 300}, {"steps": 1}), {}, "small")
    assert planned(recipe) == [100, 300, 1]
    assert planned(recipe, 4010) == [1000, 3000, 10] and sum(planned(recipe, 7)) == 7
    progress = Progress(planned(recipe, 2))
    while not progress.finished:
        if progress.stage_done:
            progress.next_stage()
        else:
            progress.count(4, True)
    assert progress.step == 2 and progress.position == 8


def test_changes_win() -> None:
    recipe = from_mapping(RECIPE, {"pairs": 2, "rate": "1e-4", "seed": 9, "network": RECIPE["network"]}, "small")
    assert [stage.pairs for stage in recipe.stages] == [2, 2] and recipe.seed == 9
    assert [stage.rate for stage in recipe.stages] == [1e-4, 1e-4]
    assert recipe.stages[1].sizes == ((32, 48), (48, 32)), "the others stay"


def test_as_mapping_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    recipe = from_mapping(RECIPE, {"ema": 0.9}, "mine")
    path.write_text(yaml.safe_dump(recipe.as_mapping()), encoding="utf-8")
    assert read_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 3}, "'epochs' is not known; known are"),
        ({"seed": -1}, "'seed' is -1"),
        ({"seed": 2**64}, "'seed' is 18446744073709551616; it must be an integer from 0"),
        ({"caster": "torch", "centred": False}, "'centred' is False; it must be true with caster=torch"),
        ({"ema": 1.0}, "'ema' is 1.0; it must be in"),
        ({"stages": [{**RECIPE["stages"][0], "rate": "inf"}]}, "'rate' is inf; it must be above 0 and finite"),
        ({"zoom": "inf"}, "'zoom' is inf; it must be at least 1 and finite"),
        ({"save_seconds": 0}, "'save_seconds' is 0.0; it must be above 0"),
        ({"checkpointing": "maybe"}, "'checkpointing' is 'maybe'; it must be true or false"),
        ({"precision": "float64"}, "'precision' is 'float64'"),
        ({"betas": [0.9]}, "'betas'"),
        ({"optimiser": "sgd"}, "'optimiser' is 'sgd'; it must be adamw or muon"),
        ({"stride": 3}, "'stride' is 3; it must be a divisor of 16"),
        ({"matching": -0.1}, "'matching' is -0.1"),
        ({"worlds_at_once": 0}, "'worlds_at_once' is 0"),
        ({"per_world": 1.5}, "'per_world' is 1.5"),
        ({"clip": "much"}, "'clip' is 'much'; it must be a number"),
        ({"stages": []}, "at least one stage"),
        ({"stages": {}}, "list of stages"),
        ({"stages": ["first"]}, "it must map names to values"),
        ({"stages": [{"pairs": 3}]}, "is missing"),
        ({"network": {"enc_embed_dim": 30}}, "network"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"recipe 'small'.*{words}"):
        from_mapping({**RECIPE, **change}, {}, "small")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": [[30, 32]]}, "multiples of 16"),
        ({"sizes": []}, "multiples of 16"),
        ({"pairs": 0}, "'pairs' is 0"),
        ({"steps": 1.5}, "'steps' is 1.5"),
        ({"rate": 0}, "'rate' is 0"),
        ({"head": "round"}, "'head' is 'round'"),
        ({"head": "dpt"}, "multiple of 4"),
    ],
)
def test_a_wrong_stage_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_mapping(stages(change), {}, "small")


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'huge' is not known; it must be a YAML file or one of base, large"):
        read_recipe("huge")
    path = tmp_path / "bad.yaml"
    for text, words in (("[1", "not YAML"), ("- 3", "list of stages"), ("", "list of stages")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=words):
            read_recipe(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bad\.yaml' cannot be read; it must be text in UTF-8"):
        read_recipe(str(path))


def test_changes_keep_the_stages_a_list() -> None:
    with pytest.raises(ConfigError, match="list of stages"):
        from_mapping(RECIPE, {"stages": 3, "rate": 1e-4}, "small")
