"""The services of the mapping node: each request becomes a job of the pipeline."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from rclpy.task import Future as RosFuture

from dust3r_ros.errors import Dust3rRosError
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.node import conversions, jobs
from dust3r_ros.node.interface import SERVICES, interface_type
from dust3r_ros.node.pipeline import Pipeline


class Services:
    """Created when the node is configured, removed by ``close``.

    ``on_pause(paused)`` and ``on_restart()`` (the map is reset or replaced) notify the node. ``waiting``: number of
    requests without an answer yet.
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
        self._root = pipeline.node_config.files_root
        self.waiting, self._closed = 0, False
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
        group = ReentrantCallbackGroup()  # in the node's own, nothing else would run while an answer is waited for
        self._services = [
            node.create_service(
                interface_type(SERVICES[key]), SERVICES[key].name, self._answered(callback), callback_group=group
            )
            for key, callback in callbacks.items()
        ]

    def close(self) -> None:
        """Refuse further requests, and destroy all services once each has its answer."""
        self._closed = True
        if not self.waiting:
            self._destroy()

    def _destroy(self) -> None:
        for service in self._services:
            self._node.destroy_service(service)

    def _answered(self, callback: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answered(request: Any, response: Any) -> Any:
            if self._closed:
                response.success, response.message = False, "the node has been cleaned up"
                return response
            self.waiting += 1
            try:
                return await callback(request, response)
            finally:
                self.waiting -= 1
                if self._closed and not self.waiting and self._node.executor is not None:
                    self._node.executor.create_task(self._destroy)  # after the answer is sent

        return answered

    async def _reset(self, request: Any, response: Any) -> Any:
        self._on_restart()
        return await self._answer(response, self._pipeline.reset(), "the next image starts a new map")

    async def _pause(self, request: Any, response: Any) -> Any:
        return self._paused(True, response, "paused: images are ignored until ~/resume")

    async def _resume(self, request: Any, response: Any) -> Any:
        return self._paused(False, response, "mapping resumed")

    def _paused(self, paused: bool, response: Any, text: str) -> Any:
        self._node.get_logger().info(text)
        self._on_pause(paused)
        response.success, response.message = True, text
        return response

    async def _save_map(self, request: Any, response: Any) -> Any:
        return self._logged(await self._answer(response, self._pipeline.run(jobs.save_map, request.path, self._root)))

    async def _load_map(self, request: Any, response: Any) -> Any:
        if request.mode not in ("", "mapping", "localization"):
            response.message = f"mode is '{request.mode}'; it must be mapping, localization or empty"
            return response

        # Checked first: a request that fails must not cost waiting images.
        await self._answer(response, self._pipeline.run(jobs.check_map, request.path, self._root))
        if not response.success:
            return self._logged(response)
        self._pipeline.clear()
        self._on_restart()
        await self._answer(response, self._pipeline.change(jobs.load_map, request.path, request.mode, self._root))
        if response.success and request.mode:  # so that it holds for the next back end, too
            self._node.set_parameters([Parameter("mode", value=request.mode)])
        return self._logged(response)

    async def _localize(self, request: Any, response: Any) -> Any:
        def put(answer: tuple[PnpResult, str]) -> None:
            found, response.message = answer
            response.pose = conversions.pose_with_covariance(
                found.w_T_c, found.covariance, conversions.stamp_to_ns(request.image.header.stamp), self._frame
            )
            response.focal, response.inliers = float(found.focal), int(found.inliers.sum())

        try:
            image = conversions.image_of(request.image)
        except Dust3rRosError as error:
            response.success, response.message = False, str(error)
            return response
        return await self._answer(response, self._pipeline.run(jobs.localize, request.camera, image), put=put)

    async def _set_scale(self, request: Any, response: Any) -> Any:
        def put(factor: float) -> None:
            response.factor = factor

        asked = float(request.factor), float(request.distance), int(request.first), int(request.second)
        work = self._pipeline.change(jobs.set_scale, *asked)
        return await self._answer(response, work, "the map is now in metres", put)

    async def _save_calibration(self, request: Any, response: Any) -> Any:
        def put(files: tuple[str, ...]) -> None:
            response.files, response.message = list(files), f"calibrations written: {', '.join(files)}"

        work = self._pipeline.run(jobs.save_calibration, request.path, request.camera, self._root)
        return self._logged(await self._answer(response, work, put=put))

    async def _export_map(self, request: Any, response: Any) -> Any:
        configs = self._pipeline.mapper_config, self._pipeline.node_config
        work = self._pipeline.run(jobs.export_map, request.path, request.format, *configs)
        return self._logged(await self._answer(response, work))

    def _logged(self, response: Any) -> Any:
        """Log an answer about files and return it."""
        log = self._node.get_logger()
        # rclpy allows one severity per line of code.
        if response.success:
            log.info(response.message)
        else:
            log.error(response.message)
        return response

    async def _answer(
        self, response: Any, work: Future[Any], text: str = "", put: Callable[[Any], None] | None = None
    ) -> Any:
        """The response, once the back end has finished ``work``; the executor continues meanwhile.

        ``put`` writes the result into the response; without ``put`` and ``text``, the result is the message.
        """
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
        response.message = str(error) if error else text
        if error is None and put is not None:
            put(work.result())
        elif error is None and not text:
            response.message = str(work.result())
        return response
