"""A network whose blocks are compiled, or that stays as it is where that does not work."""

from __future__ import annotations

import time
from typing import Any

import pytest
from small_worlds import RECIPE

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.training import compiling  # noqa: E402
from dust3r_ros.training.batches import PairBatch  # noqa: E402
from dust3r_ros.training.learner import Learner  # noqa: E402
from dust3r_ros.training.on_device.gallery import Gallery, Studio, Views  # noqa: E402
from dust3r_ros.training.on_device.makers import Makers  # noqa: E402
from dust3r_ros.training.processes import Processes  # noqa: E402
from dust3r_ros.training.recipe import from_mapping  # noqa: E402
from dust3r_ros.training.start import new_model  # noqa: E402


@pytest.fixture(scope="module")
def batch() -> PairBatch:
    return Gallery(Studio(Makers((0, 0), 0), torch.device("cpu")), Views((32, 32), 4, 8), 1, 4).batch()


def learner(**changes: Any) -> Learner:
    recipe = from_mapping({**RECIPE, "matching": 0.5, "stride": 2, "precision": "float32", **changes}, {}, "small")
    return Learner(recipe, new_model(recipe.architecture(recipe.stages[0]), 0), torch.device("cpu"), Processes())


def test_a_compiler_that_fails_changes_nothing(batch: PairBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no compiler here")

    plain, tried = learner(), learner(compiled=True)
    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(torch.nn.Module, "compile", broken)
    for _ in range(2):
        torch.manual_seed(5)
        one = plain.step(batch, 1e-3)
        torch.manual_seed(5)
        assert tried.step(batch, 1e-3) == one
    assert tried.uncompiled == "RuntimeError: no compiler here" and plain.uncompiled == ""


def test_a_compiler_that_takes_too_long_is_ended() -> None:
    model = new_model(from_mapping(RECIPE, {}, "small").architecture(from_mapping(RECIPE, {}, "small").stages[0]), 0)
    start = time.perf_counter()
    assert compiling.try_compiled(model, lambda: time.sleep(20), limit=0.2) == "it takes longer than 0.2 s"
    assert time.perf_counter() - start < 10
    assert all(module._compiled_call_impl is None for module in model.modules())


@pytest.mark.long
def test_a_compiled_network_learns_the_same(batch: PairBatch) -> None:
    plain, compiled = learner(), learner(compiled=True)
    for _ in range(3):
        torch.manual_seed(5)
        one = plain.step(batch, 1e-3)
        torch.manual_seed(5)
        two = compiled.step(batch, 1e-3)
        if compiled.uncompiled:
            pytest.skip(f"nothing is compiled here: {compiled.uncompiled}")
        assert abs(one.loss - two.loss) < 1e-3 * abs(one.loss)
    assert any(module._compiled_call_impl is not None for module in compiled.task.modules())
    assert compiled.judge() is not None
