"""The DUSt3R network as a backend: a view is encoded once, pairs are decoded in batches."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dust3r_ros.backends.base import views_of
from dust3r_ros.errors import BackendError, ConfigError, InputError
from dust3r_ros.types import Array, Array32, PairPrediction, View

if TYPE_CHECKING:
    from dust3r_ros.network import Dust3r, Tokens
    from dust3r_ros.network.inference import FastDust3r, HostCopy
    from dust3r_ros.network.onnx import OnnxDust3r

Pair = tuple[int, int]

_log = logging.getLogger(__name__)

_PRECISIONS = ("auto", "float32", "bfloat16", "float16")


class Dust3rBackend:
    """Pointmaps by the DUSt3R network.

    ``model``: a network, or a checkpoint for ``load_network``. ``device``: "auto", "cpu", "cuda" or "cuda:N".
    ``batch_size``: most pairs decoded at once, fewer where memory is short, halved whenever it runs out. ``precision``:
    of the network's products; "auto" is bfloat16 where the device multiplies it faster. ``compiled``: compile the
    network's blocks on a GPU.

    ``not_finite`` counts predicted pixels that are not finite; they become points at the origin
    with confidence 1, unknown. Raises ``BackendError`` if torch or the device is missing,
    ``CheckpointError`` for a checkpoint that cannot be used, ``ConfigError`` for other arguments.
    """

    name = "dust3r"
    uses_poses = False

    def __init__(
        self,
        model: Dust3r | str | Path,
        device: str = "auto",
        *,
        batch_size: int = 8,
        precision: str = "float32",
        compiled: bool = False,
    ) -> None:
        if type(batch_size) is not int or batch_size < 1:
            raise ConfigError(f"'batch_size' is {batch_size!r}; it must be an integer of at least 1")
        if precision not in _PRECISIONS:
            raise ConfigError(f"'precision' is {precision!r}; it must be one of {', '.join(_PRECISIONS)}")
        check_torch("the dust3r backend")
        from dust3r_ros.network.checkpoint import pick_device
        from dust3r_ros.network.inference import FastDust3r, pick_compiler
        from dust3r_ros.network.onnx import OnnxDust3r, load_network

        self._model: FastDust3r | OnnxDust3r
        network = load_network(model, device) if isinstance(model, (str, Path)) else model
        self._device = pick_device("cpu" if isinstance(network, OnnxDust3r) else device)
        if isinstance(network, OnnxDust3r):
            if precision not in ("auto", "float32"):
                raise ConfigError(
                    f"'precision' is {precision!r}; the graphs of '{model}' have a fixed precision: leave it at auto"
                )
            self._model = network
        else:
            self._model = FastDust3r(network, self._device, precision, pick_compiler(self._device, compiled))
        self._batch_size = batch_size
        self._tokens: dict[int, Tokens] = {}
        self.not_finite = 0

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images that the network was trained on, pixels."""
        return self._model.config.img_size

    def add(self, view: View) -> None:
        """Encode the view's image, whose sides must be multiples of 16; an index added again is replaced.

        Raises ``InputError`` for an image of another shape or type, ``BackendError`` if memory runs out.
        """
        from dust3r_ros.network.config import PATCH
        from dust3r_ros.network.inference import check_image, is_out_of_memory, normalise

        check_image(view.image)
        height, width = view.image.shape[:2]
        if height % PATCH or width % PATCH:
            raise InputError(
                f"view {view.index} of camera '{view.camera}' has {width}x{height} pixels; "
                f"both sides must be multiples of {PATCH}"
            )
        try:
            tokens = self._model.encode(normalise(view.image, self._device))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise _too_large(f"view {view.index} of {width}x{height} pixels", self._device) from error
        self._tokens[view.index] = tokens

    def has(self, index: int) -> bool:
        """Whether the tokens of a view are kept."""
        return index in self._tokens

    def forget(self, index: int) -> None:
        """Drop the tokens of a view; unknown indices are ignored."""
        self._tokens.pop(index, None)

    def clear(self) -> None:
        """Drop the tokens of every view; the weights stay."""
        self._tokens.clear()

    def predict(
        self,
        pairs: Sequence[Pair],
        focals: Mapping[str, float],
        poses: Mapping[int, Array] | None = None,
        landmarks: Mapping[int, Array] | None = None,
    ) -> list[PairPrediction]:
        """Pointmaps of ordered pairs (first, second), in the order asked; other arguments are ignored.

        Raises ``InputError`` for a view that was not added, ``BackendError`` if not even one pair
        fits into memory.
        """
        views_of(pairs, self._tokens, "dust3r backend")
        by_size: dict[tuple[Any, Any], list[int]] = defaultdict(list)
        for position, (first, second) in enumerate(pairs):
            by_size[self._tokens[first].grid, self._tokens[second].grid].append(position)
        predictions: dict[int, PairPrediction] = {}
        for positions in by_size.values():
            found = self._decode([pairs[position] for position in positions])
            predictions.update(zip(positions, found, strict=True))
        return [predictions[position] for position in range(len(pairs))]

    def _decode(self, pairs: Sequence[Pair]) -> Iterator[PairPrediction]:
        """Pairs of equal sizes, in batches that fit into memory.

        A GPU begins the next batch before the host takes the results of this one.
        """
        done, size = 0, self._fitting(pairs[0])
        waiting: tuple[Sequence[Pair], HostCopy] | None = None
        while done < len(pairs):
            batch = pairs[done : done + min(size, self._batch_size)]
            # The next attempt starts outside 'except': a caught error keeps the exhausted memory alive.
            output = self._try_decode(batch)
            if output is None:
                self._halve(len(batch))
                continue
            if waiting:
                yield from self._predictions(*waiting)
            waiting = batch, output
            done += len(batch)
        if waiting:
            yield from self._predictions(*waiting)

    def _fitting(self, pair: Pair) -> int:
        """How many pairs of the sizes of this one fit into memory, at most the batch."""
        from dust3r_ros.network.onnx import OnnxDust3r

        if isinstance(self._model, OnnxDust3r):
            return self._batch_size
        return self._model.pairs_that_fit([self._tokens[index].grid for index in pair], self._batch_size)

    def _try_decode(self, batch: Sequence[Pair]) -> HostCopy | None:
        """Points and confidence of both views, or None if they do not fit into memory."""
        from dust3r_ros.network import Tokens
        from dust3r_ros.network.inference import HostCopy, is_out_of_memory

        try:
            first, second = (Tokens.cat([self._tokens[pair[side]] for pair in batch]) for side in (0, 1))
            return HostCopy(self._model.decode(first, second))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) > 1:
                return None
            raise _too_large(f"pair {batch[0]}", self._device) from error

    def _halve(self, tried: int) -> None:
        import torch

        self._batch_size = max(1, tried // 2)
        _log.warning("%d pairs at once do not fit into memory; the batch is now %d", tried, self._batch_size)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _predictions(self, batch: Sequence[Pair], output: HostCopy) -> Iterator[PairPrediction]:
        for (first, second), *arrays in zip(batch, *output.arrays(), strict=True):
            # Copies: a slice would keep the whole batch alive as long as any of its pairs.
            points_1, confidence_1, points_2, confidence_2 = (array.copy() for array in arrays)
            self._clear_not_finite((first, second), points_1, confidence_1)
            self._clear_not_finite((first, second), points_2, confidence_2)
            yield PairPrediction(first, second, points_1, confidence_1, points_2, confidence_2)

    def _clear_not_finite(self, pair: Pair, points: Array32, confidence: Array32) -> None:
        bad = ~(np.isfinite(points).all(axis=-1) & np.isfinite(confidence))
        if not bad.any():
            return
        points[bad], confidence[bad] = 0.0, 1.0
        if not self.not_finite:
            _log.warning("pair %s: %d predicted pixels are not finite; they count as unknown", pair, bad.sum())
        self.not_finite += int(bad.sum())


def check_torch(what: str) -> None:
    """Raises ``BackendError``, which says ``what`` needs it, where torch or safetensors is missing."""
    try:
        import safetensors  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise BackendError(
            f"{what} needs {error.name or 'torch'}; install it with: pip install 'dust3r_ros[network]' "
            "(in a checkout: make env)"
        ) from error


def _too_large(what: str, device: object) -> BackendError:
    return BackendError(f"{what} does not fit into the memory of device '{device}'; lower 'working_size'")
