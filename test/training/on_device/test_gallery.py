"""Pairs made on the device: the same scenes, cameras and truth as NumPy's, without work per pair on the host."""

from __future__ import annotations

import sys
import threading
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.errors import InputError, TrainingError  # noqa: E402
from dust3r_ros.scenes.endless import worlds  # noqa: E402
from dust3r_ros.scenes.endless.casting import Eye  # noqa: E402
from dust3r_ros.scenes.endless.viewpoints import DepthView  # noqa: E402
from dust3r_ros.scenes.endless.viewpoints import overlaps as numpys  # noqa: E402
from dust3r_ros.training.batches import collate  # noqa: E402
from dust3r_ros.training.on_device import source  # noqa: E402
from dust3r_ros.training.on_device.gallery import (  # noqa: E402
    TOGETHER,
    Gallery,
    Studio,
    Views,
    as_batch,
    choose_pairs,
    overlaps,
)
from dust3r_ros.training.on_device.makers import Makers  # noqa: E402
from dust3r_ros.training.on_device.source import DeviceWorlds, as_views  # noqa: E402
from dust3r_ros.training.on_device.viewpoints import Draws  # noqa: E402
from dust3r_ros.training.raycast import Raycaster  # noqa: E402
from dust3r_ros.training.start import new_model  # noqa: E402
from dust3r_ros.training.tasks import PairTask  # noqa: E402
from dust3r_ros.training.views import Cropping, TrainingView, ViewPair  # noqa: E402

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
VIEWS = Views((48, 48), 8, 16)
pytestmark = pytest.mark.usefixtures("quick_worlds")


def studio(device: str = "cpu", seed: int = 0) -> Studio:
    return Studio(Makers((seed, 0), 0), torch.device(device))


@pytest.fixture(scope="module")
def rendered(quick_worlds: None) -> Any:
    return studio().next(VIEWS)


def exact(rendered: Any) -> list[TrainingView]:
    """The same cameras in the same world by NumPy."""
    world = worlds.make_world((0, 0), 0)
    views = []
    for K, w_T_c in zip(rendered.K.numpy(), rendered.w_T_c.numpy(), strict=True):
        view = world.scenery.render(Eye(K, w_T_c, 48, 48))
        views.append(TrainingView(view.image, view.depth, K, w_T_c))
    return views


def test_views_are_numpys_but_for_rounding(rendered: Any) -> None:
    for k, view in enumerate(exact(rendered)):
        known = view.depth > 0
        assert ((rendered.depths[k].numpy() > 0) == known).mean() > 0.998
        away = np.abs(rendered.depths[k].numpy() - view.depth)[known] / view.depth[known]
        assert (away < 1e-4).mean() > 0.995
        off = np.abs(rendered.images[k].numpy().astype(int) - view.image).max(axis=-1)
        assert (off <= 8).mean() > 0.98


def test_cameras_are_free_and_see_something(rendered: Any) -> None:
    drawn = worlds.draw_up((0, 0), 0)
    assert len(rendered.images) == VIEWS.count
    assert not drawn.shapes.holds(rendered.w_T_c[:, :3, 3].numpy(), 0.05 * drawn.stage.reach[0]).any()
    assert (rendered.depths > 0).float().mean(dim=(1, 2)).min() > 0.1
    R = rendered.w_T_c[:, :3, :3]
    assert torch.allclose(R @ R.transpose(1, 2), torch.eye(3, dtype=R.dtype).expand_as(R), atol=1e-9)
    assert torch.allclose(rendered.K[:, 0, 2], torch.tensor(23.5, dtype=R.dtype))


def test_overlaps_are_numpys(rendered: Any) -> None:
    found = overlaps(rendered.depths, rendered.K, rendered.w_T_c).numpy()
    views = zip(rendered.depths.numpy(), rendered.K.numpy(), rendered.w_T_c.numpy(), strict=True)
    assert np.abs(found - numpys([DepthView(*view) for view in views], 2)).max() < 1e-6


def test_pairs_have_the_overlaps_that_are_asked_for() -> None:
    shared = torch.rand(20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = torch.minimum(shared, shared.T)
    pairs = choose_pairs(shared, Views((16, 16), 20, 500, overlap=(0.2, 0.6)), Draws(torch.device("cpu"), (1,)))
    apart = pairs[:, 0] != pairs[:, 1]
    found = both[pairs[apart, 0], pairs[apart, 1]]
    assert 0.9 < apart.double().mean() < 1 and found.min() >= 0.2 and found.max() <= 0.6
    assert abs(found.mean() - 0.4) < 0.03 and found.std() > 0.08
    lonely = choose_pairs(torch.zeros(3, 3).double(), VIEWS, Draws(torch.device("cpu"), (2,)))
    assert (lonely[:, 0] == lonely[:, 1]).all()


def test_losses_are_those_of_numpys_path(rendered: Any) -> None:
    """The same views and pairs by NumPy's renderer, collation and crops give the same loss."""
    from small_worlds import RECIPE

    from dust3r_ros.training.recipe import from_mapping

    recipe = from_mapping({**RECIPE, "matching": 0.5}, {}, "small")
    task = PairTask(new_model(recipe.architecture(recipe.stages[0]), 0), recipe.alpha, recipe.matching)
    pairs = rendered.pairs[:8]
    place = pairs.T.flatten()
    images = rendered.images[place].movedim(3, 1).float()
    device = as_batch(images, rendered.depths[place], rendered.K[place], rendered.w_T_c[place])
    views = exact(rendered)
    host = collate([ViewPair(views[a], views[b], "") for a, b in pairs.tolist()])
    for one, other in zip(task(device), task(host), strict=True):
        assert abs(float(one) - float(other)) < 2e-3 * abs(float(other))


@pytest.mark.parametrize("device", DEVICES)
def test_worlds_rendered_together_are_those_rendered_alone(device: str) -> None:
    """But for the last bits: operations on more numbers may round otherwise."""
    alone, together = (Studio(Makers((0, 0), 0), torch.device(device), count) for count in (1, 3))
    for _ in range(4):
        one, other = alone.next(VIEWS), together.next(VIEWS)
        assert torch.allclose(one.K, other.K, rtol=1e-12) and torch.allclose(one.w_T_c, other.w_T_c, atol=1e-9)
        assert torch.equal(one.pairs, other.pairs)
        assert ((one.depths - other.depths).abs() <= 1e-5 * one.depths).float().mean() > 0.999
        assert (one.images != other.images).float().mean() < 1e-3


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_does_not_depend_on_those_before(device: str) -> None:
    def gallery(number: int) -> Gallery:
        made = Makers((0, 0), number * 8 // 16)
        return Gallery(Studio(made, torch.device(device)), VIEWS, 2, 8, number)

    run = gallery(0)
    batches = [run.batch() for _ in range(4)]
    for number in (1, 3):
        again = gallery(number).batch()
        assert all(torch.equal(value, again._tensors()[name]) for name, value in batches[number]._tensors().items())
    assert not torch.equal(batches[0].image_1, batches[1].image_1)


def test_the_host_does_nothing_per_pair() -> None:
    """As many Python calls for a batch of 48 pairs as for one of 6."""

    def calls(pairs: int) -> int:
        gallery = Gallery(studio(), VIEWS, 1, pairs)
        gallery.batch()
        count = [0]

        def counted(frame: object, event: str, argument: object) -> None:
            count[0] += event in ("call", "c_call")

        sys.setprofile(counted)
        try:
            gallery._batch()
        finally:
            sys.setprofile(None)
        return count[0]

    few, many = calls(6), calls(48)
    assert many <= 1.02 * few + 5, (few, many)


def test_worlds_take_turns_and_give_way() -> None:
    seen: list[int] = []

    class Told(Makers):
        def blueprint(self) -> Any:
            number, drawn = super().blueprint()
            seen.append(number)
            return number, drawn

    gallery = Gallery(Studio(Told((0, 0), 0), torch.device("cpu")), Views((32, 32), 4, 8), 3, 4)
    for expected in (3, 3, 4, 4, 5):
        gallery.batch()
        assert seen == list(range(expected))


def test_pictures_look_as_cameras_take_them() -> None:
    batch = Gallery(studio(), Views((48, 48), 8, 16, colour=0.4), 2, 16).batch()
    assert batch.image_1.shape == (16, 3, 48, 48) and batch.image_1.min() >= -1 and batch.image_1.max() <= 1
    assert torch.isfinite(batch.points_1).all() and batch.valid_1.any()
    unit = torch.cat((batch.points_1[..., 2], batch.points_2[..., 2]), dim=1)[
        torch.cat((batch.valid_1, batch.valid_2), dim=1)
    ]
    assert abs(float(unit.mean()) - 1) < 0.5


def test_single_pairs_are_for_evaluation() -> None:
    held_out, others = (DeviceWorlds(seed=seed).held_out().at((32, 48)) for seed in (0, 7))
    one, again, other = (source.pair(5, np.random.default_rng(0)) for source in (held_out, held_out, others))
    one.check()
    assert one.first.image.shape == (32, 48, 3) and np.array_equal(one.first.image, again.first.image)
    assert np.array_equal(one.first.image, other.first.image)  # runs of all seeds are compared by them
    with pytest.raises(InputError, match="pair -1"):
        held_out.pair(-1, np.random.default_rng(0))
    with pytest.raises(InputError, match="unknown split 'test'"):
        DeviceWorlds("test")


@pytest.mark.parametrize("together", [1, 3])
def test_several_sizes_are_drawn_and_gone_on_with(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOGETHER, "cpu", together)

    def stream(number: int) -> Any:
        source = DeviceWorlds(per_world=8, worlds=2)
        return source.batches(0, number, 4, [(32, 32), (32, 48)], Cropping(), 0)

    with closing(stream(0)) as run:
        batches = [next(run) for _ in range(6)]
    assert {batch.image_1.shape[3] for batch in batches} == {32, 48}
    with closing(stream(4)) as later:
        again = next(later)
    assert torch.equal(again.image_1, batches[4].image_1)


@pytest.mark.parametrize("broken", [False, True])
def test_a_gpu_gets_batches_from_a_stream_of_their_own(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With streams that only note what is asked of them: every batch is waited for, its memory kept until it is read,
    and the thread ends with the iteration.
    """
    waited, kept, ended, thread = [], [], [], threading.local()

    class Event:
        def record(self, stream: str) -> None:
            self.of = stream, thread.stream

    here = SimpleNamespace(wait_event=lambda event: waited.append(event.of))
    batch = Gallery(studio(), Views((32, 32), 4, 8), 1, 2).batch()
    for name, fake in (
        ("Stream", lambda device, priority: "aside"), ("set_stream", lambda stream: setattr(thread, "stream", stream)),
        ("Event", Event), ("current_stream", lambda device: here),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda value, stream: kept.append((id(value), stream)))

    def made() -> Any:
        try:
            for number in range(20):
                assert thread.stream == "aside"
                if broken and number == 2:
                    raise TrainingError("no room")
                yield batch
        finally:
            ended.append(True)

    with closing(source._ahead(made(), torch.device("cuda"))) as batches:
        for number in range(1, 3):
            assert next(batches) is batch
            assert waited == [("aside", "aside")] * number
            assert kept == [(id(value), here) for value in batch._tensors().values()] * number
        if broken:
            with pytest.raises(TrainingError, match="no room"):
                next(batches)
    assert ended == [True] and not any(one.name == "read-ahead" for one in threading.enumerate())


def test_views_of_a_batch_are_its_pairs() -> None:
    batch = Gallery(studio(), VIEWS, 1, 4).batch()
    again = collate(as_views(batch, "here"))
    assert torch.allclose(again.image_2, batch.image_2, atol=1e-6)
    assert torch.allclose(again.points_2, batch.points_2, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "error, words",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), r"of 'cpu' has no room.*worlds_at_once"),
        (RuntimeError("CUDA error: device busy\nCompile with"), r"rendered on 'cpu': CUDA error: device busy$"),
    ],
)
def test_a_device_that_cannot_is_an_error(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Raycaster, seen_by: Any) -> Any:
        raise error

    monkeypatch.setattr(Raycaster, "render", fails)
    with pytest.raises(TrainingError, match=words):
        Gallery(studio(), VIEWS, 1, 4).batch()
