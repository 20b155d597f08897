"""Nodes in a thread of their own, which has left before they are destroyed."""

from __future__ import annotations

import threading
import time

import rclpy
from rclpy.context import Context
from rclpy.signals import SignalHandlerOptions

from dust3r_ros.node.tools.domains import free_domain, release_domain
from dust3r_ros.node.tools.recorder import Spinner


def test_nodes_are_called_back_until_the_end() -> None:
    domain = free_domain()
    before = threading.active_count()
    for started in (True, False):
        context = Context()
        rclpy.init(context=context, args=[], signal_handler_options=SignalHandlerOptions.NO, domain_id=domain)
        node = rclpy.create_node("spun", context=context)
        called = threading.Event()
        node.create_timer(0.01, called.set)
        spinner = Spinner(context, node)
        if started:
            spinner.start()
            assert called.wait(30.0)
        begun = time.monotonic()
        spinner.stop()
        assert time.monotonic() - begun < 30.0 and threading.active_count() == before
        assert not context.ok() and called.is_set() == started
    release_domain(domain)
