"""The services of the mapping node: what is asked becomes a job of the pipeline, its end the answer."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future as RosFuture

from dust3r_ros.errors import Dust3rRosError, InputError
from dust3r_ros.node import conversions, products
from dust3r_ros.node.calibration import write_calibration
from dust3r_ros.node.grid_publisher import grid_options
from dust3r_ros.node.interface import SERVICES, interface_type
from dust3r_ros.node.pipeline import Pipeline
from dust3r_ros.types import MapUpdate


class Services:
    """Made when the node is configured, taken away by ``close``.

    ``on_pause(paused)`` and ``on_restart()`` (the map began again) tell the node.
    """

    def __init__(
        self,
        node: LifecycleNode,
        pipeline: Pipeline,
        map_frame: str,
        on_pause: Callable[[bool], None],
        on_restart: Callable[[], None],
    ) -> None:
        self._node, self._pipeline, self._frame = node, pipeline, map_frame
        self._on_pause, self._on_restart = on_pause, on_restart
        callbacks = {
            "reset": self._reset,
            "pause": self._pause,
            "resume": self._resume,
            "save_map": self._save_map,
            "load_map": self._load_map,
            "localize": self._localize,
            "set_scale": self._set_scale,
            "save_calibration": self._save_calibration,
            "export_map": self._export_map,
        }
        self._services = [
            node.create_service(interface_type(SERVICES[key]), SERVICES[key].name, callback)
            for key, callback in callbacks.items()
        ]

    def close(self) -> None:
        """Take all services off the node."""
        for service in self._services:
            self._node.destroy_service(service)

    async def _reset(self, request: Any, response: Any) -> Any:
        self._on_restart()
        return await self._answer(response, self._pipeline.reset(), "the next image starts a new map")

    def _pause(self, request: Any, response: Any) -> Any:
        return self._paused(True, response, "paused: images are ignored until ~/resume")

    def _resume(self, request: Any, response: Any) -> Any:
        return self._paused(False, response, "mapping goes on")

    def _paused(self, paused: bool, response: Any, text: str) -> Any:
        self._node.get_logger().info(text)
        self._on_pause(paused)
        response.success, response.message = True, text
        return response

    async def _save_map(self, request: Any, response: Any) -> Any:
        session = self._pipeline.session
        return await self._answer(response, self._pipeline.run(lambda: products.write_map(request.path, session)))

    async def _load_map(self, request: Any, response: Any) -> Any:
        if request.mode not in ("", "mapping", "localization"):
            response.message = f"mode is '{request.mode}'; it must be mapping, localization or empty"
            return response

        def load() -> str:
            session = self._pipeline.session
            if not request.path:
                raise InputError("path is empty; it must name a saved map, such as /tmp/map.db")
            count = session.load(request.path)
            if request.mode:
                session.set_mapping(request.mode == "mapping")
            return f"{count} keyframes of '{request.path}' are the map now"

        self._pipeline.clear()
        self._on_restart()
        return await self._answer(response, self._pipeline.change(load))

    async def _localize(self, request: Any, response: Any) -> Any:
        def localize() -> None:
            image = conversions.image_of(request.image)
            found = self._pipeline.session.localize(request.camera, image)
            response.pose = conversions.pose_with_covariance(
                found.w_T_c, found.covariance, conversions.stamp_to_ns(request.image.header.stamp), self._frame
            )
            response.focal, response.inliers = float(found.focal), int(found.inliers.sum())

        return await self._answer(response, self._pipeline.run(localize), "found")

    async def _set_scale(self, request: Any, response: Any) -> Any:
        def scale() -> MapUpdate:
            session = self._pipeline.session
            factor = request.factor
            if not factor:
                if not request.distance > 0:
                    raise InputError(f"distance is {request.distance} m; it must be positive where no factor is given")
                factor = request.distance / session.mapper.distance(request.first, request.second)
            update = session.set_scale(factor)
            response.factor = float(factor)
            return update

        return await self._answer(response, self._pipeline.change(scale), "the map is in metres")

    async def _save_calibration(self, request: Any, response: Any) -> Any:
        def save() -> str:
            session = self._pipeline.session
            if not session.cameras:
                raise InputError("no camera has sent an image yet, so there is no calibration to save")
            response.files = list(write_calibration(request.path, session, request.camera))
            return f"{len(response.files)} calibrations written"

        return await self._answer(response, self._pipeline.run(save))

    async def _export_map(self, request: Any, response: Any) -> Any:
        from dust3r_ros.io.exports import ExportOptions

        session, config = self._pipeline.session, self._pipeline.mapper_config
        confidence = config.min_confidence
        grid = replace(grid_options(self._pipeline.node_config), min_confidence=confidence)
        options = ExportOptions(min_confidence=confidence, fusion=config.fusion, grid=grid)
        work = self._pipeline.run(lambda: products.export_map(request.path, request.format, session, options))
        return await self._answer(response, work)

    async def _answer(self, response: Any, work: Future[Any], text: str = "") -> Any:
        """The response once the worker is through with ``work``; the executor goes on meanwhile."""
        done = RosFuture()

        def finished(_: Future[Any]) -> None:
            done.set_result(None)
            if self._node.executor is not None:
                self._node.executor.wake()

        work.add_done_callback(finished)
        await done
        error = work.exception()
        if error is not None and not isinstance(error, Dust3rRosError):
            self._node.get_logger().error("".join(traceback.format_exception(error)))
        response.success = error is None
        response.message = str(error) if error else text or str(work.result())
        return response
