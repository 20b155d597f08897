"""A DUSt3R checkpoint's architecture: the constructor's arguments, parsed and never evaluated."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any

from dust3r_ros.errors import CheckpointError

PATCH = 16
"""Side of a patch, pixels."""

GRID_POSITIONS = "RoPE100+grid"
"""RoPE, and position waves added to the patches: for networks trained here (``blocks.grid_waves``)."""

Mode = tuple[str, float, float]

# Supported values. 'patch_embed_cls', 'freeze' and 'landscape_only' say how a network was trained and
# batched; they do not change the function of the weights.
_SUPPORTED: dict[str, tuple[object, ...]] = {
    "pos_embed": ("RoPE100", GRID_POSITIONS),
    "patch_embed_cls": ("PatchEmbedDust3R", "ManyAR_PatchEmbed"),
    "head_type": ("linear", "dpt"),
    "output_mode": ("pts3d",),
    "depth_mode": (("exp", -inf, inf),),
    "conf_mode": (("exp", 1, inf),),
    "freeze": ("none", "mask", "encoder"),
    "landscape_only": (False, True),
}

# Bounds keep a hostile file from asking for a network that fits no machine.
_RANGES = {
    "enc_embed_dim": (4, 4096),
    "enc_depth": (1, 64),
    "enc_num_heads": (1, 64),
    "dec_embed_dim": (4, 4096),
    "dec_depth": (1, 64),
    "dec_num_heads": (1, 64),
}

# Arguments that change the output have no default: a wrong guess would be silent.
_REQUIRED = ("pos_embed", "head_type", "depth_mode", "conf_mode", *_RANGES)

_CLASS = "AsymmetricCroCo3DStereo"
_LONGEST = 10_000


@dataclass(frozen=True)
class Dust3rConfig:
    """Architecture of a DUSt3R network; the fields are the checkpoints' arguments.

    The defaults are those of ``DUSt3R_ViTLarge_BaseDecoder_512_dpt``. ``img_size`` is (H, W) of the training
    images, pixels. Raises ``CheckpointError`` that names a field, its value and what is supported.
    """

    pos_embed: str = "RoPE100"
    patch_embed_cls: str = "PatchEmbedDust3R"
    img_size: tuple[int, int] = (512, 512)
    head_type: str = "dpt"
    output_mode: str = "pts3d"
    depth_mode: Mode = ("exp", -inf, inf)
    conf_mode: Mode = ("exp", 1, inf)
    enc_embed_dim: int = 1024
    enc_depth: int = 24
    enc_num_heads: int = 16
    dec_embed_dim: int = 768
    dec_depth: int = 12
    dec_num_heads: int = 12
    landscape_only: bool = False
    freeze: str = "none"

    def __post_init__(self) -> None:
        for name, supported in _SUPPORTED.items():
            value = getattr(self, name)
            if not _is_one_of(value, supported):
                raise _unsupported(name, value, " or ".join(map(repr, supported)))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise _unsupported(name, value, f"an integer in [{low}, {high}]")
        for side in ("enc", "dec"):
            self._check_heads(side)
        if self.head_type == "dpt" and self.dec_depth % 4:
            raise _unsupported("dec_depth", self.dec_depth, "a multiple of 4 for the dpt head")
        if not _is_size(self.img_size):
            raise _unsupported("img_size", self.img_size, f"(H, W) in multiples of {PATCH} up to 4096")

    def _check_heads(self, side: str) -> None:
        width, heads = getattr(self, f"{side}_embed_dim"), getattr(self, f"{side}_num_heads")
        # RoPE 2D splits each head into two halves (y and x), each with two parts to rotate.
        if width % (4 * heads):
            raise _unsupported(f"{side}_embed_dim", width, f"a multiple of 4 x {side}_num_heads ({heads})")

    @classmethod
    def from_string(cls, text: str) -> Dust3rConfig:
        """Parse the string of a ``.pth``, such as ``AsymmetricCroCo3DStereo(pos_embed='RoPE100', …)``.

        Only literals, ``inf`` and ``float('inf')`` are read; nothing is evaluated. Raises ``CheckpointError``.
        """
        return cls.from_mapping(_keywords(text))

    @classmethod
    def from_json(cls, text: str) -> Dust3rConfig:
        """Parse a ``config.json``, which may hold the bare words Infinity and -Infinity.

        Raises ``CheckpointError``.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"the configuration is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"the configuration is a {type(values).__name__}; it must map names to values")
        return cls.from_mapping(values)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Dust3rConfig:
        """Build from arguments by name; lists count as tuples. Raises ``CheckpointError``."""
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise CheckpointError(f"unknown argument '{name}'; known are {', '.join(sorted(known))}")
        for name in _REQUIRED:
            if name not in values:
                raise CheckpointError(f"the argument '{name}' is missing; the network cannot be built without it")
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        if type(plain.get("img_size")) is int:
            plain["img_size"] = (plain["img_size"],) * 2
        return cls(**plain)

    def as_mapping(self) -> dict[str, Any]:
        """All arguments by name, as ``from_mapping`` takes them."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The text of a ``config.json`` (with the bare words Infinity and -Infinity)."""
        return json.dumps(self.as_mapping(), indent=2, sort_keys=True) + "\n"

    def to_string(self) -> str:
        """The string of a ``.pth``, as ``from_string`` takes it."""
        return f"{_CLASS}({', '.join(f'{name}={value!r}' for name, value in self.as_mapping().items())})"


def _unsupported(name: str, value: object, right: str) -> CheckpointError:
    return CheckpointError(f"the argument '{name}' is {_short(value)}; supported is {right}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_one_of(value: object, known: tuple[object, ...]) -> bool:
    """Whether a value is among the known ones, with the same type: 0 and 1 do not pass as booleans."""
    return any(type(value) is type(one) and value == one for one in known)


def _is_size(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(type(side) is int and 0 < side <= 4096 and side % PATCH == 0 for side in value)
    )


def _keywords(text: str) -> dict[str, Any]:
    """{name: value} of the call in ``text``; raises ``CheckpointError`` for anything but literals."""
    if len(text) > _LONGEST:
        raise CheckpointError(f"the architecture string has {len(text)} characters; at most {_LONGEST} are read")
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == _CLASS):
            raise CheckpointError(f"the architecture is {_short(text)}; it must be a call of {_CLASS}")
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise CheckpointError(f"the architecture is {_short(text)}; every argument must be given by name")
        return {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"the architecture {_short(text)} cannot be read: {error}") from error


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Name(id="inf"):
            return inf
        case ast.UnaryOp(op=ast.USub(), operand=operand) if type(number := _literal(operand)) in (int, float):
            return -number
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_literal(item) for item in items)
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value="inf" | "-inf" as word)], keywords=[]):
            return float(word)
    raise CheckpointError(f"the architecture holds {_short(ast.unparse(node))}; only literals and inf are read")
