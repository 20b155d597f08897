"""The lifecycle node: it subscribes, feeds the pipeline and answers services, nothing else.

Its base reports failed transitions in the log and on /diagnostics, and refuses impossible ones.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, TypeVar

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from dust3r_ros.errors import Dust3rRosError
from dust3r_ros.io.files import make_folder
from dust3r_ros.node import jobs
from dust3r_ros.node.conversions import Arrival
from dust3r_ros.node.diagnostics import diagnostics_message, refusal_message
from dust3r_ros.node.inputs import Inputs
from dust3r_ros.node.interface import OUTPUTS, interface_type, qos_profile
from dust3r_ros.node.parameters import Parameters, own_files
from dust3r_ros.node.pipeline import Pipeline
from dust3r_ros.node.publishers import Publishers
from dust3r_ros.node.qos import full_topic
from dust3r_ros.node.services import Services
from dust3r_ros.node.status import status_text
from dust3r_ros.node.tf_listener import TfListener, TransformSender
from dust3r_ros.node.tf_output import TfOutput
from dust3r_ros.node.topics import all_camera_topics, recorded
from dust3r_ros.types import Calibration

_REFUSAL_PERIOD_S = 1.0


class ReportingNode(LifecycleNode):
    """Base of a node with ``reported`` transitions; rclpy itself hides their exceptions."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._refusal: tuple[Any, Any] | None = None  # publisher and timer
        self._refuse_impossible()

    def refuse(self, reason: str) -> None:
        """Publish on /diagnostics, until ``retract``, why the last transition failed."""
        self.retract()
        row = OUTPUTS["diagnostics"]
        publisher = self.create_publisher(interface_type(row), row.name, qos_profile(row.quality))

        def report() -> None:
            now_ns = self.get_clock().now().nanoseconds
            publisher.publish(refusal_message(reason, now_ns, self.get_fully_qualified_name()))

        self._refusal = (
            publisher,
            self.create_timer(_REFUSAL_PERIOD_S, report, clock=Clock(clock_type=ClockType.STEADY_TIME)),
        )

    def retract(self) -> None:
        """Stop publishing the refusal."""
        if self._refusal is not None:
            publisher, timer = self._refusal
            self.destroy_timer(timer)
            self.destroy_publisher(publisher)
            self._refusal = None

    def _refuse_impossible(self) -> None:
        """Make ~/change_state answer an impossible transition with ``success`` false.

        rclpy lets the exception escape instead, which ends the executor and leaves the caller waiting.
        """
        service = next(service for service in self.services if service.srv_name.endswith("/change_state"))
        inner = service.callback

        def guarded(request: Any, response: Any) -> Any:
            try:
                return inner(request, response)
            except Exception as error:
                self.get_logger().warning(f"transition refused: {str(error).splitlines()[0]}")
                response.success = False
                return response

        service.callback = guarded


_Node = TypeVar("_Node", bound=ReportingNode)
Transition = Callable[[_Node, LifecycleState], TransitionCallbackReturn]


def reported(transition: Transition[_Node]) -> Transition[_Node]:
    """Decorates a transition to report why it failed; a later one that succeeds calls ``retract``.

    Our own errors make it a failure (the state stays), any other makes it an error (``on_error`` follows).
    """

    @wraps(transition)
    def reports(self: _Node, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Dust3rRosError as error:
            self.get_logger().error(str(error))
            self.refuse(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self.get_logger().fatal(traceback.format_exc())
            self.refuse(f"{type(error).__name__}: {error}")
            return TransitionCallbackReturn.ERROR

    return reports


STATUS_PERIOD_S = 1.0


class MappingNode(ReportingNode):
    """Maps the images of one or several cameras; see config/dust3r.yaml for the parameters.

    ``apart``: parameters of output paths shared with other nodes of the process; this node writes to a subfolder named
    after its namespace. ``ended``: its lifecycle is over.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("dust3r", automatically_declare_parameters_from_overrides=True, **options)
        self.parameters = Parameters(self)
        for name in self.parameters.unknown:
            self.get_logger().warning(f"parameter '{name}' is unknown and ignored")
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)  # so that timers run even while a bag is paused
        self._sender = TransformSender(self)
        self._listener = TfListener(self, self._sender)
        self._pipeline: Pipeline | None = None
        self._output: Publishers | None = None
        self._tf: TfOutput | None = None
        self._inputs: Inputs | None = None
        self._answers: Services | None = None
        self._timers_held: dict[str, Any] = {}
        self._paused = self.ended = False
        self.apart: frozenset[str] = frozenset()
        self.add_post_set_parameters_callback(self._on_parameters)

    def declare_parameters(self, namespace: str, parameters: Any, ignore_override: bool = False) -> Any:
        """As rclpy's, but a value without a type, which is YAML's empty list, becomes a list of one empty string."""
        typed = [(name, *([""] if value is None else value for value in rest)) for name, *rest in parameters]
        return super().declare_parameters(namespace, typed, ignore_override)

    @property
    def answering(self) -> bool:
        """Whether a service has still to answer, which may be after it was closed."""
        return self._answers is not None and self._answers.waiting > 0

    # Transitions

    @reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        mapper = self.parameters.mapper()
        self._config = own_files(self.parameters.node(), self.apart, self.get_namespace())
        self._mapper_config = mapper
        for folder in (self._config.output_dir, self._config.files_root):
            if folder:
                make_folder(folder)  # fail now rather than after the run
        own = self._config
        for path in filter(None, (own.map_db, own.load_map, own.manifest, own.profile, mapper.checkpoint)):
            jobs.looked_up(path)
        cameras = all_camera_topics(self._config, partial(full_topic, self))
        self._first_camera = cameras[0].name
        self._images = ", ".join(camera.image for camera in cameras)
        live = self.parameters.__getitem__
        try:
            self._listener.subscribe()
            self._tf = TfOutput(self, self._config, self._sender, self._listener, live=live)
            self._output = Publishers(self, self._config, cameras, self._tf, live)
            self._pipeline = Pipeline(
                mapper, self._config, self._output, self.get_logger(), cameras[0].name, recorded(cameras)
            )
            self._inputs = Inputs(self, self._config, cameras, self._listener, self._on_arrival, self._on_calibration)
        except BaseException:
            self._release()
            raise
        self._paused = False
        self._reported = self._pipeline.snapshot()
        self._answers = Services(self, self._pipeline, self._config.map_frame, self._on_pause, self._inputs.restart)
        self._hold_timers()
        self.retract()
        self.get_logger().info(f"configured: backend {mapper.backend}, images from {self._images}")
        return super().on_configure(state)

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._inputs is not None:
            self._inputs.subscribe()  # first, so that nothing is active if it fails
        self.retract()
        return super().on_activate(state)

    @reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._unsubscribe()
        return super().on_deactivate(state)

    @reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._end()

    @reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.ended = True
        return self._end()

    @reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._unsubscribe()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _end(self) -> TransitionCallbackReturn:
        """Write the results, then release everything; results that cannot be written are reported and lost."""
        self._unsubscribe()
        if self._pipeline is None:
            return TransitionCallbackReturn.SUCCESS
        waiting = self._pipeline.clear()
        if waiting:
            self.get_logger().warning(f"{waiting} waiting images are not mapped")
        try:
            if self._config.output_dir:
                self.get_logger().info("finishing the map")
                self._pipeline.settle()
                arguments = self._config.output_dir, self._mapper_config, self._images
                self.get_logger().info(self._pipeline.run(jobs.write_products, *arguments).result())
        except (Dust3rRosError, OSError) as error:
            self.get_logger().error(f"no results written: {error}")
        finally:
            self._release()
        return TransitionCallbackReturn.SUCCESS

    def _unsubscribe(self) -> None:
        if self._inputs is not None:
            self._inputs.unsubscribe()
        if self._tf is not None:
            self._tf.forget()  # an inactive node sends no transforms

    def _release(self) -> None:
        for timer in self._timers_held.values():
            self.destroy_timer(timer)
        self._timers_held.clear()
        if self._answers is not None:
            self._answers.close()
        if self._pipeline is not None:
            self._pipeline.stop()
        if self._output is not None:
            self._output.close()
        self._listener.close()
        self._pipeline = self._output = self._inputs = self._tf = None

    # Inputs

    def _on_arrival(self, arrival: Arrival) -> None:
        if self._pipeline is not None and not self._paused:
            self._pipeline.offer(arrival)

    def _on_calibration(self, camera: str, calibration: Calibration) -> None:
        if self._pipeline is not None:
            self._pipeline.know(camera, calibration)

    def _on_pause(self, paused: bool) -> None:
        self._paused = paused
        self._report()

    def _on_parameters(self, changes: Sequence[Parameter]) -> None:
        for change in changes:
            if change.name == "mode" and self._pipeline is not None:
                self._pipeline.set_mapping(change.value == "mapping")
            if change.name == "map_period" and "map" in self._timers_held:
                timer = self._timers_held["map"]
                timer.timer_period_ns = round(change.value * 1e9)
                timer.reset()

    # Timers

    def _hold_timers(self) -> None:
        """As few as possible: each wake-up of the executor takes time from tracking."""
        ticks = {"status": (STATUS_PERIOD_S, self._report), "map": (self.parameters["map_period"], self._ask_map)}
        if self._tf is not None and self._tf.steady:
            ticks["tf"] = 1.0 / self._config.tf_rate, self._tick_tf
        for name, (period, tick) in ticks.items():
            self._timers_held[name] = self.create_timer(period, tick, clock=self._steady)

    def _report(self) -> None:
        """Publish status and diagnostics."""
        if self._pipeline is None or self._output is None or self._inputs is None or self._tf is None:
            return
        self._pipeline.place(self._inputs.rig())
        now = self._pipeline.snapshot(
            paused=self._paused,
            inputs=self._inputs.health(),
            incomplete=self._inputs.incomplete,
            tf_problems=(*self._tf.problems, *self._inputs.problems),
        )
        if now.scale_state == "metric":
            frame = self._inputs.optical_frame
            found = {name: placed for name, placed in now.rig.items() if not placed.known}
            self._tf.rig({frame(n): (frame(p.reference), p.reference_T_camera) for n, p in found.items()})
        self._pipeline.publish_status(now)
        self._output.status_text(status_text(now), self._inputs.optical_frame(self._first_camera))
        clock_ns, name = self.get_clock().now().nanoseconds, self.get_fully_qualified_name()
        self._output.diagnostics(diagnostics_message(now, self._reported, clock_ns, name))
        self._reported = now

    def _ask_map(self) -> None:
        if self._pipeline is not None:
            self._pipeline.ask_map()

    def _tick_tf(self) -> None:
        if self._tf is not None:
            self._tf.tick()
