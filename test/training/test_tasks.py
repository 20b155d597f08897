"""Matching as a lesson: true places of patches, a loss that attention can meet, heads that learn to look there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_worlds import RECIPE, NoisyRoom

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.network.blocks import CrossAttention, Rope2D  # noqa: E402
from dust3r_ros.training.batches import PairBatch, collate  # noqa: E402
from dust3r_ros.training.learner import Learner  # noqa: E402
from dust3r_ros.training.processes import Processes  # noqa: E402
from dust3r_ros.training.recipe import from_mapping  # noqa: E402
from dust3r_ros.training.start import new_model  # noqa: E402
from dust3r_ros.training.tasks import Matches, matches, matching_loss, watched  # noqa: E402
from dust3r_ros.training.views import Cropping, TrainingView, ViewPair, crop_pair  # noqa: E402

FOCAL, DEPTH = 50.0, 2.0
COLUMNS, ROWS = 4, 3


def wall(depth: float = DEPTH, x: float = 0.0, hole: bool = False) -> TrainingView:
    """A wall across the view of a camera ``x`` metres to the right; ``hole``: its left half is not known."""
    height, width = 16 * ROWS, 16 * COLUMNS
    K = np.array([[FOCAL, 0, width / 2 - 0.5], [0, FOCAL, height / 2 - 0.5], [0, 0, 1]])
    w_T_c = np.eye(4)
    w_T_c[0, 3] = x
    seen = np.full((height, width), depth, np.float32)
    if hole:
        seen[:, : width // 2] = 0
    return TrainingView(np.zeros((height, width, 3), np.uint8), seen, K, w_T_c)


def of(first: TrainingView, second: TrainingView) -> tuple[Matches, Matches]:
    return matches(collate([ViewPair(first, second, "walls")]))


@pytest.fixture(scope="module")
def batch() -> PairBatch:
    rng = np.random.default_rng(0)
    return collate([crop_pair(NoisyRoom().pair(k, rng), (48, 48), rng, Cropping()) for k in range(4)])


def small_learner(**changes: object) -> Learner:
    made = from_mapping(RECIPE, changes, "small")
    return Learner(made, new_model(made.architecture(made.stages[0]), 0), torch.device("cpu"), Processes())


def test_one_view_twice_matches_itself() -> None:
    forth, back = of(wall(), wall())
    assert forth.known.all() and torch.equal(forth.share[0], torch.eye(ROWS * COLUMNS))
    assert torch.equal(forth.share, back.share) and forth.columns == COLUMNS


def test_a_step_to_the_side_is_a_patch_to_the_side() -> None:
    """16 pixels are 16 Z / f metres; what goes out of the view is not known."""
    forth, back = of(wall(), wall(x=16 * DEPTH / FOCAL))
    column = torch.arange(ROWS * COLUMNS) % COLUMNS
    assert torch.equal(forth.known[0], column > 0) and torch.equal(back.known[0], column < COLUMNS - 1)
    assert (forth.share[0].argmax(dim=1)[column > 0] == torch.arange(ROWS * COLUMNS)[column > 0] - 1).all()
    assert (back.share[0].max(dim=1).values[column < COLUMNS - 1] == 1).all()


def test_half_a_patch_is_shared_by_two() -> None:
    forth, _ = of(wall(), wall(x=8 * DEPTH / FOCAL))
    row = forth.share[0, 1]
    assert row[0] == row[1] == 0.5 and row.sum() == 1


def test_what_is_hidden_or_not_known_has_no_place() -> None:
    forth, back = of(wall(depth=4.0), wall(depth=1.0))
    assert not forth.known.any() and not back.known.any() and not forth.share.any()
    forth, _ = of(wall(), wall(hole=True))
    assert torch.equal(forth.known[0], torch.arange(ROWS * COLUMNS) % COLUMNS >= COLUMNS // 2)


def test_places_are_exact_in_half_precision(batch: PairBatch) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = matches(batch)
    assert torch.equal(within[0].share, matches(batch)[0].share)


def test_patches_of_a_room_agree_in_both_directions() -> None:
    """Where a patch goes, most of what comes back comes from it or from beside it."""
    rng = np.random.default_rng(1)
    pairs = [crop_pair(NoisyRoom().pair(k, rng), (64, 80), rng, Cropping()) for k in range(8)]
    forth, back = matches(collate(pairs))
    assert forth.known.float().mean() > 0.3
    there = forth.share.argmax(dim=-1)
    again = back.share.argmax(dim=-1).gather(1, there)
    own = torch.arange(there.shape[1]).expand_as(there)
    both = forth.known & back.known.gather(1, there)
    near = ((again // 5 - own // 5).abs() <= 1) & ((again % 5 - own % 5).abs() <= 1)
    assert near[both].float().mean() > 0.97


def test_attention_that_is_right_costs_nothing() -> None:
    forth, _ = of(wall(), wall(x=8 * DEPTH / FOCAL))
    assert float(matching_loss(forth.share.log().clamp(min=-50), forth)) == pytest.approx(0, abs=1e-6)
    assert float(matching_loss(torch.zeros_like(forth.share), forth)) > 1
    none = Matches(torch.zeros_like(forth.share), torch.zeros_like(forth.known), COLUMNS)
    assert float(matching_loss(torch.zeros_like(forth.share), none)) == 0


def test_gradient_of_the_loss() -> None:
    forth, _ = of(wall(), wall(x=5 * DEPTH / FOCAL))
    exact = Matches(forth.share.double(), forth.known, COLUMNS)
    drawn = np.random.default_rng(0).standard_normal(forth.share.shape)
    logits = torch.tensor(drawn, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: matching_loss(values.double(), exact), [logits], atol=1e-3, eps=1e-3)


def test_near_is_the_patch_or_one_that_touches_it() -> None:
    forth, _ = of(wall(), wall())
    own = torch.arange(ROWS * COLUMNS)[None]
    assert forth.near(own).all() and forth.near((own + 1) % (ROWS * COLUMNS))[0, 0]
    assert not forth.near((own + 2) % (ROWS * COLUMNS))[0, 0]
    assert not forth.near(torch.full_like(own, COLUMNS))[0, COLUMNS - 1]  # the next in reading order is a row below


def test_logits_are_those_of_the_attention() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(32, 2)
    rope_x, rope_y = (Rope2D.of_grid(*grid, 16, torch.device("cpu")) for grid in ((2, 3), (3, 3)))
    x, y = torch.randn(2, 6, 32), torch.randn(2, 9, 32)
    values = attention.projv(y).unflatten(-1, (2, 16))
    heads = [attention.logits(head, x, y, rope_x, rope_y).softmax(dim=-1) @ values[:, :, head] for head in range(2)]
    torch.testing.assert_close(attention.proj(torch.cat(heads, dim=-1)), attention(x, y, rope_x, rope_y))


def test_both_orders_have_their_own_places(batch: PairBatch) -> None:
    """One pass of the decoder for both orders, or one for each: the same loss and the same figures."""
    model = small_learner().task.model
    tokens = model.encode(batch.image_1), model.encode(batch.image_2)
    with watched(model) as together:
        model.decode_both(*tokens)
    with watched(model) as apart:
        model.decode(*tokens), model.decode(*reversed(tokens))
    with watched(model, False) as nothing:
        model.decode_both(*tokens)
    assert not nothing.first and not nothing.second
    wanted = matches(batch)
    torch.testing.assert_close(together.loss(*wanted), apart.loss(*wanted))
    assert not torch.allclose(together.loss(*wanted), together.loss(*reversed(wanted)))


def test_one_order_alone_has_its_places() -> None:
    """Attention that looks where the wall went is right in every block, in both decoders; not so in the other order."""
    deep = {**RECIPE["network"], "dec_depth": 4}
    model = small_learner(network=deep).task.model
    batch = collate([ViewPair(wall(), wall(x=32 * DEPTH / FOCAL), "walls")])
    forth, back = matches(batch)
    with torch.no_grad(), watched(model) as attention:
        model(batch.image_1, batch.image_2)
    assert len(attention.first) == len(attention.second) == 2
    attention.first = [(_Fixed(forth), call[1]) for call in attention.first]
    attention.second = [(_Fixed(back), call[1]) for call in attention.second]
    assert attention.right(forth, back) == 1 and attention.right(back, forth) < 0.5


class _Fixed:
    """Attention that looks at the true patches."""

    def __init__(self, wanted: Matches) -> None:
        self.wanted = wanted

    def logits(self, *_: object) -> torch.Tensor:
        return self.wanted.share


def test_heads_learn_where_to_look(batch: PairBatch) -> None:
    one = small_learner(matching=1.0, precision="float32")

    def excess() -> float:
        with torch.no_grad(), watched(one.task.model) as attention:
            one.task.model.decode_both(one.task.model.encode(batch.image_1), one.task.model.encode(batch.image_2))
            return float(attention.loss(*matches(batch)))

    before, right = excess(), one.task.measure(batch)["matched"].mean()
    for _ in range(80):
        assert one.step(batch, 3e-3).good
    assert excess() < 0.4 * before and one.task.measure(batch)["matched"].mean() > right
    assert "matched" not in small_learner().task.measure(batch)


def test_the_lesson_adds_to_the_loss_by_its_weight(batch: PairBatch) -> None:
    with torch.no_grad():
        plain, one, two = (float(small_learner(matching=w).task(batch)[0]) for w in (0.0, 1.0, 2.0))
    assert two - one == pytest.approx(one - plain, rel=1e-3) and one > plain


def test_the_lesson_counts_in_what_is_held_out_as_in_training(batch: PairBatch) -> None:
    plain, weighed = small_learner().task, small_learner(matching=2.0).task
    with torch.no_grad():
        figures = weighed.measure(batch)
        lesson = (figures["loss"] - plain.measure(batch)["loss"]) / 2
        for k in range(len(batch)):
            one = PairBatch(**{name: value[k : k + 1] for name, value in batch._tensors().items()})
            with watched(weighed.model) as attention:
                weighed.model(one.image_1, one.image_2)
            torch.testing.assert_close(lesson[k], attention.loss(*matches(one)), rtol=1e-3, atol=1e-4)


def test_checkpointing_changes_no_number(batch: PairBatch) -> None:
    grads = []
    for checkpointing in (False, True):
        task = small_learner(checkpointing=checkpointing, matching=1.0).task
        task(batch)[0].backward()
        grads.append([p.grad for p in task.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) and all(map(torch.equal, *grads))


def test_views_of_two_sizes(batch: PairBatch) -> None:
    wide = replace(
        batch,
        image_2=batch.image_2[..., :32], points_2=batch.points_2[:, :, :32], valid_2=batch.valid_2[:, :, :32],
    )  # fmt: skip
    forth, back = matches(wide)
    assert forth.share.shape == (4, 9, 6) and back.share.shape == (4, 6, 9)
    model = small_learner().task.model
    with torch.no_grad(), watched(model) as attention:
        model.decode_both(model.encode(wide.image_1), model.encode(wide.image_2))
        assert np.isfinite(float(attention.loss(forth, back))) and attention.right(forth, back).shape == (4,)
