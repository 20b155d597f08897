"""Steps of optimisation: what learns, what is left alone, and what a bad batch does: nothing."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from small_worlds import RECIPE, NoisyRoom

torch = pytest.importorskip("torch", reason="torch is not installed")

from recording import Recorder  # noqa: E402

from dust3r_ros.errors import CheckpointError  # noqa: E402
from dust3r_ros.network import Dust3r  # noqa: E402
from dust3r_ros.training.batches import PairBatch, collate  # noqa: E402
from dust3r_ros.training.learner import Learner  # noqa: E402
from dust3r_ros.training.losses import confidence_loss  # noqa: E402
from dust3r_ros.training.optimiser import Average, Muon, clip, make_optimiser  # noqa: E402
from dust3r_ros.training.processes import Processes  # noqa: E402
from dust3r_ros.training.recipe import Recipe, from_mapping  # noqa: E402
from dust3r_ros.training.start import new_model, with_head  # noqa: E402
from dust3r_ros.training.tasks import PairTask  # noqa: E402
from dust3r_ros.training.views import Cropping, crop_pair  # noqa: E402

CPU = torch.device("cpu")


def recipe(**changes: object) -> Recipe:
    return from_mapping(RECIPE, changes, "small")


def learner(**changes: object) -> Learner:
    made = recipe(**changes)
    return Learner(made, new_model(made.architecture(made.stages[0]), 0), CPU, Processes())


@pytest.fixture(scope="module")
def batch() -> PairBatch:
    rng = np.random.default_rng(0)
    return collate([crop_pair(NoisyRoom().pair(k, rng), (32, 48), rng, Cropping()) for k in range(2)])


def weights(one: Learner) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in one.task.named_parameters()}


def test_steps_lower_the_loss(batch: PairBatch) -> None:
    one = learner()
    steps = [one.step(batch, 1e-3) for _ in range(25)]
    assert all(step.good for step in steps)
    assert steps[-1].regression < 0.8 * steps[0].regression and steps[-1].loss < steps[0].loss


def test_everything_used_learns_and_the_rest_is_left_alone(batch: PairBatch, narrow_dpt: None) -> None:
    deep = {**RECIPE["network"], "dec_depth": 4}
    one = learner(network=deep, head="dpt")
    before = weights(one)
    one.step(batch, 1e-3)
    still = {name for name, value in weights(one).items() if torch.equal(value, before[name])}
    assert {name for name in still if "refinenet4.resConfUnit1" not in name} == {"model.mask_token"}
    assert len(still) == 1 + 2 * 4


def test_recorded_steps_are_the_same(batch: PairBatch) -> None:
    """Losses and gradients replayed as on a GPU: a recording per raster and size, an evaluation or a bad batch between
    them.
    """
    plain, recorded = (learner(matching=0.5, stride=2, optimiser="muon") for _ in range(2))
    recorder = Recorder()
    recorded.record(recorder)
    bad = replace(batch, image_1=torch.full_like(batch.image_1, torch.nan))
    one_pair = PairBatch(**{name: value[:1] for name, value in batch._tensors().items()}, skipped=())
    given = [batch] * 12 + [bad] + [batch] * 6 + [one_pair] * 8
    steps = []
    for which in (plain, recorded):
        torch.manual_seed(3)
        steps.append([])
        for number, some in enumerate(given):
            steps[-1].append(which.step(some, 1e-3))
            if number == 7:
                which.judge()
    assert [step.good for step in steps[0]] == [some is not bad for some in given]
    for one, other in zip(*steps, strict=True):
        assert one == other or (not one.good and not other.good)
    assert all(torch.equal(value, weights(recorded)[name]) for name, value in weights(plain).items())
    assert 5 <= recorder.recorded <= 8  # four rasters, two sizes of batch


def test_a_compiler_that_fails_changes_nothing(batch: PairBatch) -> None:
    def broken(*given: object) -> None:
        raise RuntimeError("no compiler here")

    torch.compiler.reset()
    plain, tried = (learner(matching=0.5, stride=2) for _ in range(2))
    tried.record(Recorder(), broken)  # type: ignore[arg-type]
    for number in range(3):
        torch.manual_seed(number)
        one = plain.step(batch, 1e-3)
        torch.manual_seed(number)
        assert tried.step(batch, 1e-3) == one
    assert "no compiler here" in tried.uncompiled and plain.uncompiled == ""


def test_compiled_blocks_learn_the_same(batch: PairBatch) -> None:
    """Compiled once per kind of block, however many there are and however often steps and evaluations alternate."""
    seen = []

    def counted(graph: torch.fx.GraphModule, inputs: object) -> object:
        seen.append(graph)
        return graph.forward

    torch.compiler.reset()
    deep = {**RECIPE["network"], "enc_depth": 10, "dec_depth": 6}
    plain, compiled = (learner(network=deep, matching=0.5, stride=2) for _ in range(2))
    compiled.record(Recorder(), counted)  # type: ignore[arg-type]
    for number in range(6):
        torch.manual_seed(number)
        one = plain.step(batch, 1e-3)
        torch.manual_seed(number)
        assert compiled.step(batch, 1e-3).loss == pytest.approx(one.loss, rel=1e-4)
        if number == 2:
            compiled.judge()
    assert compiled.uncompiled == "" and len(seen) == 4  # encoder, decoder, and two parts of supervised decoders


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recorded_steps_on_cuda(batch: PairBatch, precision: str) -> None:
    device, made = torch.device("cuda"), recipe(matching=0.5, stride=2, optimiser="muon", precision=precision)
    plain, recorded = (
        Learner(made, new_model(made.architecture(made.stages[0]), 0), device, Processes()) for _ in range(2)
    )
    plain._graphs = None
    for number in range(20):
        torch.manual_seed(number)
        one = plain.step(batch, 1e-4)
        torch.manual_seed(number)
        other = recorded.step(batch, 1e-4)
        assert abs(one.loss - other.loss) < 0.01 * abs(one.loss) and abs(one.norm - other.norm) < 0.05 * one.norm
        if number == 9:
            recorded.judge()


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize("spoiled", ["image_1", "points_2"])
def test_a_batch_that_is_not_finite_changes_nothing(batch: PairBatch, spoiled: str, optimiser: str) -> None:
    one = learner(optimiser=optimiser)
    one.step(batch, 1e-3)
    before, state = weights(one), copy.deepcopy(one.optimiser.state_dict())
    bad = getattr(batch, spoiled).clone()
    bad[0] = float("nan")
    step = one.step(replace(batch, **{spoiled: bad}), 1e-3)
    assert not step.good and not np.isfinite(step.loss)
    assert all(torch.equal(value, before[name]) for name, value in weights(one).items())
    for old, new in zip(state, one.optimiser.state_dict(), strict=True):
        for number, values in old["state"].items():
            assert all(torch.equal(value, new["state"][number][name]) for name, value in values.items())
    assert one.average.updates == 1
    assert one.step(batch, 1e-3).good


@pytest.mark.parametrize("head, hot", [("linear", 0.5), ("dpt", 0.02)])
def test_a_network_that_steps_too_long_threw_far_comes_back(
    batch: PairBatch, narrow_dpt: None, head: str, hot: float
) -> None:
    """exp() ends at 88, and the regression does not depend on the unit of a prediction."""
    one = learner(network={**RECIPE["network"], "dec_depth": 4}, head=head)

    def farthest() -> float:
        with torch.inference_mode():
            return float(one.task.model.eval()(batch.image_1, batch.image_2).points_1.norm(dim=-1).max())

    good = [one.step(batch, hot).good for _ in range(2)]
    assert farthest() == np.inf
    good += [one.step(batch, 5e-3).good for _ in range(30)]
    assert all(good) and farthest() < 1e9


def test_asks_and_skipped_samples_are_reported(batch: PairBatch) -> None:
    step = learner().step(replace(batch, skipped=("a", "b")), 1e-3, (True, False))
    assert step.asked == (True, False) and step.skipped == 2


def test_checkpointing_changes_no_number(batch: PairBatch) -> None:
    grads = []
    for checkpointing in (False, True):
        one = learner(checkpointing=checkpointing)
        assert one.task.model.checkpointing == checkpointing
        total, _ = one.task(batch)
        total.backward()
        grads.append((float(total.detach()), [p.grad for p in one.task.parameters() if p.grad is not None]))
    assert grads[0][0] == grads[1][0] and len(grads[0][1]) == len(grads[1][1]) > 50
    assert all(torch.equal(a, b) for a, b in zip(grads[0][1], grads[1][1], strict=True))


def test_checkpointing_keeps_less_in_memory(batch: PairBatch) -> None:
    kept = []
    for checkpointing in (False, True):
        task = learner(checkpointing=checkpointing, network={**RECIPE["network"], "enc_depth": 12}).task
        total = [0]

        def pack(tensor: torch.Tensor, total: list[int] = total) -> torch.Tensor:
            total[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            task(batch)
        kept.append(total[0])
    assert kept[1] < 0.6 * kept[0]


def test_images_encoded_once_give_the_losses_of_both_orders(batch: PairBatch) -> None:
    task = learner().task
    with torch.no_grad():
        total, regression = task(batch)
        forth = confidence_loss(task.model(batch.image_1, batch.image_2), batch.truth)
        back = confidence_loss(task.model(batch.image_2, batch.image_1), batch.truth_swapped)
    torch.testing.assert_close(total, (forth.total + back.total) / 2)
    torch.testing.assert_close(regression, (forth.regression + back.regression) / 2)


def test_bfloat16_runs_and_is_near(batch: PairBatch) -> None:
    exact, half = learner(precision="float32").step(batch, 1e-3), learner(precision="bfloat16").step(batch, 1e-3)
    assert half.good and half.loss != exact.loss
    assert half.loss == pytest.approx(exact.loss, rel=0.1)


def test_decay_is_for_matrices() -> None:
    one = learner()
    decayed, plain = one.optimiser.param_groups
    assert decayed["weight_decay"] > 0 == plain["weight_decay"]
    names = {id(value): name for name, value in one.task.named_parameters()}
    free = {names[id(value)] for value in plain["params"]}
    assert all(name.endswith("bias") or "norm" in name for name in free)
    assert not any("norm" in names[id(v)] or names[id(v)].endswith("bias") for v in decayed["params"])
    task = PairTask(one.task.model, 0.2)
    task.model.mask_token.requires_grad_(True)
    made = make_optimiser("adamw", task, 0.1, (0.9, 0.95))
    assert any(value is task.model.mask_token for value in made.param_groups[1]["params"])


def test_muon_takes_the_matrices_of_the_blocks() -> None:
    one = learner(optimiser="muon")
    _, _, matrices = one.optimiser.param_groups
    names = {id(value): name for name, value in one.task.named_parameters()}
    taken = {names[id(value)] for value in matrices["params"]}
    assert taken and all("_blocks" in name and name.endswith("weight") and "norm" not in name for name in taken)
    known = [id(value) for group in one.optimiser.param_groups for value in group["params"]]
    assert len(known) == len(set(known)) == sum(value.requires_grad for value in one.task.parameters())


def test_muon_goes_on_as_if_nothing_had_happened(batch: PairBatch) -> None:
    one, other = (learner(optimiser="muon", precision="float32") for _ in range(2))
    one.step(batch, 1e-3)
    other.load(copy.deepcopy(one.state()))
    assert one.step(batch, 1e-3).loss == other.step(batch, 1e-3).loss
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def test_muon_steps_are_as_large_as_adamws(batch: PairBatch) -> None:
    sizes = []
    for optimiser in ("adamw", "muon"):
        one = learner(optimiser=optimiser)
        before = weights(one)["model.enc_blocks.0.mlp.fc1.weight"]
        one.step(batch, 1e-3)
        sizes.append(float((weights(one)["model.enc_blocks.0.mlp.fc1.weight"] - before).square().mean().sqrt()))
    assert 0.1 < sizes[1] / sizes[0] < 1


def test_muon_is_torchs_own_but_for_rounding() -> None:
    kind = getattr(torch.optim, "Muon", None)
    if kind is None:
        pytest.skip("this torch has no Muon to compare with")
    shapes, generator = [(8, 24), (24, 8), (8, 24), (16, 16)], torch.Generator().manual_seed(0)
    first = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    second = [torch.nn.Parameter(value.detach().clone()) for value in first]
    own = Muon(first, 1e-2, 0.1, 0.95, half=False)
    other = kind(second, lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for one, two in zip(first, second, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            two.grad = one.grad.clone()
        own.step()
        other.step()
    for one, two in zip(first, second, strict=True):
        assert (one - two).abs().max() < 2e-3  # torch's multiplies in bfloat16, and four steps are 2.5e-2 long


def test_states_of_another_optimiser_are_refused(batch: PairBatch) -> None:
    with pytest.raises(ValueError):
        learner().load(learner(optimiser="muon").state())


def test_fewer_pixels_teach_the_same_on_average(batch: PairBatch) -> None:
    """All four rasters of stride 2 together are all pixels; which one it is is drawn from torch's generator."""
    whole = learner(precision="float32").task
    thin = learner(precision="float32", stride=2).task
    torch.manual_seed(1)
    with torch.no_grad():
        drawn = [float(thin(batch)[1]) for _ in range(24)]
        exact = float(whole(batch)[1])
    assert len({round(value, 6) for value in drawn}) == 4
    assert np.mean(sorted(set(drawn))) == pytest.approx(exact, rel=0.02)
    assert thin.measure(batch)["regression"].tolist() == whole.measure(batch)["regression"].tolist()


def test_clip() -> None:
    value = torch.nn.Parameter(torch.zeros(4))
    value.grad = torch.full((4,), 3.0)
    assert float(clip([value], 1.0)) == 6.0 and float(value.grad.norm()) == pytest.approx(1, rel=1e-4)


def test_the_average_follows() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(5.0)
    average = Average(model, 0.99)
    model.weight.data.fill_(1.0)
    seen = []
    for _ in range(2000):
        average.update(model)
        seen.append(float(average.state()["weight"]))
    assert seen[0] == pytest.approx(1.4), "the first step counts 9 in 10"
    assert seen[1000] - 1 == pytest.approx((seen[999] - 1) * 0.99, rel=1e-2) or seen[1000] == pytest.approx(1)
    other = torch.nn.Linear(1, 1, bias=False)
    average.copy_to(other)
    assert float(other.weight.detach()) == pytest.approx(1.0, abs=1e-4)


def test_what_is_kept_is_the_average(batch: PairBatch) -> None:
    one = learner(ema=0.5)
    for _ in range(4):
        one.step(batch, 1e-2)
    before, result = weights(one), one.result()
    kept = dict(result.named_parameters())
    assert isinstance(result, Dust3r) and not result.training
    for name, value in one.average.state().items():
        assert torch.equal(kept[name.removeprefix("model.")], value)
    assert any(not torch.equal(before[f"model.{name}"], value) for name, value in kept.items())
    assert all(torch.equal(value, before[name]) for name, value in weights(one).items()), "training goes on as before"


def test_random_weights_depend_on_the_seed_only() -> None:
    made = recipe()
    config = made.architecture(made.stages[0])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = new_model(config, 3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    other, third = new_model(config, 3).state_dict(), new_model(config, 4).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], third[name]) for name in one)


def test_a_new_head_on_the_same_network(narrow_dpt: None) -> None:
    deep = recipe(network={**RECIPE["network"], "dec_depth": 4})
    linear = new_model(deep.architecture(deep.stages[0]), 0)
    dpt = deep.architecture(replace(deep.stages[1], head="dpt"))
    changed = with_head(linear, dpt, 1)
    assert changed.config == dpt
    old, new = linear.state_dict(), changed.state_dict()
    shared = [name for name in old if not name.startswith("downstream")]
    assert len(shared) > 50 and all(torch.equal(old[name], new[name]) for name in shared)
    same = with_head(linear, deep.architecture(deep.stages[1]), 1).state_dict()
    assert all(torch.equal(old[name], same[name]) for name in old)
    with pytest.raises(CheckpointError, match="dec_depth 4; the recipe has 2"):
        with_head(linear, recipe().architecture(deep.stages[0]), 1)
