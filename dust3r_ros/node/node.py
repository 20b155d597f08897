"""The lifecycle node: it subscribes, hands over to the pipeline and answers services, nothing else."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.task import Future as RosFuture
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_srvs.srv import Trigger

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import Dust3rRosError
from dust3r_ros.io.files import make_folder
from dust3r_ros.node.calibration import calibration_of
from dust3r_ros.node.diagnostics import diagnostics_message
from dust3r_ros.node.parameters import Parameters
from dust3r_ros.node.pipeline import Pipeline
from dust3r_ros.node.products import write_map, write_products
from dust3r_ros.node.publishers import Publishers
from dust3r_ros.node.topics import CameraTopics, camera_topics
from dust3r_ros.node.transforms import TransformSender
from dust3r_ros.node.transitions import refuse_impossible, told
from dust3r_ros.srv import SaveMap

STATUS_PERIOD_S = 1.0
MAP_CHECK_S = 0.05


class MappingNode(LifecycleNode):
    """Maps the images of one camera; see config/dust3r.yaml for the parameters."""

    def __init__(self, **options: Any) -> None:
        super().__init__("dust3r", automatically_declare_parameters_from_overrides=True, **options)
        self.parameters = Parameters(self)
        for name in self.parameters.unknown:
            self.get_logger().warning(f"parameter '{name}' is not one of this node's and is ignored")
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)  # timers run while a bag is paused, too
        self._transforms = TransformSender(self)
        self._pipeline: Pipeline | None = None
        self._output: Publishers | None = None
        self._held: list[tuple[Callable[[Any], Any], Any]] = []  # (how to destroy, what), while configured
        self._inputs: list[Any] = []
        self._paused = False
        self._last_image: float | None = None
        refuse_impossible(self)

    @property
    def state_id(self) -> int:
        """The lifecycle state, as lifecycle_msgs/State numbers it."""
        return int(self._state_machine.current_state[0])

    # Transitions

    @told
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        mapper, self._config = self.parameters.mapper(), self.parameters.node()
        self._mapper_config = mapper
        if self._config.output_dir:
            make_folder(self._config.output_dir)  # better refused now than after the run
        self._topics = camera_topics(self._config, self.resolve_topic_name(self._config.image_topic))
        self._output = Publishers(
            self, self._config.map_frame, self._topics.estimated, self._transforms, self.parameters.__getitem__
        )
        try:
            self._pipeline = Pipeline(mapper, self._config, self._output, self.get_logger())
        except BaseException:
            self._release()
            raise
        self._paused, self._last_image = False, None
        self._reported = self._pipeline.snapshot()
        self._hold_services_and_timers()
        self.get_logger().info(f"configured: backend {mapper.backend}, images from {self._topics.image}")
        return super().on_configure(state)

    @told
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)
        self._subscribe(self._topics)
        return result

    @told
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._unsubscribe()
        return super().on_deactivate(state)

    @told
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._end()

    @told
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._end()

    @told
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._unsubscribe()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _end(self) -> TransitionCallbackReturn:
        """Write the results, then let everything go; results that cannot be written are told and lost."""
        self._unsubscribe()
        if self._pipeline is None:
            return TransitionCallbackReturn.SUCCESS
        waiting = self._pipeline.clear()
        if waiting:
            self.get_logger().warning(f"{waiting} images that still waited are not mapped")
        try:
            if self._config.output_dir:
                self.get_logger().info("finishing the map")
                arguments = self._config.output_dir, self._pipeline.session, self._mapper_config, self._topics.image
                self.get_logger().info(self._pipeline.run(lambda: write_products(*arguments)).result())
        except Dust3rRosError as error:
            self.get_logger().error(f"no results written: {error}")
        finally:
            self._release()
        return TransitionCallbackReturn.SUCCESS

    def _release(self) -> None:
        for destroy, held in self._held:
            destroy(held)
        self._held.clear()
        if self._pipeline is not None:
            self._pipeline.stop()
            self._pipeline = None
        if self._output is not None:
            self._output.close()
            self._output = None

    # Inputs

    def _subscribe(self, topics: CameraTopics) -> None:
        config: NodeConfig = self._config
        reliable = config.image_reliability == "reliable"
        qos = QoSProfile(
            depth=config.image_depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        kind = CompressedImage if topics.compressed else ImageMessage
        self._inputs.append(self.create_subscription(kind, topics.image, self._on_image, qos))
        if config.use_camera_info:
            self._inputs.append(
                self.create_subscription(CameraInfo, topics.camera_info, self._on_camera_info, qos_profile_sensor_data)
            )

    def _unsubscribe(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs.clear()

    def _on_image(self, message: ImageMessage | CompressedImage) -> None:
        self._last_image = time.monotonic()
        if self._pipeline is not None and not self._paused:
            self._pipeline.offer(self._topics.name, message)

    def _on_camera_info(self, message: CameraInfo) -> None:
        known, remark = calibration_of(message, self._topics.camera_info)
        if remark:
            self.get_logger().warning(remark, once=True)
        if known is not None and self._pipeline is not None:
            self._pipeline.know(self._topics.name, known)

    # Services and timers

    def _configured(self) -> Pipeline:
        """The pipeline; services exist only while there is one."""
        assert self._pipeline is not None
        return self._pipeline

    def _hold_services_and_timers(self) -> None:
        for kind, name, callback in (
            (Trigger, "~/reset", self._on_reset),
            (Trigger, "~/pause", self._on_pause),
            (Trigger, "~/resume", self._on_resume),
            (SaveMap, "~/save_map", self._on_save_map),
        ):
            self._held.append((self.destroy_service, self.create_service(kind, name, callback)))
        for period, tick in ((STATUS_PERIOD_S, self._report), (MAP_CHECK_S, self._check_map)):
            self._held.append((self.destroy_timer, self.create_timer(period, tick, clock=self._steady)))
        self._map_asked = time.monotonic()

    async def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return await self._answer(response, self._configured().reset(), "the next image starts a new map")

    def _on_pause(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._pause(True, response, "paused: images are ignored until ~/resume")

    def _on_resume(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._pause(False, response, "mapping goes on")

    def _pause(self, paused: bool, response: Trigger.Response, text: str) -> Trigger.Response:
        self._paused = paused
        self.get_logger().info(text)
        self._report()
        response.success, response.message = True, text
        return response

    async def _on_save_map(self, request: SaveMap.Request, response: SaveMap.Response) -> SaveMap.Response:
        pipeline = self._configured()
        return await self._answer(response, pipeline.run(lambda: write_map(request.path, pipeline.session)), "")

    async def _answer(self, response: Any, work: Future[Any], text: str) -> Any:
        """The response once the worker is through with ``work``; the executor goes on meanwhile."""
        done = RosFuture()

        def finished(_: Future[Any]) -> None:
            done.set_result(None)
            if self.executor is not None:
                self.executor.wake()

        work.add_done_callback(finished)
        await done
        error = work.exception()
        if error is not None and not isinstance(error, Dust3rRosError):
            self.get_logger().error("".join(traceback.format_exception(error)))
        response.success = error is None
        response.message = str(error) if error else text or str(work.result())
        return response

    def _report(self) -> None:
        """Status and diagnostics."""
        if self._pipeline is None or self._output is None:
            return
        silent = None if self._last_image is None else time.monotonic() - self._last_image
        now = self._pipeline.snapshot(paused=self._paused, silent_s=silent)
        self._pipeline.publish_status(now)
        clock_ns, name = self.get_clock().now().nanoseconds, self.get_fully_qualified_name()
        self._output.diagnostics(diagnostics_message(now, self._reported, clock_ns, name, self._topics.image))
        self._reported = now

    def _check_map(self) -> None:
        if self._pipeline is not None and time.monotonic() - self._map_asked >= self.parameters["map_period"]:
            self._map_asked = time.monotonic()
            self._pipeline.ask_map()
