"""Batches: true in both orders, the same for any number of workers and processes, in spite of broken samples."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from itertools import islice

import numpy as np
import pytest
from small_worlds import NoisyRoom

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.errors import InputError  # noqa: E402
from dust3r_ros.geometry.rigid import invert, transform  # noqa: E402
from dust3r_ros.training.batches import PairBatch, PairBatches, Sampling, collate, load  # noqa: E402
from dust3r_ros.training.views import Cropping, ViewPair, crop_pair  # noqa: E402

CROPPING = Cropping(1.3, True, 0.4)
SIZES = [(32, 48), (48, 32), (32, 32)]


def batches(
    source: NoisyRoom | None = None, pairs: int = 2, rank: int = 0, world: int = 1, start: int = 0
) -> PairBatches:
    return PairBatches(
        Sampling([NoisyRoom() if source is None else source], 20, 3), start, pairs, SIZES, CROPPING, rank, world
    )


def same(one: PairBatch, other: PairBatch) -> bool:
    return all(torch.equal(value, other._tensors()[name]) for name, value in one._tensors().items())


def test_truth_is_that_of_the_views() -> None:
    room = NoisyRoom()
    pairs = [
        crop_pair(room.pair(k, np.random.default_rng(k)), (32, 48), np.random.default_rng(k), CROPPING) for k in (0, 1)
    ]
    batch = collate(pairs)
    assert batch.image_1.shape == (2, 3, 32, 48) and -1 <= float(batch.image_1.min()) < float(batch.image_1.max()) <= 1
    for k, pair in enumerate(pairs):
        for truth, (one, other) in (
            (batch.truth, (pair.first, pair.second)),
            (batch.truth_swapped, (pair.second, pair.first)),
        ):
            expected = np.stack([transform(invert(one.w_T_c) @ view.w_T_c, view.points_c()) for view in (one, other)])
            got = torch.stack([truth.points_1[k], truth.points_2[k]]).numpy()
            unit = np.linalg.norm(expected[0], axis=-1).mean() / np.linalg.norm(got[0], axis=-1).mean()
            np.testing.assert_allclose(unit * got, expected, atol=1e-4)


def test_truth_is_not_rounded_in_half_precision() -> None:
    pair = crop_pair(NoisyRoom().pair(0, np.random.default_rng(0)), (32, 32), np.random.default_rng(0), Cropping())
    batch = collate([pair])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = batch.truth.points_2, batch.truth_swapped.points_2
    assert torch.equal(within[0], batch.truth.points_2) and torch.equal(within[1], batch.truth_swapped.points_2)


def test_far_worlds_keep_their_digits() -> None:
    """Cameras ten thousand kilometres from the origin, as maps in Earth's coordinates have them."""
    pair = crop_pair(NoisyRoom().pair(0, np.random.default_rng(0)), (32, 32), np.random.default_rng(0), Cropping())
    far = [
        ViewPair(
            *(type(view)(view.image, view.depth, view.K, shifted(view.w_T_c)) for view in (pair.first, pair.second)),
            "far",
        )
    ]
    torch.testing.assert_close(collate(far).truth.points_2, collate([pair]).truth.points_2, atol=1e-5, rtol=0)


def shifted(w_T_c: np.ndarray) -> np.ndarray:
    moved = w_T_c.copy()
    moved[:3, 3] += [1e7, -1e7, 1e6]
    return moved


def test_unknown_depth_is_not_valid() -> None:
    pair = crop_pair(NoisyRoom().pair(0, np.random.default_rng(0)), (32, 32), np.random.default_rng(0), Cropping())
    pair.first.depth[:5] = 0
    batch = collate([pair])
    assert not batch.valid_1[0, :5].any() and batch.valid_1[0, 5:].all() and batch.valid_2.all()


def test_any_number_of_workers_gives_the_same_batches() -> None:
    alone = list(islice(load(batches(), 0, 0), 5))
    helped = list(islice(load(batches(), 0, 2), 5))
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))
    assert len({tuple(batch.image_1.shape[2:]) for batch in alone}) > 1, "the aspect ratio is drawn per batch"
    assert not same(alone[0], alone[1])


def test_loading_begins_at_any_batch_and_draws_no_other_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    whole = list(islice(load(batches(), 0, 0), 4))
    later = list(islice(load(batches(), 2, 1), 2))
    assert same(whole[2], later[0]) and same(whole[3], later[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_share_a_batch() -> None:
    whole = batches(pairs=4)[1]
    parts = [batches(pairs=2, rank=rank, world=2)[1] for rank in (0, 1)]
    joined = torch.cat([part.image_1 for part in parts])
    assert torch.equal(joined, whole.image_1)


def test_broken_samples_are_replaced_and_told() -> None:
    broken = NoisyRoom(broken=frozenset(range(6)), blind=frozenset({7}))
    made = [batches(broken)[k] for k in range(10)]
    reasons = [reason for batch in made for reason in batch.skipped]
    assert len(reasons) == 7 and sum("truncated" in reason for reason in reasons) == 6
    assert sum("room 7: only 0.0 %" in reason for reason in reasons) == 1
    assert all(len(batch) == 2 for batch in made)
    assert all(same(one, batches(broken)[k]) for k, one in enumerate(made))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_of_nothing_but_broken_samples_is_refused(workers: int) -> None:
    hopeless = NoisyRoom("photos", 5, broken=frozenset(range(5)))
    with pytest.raises(InputError, match=r"'photos': 20 samples in a row.*photos/\d.jpg' is truncated"):
        next(load(batches(hopeless), 0, workers))


class Deadly(NoisyRoom):
    """Its process is ended by the system, as for want of memory."""

    def pair(self, index: int, rng: np.random.Generator) -> ViewPair:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_killed_worker_is_reported() -> None:
    with pytest.raises(InputError, match=r"ended from outside.*--workers"):
        next(load(batches(Deadly()), 0, 1))


def test_a_worker_that_ends_as_the_run_does_is_stood_in_for() -> None:
    """Other processes of the run still wait for this one's part of the step."""
    made = load(batches(), 0, 1, stop=lambda: True)
    first = next(made)
    for worker in multiprocessing.active_children():
        worker.terminate()
    helped = [first, *islice(made, 9)]  # more than are made ahead
    assert all(same(one, other) for one, other in zip(helped, islice(load(batches(), 0, 0), 10), strict=True))


def test_a_worker_that_is_just_ending_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batches wait, but cannot be fetched from it any more; it is not gone yet as far as the system tells."""
    made = load(batches(NoisyRoom()), 0, 1)
    next(made)
    (worker,) = multiprocessing.active_children()
    time.sleep(1)  # batches are made ahead
    worker.kill()
    worker.join()
    monkeypatch.setattr(type(worker), "is_alive", lambda _: True)
    with pytest.raises(InputError, match=r"ended from outside.*--workers"):
        list(islice(made, 8))
    monkeypatch.undo()
