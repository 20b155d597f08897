"""A lifecycle node that reports failed transitions in its log and on /diagnostics, and refuses impossible ones."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from dust3r_ros.errors import Dust3rRosError
from dust3r_ros.node.diagnostics import refusal_message
from dust3r_ros.node.interface import OUTPUTS, interface_type, qos_profile

_PERIOD_S = 1.0


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

        self._refusal = publisher, self.create_timer(_PERIOD_S, report, clock=Clock(clock_type=ClockType.STEADY_TIME))

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
