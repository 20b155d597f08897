"""A set on disk through the loader that trains: the same for any number of workers, in spite of a broken image."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from training_trees import Opener

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.training.batches import PairBatches, Sampling, load  # noqa: E402
from dust3r_ros.training.views import Cropping  # noqa: E402


def test_batches_of_a_set_with_a_broken_image(opened: Opener, tmp_path: Path) -> None:
    sources = [opened("habitat")]
    # The listing was made while all was well.
    assert sources[0].prepare() == 5
    next(iter(sorted(tmp_path.rglob("color/000002.jpg")))).write_bytes(b"no image")
    found = {}
    for workers in (0, 2):
        batches = PairBatches(Sampling([opened("habitat")], 20, 3), 0, 4, [(64, 80)], Cropping(), 0, 1)
        found[workers] = list(islice(load(batches, 0, workers), 4))
    for alone, helped in zip(found[0], found[2], strict=True):
        assert alone.skipped == helped.skipped and torch.equal(alone.points_1, helped.points_1)
        assert alone.image_1.shape == (4, 3, 64, 80) and alone.valid_1.float().mean() > 0.9
    said = [reason for batch in found[0] for reason in batch.skipped]
    assert said and all("color/000002.jpg" in reason for reason in said)
