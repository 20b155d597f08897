"""Depth networks of others as ONNX graphs: recognised by their documented signature, run on one image at a time.

- MoGe-2 (Wang et al., "MoGe-2: Accurate Monocular Geometry with Metric Scale and Sharp Details", NeurIPS 2025).
  Signature as in docs/onnx.md of github.com/microsoft/MoGe: ``image`` (B, 3, H, W), RGB in [0, 1], of any size, and
  ``num_tokens``, to ``points`` (B, H, W, 3), ``mask`` (B, H, W), ``metric_scale`` (B,); ``normal`` is not used. The
  points lack a shift along z; those in metres are (points + shift) * metric_scale (issue 129 there).
- Depth Anything V2 (Yang et al., NeurIPS 2024). Signature as in the cards of its exports (onnx-community's
  depth-anything-v2-small; github.com/fabio-sim/Depth-Anything-ONNX): ``pixel_values`` or ``image`` (B, 3, H, W), RGB
  minus ImageNet's mean over its deviation, sides multiples of 14, usually about 518, to ``predicted_depth`` or
  ``depth`` (B, H, W) or (B, 1, H, W): inverse depth up to scale and shift. Its metric variants have the same
  signature, but give depth; ``mono`` finds them to contradict geometry and does not use them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dust3r_ros.errors import BackendError, CheckpointError
from dust3r_ros.geometry.processes import usable_cores
from dust3r_ros.types import Array32, Image

_DOCUMENTED = (
    "MoGe-2 takes image (B, 3, H, W), and may take num_tokens, and gives points, mask and metric_scale; Depth Anything "
    "V2 takes pixel_values or image (B, 3, H, W) and gives predicted_depth or depth"
)
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_TOKENS = 1200  # the least of the recommended 1200 to 2500: images are small here
_LEAST_MASK = 0.5
_PATCH, _SIDE = 14, 518  # of Depth Anything V2, pixels: its grid, and the side of the square it is used with
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # ImageNet's, RGB in [0, 1]
_STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True, eq=False)
class AffinePoints:
    """What MoGe-2 gives of an image: ``points`` (H, W, 3) float32, camera frame, without their shift along z.

    NaN where there is none (sky). ``metres``: per unit of the points. ``bad`` pixels were not finite.
    """

    points: Array32
    metres: float
    bad: int


@dataclass(frozen=True, eq=False)
class InverseDepth:
    """What Depth Anything V2 gives of an image: ``values`` (H, W) float32, 1 / z up to scale and shift; NaN = none.

    ``bad`` pixels were not finite.
    """

    values: Array32
    bad: int


class DepthGraph:
    """A graph for ONNX Runtime that gives the depth of single images.

    ``device``: "cpu", "cuda" (where onnxruntime-gpu is installed) or "auto". Raises ``BackendError`` if onnxruntime
    or the device is missing, ``CheckpointError`` for a file that is no such graph.
    """

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        self.path = Path(path)
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError(f"'{path}' needs onnxruntime; install it with: pip install onnxruntime") from error
        if not self.path.is_file():
            raise CheckpointError(
                f"checkpoint '{path}' is not a file; backend 'mono' needs the .onnx file of a network"
            )
        onnxruntime.disable_telemetry_events()  # some builds send some
        cuda = device != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if device.startswith("cuda") and not cuda:
            raise BackendError(
                f"device '{device}' is not available to onnxruntime; use cpu, or install onnxruntime-gpu"
            )
        self.device = "cuda" if cuda else "cpu"
        providers = [*(["CUDAExecutionProvider"] if cuda else []), "CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(str(path), _options(onnxruntime), providers=providers)
        except Exception as error:  # its errors have no common base class
            raise CheckpointError(
                f"checkpoint '{path}' is not a graph for ONNX Runtime: {_line(error)}; it must be an .onnx file"
            ) from error
        self._inputs = {each.name: each for each in self._session.get_inputs()}
        self._outputs = [each.name for each in self._session.get_outputs()]
        self.network = self._recognised()

    def infer(self, image: Image) -> AffinePoints | InverseDepth:
        """Depth of an image (H, W, 3) RGB uint8, at its size. Raises ``BackendError`` where the graph fails."""
        return self._points(image) if self.network == "MoGe-2" else self._inverse(image)

    def _recognised(self) -> str:
        """The name of the network. Raises ``CheckpointError`` for a signature that is not documented."""
        names, given = set(self._inputs), set(self._outputs)
        images = names - {"num_tokens"}
        self._image = images.pop() if len(images) == 1 else ""
        if self._image == "image" and {"points", "mask", "metric_scale"} <= given:
            network = "MoGe-2"
        elif self._image in ("pixel_values", "image") and len(names) == 1 and given & {"predicted_depth", "depth"}:
            network = "Depth Anything V2"
        else:
            raise self._refusal()
        image = self._inputs[self._image]
        shape = image.shape  # a free side is a name or None
        if len(shape) != 4 or image.type not in _FLOATS or not (_fits(shape[0], 1) and _fits(shape[1], 3)):
            raise self._refusal()
        if network == "MoGe-2" and any(isinstance(side, int) for side in shape[2:]):
            raise CheckpointError(
                f"checkpoint '{self.path}' takes images of {shape[3]}x{shape[2]} pixels only; it must be exported with "
                "dynamic height and width"
            )
        return network

    def _refusal(self) -> CheckpointError:
        takes = ", ".join(f"{each.name} {tuple(each.shape)} {each.type}" for each in self._inputs.values())
        return CheckpointError(
            f"checkpoint '{self.path}' is a graph that takes {takes or 'nothing'} and gives "
            f"{', '.join(self._outputs)}; it must be one of these: {_DOCUMENTED}"
        )

    def _points(self, image: Image) -> AffinePoints:
        inputs = {"image": _planes(image / np.float32(255))}
        if "num_tokens" in self._inputs:
            inputs["num_tokens"] = np.full(len(self._inputs["num_tokens"].shape) * (1,), _TOKENS, np.int64)
        points, mask, metres = self._run(("points", "mask", "metric_scale"), inputs)
        shape = image.shape[:2]
        if points.shape != (1, *shape, 3) or mask.size != shape[0] * shape[1] or metres.size != 1:
            raise BackendError(
                f"'{self.path}' gave points {points.shape}, mask {mask.shape} and metric_scale {metres.shape} for an "
                f"image of {shape[1]}x{shape[0]} pixels; they must be (1, {shape[0]}, {shape[1]}, 3), "
                f"(1, {shape[0]}, {shape[1]}) and (1,)"
            )
        found, shown = points[0], mask.reshape(shape) > _LEAST_MASK
        finite = np.isfinite(found).all(axis=-1)
        found = np.where((shown & finite)[..., None], found, np.float32(np.nan))
        return AffinePoints(found, float(metres.ravel()[0]), int((shown & ~finite).sum()))

    def _inverse(self, image: Image) -> InverseDepth:
        size = self._size(image.shape[0], image.shape[1])
        resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)
        name = next(name for name in ("predicted_depth", "depth") if name in self._outputs)
        (found,) = self._run((name,), {self._image: _planes((resized / np.float32(255) - _MEAN) / _STD)})
        if found.ndim not in (3, 4) or found.size != found.shape[-2] * found.shape[-1] or found.size == 0:
            raise BackendError(f"'{self.path}' gave {name} {found.shape} for one image; it must be (1, H, W)")
        values = found.reshape(found.shape[-2:])
        bad = ~np.isfinite(values)
        grown = cv2.resize(np.where(bad, np.float32(0), values), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        if bad.any():
            near = cv2.resize(bad.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0
            grown[near] = np.nan
        return InverseDepth(grown, int(bad.sum()))

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the network's input: its own, or with about the usual number of pixels, in multiples of 14."""
        own = self._inputs[self._image].shape[2:]
        scale = _SIDE / sqrt(height * width)
        sides = [max(1, round(side * scale / _PATCH)) * _PATCH for side in (height, width)]
        rows, columns = (fixed if isinstance(fixed, int) else side for fixed, side in zip(own, sides, strict=True))
        return rows, columns

    def _run(self, outputs: tuple[str, ...], inputs: dict[str, Any]) -> list[Array32]:
        inputs[self._image] = inputs[self._image].astype(_FLOATS[self._inputs[self._image].type])
        try:
            found = self._session.run(list(outputs), inputs)
        except Exception as error:
            raise BackendError(f"'{self.path}' failed on an image: {_line(error)}") from error
        return [np.asarray(part, np.float32) for part in found]


def _options(onnxruntime: Any) -> Any:
    """As many threads as OpenBLAS and torch take; they sleep between images, which need the cores otherwise."""
    options = onnxruntime.SessionOptions()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(wanted) if wanted.isdecimal() else usable_cores()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return options


def _fits(side: int | str | None, wanted: int) -> bool:
    return side == wanted or not isinstance(side, int)


def _planes(image: Array32) -> Array32:
    """(H, W, 3) -> (1, 3, H, W)."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
