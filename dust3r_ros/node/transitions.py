"""What rclpy leaves to be done around lifecycle transitions: reasons in the log, a "no" to impossible ones."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from dust3r_ros.errors import Dust3rRosError

_Node = TypeVar("_Node", bound=LifecycleNode)
Transition = Callable[[_Node, LifecycleState], TransitionCallbackReturn]


def told(transition: Transition[_Node]) -> Transition[_Node]:
    """A transition that says in the log why it fails; rclpy itself keeps quiet about exceptions.

    Our own errors make it a failure (the state stays), any other an error (``on_error`` follows).
    """

    @wraps(transition)
    def tells(self: _Node, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Dust3rRosError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self.get_logger().fatal(traceback.format_exc())
            return TransitionCallbackReturn.ERROR

    return tells


def refuse_impossible(node: LifecycleNode) -> None:
    """Let ~/change_state answer a transition that is not possible from the present state with "no".

    rclpy lets the exception through instead, which ends the executor and leaves the caller waiting.
    """
    service = node._service_change_state
    inner = service.callback

    def guarded(request: Any, response: Any) -> Any:
        try:
            return inner(request, response)
        except Exception as error:
            node.get_logger().warning(f"transition refused: {str(error).splitlines()[0]}")
            response.success = False
            return response

    service.callback = guarded
