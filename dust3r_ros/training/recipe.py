"""How a network is trained, as data: architecture, stages, optimiser, augmentation. One YAML file per size."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from dust3r_ros.errors import CheckpointError, ConfigError
from dust3r_ros.network.config import PATCH, Dust3rConfig
from dust3r_ros.training.optimiser import rate
from dust3r_ros.training.views import Cropping

_FIXED = {"pos_embed": "RoPE100", "depth_mode": ("exp", -math.inf, math.inf), "conf_mode": ("exp", 1, math.inf)}

PRECISIONS = ("auto", "float32", "bfloat16")
CASTERS = ("numpy", "torch")
OPTIMISERS = ("adamw", "muon")

_COUNTS = (
    "epoch", "bad_steps", "held_out", "evaluate_every", "save_every", "keep", "stride", "per_world", "worlds_at_once",
)  # fmt: skip
_RANGES = {"warmup": (0, 0.9), "ema": (0, 0.999999), "alpha": (0, 100), "matching": (0, 100), "decay": (0, 10)}


@dataclass(frozen=True)
class Stage:
    """A part of the run in which all batches are alike.

    ``sizes``: (H, W) of images, one drawn per batch. ``pairs`` per step, of all processes together. ``steps`` of the
    full run; ``share`` of a timed run (relative to the other stages; 0 takes ``steps``). ``rate``: peak learning rate.
    ``head``: linear or dpt. ``restart``: the schedule starts again with this stage, else it continues from the stage
    before.
    """

    sizes: tuple[tuple[int, int], ...]
    pairs: int
    steps: int
    rate: float
    share: float = 0.0
    head: str = "linear"
    restart: bool = True

    def __post_init__(self) -> None:
        sizes = tuple(tuple(size) for size in self.sizes)
        object.__setattr__(self, "sizes", sizes)
        good = all(
            len(size) == 2 and all(_is_int(side, PATCH) and side % PATCH == 0 for side in size) for size in sizes
        )
        _require(bool(sizes) and good, "sizes", self.sizes, f"a list of [H, W] in multiples of {PATCH}")
        _require(_is_int(self.pairs, 1), "pairs", self.pairs, "an integer of at least 1")
        _require(_is_int(self.steps, 1), "steps", self.steps, "an integer of at least 1")
        _require(0 < self.rate < math.inf, "rate", self.rate, "above 0 and finite")
        _require(0 <= self.share < math.inf, "share", self.share, "at least 0 and finite")
        _require(self.head in ("linear", "dpt"), "head", self.head, "linear or dpt")
        _require(isinstance(self.restart, bool), "restart", self.restart, "true or false")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run learns, apart from the data.

    ``network``: arguments of ``Dust3rConfig`` (sizes). ``epoch``: pairs after which every source has contributed
    equally. ``warmup``: share of each schedule. ``optimiser``: adamw, or muon for the matrices of blocks and adamw for
    the rest. ``decay``, ``betas``: of AdamW. ``clip``: largest norm of a gradient. ``ema``: decay of the averaged
    weights. ``alpha``: of the confidence loss. ``matching``: weight of the loss that supervises cross-attention.
    ``stride``: the regression uses every ``stride``-th pixel along both axes. ``bad_steps``: this many batches in a row
    without a finite gradient end the run; fewer are skipped. ``held_out``: pairs for evaluation, every
    ``evaluate_every`` steps. The state is written after ``save_every`` steps or ``save_seconds``, whichever comes
    first; the last ``keep`` are kept. ``precision``: auto takes bfloat16 where the device multiplies it faster (heads
    and losses are always float32). ``checkpointing``: recompute activations for the gradient, to save memory.
    ``per_world``: pairs taken from a rendered world before it is replaced; ``worlds_at_once``: worlds from which every
    process that makes batches takes pairs in turn (replaced one at a time). ``caster``: renders worlds for training
    with numpy, in the processes that make batches, or with torch on the training device, where batches are then made
    too.
    """

    name: str
    network: Mapping[str, Any]
    stages: tuple[Stage, ...]
    epoch: int = 10_000
    seed: int = 0
    warmup: float = 0.05
    optimiser: str = "adamw"
    decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    ema: float = 0.999
    alpha: float = 0.2
    matching: float = 0.0
    stride: int = 1
    zoom: float = 1.3
    centred: bool = True
    colour: float = 0.4
    precision: str = "auto"
    checkpointing: bool = False
    workers: int = 1
    caster: str = "numpy"
    per_world: int = 64
    worlds_at_once: int = 4
    bad_steps: int = 20
    held_out: int = 64
    evaluate_every: int = 1000
    save_every: int = 1000
    save_seconds: float = 600.0
    keep: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        _require(bool(self.stages), "stages", self.stages, "at least one stage")
        for name in _COUNTS:
            _require(_is_int(getattr(self, name), 1), name, getattr(self, name), "an integer of at least 1")
        _require(_is_int(self.workers, 0), "workers", self.workers, "an integer of at least 0")
        _require(_is_int(self.seed, 0) and self.seed < 2**64, "seed", self.seed, "an integer from 0 to 2^64 - 1")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            _require(low <= value <= high, name, value, f"in [{low}, {high}]")
        _require(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas", self.betas, "two in [0, 1)")
        _require(self.clip > 0, "clip", self.clip, "above 0")
        _require(1 <= self.zoom < math.inf, "zoom", self.zoom, "at least 1 and finite")
        _require(self.save_seconds > 0, "save_seconds", self.save_seconds, "above 0")
        for name in ("centred", "checkpointing"):
            _require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        _require(0 <= self.colour <= 1, "colour", self.colour, "in [0, 1]")
        _require(PATCH % self.stride == 0, "stride", self.stride, f"a divisor of {PATCH}")
        _require(self.precision in PRECISIONS, "precision", self.precision, " or ".join(PRECISIONS))
        _require(self.optimiser in OPTIMISERS, "optimiser", self.optimiser, " or ".join(OPTIMISERS))
        _require(self.caster in CASTERS, "caster", self.caster, " or ".join(CASTERS))
        _require(
            self.centred or self.caster == "numpy", "centred", self.centred,
            "true with caster=torch, which renders views with a central principal point only",
        )  # fmt: skip
        for stage in self.stages:
            self.architecture(stage)

    def architecture(self, stage: Stage) -> Dust3rConfig:
        """The network's configuration in ``stage``. Raises ``ConfigError``."""
        largest = max(stage.sizes, key=lambda size: (size[0] * size[1], size[1]))
        values = {**_FIXED, **self.network, "head_type": stage.head, "img_size": tuple(largest)}
        try:
            return Dust3rConfig.from_mapping(values)
        except CheckpointError as error:
            raise ConfigError(f"recipe '{self.name}': network: {error}") from error

    @property
    def cropping(self) -> Cropping:
        """Augmentation of training pairs."""
        return Cropping(self.zoom, self.centred, self.colour)

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """Share of each stage in the time of a run, summing to 1."""
        given = [stage.share or float(stage.steps) for stage in self.stages]
        return tuple(one / sum(given) for one in given)

    def rate(self, stage: int, done: float) -> float:
        """Learning rate after the share ``done`` of stage number ``stage``."""
        first = max(number for number in range(stage + 1) if number == 0 or self.stages[number].restart)
        later = range(stage + 1, len(self.stages))
        after = next((number for number in later if self.stages[number].restart), len(self.stages))
        behind = sum(self.shares[first:stage]) + done * self.shares[stage]
        return rate(behind / sum(self.shares[first:after]), self.stages[stage].rate, self.warmup)

    def as_mapping(self) -> dict[str, Any]:
        """As in a YAML file."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["network"] = dict(self.network)
        values["betas"] = list(self.betas)
        values["stages"] = [
            {**dataclasses.asdict(stage), "sizes": [list(size) for size in stage.sizes]} for stage in self.stages
        ]
        return values


def recipe_names() -> tuple[str, ...]:
    """Recipes in the package."""
    folder = resources.files("dust3r_ros.training") / "recipes"
    return tuple(sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")))


def read_recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe of the package by name, or of a YAML file; ``changes`` override it.

    A change of ``pairs``, ``rate``, ``steps`` or ``head`` applies to every stage. Raises ``ConfigError``.
    """
    if name in recipe_names():
        text = (resources.files("dust3r_ros.training") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = _text(Path(name))
    else:
        raise ConfigError(f"recipe '{name}' is not known; it must be a YAML file or one of {', '.join(recipe_names())}")
    return from_mapping(_parsed(text, name), changes or {}, Path(name).stem)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe '{path}' cannot be read; it must be text in UTF-8 ({error})") from error


def _parsed(text: str, name: str) -> Any:
    """The content of YAML text. JSON below comment lines, which is YAML too, is read without PyYAML."""
    try:
        return json.loads("".join(line for line in text.splitlines(True) if not line.startswith("#")))
    except ValueError:
        pass
    try:
        import yaml
    except ImportError as error:
        raise ConfigError(
            f"recipe '{name}' needs PyYAML to be read; install it, or write the recipe as JSON"
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe '{name}' is not YAML: {' '.join(str(error).split())}") from error


def from_mapping(values: Any, changes: Mapping[str, Any], name: str) -> Recipe:
    """The recipe of a YAML file's contents; raises ``ConfigError`` naming what is unknown or wrong."""
    values = _changed(values, changes) if isinstance(values, dict) else {}
    if not isinstance(values.get("stages"), list):
        raise ConfigError(f"recipe '{name}' must map names to values and have a list of stages")
    try:
        stages = tuple(_made(Stage, stage) for stage in values["stages"])
        return _made(Recipe, {"name": name, **values, "stages": stages})
    except ConfigError as error:
        raise ConfigError(f"recipe '{name}': {error}") from error


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A file's contents with ``changes``; those of stage values apply to every stage."""
    of_stage = {field.name for field in fields(Stage)} - {"sizes", "share", "restart"}
    values = {**values, **{key: value for key, value in changes.items() if key not in of_stage}}
    every = {key: value for key, value in changes.items() if key in of_stage}
    if isinstance(values.get("stages"), list):
        values["stages"] = [{**stage, **every} if isinstance(stage, dict) else stage for stage in values["stages"]]
    return values


def _made(kind: type[Any], values: Any) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{kind.__name__.lower()} is {values!r}; it must map names to values")
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"'{unknown[0]}' is not known; known are {', '.join(sorted(known))}")
    values = {name: _number(kind, name, value) for name, value in values.items()}
    needed = {f.name for f in fields(kind) if f.default is dataclasses.MISSING}
    if missing := sorted(needed - set(values)):
        raise ConfigError(f"'{missing[0]}' is missing")
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"a value is of the wrong type ({error})") from error


def _number(kind: type[Any], name: str, value: object) -> object:
    """``value``, as a number also where YAML 1.1 reads text, as for 1e-4 without a point."""
    wants = next(field.type for field in fields(kind) if field.name == name)
    if wants == "float" and isinstance(value, (str, int)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError as error:
            raise ConfigError(f"'{name}' is {value!r}; it must be a number") from error
    return value


def _is_int(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _require(good: bool, name: str, value: object, right: str) -> None:
    if not good:
        raise ConfigError(f"'{name}' is {value!r}; it must be {right}")
