"""A robot without a URDF: the camera's place on the base as static transforms, and the mapping node with odometry.

ros2 launch dust3r_ros robot_example.launch.py image_topic:=/camera/image_raw x:=0.2 z:=0.3 pitch:=0.1
"""

import math

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

# More arguments are those of dust3r.launch.py: rviz, image_topic, imu_topic, …
ARGUMENTS = {
    "x": ("0.2", "Camera ahead of the base's origin, metres."),
    "y": ("0.0", "Camera to the left of it, metres."),
    "z": ("0.3", "Camera above it, metres."),
    "roll": ("0.0", "Camera turned about its viewing direction, radians."),
    "pitch": ("0.0", "Camera turned down, radians."),
    "yaw": ("0.0", "Camera turned to the left, radians."),
    "base_frame": ("base_link", "Frame of the robot; its driver publishes odom_frame -> base_frame."),
    "odom_frame": ("odom", "Frame of the odometry."),
    "camera_link": ("camera_link", "Frame of the camera's body: x ahead, z up."),
    "camera_frame": ("camera_optical_frame", "Frame of the camera's images: z ahead, y down."),
    "config": ("simulated_robot", "YAML file with parameters, or the name of one in config/ of the package."),
    "use_sim_time": ("false", "Take the time from /clock, as of a simulator."),
}


def _static(parent: str, child: str, simulated: bool, **numbers: str) -> Node:
    """A transform that never changes, on /tf_static."""
    pose = [word for name, value in numbers.items() for word in (f"--{name}", value)]
    return Node(
        package="tf2_ros",
        executable="static_transform_publisher",
        name=f"{parent}_to_{child}".replace("/", "_"),
        arguments=[*pose, "--frame-id", parent, "--child-frame-id", child],
        parameters=[{"use_sim_time": simulated}],
    )


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    simulated = values["use_sim_time"].lower() in ("true", "1")
    share = FindPackageShare("dust3r_ros")
    place = {name: values[name] for name in ("x", "y", "z", "roll", "pitch", "yaw")}
    quarter = str(-math.pi / 2)
    passed = {name: values[name] for name in ("base_frame", "odom_frame", "camera_frame", "config", "use_sim_time")}
    return [
        _static(values["base_frame"], values["camera_link"], simulated, **place),
        _static(values["camera_link"], values["camera_frame"], simulated, roll=quarter, yaw=quarter),
        IncludeLaunchDescription(
            PathJoinSubstitution([share, "launch", "dust3r.launch.py"]),
            launch_arguments=list(passed.items()),
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    """Static transforms of the camera and the mapping node."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_start)])
