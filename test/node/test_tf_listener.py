"""What the node says on TF and hears there, over real DDS."""

from __future__ import annotations

import time
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.context import Context
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from scipy.spatial.transform import Rotation
from tf2_msgs.msg import TFMessage

from dust3r_ros.config import NodeConfig
from dust3r_ros.geometry.rigid import invert, pose
from dust3r_ros.node import tf_listener
from dust3r_ros.node.conversions import ns_to_stamp, stamp_to_ns, transform_message
from dust3r_ros.node.qos import tf_profile
from dust3r_ros.node.tf_listener import TfListener, TransformSender, rigid_of
from dust3r_ros.node.tf_output import TfOutput
from dust3r_ros.node.tools.domains import free_domain, release_domain
from dust3r_ros.node.tools.recorder import Spinner
from dust3r_ros.types import MapUpdate, TrackingState

SECOND = 1_000_000_000


class World:
    """The mapping side (``node``), a robot that talks and listens on TF, and a thread that serves both."""

    def __init__(self) -> None:
        self._context = Context()
        # A domain for every test: what the last one latched on /tf_static may still be about.
        self._domain = free_domain()
        rclpy.init(
            context=self._context, args=[], domain_id=self._domain, signal_handler_options=SignalHandlerOptions.NO
        )
        self.node, self.robot = (
            rclpy.create_node(name, context=self._context, start_parameter_services=False) for name in ("ours", "robot")
        )
        self.heard: dict[str, list[TransformStamped]] = defaultdict(list)
        for topic, static in (("/tf", False), ("/tf_static", True)):
            self.robot.create_subscription(
                TFMessage, topic, lambda message, topic=topic: self.heard[topic].extend(message.transforms),
                tf_profile(static),
            )  # fmt: skip
        self._senders = {
            static: self.robot.create_publisher(TFMessage, "/tf_static" if static else "/tf", tf_profile(static))
            for static in (False, True)
        }
        self.sender = TransformSender(self.node)
        self.listener = TfListener(self.node, self.sender)
        self.warnings: list[str] = []
        self.values = {"publish_tf": True, "invert_tf": False}
        self._spinner = Spinner(self._context, self.node, self.robot)
        self.listener.subscribe()
        self._spinner.start()
        self.until(lambda: self._senders[True].get_subscription_count() >= 2, "discovery")
        self.until(lambda: self._senders[False].get_subscription_count() >= 2, "discovery")

    def output(self, **config: object) -> TfOutput:
        log = SimpleNamespace(warning=lambda text, **more: self.warnings.append(text))
        node = SimpleNamespace(
            get_clock=self.node.get_clock, get_logger=lambda: log, get_parameter=self.node.get_parameter
        )
        return TfOutput(node, NodeConfig(**config), self.sender, self.listener, self.values.__getitem__)

    def tell(self, parent: str, child: str, p_T_c=None, stamp_ns: int = 5 * SECOND, static: bool = False) -> None:
        """The robot sends a transform."""
        message = transform_message(np.eye(4) if p_T_c is None else p_T_c, stamp_ns, parent, child)
        self._senders[static].publish(TFMessage(transforms=[message]))

    def say(self, parent: str, child: str, p_T_c=None, stamp_ns: int = 5 * SECOND, static: bool = False) -> None:
        """The robot sends a transform, and the node has heard it."""
        before = self.listener.parent(child)
        self.tell(parent, child, p_T_c, stamp_ns, static)
        self.until(lambda: self.listener.parent(child) == parent, f"{parent} -> {child} is heard instead of {before}")

    def until(self, check, what: str, seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < end, f"not within {seconds} s: {what}; heard {self.heard}, {self.warnings}"
            time.sleep(0.005)

    def said(self, topic: str, count: int) -> list[TransformStamped]:
        """What the robot heard that it did not say itself."""
        ours = lambda: [t for t in self.heard[topic] if self.sender.is_own(t)]  # noqa: E731
        self.until(lambda: len(ours()) >= count, f"{count} transforms on {topic}")
        return ours()

    def quiet(self) -> None:
        """Nothing of ours is under way: a transform of the robot that comes later is heard."""
        self.say("marker", f"m{time.monotonic_ns()}")
        assert not [t for ts in self.heard.values() for t in ts if self.sender.is_own(t)]

    def close(self) -> None:
        self._spinner.stop()
        release_domain(self._domain)


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


def some_pose(seed):
    generator = np.random.default_rng(seed)
    return pose(Rotation.random(random_state=seed).as_matrix(), generator.normal(size=3))


def tracked(w_T_c, stamp_ns=5 * SECOND, camera="camera"):
    return MapUpdate(stamp_ns, camera, TrackingState.TRACKING, w_T_c=w_T_c)


def names(transform):
    return transform.header.frame_id, transform.child_frame_id


def test_without_odometry_it_is_map_to_camera_with_the_stamp_of_the_image(world):
    w_T_c = some_pose(1)
    output = world.output(map_frame="world")
    output.frame(tracked(w_T_c), "lens", None, False)
    (sent,) = world.said("/tf", 1)
    assert names(sent) == ("world", "lens")
    assert stamp_to_ns(sent.header.stamp) == 5 * SECOND
    np.testing.assert_allclose(rigid_of(sent), w_T_c, atol=1e-12)
    output.tick()
    assert len(world.heard["/tf"]) == 1, "there is nothing to renew"
    assert output.problems == ()


def test_frames_with_a_leading_slash_are_sent_without(world):
    world.output(map_frame="/world").frame(tracked(some_pose(1)), "lens", None, False)
    world.output(base_frame="/base").frame(tracked(some_pose(1)), "lens", some_pose(2), False)
    assert [names(sent) for sent in world.said("/tf", 2)] == [("world", "lens"), ("map", "base")]


def test_inverted_the_map_hangs_below_the_camera(world):
    w_T_c, output = some_pose(1), world.output()
    world.values["invert_tf"] = True
    world.say("base_link", "lens", static=True)
    output.frame(tracked(w_T_c), "lens", None, False)
    (sent,) = world.said("/tf", 1)
    assert names(sent) == ("lens", "map")
    np.testing.assert_allclose(rigid_of(sent), invert(w_T_c), atol=1e-12)


def test_never_a_second_parent(world):
    output = world.output()
    world.say("base_link", "lens")
    for k in range(3):
        output.frame(tracked(some_pose(1), (5 + k) * SECOND), "lens", None, False)
    (problem,) = output.problems
    assert "'base_link' -> 'lens'" in problem and "'map' -> 'lens'" in problem and "invert_tf" in problem
    assert world.warnings == [problem], "once"
    world.quiet()


def test_a_camera_that_is_fixed_keeps_its_parent_and_the_map_gets_above_all(world):
    """As drivers do it: camera_link -> camera_color_frame -> camera_color_optical_frame, all static."""
    w_T_c, link_T_frame, frame_T_lens = some_pose(1), some_pose(2), some_pose(3)
    world.say("frame", "lens", frame_T_lens, static=True)
    world.say("link", "frame", link_T_frame, static=True)
    output = world.output()
    output.frame(tracked(w_T_c), "lens", None, False)
    (sent,) = world.said("/tf", 1)
    assert names(sent) == ("map", "link")
    np.testing.assert_allclose(rigid_of(sent) @ link_T_frame @ frame_T_lens, w_T_c, atol=1e-12)
    world.say("odom", "link")
    output.frame(tracked(w_T_c, 6 * SECOND), "lens", None, False)
    assert "is not published" in output.problems[0] and "odom_frame" in output.problems[0]
    assert len(world.said("/tf", 1)) == 1, "there is odometry after all, and nobody said which frame is its"


def test_cameras_below_one_link_move_it_once_per_stamp(world):
    world.say("link", "left", some_pose(2), static=True)
    world.say("link", "right", some_pose(3), static=True)
    output = world.output()
    for frame, second in (("left", 5), ("right", 5), ("left", 6), ("left", 7), ("right", 6), ("right", 8)):
        output.frame(tracked(some_pose(second), second * SECOND), frame, None, False)
    sent = world.said("/tf", 4)
    assert [stamp_to_ns(item.header.stamp) // SECOND for item in sent] == [5, 6, 7, 8]
    assert {names(item) for item in sent} == {("map", "link")}
    np.testing.assert_allclose(rigid_of(sent[0]) @ some_pose(2), some_pose(5), atol=1e-12)


def test_a_parent_that_is_no_longer_told_does_not_count(world, monkeypatch):
    output = world.output()
    world.say("base_link", "lens")
    output.frame(tracked(some_pose(1)), "lens", None, False)
    assert output.problems
    monkeypatch.setattr(tf_listener, "CLAIM_S", 0.0)
    output.frame(tracked(some_pose(1)), "lens", None, False)
    assert names(world.said("/tf", 1)[0]) == ("map", "lens")
    assert output.problems == ()


def test_what_the_buffer_refuses_is_no_second_parent(world, monkeypatch):
    """TF ignores a frame within itself, and a static parent stays, whatever else is said of its child."""
    world.tell("lens", "lens")
    world.say("rig", "lens", static=True)
    world.tell("lens", "lens")
    world.tell("other", "lens")
    world.quiet()
    monkeypatch.setattr(tf_listener, "CLAIM_S", 0.0)
    assert world.listener.parent("lens") == "rig" == world.listener.buffer.parent("lens")


def test_a_frame_within_itself_does_not_stop_the_output(world):
    output = world.output()
    world.tell("lens", "lens")
    world.quiet()
    output.frame(tracked(some_pose(1)), "lens", None, False)
    assert names(world.said("/tf", 1)[0]) == ("map", "lens") and output.problems == ()


def test_a_flood_of_frames_is_not_remembered(world, monkeypatch):
    monkeypatch.setattr(tf_listener, "MAX_FRAMES", 3)
    world.say("base", "a")
    world.say("base", "b")
    world.say("base", "c")
    world.tell("base", "d")
    world.until(lambda: world.listener.buffer.parent("d"), "d is heard")
    assert world.listener.parent("d") is None
    world.say("other", "c")


def test_our_own_transforms_do_not_count_as_another_parent(world):
    output = world.output()
    for k in range(50):
        output.frame(tracked(some_pose(1), k * SECOND), "lens", None, False)
    assert len(world.said("/tf", 50)) == 50
    assert output.problems == ()
    assert world.listener.buffer.parent("lens") is None


def test_publish_tf_can_be_turned_off(world):
    output = world.output()
    world.values["publish_tf"] = False
    output.frame(tracked(some_pose(1)), "lens", None, False)
    output.rig({"right": ("left", np.eye(4))})
    world.quiet()


def test_odometry_keeps_its_tree(world):
    """map -> odom and what odometry says make the camera's pose; the stamp is ahead, and it is renewed."""
    w_T_c, o_T_c = some_pose(1), some_pose(2)
    world.say("odom", "base_link", o_T_c)
    world.say("base_link", "lens", np.eye(4), static=True)
    output = world.output(odom_frame="odom", transform_tolerance=0.2)
    now_ns = world.node.get_clock().now().nanoseconds
    output.frame(tracked(w_T_c, now_ns), "lens", o_T_c, True)
    (first,) = world.said("/tf", 1)
    assert names(first) == ("map", "odom")
    np.testing.assert_allclose(rigid_of(first) @ o_T_c, w_T_c, atol=1e-12)
    ahead = stamp_to_ns(first.header.stamp) - now_ns
    assert 0.2 * SECOND <= ahead < 5 * SECOND
    output.tick()
    second = world.said("/tf", 2)[1]
    assert stamp_to_ns(second.header.stamp) > stamp_to_ns(first.header.stamp)
    np.testing.assert_array_equal(rigid_of(second), rigid_of(first))
    assert world.listener.parent("lens") == "base_link" and output.problems == ()
    output.forget()
    output.tick()
    assert len(world.said("/tf", 2)) == 2, "a map that is gone is not renewed"


def test_odometry_waits_for_metres_and_for_tf(world):
    output = world.output(odom_frame="odom")
    output.frame(tracked(some_pose(1)), "lens", None, True)
    assert "TF from 'odom' to 'lens' is missing" in output.problems[0]
    output.frame(tracked(some_pose(1)), "lens", some_pose(2), False)
    assert "waits until the map is in metres" in output.problems[0]
    world.quiet()
    output.frame(tracked(some_pose(1)), "lens", some_pose(2), True)
    assert output.problems == ()
    world.said("/tf", 1)


def test_another_localiser_has_the_odometry_already(world):
    output = world.output(odom_frame="odom")
    world.say("map", "odom")
    output.frame(tracked(some_pose(1)), "lens", some_pose(2), True)
    assert "'map' -> 'odom'" in output.problems[0]
    world.quiet()


def test_a_loop_is_not_closed(world):
    output = world.output(odom_frame="odom")
    world.say("odom", "map")
    output.frame(tracked(some_pose(1)), "lens", some_pose(2), True)
    assert "would close a loop" in output.problems[0]
    world.quiet()


def test_a_frame_is_not_put_in_itself(world):
    """Some drivers stamp their images in the frame of the map; TF would refuse it with an error for each."""
    output = world.output()
    output.frame(tracked(some_pose(1)), "map", None, True)
    assert "'map' is the frame of the map" in output.problems[0]
    world.quiet()


def test_a_base_without_odometry(world):
    w_T_c, b_T_c = some_pose(1), some_pose(2)
    world.say("base_link", "lens", b_T_c, static=True)
    output = world.output(base_frame="base_link")
    output.frame(tracked(w_T_c), "lens", b_T_c, False)
    (sent,) = world.said("/tf", 1)
    assert names(sent) == ("map", "base_link")
    np.testing.assert_allclose(rigid_of(sent) @ b_T_c, w_T_c, atol=1e-12)


def test_a_base_that_has_a_parent_is_told_by_which_frame_to_go(world):
    output = world.output(base_frame="base_link")
    world.say("footprint", "base_link", static=True)
    output.frame(tracked(some_pose(1)), "lens", some_pose(2), False)
    assert "'footprint' -> 'base_link'" in output.problems[0]
    assert output.problems[0].endswith("(set base_frame to 'footprint')")
    world.say("odom", "footprint")
    output.frame(tracked(some_pose(1), 6 * SECOND), "lens", some_pose(2), False)
    assert output.problems[0].endswith("(set odom_frame to 'odom')")
    world.quiet()


def test_a_base_is_where_it_was_seen_and_no_longer_than_that(world):
    world.say("base_link", "lens", some_pose(2), static=True)
    output = world.output(base_frame="base_link")
    for stamp_ns in (5 * SECOND, 5 * SECOND, 6 * SECOND):
        output.frame(tracked(some_pose(1), stamp_ns), "lens", some_pose(2), False)
    output.tick()
    assert [stamp_to_ns(sent.header.stamp) for sent in world.said("/tf", 2)] == [5 * SECOND, 6 * SECOND]
    assert not output.steady and len(world.heard["/tf"]) == 2


def test_odometry_of_a_map_that_was_left_is_not_renewed(world):
    output = world.output(odom_frame="odom")
    output.frame(tracked(some_pose(1), world.node.get_clock().now().nanoseconds), "lens", some_pose(2), True)
    world.said("/tf", 1)
    output.frame(tracked(some_pose(3), world.node.get_clock().now().nanoseconds), "lens", some_pose(2), False)
    output.tick()
    assert len(world.said("/tf", 1)) == 1 and "waits until the map is in metres" in output.problems[0]


def test_a_camera_of_a_rig_has_one_parent_and_stands_in_for_the_first(world):
    output = world.output()
    left, right, left_T_right = some_pose(1), some_pose(2), some_pose(3)
    output.rig({"right": ("left", left_T_right)})
    output.frame(tracked(left, 5 * SECOND), "left", None, False)
    output.frame(tracked(right, 5 * SECOND + 1), "right", None, False)
    output.frame(tracked(right, 7 * SECOND), "right", None, False)
    first, second = world.said("/tf", 2)
    assert names(first) == names(second) == ("map", "left")
    np.testing.assert_allclose(rigid_of(second) @ left_T_right, right, atol=1e-12)


def test_inverted_the_map_is_the_child_of_one_camera(world):
    output = world.output()
    world.values["invert_tf"] = True
    for k, frame in enumerate(("left", "right", "left")):
        output.frame(tracked(some_pose(1), (5 + k) * SECOND), frame, None, False)
    assert {names(sent) for sent in world.said("/tf", 2)} == {("left", "map")}


def test_images_of_another_time_than_the_clock_count_as_they_are(world):
    """A bag that is played without --clock: its transforms must fit its own odometry, not today's."""
    output = world.output(odom_frame="odom", transform_tolerance=0.1)
    output.frame(tracked(some_pose(1), 1000 * SECOND), "lens", some_pose(2), True)
    (sent,) = world.said("/tf", 1)
    assert 1000.0 <= stamp_to_ns(sent.header.stamp) / SECOND < 1010.0


def test_simulated_time(world):
    world.node.set_parameters([Parameter("use_sim_time", value=True)])
    clock = world.robot.create_publisher(Clock, "/clock", 1)
    world.until(lambda: clock.get_subscription_count() > 0, "the node follows the clock")
    clock.publish(Clock(clock=ns_to_stamp(50 * SECOND)))
    world.until(lambda: world.node.get_clock().now().nanoseconds == 50 * SECOND, "the clock is taken")
    output = world.output(odom_frame="odom", transform_tolerance=0.5)
    output.frame(tracked(some_pose(1), 49 * SECOND), "lens", some_pose(2), True)
    output.tick()  # the clock stands: the same stamp twice would make TF warn
    clock.publish(Clock(clock=ns_to_stamp(51 * SECOND)))
    world.until(lambda: world.node.get_clock().now().nanoseconds == 51 * SECOND, "the clock is taken")
    output.tick()
    stamps = [stamp_to_ns(sent.header.stamp) / SECOND for sent in world.said("/tf", 2)]
    assert stamps == [50.5, 51.5]


def test_a_rig_goes_to_static_unless_tf_has_it(world):
    output = world.output()
    world.say("base_link", "left", static=True)
    world.say("base_link", "right", static=True)
    output.rig({"right": ("left", some_pose(1)), "rear": ("left", some_pose(2))})
    (sent,) = world.said("/tf_static", 1)
    assert names(sent) == ("left", "rear")
    np.testing.assert_allclose(rigid_of(sent), some_pose(2), atol=1e-12)
    output.rig({"rear": ("left", some_pose(2)), "front": ("left", some_pose(3))})
    together = {t.child_frame_id for t in world.said("/tf_static", 3)[1:]}
    assert together == {"rear", "front"}, "who comes late gets all from one latched message"
    assert len(world.said("/tf_static", 3)) == 3 and output.problems == ()


def test_a_rig_of_cameras_with_trees_of_their_own(world):
    """Two drivers, each with link -> lens: the second link is placed, so that its lens stands where it was found."""
    world.say("left_link", "left", some_pose(1), static=True)
    world.say("right_link", "right", some_pose(2), static=True)
    output = world.output()
    output.rig({"right": ("left", some_pose(3))})
    (sent,) = world.said("/tf_static", 1)
    assert names(sent) == ("left", "right_link")
    np.testing.assert_allclose(rigid_of(sent) @ some_pose(2), some_pose(3), atol=1e-12)


def test_the_listener_keeps_places_and_refuses_nonsense(world):
    b_T_c = some_pose(3)
    world.say("odom", "base_link", some_pose(1), 5 * SECOND)
    world.say("odom", "base_link", some_pose(1), 6 * SECOND)
    world.say("base_link", "lens", b_T_c, static=True)
    empty = TransformStamped(child_frame_id="lens")
    empty.header.frame_id = "base_link"
    empty.transform.rotation.w = 0.0
    world._senders[False].publish(TFMessage(transforms=[empty]))
    world.say("marker", "end")
    found = world.listener.buffer.lookup("odom", "lens", 5 * SECOND + SECOND // 2)
    np.testing.assert_allclose(found, some_pose(1) @ b_T_c, atol=1e-9)
    np.testing.assert_allclose(world.listener.buffer.fixed("base_link", "lens"), b_T_c, atol=1e-12)
