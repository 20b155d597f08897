"""Small ONNX graphs with the signatures of published depth networks, which read depth off the blue of an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dust3r_ros.types import Array, Image

onnx = pytest.importorskip("onnx", reason="onnx, which makes the graphs, is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from onnx import TensorProto, helper  # noqa: E402

NEAREST = 0.5  # metres: all blue
_MEAN, _STD = 0.406, 0.225  # of ImageNet's blue


def blue(images: Image, depths: Array) -> Image:
    """Images (..., H, W, 3) whose blue is inverse depth (..., H, W), as in a fog; red and green stay."""
    found = images.copy()
    found[..., 2] = np.round(255 * np.clip(NEAREST / np.maximum(depths, NEAREST), 0, 1))
    return found


def _constant(name: str, value: Any, kind: int = TensorProto.FLOAT) -> Any:
    array = np.asarray(value, np.int64 if kind == TensorProto.INT64 else np.float32)
    return helper.make_node(
        "Constant", [], [name], value=helper.make_tensor(name, kind, array.shape, array.ravel().tolist())
    )


def _input(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _save(path: Path, nodes: list[Any], inputs: list[Any], outputs: dict[str, Sequence[int | str]]) -> Path:
    made = [_input(name, shape) for name, shape in outputs.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "depth", inputs, made), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def _blue_of(image: str) -> list[Any]:
    """(B, H, W) from (B, 3, H, W)."""
    return [_constant("two", 2, TensorProto.INT64), helper.make_node("Gather", [image, "two"], ["blue"], axis=1)]


def depth_anything(
    path: Path, name: str = "pixel_values", output: str = "predicted_depth",
    size: Sequence[int | str] = ("height", "width"), scale: float = 40.0, shift: float = 3.0, gives: str = "relative",
    half: bool = False,
) -> Path:  # fmt: skip
    """Inverse depth up to ``scale`` and ``shift``; ``gives`` metric: depth in metres; nan: nothing.

    ``half``: the image in float16.
    """
    nodes = [
        helper.make_node("Cast", [name], ["whole"], to=TensorProto.FLOAT),
        *_blue_of("whole"), _constant("std", _STD), _constant("mean", _MEAN),
        helper.make_node("Mul", ["blue", "std"], ["spread"]), helper.make_node("Add", ["spread", "mean"], ["raw"]),
        _constant("least", 0.01), helper.make_node("Max", ["raw", "least"], ["fog"]),
    ]  # fmt: skip
    if gives == "metric":
        nodes += [_constant("nearest", NEAREST), helper.make_node("Div", ["nearest", "fog"], [output])]
    else:
        factor = float("nan") if gives == "nan" else scale
        nodes += [
            _constant("scale", factor), helper.make_node("Mul", ["fog", "scale"], ["scaled"]),
            _constant("shift", shift), helper.make_node("Add", ["scaled", "shift"], [output]),
        ]  # fmt: skip
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    return _save(path, nodes, [_input(name, ("batch", 3, *size), kind)], {output: ("batch", "h", "w")})


def moge(
    path: Path, focal: float, metres: float = 2.0, shift: float = 0.4, size: Sequence[int | str] = ("height", "width"),
    tokens: Sequence[int] | None = (), least: float = 0.02,
) -> Path:  # fmt: skip
    """Points of a camera with ``focal`` widths in units of ``metres``, ``shift`` too near; mask where blue > ``least``.

    ``tokens``: shape of num_tokens, None for a graph without.
    """
    nodes = [
        *_blue_of("image"),
        _constant("least", 0.001), helper.make_node("Max", ["blue", "least"], ["fog"]),
        _constant("nearest", NEAREST / metres), helper.make_node("Div", ["nearest", "fog"], ["z"]),
        _constant("nothing", 0.0), _constant("one", 1.0), _constant("half", 0.5), _constant("share", focal),
        helper.make_node("Mul", ["blue", "nothing"], ["zeros"]), helper.make_node("Add", ["zeros", "one"], ["ones"]),
    ]  # fmt: skip
    for axis, number in (("u", 2), ("v", 1)):
        nodes += [
            _constant(f"axis_{axis}", number, TensorProto.INT64),
            helper.make_node("CumSum", ["ones", f"axis_{axis}"], [f"count_{axis}"]),
            helper.make_node("ReduceMax", [f"count_{axis}"], [f"most_{axis}"], keepdims=1),
            helper.make_node("Add", [f"most_{axis}", "one"], [f"beyond_{axis}"]),
            helper.make_node("Mul", [f"beyond_{axis}", "half"], [f"middle_{axis}"]),
            helper.make_node("Sub", [f"count_{axis}", f"middle_{axis}"], [f"pixel_{axis}"]),
            *([helper.make_node("Mul", ["most_u", "share"], ["focal"])] if axis == "u" else []),
            helper.make_node("Div", [f"pixel_{axis}", "focal"], [f"slope_{axis}"]),
            helper.make_node("Mul", [f"slope_{axis}", "z"], [f"along_{axis}"]),
        ]
    nodes += [
        _constant("shift", shift), helper.make_node("Sub", ["z", "shift"], ["near"]),
        _constant("last", [-1], TensorProto.INT64),
        *(helper.make_node("Unsqueeze", [part, "last"], [f"{part}_1"]) for part in ("along_u", "along_v", "near")),
        helper.make_node("Concat", ["along_u_1", "along_v_1", "near_1"], ["points"], axis=-1),
        helper.make_node("Identity", ["points"], ["normal"]),
        _constant("dark", least), helper.make_node("Greater", ["blue", "dark"], ["shown"]),
        helper.make_node("Cast", ["shown"], ["mask"], to=TensorProto.FLOAT),
        _constant("metric_scale", [metres]),
    ]  # fmt: skip
    inputs = [_input("image", ("batch", 3, *size))]
    if tokens is not None:
        inputs.append(_input("num_tokens", tokens, TensorProto.INT64))
    shape = ("batch", "h", "w")
    outputs: dict[str, Sequence[int | str]] = {
        "points": (*shape, 3), "normal": (*shape, 3), "mask": shape, "metric_scale": (1,),
    }  # fmt: skip
    return _save(path, nodes, inputs, outputs)


def other(path: Path) -> Path:
    """A graph of another kind."""
    return _save(path, [helper.make_node("Identity", ["x"], ["logits"])], [_input("x", (1, 10))], {"logits": (1, 10)})
