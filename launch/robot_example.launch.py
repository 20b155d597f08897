"""A robot without a URDF: the camera's pose on the base as static transforms, and the mapping node with odometry.

ros2 launch dust3r_ros robot_example.launch.py image_topic:=/camera/image_raw x:=0.2 z:=0.3 pitch:=0.1
"""

import math

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription, SomeSubstitutionsType

# It also accepts the arguments of dust3r.launch.py: rviz, image_topic, imu_topic, …
ARGUMENTS = {
    "x": ("0.2", "Camera position ahead of the base's origin, in metres."),
    "y": ("0.0", "Camera position to the left, in metres."),
    "z": ("0.3", "Camera height above the base's origin, in metres."),
    "roll": ("0.0", "Roll about the viewing direction, in radians."),
    "pitch": ("0.0", "Pitch, positive down, in radians."),
    "yaw": ("0.0", "Yaw, positive to the left, in radians."),
    "base_frame": ("base_link", "Frame of the robot; its driver publishes odom_frame -> base_frame."),
    "odom_frame": ("odom", "Frame of the odometry."),
    "camera_link": ("camera_link", "Frame of the camera's body: x ahead, z up."),
    "camera_frame": ("camera_optical_frame", "Frame of the camera's images: z ahead, y down."),
    "config": ("simulated_robot", "Parameter file, or the name of one in the package's config/."),
}


def _static(parent: str, child: str, place: dict[str, SomeSubstitutionsType]) -> Node:
    """A static transform between the frames named by two arguments."""
    frames = {"frame-id": LaunchConfiguration(parent), "child-frame-id": LaunchConfiguration(child)}
    words = [word for name, value in {**place, **frames}.items() for word in (f"--{name}", value)]
    return Node(package="tf2_ros", executable="static_transform_publisher", arguments=words)


def generate_launch_description() -> LaunchDescription:
    """Static transforms of the camera and the mapping node."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    place = {name: LaunchConfiguration(name) for name in ("x", "y", "z", "roll", "pitch", "yaw")}
    quarter = str(-math.pi / 2)
    passed = ("base_frame", "odom_frame", "camera_frame", "config")
    # Not in a function, so that --show-args finds the included file's arguments.
    included = IncludeLaunchDescription(
        PathJoinSubstitution([FindPackageShare("dust3r_ros"), "launch", "dust3r.launch.py"]),
        launch_arguments=[(name, LaunchConfiguration(name)) for name in passed],
    )
    return LaunchDescription(
        [
            *declared,
            _static("base_frame", "camera_link", place),
            _static("camera_link", "camera_frame", {"roll": quarter, "yaw": quarter}),
            included,
        ]
    )
