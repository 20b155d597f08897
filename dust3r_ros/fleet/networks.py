"""Networks that many mappers share: actors of Ray that predict pairs of several recordings in one batch."""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dust3r_ros.backends import make_network
from dust3r_ros.backends.base import Network, views_of
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import BackendError
from dust3r_ros.fleet.cluster import Cluster
from dust3r_ros.products.results import peak_memory_mb
from dust3r_ros.types import Array, PairPrediction, View

Pair = tuple[int, int]

_MOST_VIEWS = 2000  # that a network keeps encoded, of all its mappers; at 3 MB a view of the largest network, 6 GB
_START_S = 600.0  # until a network has loaded its weights; a cluster that grows may first have to begin a machine
_AGAIN_S = 600.0  # that a mapper waits for a network whose process ended and is begun again
_HEARD_S = 60.0  # a mapper that asked within this time counts as one at work


@dataclass(frozen=True)
class Request:
    """What a mapper asks at once: ``dropped`` views are forgotten, ``views`` are new, then ``pairs`` are predicted.

    ``mapper``: its name; ``begins``: nothing that is kept under this name counts any more. ``depth``: of each pair,
    only the depth of the first view is wanted, with its confidence (``_bare``).
    """

    mapper: str
    dropped: Sequence[int]
    views: Sequence[View]
    pairs: Sequence[Pair]
    begins: bool = False
    depth: bool = False


@dataclass(frozen=True)
class Missing:
    """The answer to a request for ``views`` that are not kept: send them again."""

    views: Sequence[int]


Answer = list[PairPrediction] | Missing | Exception


class Batches:
    """A network asked by many mappers: pairs of all requests that wait go to it together.

    The network sees views under numbers of their own; at most ``most`` are kept, those not used longest are dropped.
    """

    def __init__(self, network: Network, most: int = _MOST_VIEWS) -> None:
        self._network, self._most = network, most
        self._numbers: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._next = 0

    def answers(self, requests: Sequence[Request]) -> list[Answer]:
        """An answer for each; an error is one, too, and only of its own request."""
        found: list[Answer] = [self._prepared(request) for request in requests]
        ready = [place for place, answer in enumerate(found) if isinstance(answer, list)]
        try:
            self._predict(requests, ready, found)
        except Exception as error:
            for place in ready:
                found[place] = error
                if len(ready) > 1:  # whose fault was it?
                    found[place] = self.answers([replace(requests[place], dropped=(), views=(), begins=False)])[0]
        while len(self._numbers) > self._most:
            self._network.forget(self._numbers.popitem(last=False)[1])
        return found

    def _prepared(self, request: Request) -> Answer:
        """Forget and add views; an empty list if the pairs can be predicted."""
        before = [key for key in self._numbers if key[0] == request.mapper] if request.begins else []
        for key in (*before, *((request.mapper, index) for index in request.dropped)):
            if key in self._numbers:
                self._network.forget(self._numbers.pop(key))
        try:
            for view in request.views:
                number = self._numbers.setdefault((request.mapper, view.index), self._next)
                self._next += 1
                self._network.add(View(number, view.camera, view.image))
        except Exception as error:
            return error
        asked = sorted({index for pair in request.pairs for index in pair})
        missing = [index for index in asked if not self._has((request.mapper, index))]
        return Missing(missing) if missing else []

    def _has(self, key: tuple[str, int]) -> bool:
        if key in self._numbers:
            self._numbers.move_to_end(key)
            return self._network.has(self._numbers[key])
        return False

    def _predict(self, requests: Sequence[Request], ready: Sequence[int], found: list[Answer]) -> None:
        orders = [(place, pair) for place in ready for pair in requests[place].pairs]
        numbers = [
            (self._numbers[requests[place].mapper, a], self._numbers[requests[place].mapper, b])
            for place, (a, b) in orders
        ]
        together = self._network.predict(numbers, {}) if numbers else []
        of_place: dict[int, list[PairPrediction]] = {place: [] for place in ready}
        for (place, (first, second)), prediction in zip(orders, together, strict=True):
            named = replace(prediction, first=first, second=second)
            of_place[place].append(_bare(named) if requests[place].depth else named)
        for place, predictions in of_place.items():
            found[place] = predictions


def _bare(prediction: PairPrediction) -> PairPrediction:
    """For the way to a mapper: of the points, only z of the first view (H, W, 1); nothing of the second."""
    depth, nothing = np.ascontiguousarray(prediction.points_first[..., 2:]), np.zeros((0, 0), np.float32)
    return replace(prediction, points_first=depth, points_second=nothing[..., None], confidence_second=nothing)


def _whole(bare: PairPrediction) -> PairPrediction:
    """The same with points (H, W, 3) of the first view again, which are on the optical axis."""
    points = np.zeros((*bare.points_first.shape[:2], 3), np.float32)
    points[..., 2:] = bare.points_first
    return replace(bare, points_first=points)


class _Actor:
    """In a process of the cluster: while the network computes, requests gather for the next batch."""

    def __init__(self, config: MapperConfig, one_thread: bool) -> None:
        if one_thread:
            from dust3r_ros.geometry.processes import use_one_thread

            use_one_thread()  # before torch is imported, which reads the variables
        self._config = config
        self._batches: Batches | None = None
        self._waiting: list[tuple[Request, asyncio.Future[Answer]]] = []
        self._serving: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1)
        self._heard: dict[str, float] = {}
        self._counts = {"batches": 0, "requests": 0, "pairs": 0}

    async def begin(self) -> tuple[int, int] | Exception:
        """Load the weights; (H, W) of the network's training, or why they cannot be used."""
        try:
            network = make_network(self._config)
        except Exception as error:
            return error
        self._batches = Batches(network)
        return network.image_size

    async def join(self, mapper: str) -> None:
        """A mapper has begun."""
        self._heard[mapper] = time.monotonic()

    async def mappers(self) -> int:
        """How many are at work."""
        return sum(time.monotonic() - heard < _HEARD_S for heard in self._heard.values())

    async def counts(self) -> Mapping[str, int]:
        """Batches, requests and pairs so far, and the most memory that this process held (MB)."""
        return {**self._counts, "memory_mb": round(peak_memory_mb())}

    async def ask(self, request: Request) -> Answer:
        """The answer to a request, together with those that wait at the same time."""
        self._heard[request.mapper] = time.monotonic()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._serving is None:
            self._serving = asyncio.ensure_future(self._serve())
        return await answer

    async def leave(self, mapper: str) -> None:
        """A mapper has ended."""
        self._heard.pop(mapper, None)
        await self.ask(Request(mapper, (), (), (), begins=True))
        self._heard.pop(mapper, None)

    async def _serve(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            requests = [request for request, _ in taken]
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._answers, requests)
            for (_, future), answer in zip(taken, answers, strict=True):
                if not future.done():  # its mapper may have been cancelled
                    future.set_result(answer)
        self._serving = None

    def _answers(self, requests: Sequence[Request]) -> list[Answer]:
        try:
            if self._batches is None:  # the process was begun again
                self._batches = Batches(make_network(self._config))
            found = self._batches.answers(requests)
        except Exception as error:
            return [error] * len(requests)
        pairs = sum(len(request.pairs) for request in requests)
        for name, more in (("batches", bool(pairs)), ("requests", len(requests)), ("pairs", pairs)):
            self._counts[name] += more
        return found


@dataclass(frozen=True)
class Pool:
    """Networks in processes of a cluster, which mappers in others share; ``image_size`` (H, W) of their training.

    ``depth``: mappers need only the depth of first views.
    """

    actors: Sequence[Any]
    image_size: tuple[int, int]
    depth: bool = False

    def network(self, mapper: str) -> SharedNetwork:
        """The network of the pool with fewest mappers, for one more of that name."""
        busy = _each([actor.mappers.remote() for actor in self.actors])

        def order(place: int) -> tuple[float, int]:  # of equally busy ones, another for each mapper
            count = busy[place]
            return math.inf if count is None else count, zlib.crc32(f"{place} {mapper}".encode())

        actor = self.actors[min(range(len(self.actors)), key=order)]
        _each([actor.join.remote(mapper)])
        return SharedNetwork(actor, mapper, self.image_size, self.depth)

    def counts(self) -> dict[str, int]:
        """Batches, requests and pairs of all networks so far, and their memory (MB), of those whose process lives."""
        found = [counts for counts in _each([actor.counts.remote() for actor in self.actors]) if counts is not None]
        return {name: sum(counts[name] for counts in found) for name in found[0]} if found else {}


def _each(calls: Sequence[Any]) -> list[Any]:
    """The results of calls of actors; None of one whose process has just ended."""
    import ray

    found = []
    for call in calls:
        try:
            found.append(ray.get(call))
        except ray.exceptions.RayActorError:
            found.append(None)
    return found


def begin_pool(cluster: Cluster, config: MapperConfig) -> Pool:
    """Begin the networks of a cluster; inside ``connected``.

    Each has the cluster's share of a GPU, or else one core and one thread, as mappers have. Raises ``BackendError``
    when no node has room for one, and what loading the weights raises.
    """
    import ray

    on_gpu = cluster.gpus > 0
    room = {"num_cpus": 0 if on_gpu else 1, "num_gpus": cluster.gpus}
    kind = ray.remote(max_restarts=-1, **room)(_Actor)
    if not on_gpu and ray.cluster_resources().get("CPU", 0) <= cluster.networks:
        raise BackendError(
            f"{cluster.networks} networks need a core each, and leave the cluster none for recordings; use fewer"
        )
    actors = [kind.remote(config, not on_gpu) for _ in range(cluster.networks)]
    try:
        sizes = ray.get([actor.begin.remote() for actor in actors], timeout=_START_S)
    except ray.exceptions.RayError as error:
        what = f"{cluster.gpus:g} GPU" if on_gpu else "a free core"
        raise BackendError(
            f"{cluster.networks} networks cannot begin: each needs {what} of a node with dust3r_ros[network] "
            f"({type(error).__name__})"
        ) from error
    for size in sizes:
        if isinstance(size, Exception):
            raise size
    return Pool(actors, sizes[0], config.backend == "both")


class SharedNetwork:
    """A network of a pool as the backend of one mapper: images go there, pointmaps come back.

    A view is sent when a pair first needs it, and again when the network does not have it any more. With ``depth``, of
    the points only the depth of first views comes back.
    """

    name = "dust3r"
    uses_poses = False

    def __init__(self, actor: Any, mapper: str, image_size: tuple[int, int], depth: bool = False) -> None:
        self.image_size, self._depth = image_size, depth
        self._actor, self._mapper = actor, mapper
        self._views: dict[int, View] = {}
        self._sent: set[int] = set()
        self._dropped: list[int] = []
        self._begins = True

    def add(self, view: View) -> None:
        """Keep a view; whether its image can be used shows in ``predict``."""
        self._views[view.index] = view
        self._sent.discard(view.index)

    def has(self, index: int) -> bool:
        """Whether a view is held."""
        return index in self._views

    def forget(self, index: int) -> None:
        """Drop a view; unknown indices are ignored."""
        if self._views.pop(index, None) is not None:
            self._dropped.append(index)
            self._sent.discard(index)

    def clear(self) -> None:
        """Drop every view."""
        for index in list(self._views):
            self.forget(index)

    def predict(
        self,
        pairs: Sequence[Pair],
        focals: Mapping[str, float],
        poses: Mapping[int, Array] | None = None,
        landmarks: Mapping[int, Array] | None = None,
    ) -> list[PairPrediction]:
        """As ``Dust3rBackend``; raises ``BackendError`` when the network's process ends and does not come back."""
        asked = views_of(pairs, self._views, "shared network")
        end = time.monotonic() + _AGAIN_S
        while True:
            new = [self._views[index] for index in asked if index not in self._sent]
            answer = self._ask(Request(self._mapper, self._dropped, new, pairs, self._begins, self._depth), end)
            if isinstance(answer, Exception):
                raise answer
            self._dropped, self._begins = [], False
            self._sent.update(asked)
            if isinstance(answer, list):
                return [_whole(one) for one in answer] if self._depth else answer
            self._sent.difference_update(answer.views)

    def close(self) -> None:
        """Let the network forget this mapper."""
        self.clear()
        _each([self._actor.leave.remote(self._mapper)])

    def _ask(self, request: Request, end: float) -> Answer:
        """An answer, if need be of the process that takes the place of one that ended."""
        import ray

        try:
            answer: Answer = ray.get(self._actor.ask.remote(request))
            return answer
        except ray.exceptions.RayActorError as error:
            if time.monotonic() > end:
                raise BackendError(
                    f"the shared network ended and was not back after {_AGAIN_S:.0f} s ({type(error).__name__})"
                ) from error
        time.sleep(0.5)
        self._sent.clear()
        return Missing(sorted({index for pair in request.pairs for index in pair}))
