"""Cross-view completion: what is hidden stays hidden, and what is learned starts the training on pairs."""

from __future__ import annotations

import numpy as np
import pytest
from small_worlds import RECIPE, NoisyRoom

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.network import load_checkpoint, save_checkpoint  # noqa: E402
from dust3r_ros.training.batches import PairBatch, collate  # noqa: E402
from dust3r_ros.training.learner import Learner  # noqa: E402
from dust3r_ros.training.processes import Processes  # noqa: E402
from dust3r_ros.training.recipe import from_mapping  # noqa: E402
from dust3r_ros.training.start import new_model, with_head  # noqa: E402
from dust3r_ros.training.tasks import CompletionTask, patch_targets  # noqa: E402
from dust3r_ros.training.views import Cropping, crop_pair  # noqa: E402


@pytest.fixture
def task() -> CompletionTask:
    recipe = from_mapping(RECIPE, {}, "small")
    torch.manual_seed(0)
    return CompletionTask(new_model(recipe.architecture(recipe.stages[0]), 0))


@pytest.fixture(scope="module")
def batch() -> PairBatch:
    rng = np.random.default_rng(0)
    return collate([crop_pair(NoisyRoom().pair(k, rng), (64, 80), rng, Cropping()) for k in range(3)])


def test_only_what_is_shown_is_looked_at(task: CompletionTask, batch: PairBatch) -> None:
    shown = torch.tensor([[0, 7], [3, 19], [5, 6]])
    with torch.no_grad():
        before = task.paint(batch.image_1, batch.image_2, shown)
        hidden = batch.image_1.clone()
        hidden[0, :, 48:, 64:] += 1  # the last patch
        torch.testing.assert_close(task.paint(hidden, batch.image_2, shown), before)
        seen = batch.image_1.clone()
        seen[0, :, :16, :16] += 1  # patch 0
        after = task.paint(seen, batch.image_2, shown)
        assert float((after - before)[0].abs().max()) > 1e-4
        torch.testing.assert_close(after[1:], before[1:])
        other = task.paint(batch.image_1, batch.image_2 + 1, shown)
        assert float((other - before).abs().amin(dim=(1, 2)).max()) >= 0 and not torch.equal(other, before)


def test_a_whole_view_is_encoded_as_by_the_network(task: CompletionTask, batch: PairBatch) -> None:
    """Shown everything, the encoder gives what ``encode`` does: the places of patches are theirs."""
    everything = torch.arange(20).expand(3, 20)
    with torch.no_grad():
        tokens = task._encode_shown(batch.image_1, (4, 5), everything)
        torch.testing.assert_close(tokens, task.model.encode(batch.image_1).features)
        some = task._encode_shown(batch.image_1, (4, 5), everything[:, 5:9])
    assert some.shape == (3, 4, 32)


def test_the_loss_is_over_hidden_patches_only(task: CompletionTask, batch: PairBatch) -> None:
    """A head that paints the truth where patches are hidden and nonsense elsewhere loses nothing."""
    targets, drawn = patch_targets(batch.image_1), []

    def paint(image: torch.Tensor, other: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        drawn.append(shown)
        return targets.scatter(1, shown[..., None].expand(-1, -1, targets.shape[-1]), 1e3)

    task.paint = paint  # type: ignore[method-assign]
    assert task.measure(batch)["loss"].tolist() == [0, 0, 0]
    assert drawn[0].shape == (3, 2), "nine in ten of 20 patches are hidden"
    task.measure(batch)
    assert torch.equal(drawn[0], drawn[1]), "what is evaluated on is always hidden alike"
    torch.manual_seed(0)
    task(batch)
    task(batch)
    assert not torch.equal(drawn[2], drawn[3])


def test_targets_are_patches_of_mean_0_and_deviation_1(batch: PairBatch) -> None:
    targets = patch_targets(batch.image_1)
    assert targets.shape == (3, 20, 768)
    torch.testing.assert_close(targets.mean(dim=-1), torch.zeros(3, 20), atol=1e-5, rtol=0)
    patch = batch.image_1[1, :, 16:32, 32:48].reshape(-1)  # row 1, column 2 of 5
    torch.testing.assert_close(targets[1, 7], (patch - patch.mean()) / (patch.var() + 1e-6).sqrt())


def test_what_is_learned_starts_the_training_on_pairs(batch: PairBatch, tmp_path: object) -> None:
    recipe = from_mapping(RECIPE, {"ema": 0.5}, "small")
    config = recipe.architecture(recipe.stages[0])
    learner = Learner(recipe, new_model(config, 0), torch.device("cpu"), Processes(), "completion")
    losses = [learner.step(batch, 2e-3).loss for _ in range(12)]
    assert losses[-1] < losses[0]
    result = learner.result()
    save_checkpoint(result, f"{tmp_path}/pretrained")
    start = with_head(load_checkpoint(f"{tmp_path}/pretrained"), config, 1)
    new, state = new_model(config, 0).state_dict(), start.state_dict()
    for name in ("patch_embed.proj.weight", "enc_blocks.1.attn.qkv.weight", "decoder_embed.weight", "mask_token"):
        assert not torch.equal(state[name], new[name]), f"{name} has not learned"
    for name in new:
        if name.startswith("dec_blocks."):
            assert torch.equal(state[name], state[name.replace("dec_blocks.", "dec_blocks2.", 1)])
        if name.startswith("downstream"):
            assert torch.equal(state[name], new[name])
    assert Learner(recipe, start, torch.device("cpu"), Processes()).step(batch, 1e-3).good
