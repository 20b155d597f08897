"""The sets a run learns from, by the names a user gives, and what of them is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dust3r_ros.errors import ConfigError
from dust3r_ros.training.recipe import Recipe
from dust3r_ros.training.views import BatchSource, PairSource, length

WORLDS = "worlds"
_MARGIN = 1.1  # of rendered images over what is cropped from them
_FEWEST_VIEWS, _MOST_VIEWS = 12, 32  # of a world; more pairs than twice as many repeat what they show
_FAR = 2**50  # pairs of an endless source that no run comes to


@dataclass(frozen=True)
class Split:
    """Sources to train on, with the indices that are left out of it, and sources with indices to evaluate on."""

    train: tuple[PairSource, ...]
    excluded: tuple[frozenset[int], ...]
    held_out: tuple[PairSource, ...]
    chosen: tuple[tuple[int, ...], ...]


def open_sources(
    data: Sequence[str], recipe: Recipe, world: int, cache: Path | None = None, device: str = "cpu", rank: int = 0
) -> list[PairSource]:
    """Sources of ``NAME=PATH`` each, or ``worlds`` for rendered ones (the only one where nothing is said).

    ``world``: number of processes that train, each of which should keep to worlds of its own; ``rank`` is this one.
    ``cache``: folder for what is worked out about sets on disk; None: the user's cache folder. ``device``: of this
    process, where the recipe's caster is torch. Raises ``ConfigError`` for a text of another form and ``InputError``
    for a set that is not known, or a path that holds none.
    """
    opened: list[PairSource] = []
    if recipe.caster == "torch" and list(data or [WORLDS]) != [WORLDS]:
        raise ConfigError(
            f"--data is {' '.join(data)} and the recipe's caster torch, which makes whole batches of rendered worlds "
            "on the device; take caster=numpy for other sets"
        )
    for text in data or [WORLDS]:
        name, equals, path = text.partition("=")
        if name == WORLDS and not equals:
            opened.append(_worlds(recipe, world, device, rank))
        elif not equals or not path or not name:
            raise ConfigError(f"--data {text!r} is not NAME=PATH, or {WORLDS}")
        else:
            opened.append(_on_disk(name, path, cache))
    return opened


def split(sources: Sequence[PairSource], count: int) -> Split:
    """``count`` pairs altogether are held out, equally many of each source.

    A source that knows itself which of its scenes are for evaluation (``held_out()``, another source) is asked; of
    another finite one evenly spaced pairs, at most a tenth; of an endless one pairs that no run comes to.
    """
    each = [count // len(sources) + (number < count % len(sources)) for number in range(len(sources))]
    excluded, held_out, chosen = [], [], []
    for source, wanted in zip(sources, each, strict=True):
        own: Any = getattr(source, "held_out", None)
        apart: PairSource | None = own() if callable(own) else None
        of = source if apart is None else apart
        total = length(of)
        if total is None:
            indices = tuple(range(wanted)) if apart is not None else tuple(_FAR + k for k in range(wanted))
        else:
            most = min(wanted, total if apart is not None else max(total // 10, 1))
            indices = tuple(sorted({k * total // max(most, 1) for k in range(most)}))
        held_out.append(of)
        chosen.append(indices)
        excluded.append(frozenset(indices) if apart is None else frozenset())
    return Split(tuple(sources), tuple(excluded), tuple(held_out), tuple(chosen))


def sized(sources: Sequence[PairSource], sizes: Sequence[tuple[int, int]]) -> list[PairSource]:
    """The same sources for images of ``sizes`` (H, W): one that makes its images makes them no larger than needed."""
    short_side = round(_MARGIN * max(min(size) for size in sizes))
    found: list[PairSource] = []
    for source in sources:
        if isinstance(source, BatchSource):
            source = source.at(sizes[0])
        elif isinstance(source, Sizable):
            source = source.sized(short_side)
        found.append(source)
    return found


@runtime_checkable
class Sizable(Protocol):
    """A source whose images can be had at any size."""

    def sized(self, short_side: int) -> Any:
        """The same pairs with images whose smaller side is ``short_side`` pixels."""


def _worlds(recipe: Recipe, world: int, device: str, rank: int) -> PairSource:
    """Rendered worlds, of which every process (of training, and of making batches) has lanes of its own.

    That holds for as many workers as the recipe says; with others the pairs are the same, but more worlds are built.
    """
    if recipe.caster == "torch":
        from dust3r_ros.training.on_device.source import DeviceWorlds

        return DeviceWorlds(
            seed=recipe.seed, device=device, per_world=recipe.per_world, worlds=recipe.worlds_at_once,
            rank=rank, world=world,
        )  # fmt: skip
    from dust3r_ros.training.synthetic import RenderedPairs

    own = [stage.pairs // world for stage in recipe.stages]
    lanes = max(recipe.workers, 1) * world * max(max(own) // min(own), 1)
    return RenderedPairs(
        seed=recipe.seed,
        per_world=recipe.per_world,
        views=min(max(recipe.per_world // 2, _FEWEST_VIEWS), _MOST_VIEWS),
        batch=min(own),
        lanes=lanes,
        mixed=recipe.worlds_at_once,
    )


def _on_disk(name: str, path: str, cache: Path | None) -> PairSource:
    from dust3r_ros.training.datasets import open_set

    return open_set(name, path, cache)
