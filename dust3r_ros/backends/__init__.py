"""Backends, which turn image pairs into pointmaps."""

from __future__ import annotations

import logging
from dataclasses import replace

from dust3r_ros.backends.base import Backend, Network
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import BackendError, ConfigError

_log = logging.getLogger(__name__)

_LEAST = 64  # pixels of a long edge


def fitted(config: MapperConfig, backend: Backend) -> MapperConfig:
    """``config`` with the ``working_size`` that it leaves to the backend: a network's is what it was trained on.

    Raises ``ConfigError`` for one that is too small for any.
    """
    if 0 < config.working_size < _LEAST:
        raise ConfigError(
            f"parameter 'working_size' is {config.working_size}; it must be 0 (follow the weights) or at least {_LEAST}"
        )
    if config.working_size:
        return config
    trained = getattr(backend, "image_size", None)
    return replace(config, working_size=config.long_edge if trained is None else max(trained))


NETWORKS = ("dust3r", "both")  # backends with a network for pairs


def make_backend(config: MapperConfig, network: Network | None = None) -> Backend:
    """The backend that a configuration names; raises an error if it cannot run.

    ``network`` takes the place of the one that ``NETWORKS`` would load. ``ConfigError`` for incompatible parameters,
    ``BackendError`` or ``CheckpointError`` for the rest.
    """
    if config.backend == "two_view":
        from dust3r_ros.backends.two_view import TwoViewBackend

        return TwoViewBackend(config.min_parallax_deg)
    if not config.dense:
        raise ConfigError(
            f"parameter 'dense' is false, but backend '{config.backend}' needs depth; only two_view does not"
        )
    if not config.checkpoint:
        wanted = "an .onnx file" if config.backend == "mono" else "a name, a .pth file or a model folder"
        raise BackendError(f"backend '{config.backend}' needs weights; set 'checkpoint' to {wanted}")
    if config.backend == "mono":
        return _mono(config)
    network = network or make_network(config)
    if config.backend == "dust3r":
        if config.working_size > max(network.image_size):
            height, width = network.image_size
            _log.warning(
                "'working_size' is %d, but the weights were trained on images of %dx%d pixels; networks do worse on "
                "larger ones: set it to %d",
                config.working_size, width, height, max(network.image_size),
            )  # fmt: skip
        return network
    from dust3r_ros.backends.both import BothBackend

    return BothBackend(network, network.image_size, config.min_parallax_deg)


def make_network(config: MapperConfig) -> Network:
    """The network for pairs whose weights a configuration names. Raises as ``make_backend``."""
    from dust3r_ros.backends.dust3r import Dust3rBackend

    return Dust3rBackend(config.checkpoint, config.device, precision=config.precision, compiled=config.compile_network)


def _mono(config: MapperConfig) -> Backend:
    from dust3r_ros.backends.depth_graph import DepthGraph
    from dust3r_ros.backends.mono import MonoBackend

    if config.precision != "auto":
        raise ConfigError(
            f"'precision' is '{config.precision}'; the graph '{config.checkpoint}' has its own: leave it at auto"
        )
    graph = DepthGraph(config.checkpoint, config.device)
    _log.info("'%s' is %s, on %s", config.checkpoint, graph.network, graph.device)
    return MonoBackend(graph, config.min_parallax_deg)
