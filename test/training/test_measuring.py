"""What a day on a GPU chooses from its measurements."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.training import measuring  # noqa: E402
from dust3r_ros.training.measuring import Choice  # noqa: E402
from dust3r_ros.training.on_device.source import views_of_world  # noqa: E402
from dust3r_ros.training.recipe import read_recipe  # noqa: E402

RATES = {"steps 112x112": {"128": 2300.0, "256": 2800.0}, "steps 224x224": {"128": 900.0}}


@pytest.mark.parametrize(
    ("needed", "worlds", "views"), [(500, 60, 500), (2400, 60, 500), (2400, 5, 1e5), (90, 60, 500)]
)
def test_a_world_gives_as_few_pairs_as_worlds_and_views_allow(needed: float, worlds: float, views: float) -> None:
    def enough(pairs: int) -> bool:
        return pairs * worlds >= needed and pairs / views_of_world(pairs) * views >= needed

    found = measuring._pairs_of_world(needed, worlds, views)
    least, most = measuring._PER_WORLD
    assert least <= found <= most and found % 8 == 0
    assert enough(found) or found == most
    assert found == least or not enough(found - 8)


def test_the_learning_rate_follows_the_pairs_of_a_step() -> None:
    recipe = read_recipe("mini")
    choice = Choice(pairs=(64, 512), workers=10, per_world=384, worlds=96, rates=RATES)
    first, second = choice.applied(recipe, False, 600)["stages"]
    assert (first["pairs"], second["pairs"]) == (64, 512)
    assert first["rate"] == pytest.approx(recipe.stages[0].rate / 2)  # a quarter of the recipe's 256
    assert second["rate"] == recipe.stages[1].rate  # never above the recipe's


def test_continued_weights_get_lower_rates_the_fewer_pairs_are_to_come() -> None:
    recipe = read_recipe("mini")
    choice = Choice(pairs=(256, 128), workers=10, per_world=384, worlds=96, rates=RATES)
    fresh, long, short = (
        choice.applied(recipe, continued, seconds)["stages"][0]["rate"]
        for continued, seconds in ((False, 600), (True, 600), (True, 10))
    )
    assert short < long < fresh
    unmeasured = Choice.of(None, recipe, torch.device("cpu"), 1).applied(recipe, True, 600)["stages"][0]["rate"]
    assert unmeasured == long


def test_what_is_stored_is_the_choice() -> None:
    recipe, device = read_recipe("mini"), torch.device("cpu")
    choice = Choice(pairs=(256, 128), workers=10, per_world=384, worlds=96, rates=RATES)
    assert Choice.of(choice.as_mapping(), recipe, device, None) == choice
    usual = Choice.of(None, recipe, device, 3)
    assert usual.pairs == tuple(stage.pairs for stage in recipe.stages) and usual.workers == 3


@pytest.mark.parametrize(("room", "pairs"), [(1000, 256), (40, 32), (0, 32)])
def test_where_many_pairs_do_not_fit_fewer_are_tried(room: int, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU whose memory has no room for any, the recipe's number stands."""

    def steps(recipe: object, stage: object, device: object, sizes: Sequence[int], *more: object) -> dict[str, float]:
        return {str(size): min(10.0 * size, 2560.0) for size in sizes if size <= room}

    monkeypatch.setattr(measuring, "_steps", steps)
    monkeypatch.setattr(measuring, "_drawn_up", lambda workers, seconds: 60.0)
    monkeypatch.setattr(measuring, "_rendered", lambda size, device, seconds: 2000.0)
    monkeypatch.setattr(measuring, "_memory", lambda device: 80e9)
    choice = measuring.choose(read_recipe("small"), torch.device("cuda"), 4, lambda: False)
    assert choice.pairs[-1] == pairs and choice.per_world >= 32
