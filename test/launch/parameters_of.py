"""Prints parameters of the node of a full name, as name=value each, with image_topic last."""

import sys

import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python

NAMES = ["use_sim_time", "autostart", "publish_tf", "image_topic"]

rclpy.init()
node = rclpy.create_node("parameters_of")
client = node.create_client(GetParameters, f"{sys.argv[1]}/get_parameters")
client.wait_for_service(60.0)
answer = client.call_async(GetParameters.Request(names=NAMES))
rclpy.spin_until_future_complete(node, answer, timeout_sec=60.0)
for name, value in zip(NAMES, answer.result().values, strict=True):
    print(f"{name}={parameter_value_to_python(value)}", flush=True)
rclpy.shutdown()
