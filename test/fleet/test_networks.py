"""Networks that mappers share: the same pointmaps as with one of their own, in batches, whatever happens between."""

from __future__ import annotations

import asyncio
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clusters import needs_ray
from sequences import cut, walk

from dust3r_ros.backends import make_backend, make_network
from dust3r_ros.backends.base import Network
from dust3r_ros.backends.both import NetworkDepths
from dust3r_ros.cli import fleet
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import BackendError, CheckpointError, InputError
from dust3r_ros.fleet.cluster import Cluster, connected, need_ray
from dust3r_ros.fleet.networks import Batches, Missing, Request, SharedNetwork, begin_pool
from dust3r_ros.scenes.export import write_folder
from dust3r_ros.types import PairPrediction, View

pytest.importorskip("torch", reason="torch is not installed")
MINI = MapperConfig(backend="dust3r", checkpoint="mini", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def network() -> Network:
    return make_network(MINI)


def views(seed: int, count: int = 3, height: int = 96) -> list[View]:
    rng = np.random.default_rng(seed)
    return [View(index, "camera", rng.integers(0, 255, (height, 128, 3), dtype=np.uint8)) for index in range(count)]


def alone(network: Network, given: Sequence[View], pairs: Sequence[tuple[int, int]]) -> list[PairPrediction]:
    """With a network of one's own."""
    network.clear()
    for view in given:
        network.add(view)
    return network.predict(pairs, {})


def assert_same(found: object, expected: Sequence[PairPrediction], tolerance: float = 0.0) -> None:
    assert isinstance(found, list) and len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.first, one.second) == (other.first, other.second)
        for name in ("points_first", "confidence_first", "points_second", "confidence_second"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=tolerance, atol=tolerance)


def test_pairs_of_several_mappers_are_one_batch_and_the_same_as_alone(network: Network) -> None:
    """In float32: in bfloat16, which some processors choose, sums differ between batches by tenths of a percent."""
    asked = {"a": [(0, 1), (1, 0), (2, 0)], "b": [(1, 2)], "c": [(0, 2), (2, 1)]}
    given = {"a": views(1), "b": views(2), "c": views(3, height=112)}  # of another size: a batch of its own
    expected = {name: alone(network, given[name], pairs) for name, pairs in asked.items()}
    network.clear()
    batches: list[int] = []

    class Counted:
        image_size = network.image_size

        def __getattr__(self, name: str) -> object:
            return getattr(network, name)

        def predict(self, pairs: Sequence[tuple[int, int]], focals: object) -> list[PairPrediction]:
            batches.append(len(pairs))
            return network.predict(pairs, {})

    shared = Batches(Counted())  # type: ignore[arg-type]
    answers = shared.answers([Request(name, (), given[name], asked[name], True) for name in asked])
    assert batches == [6]
    for name, answer in zip(asked, answers, strict=True):
        assert_same(answer, expected[name], 1e-4)
    (again,) = shared.answers([Request("b", (), (), [(2, 1)])])
    assert_same(again, alone(network, given["b"], [(2, 1)]), 1e-4)


def test_what_is_not_kept_is_asked_for(network: Network) -> None:
    network.clear()
    shared, (a, b, c) = Batches(network, most=3), views(4)
    (first,) = shared.answers([Request("x", (), [a, b], [(0, 1)], True)])
    assert isinstance(first, list)
    (answer,) = shared.answers([Request("x", [1], [], [(0, 1)])])
    assert answer == Missing([1])
    shared.answers([Request("y", (), [a, b, c], [(0, 1)], True)])  # and the views of x are the oldest
    assert shared.answers([Request("x", (), [], [(0, 1)])]) == [Missing([0, 1])]
    assert isinstance(shared.answers([Request("y", (), [], [(0, 2)])])[0], list)
    assert shared.answers([Request("y", (), [], [(0, 2)], True)]) == [Missing([0, 2])], "a mapper of this name begins"


def test_where_only_depth_is_needed_a_quarter_comes_back(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """And depth is the same, to the bit."""
    batches, sizes, found = Batches(network), [], []

    def answer(request: Request) -> object:
        (given,) = batches.answers([request])
        sizes.append(len(pickle.dumps(given)))
        return given

    ray = SimpleNamespace(get=lambda value: value, exceptions=SimpleNamespace(RayActorError=KeyError))
    monkeypatch.setitem(sys.modules, "ray", ray)
    actor = SimpleNamespace(ask=SimpleNamespace(remote=answer))
    for depth in (False, True):
        depths = NetworkDepths(SharedNetwork(actor, "x", network.image_size, depth))
        for view in views(6):
            depths.add(view)
        found.append(depths.of_orders([(0, 1), (2, 0)]))
    assert sizes[1] == pytest.approx(sizes[0] / 4, rel=0.02)
    for order in ((0, 1), (2, 0)):
        assert np.array_equal(found[0][order].depth, found[1][order].depth) and found[0][order].depth.any()
        assert np.array_equal(found[0][order].confidence, found[1][order].confidence)


def test_an_error_is_that_of_its_own_request(network: Network) -> None:
    network.clear()
    odd = View(0, "camera", np.zeros((90, 128, 3), np.uint8))
    good = views(5)
    bad, fine = Batches(network).answers(
        [Request("x", (), [odd, *good[1:]], [(0, 1)], True), Request("y", (), good, [(0, 1)], True)]
    )
    assert isinstance(bad, InputError) and "multiples of 16" in str(bad)
    assert_same(fine, alone(network, good, [(0, 1)]), 1e-4)


def test_networks_that_cannot_begin_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an actor answers crosses processes on its way."""

    def get(calls: Sequence[Coroutine[object, object, object]], timeout: float) -> list[object]:
        return [pickle.loads(pickle.dumps(asyncio.run(call))) for call in calls]

    def remote(**room: float) -> Callable[[type], object]:
        def begun(kind: type, config: MapperConfig, one_thread: bool) -> object:
            actor = kind(config, False)  # this process keeps its threads
            return SimpleNamespace(begin=SimpleNamespace(remote=actor.begin))

        return lambda kind: SimpleNamespace(remote=partial(begun, kind))

    resources = {"CPU": 2.0}
    ray = SimpleNamespace(
        get=get, remote=remote, exceptions=SimpleNamespace(RayError=KeyError), cluster_resources=lambda: resources
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(CheckpointError, match="'nothing' does not exist"):
        begin_pool(Cluster(networks=1), MapperConfig(backend="dust3r", checkpoint="nothing", device="cpu"))
    with pytest.raises(BackendError, match="leave the cluster none for recordings"):
        begin_pool(Cluster(networks=2), MINI)


@needs_ray
def test_a_network_that_ends_is_begun_again_and_has_its_views_sent_again(network: Network) -> None:
    cluster = Cluster(workers=1, networks=1)
    need_ray(cluster)
    given = views(6)
    expected = alone(network, given, [(0, 1), (1, 2)])
    with connected(cluster):
        import ray

        pool = begin_pool(cluster, MINI)
        assert pool.image_size == network.image_size
        shared = pool.network("walk")
        backend = make_backend(MINI, shared)
        assert backend is shared
        for view in given:
            backend.add(view)
        assert_same(backend.predict([(0, 1)], {}), expected[:1], 1e-4)
        ray.kill(pool.actors[0], no_restart=False)
        assert_same(backend.predict([(0, 1), (1, 2)], {}), expected, 1e-4)
        assert pool.counts()["pairs"] == 2, "of the process that lives"
        other = pool.network("run")  # while the first mapper is at work
        other.add(given[0])
        assert other.image_size == network.image_size and ray.get(pool.actors[0].mappers.remote()) == 2
        other.close()
        assert ray.get(pool.actors[0].mappers.remote()) == 1
        backend.forget(1)
        with pytest.raises(InputError, match="view 1 is not known to the shared network"):
            backend.predict([(0, 1)], {})
        shared.close()


@needs_ray
def test_recordings_that_share_a_network_are_mapped_as_alone(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--backend", "both", "--checkpoint", "mini", "--focal", "199.2"]
    options += ["--set", "working_size=160", "--set", "tracking_size=240", "--set", "keyframe_motion_young=0.03"]
    for name in ("orbit", "corridor"):
        write_folder(cut(walk(name), 8), tmp_path / name)
    out = tmp_path / "out"
    asked = [str(tmp_path / "orbit"), str(tmp_path / "corridor"), "--out", str(out), *options]
    assert fleet.main([*asked, "--workers", "2", "--networks", "1"]) == 0
    (pairs,) = re.findall(
        r"shared networks: (\d+) pairs of \d+ requests in \d+ batches, \d+ MB", capsys.readouterr().out
    )
    assert int(pairs) > 0
    assert fleet.main(asked) == 0, "how the network is reached is no other request, so Ray is not started"
    given, pairs = views(7), [(0, 1), (1, 2), (2, 0)]
    network.clear()
    together, (single,) = alone(network, given, pairs), alone(network, given, pairs[:1])
    if not np.array_equal(together[0].points_first, single.points_first):
        pytest.skip("on this processor, a pair's pointmaps depend on its batch in the last digits")
    script = "from dust3r_ros.geometry.processes import use_one_thread as one; one(); "
    script += "import sys; from dust3r_ros.cli.map import main; sys.exit(main())"
    command = [sys.executable, "-c", script, str(tmp_path / "orbit"), "--out", str(tmp_path / "alone"), "--quiet"]
    subprocess.run([*command, *options], check=True)
    for name in ("trajectory.txt", "keyframes.txt", "map.ply", "cameras.yaml"):
        assert (out / "orbit" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def test_a_backend_without_a_network_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "walk").mkdir()
    assert fleet.main([str(tmp_path / "walk"), "--out", str(tmp_path / "out"), "--networks", "1"]) == 2
    assert "backend 'two_view' has none to share; use dust3r or both" in capsys.readouterr().err
