"""Why no image comes: said in a sentence by what the graph knows, and by the node after some seconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from dust3r_ros.node.qos import why_silent

RAW = "sensor_msgs/msg/Image"
BEST_EFFORT, RELIABLE = ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE


class World:
    """A node that asks and one that publishes."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context, args=[])
        self.node = rclpy.create_node("asking", context=self.context)
        self.driver = rclpy.create_node("driver", context=self.context, namespace="/head")
        self.executor = SingleThreadedExecutor(context=self.context)
        for node in (self.node, self.driver):
            self.executor.add_node(node)

    def offer(self, kind: type, topic: str, reliability: ReliabilityPolicy = RELIABLE) -> None:
        self.driver.create_publisher(kind, topic, QoSProfile(depth=1, reliability=reliability))

    def why(self, topic: str, until: str, reliability: ReliabilityPolicy = RELIABLE) -> str:
        """What is said once it holds ``until``: what the graph knows comes by and by."""
        said = ""
        for _ in range(100):
            said = why_silent(self.node, topic, RAW, reliability)
            if until in said:
                return said
            self.executor.spin_once(timeout_sec=0.1)
        raise AssertionError(said)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.executor.shutdown()
    for node in (made.node, made.driver):
        node.destroy_node()
    rclpy.shutdown(context=made.context)


def test_nobody_publishes_any_image(world: World) -> None:
    assert world.why("/nowhere/image_raw", "no topic") == ("nobody publishes it; no topic carries images at the moment")


def test_the_node_does_not_suggest_its_own_topics(world: World) -> None:
    world.node.create_publisher(Image, "/asking/depth", 1)
    world.offer(Image, "/front/image")
    said = world.why("/nowhere/image_raw", "/front/image")
    assert said == "nobody publishes it; images are on /front/image (Image)"


def test_topics_with_names_alike_come_first(world: World) -> None:
    world.offer(Image, "/aaa")
    world.offer(CompressedImage, "/camera/color/image_raw/compressed")
    world.offer(Image, "/camera/color/image_raw")
    said = world.why("/camera/colour/image_raw", "/camera/color/image_raw/compressed")
    assert said.startswith("nobody publishes it; images are on /camera/color/image_raw (Image), ")
    assert said.endswith("/aaa (Image)")


def test_another_type_names_what_would_be_right(world: World) -> None:
    world.offer(CompressedImage, "/front/image")
    said = world.why("/front/image", "CompressedImage")
    assert said.startswith("/head/driver publishes it as sensor_msgs/msg/CompressedImage")
    assert said.endswith("set image_transport to compressed")
    world.offer(PointCloud2, "/cloud")
    assert "image_transport" not in world.why("/cloud", "PointCloud2")


def test_a_quality_of_service_that_does_not_fit(world: World) -> None:
    world.offer(Image, "/front/image", BEST_EFFORT)
    assert "best effort, but the subscription is reliable" in world.why("/front/image", "best effort")
    assert world.why("/front/image", "sends nothing", BEST_EFFORT) == (
        "/head/driver publishes it (best effort, volatile) and sends nothing"
    )


@pytest.mark.parametrize("bench", [{"image_topic": "/camera/colour/image_raw"}], indirect=True)
def test_the_node_says_it_in_log_status_and_diagnostics(bench: Any) -> None:
    recorder = bench.recorder
    recorder.node.create_publisher(Image, "/camera/color/image_raw", 5)
    told = "nobody publishes it; images are on /camera/color/image_raw (Image)"
    bench.status(lambda status: told in status.message, "the status says why no image comes")
    assert f"no image on /camera/colour/image_raw for 5 s: {told}" in bench.node.log

    def diagnosed() -> bool:
        found = recorder.last["diagnostics"].status if "diagnostics" in recorder.last else []
        return any(told in item.message for item in found if item.name.endswith(": inputs"))

    recorder.wait(diagnosed, 60, "diagnostics say it, too")


@pytest.mark.parametrize("bench", [{"image_transport": "compressed"}], indirect=True)
def test_a_transport_is_added_to_the_name_of_the_topic(bench: Any) -> None:
    node = bench.recorder.node
    heard = lambda: node.count_subscribers("/camera/image_raw/compressed") == 1  # noqa: E731
    bench.recorder.wait(heard, 150, "the node subscribes to the compressed topic")
    assert node.count_subscribers("/camera/image_raw") == 0


def test_a_name_that_is_none_is_a_sentence_and_on_diagnostics(start_node: Any) -> None:
    bench = start_node(image_topic="bad//topic")
    told = "'bad//topic' is not a topic name: topic name must not contain repeated '/'"
    bench.node.wait_for_log(told)
    recorder = bench.recorder

    def diagnosed() -> bool:
        found = recorder.last["diagnostics"].status if "diagnostics" in recorder.last else []
        return [(item.level, item.message) for item in found] == [(b"\x02", f"not configured: {told}")]

    recorder.wait(diagnosed, 60, "diagnostics say why the node is not configured")
    assert "Traceback" not in bench.node.log
