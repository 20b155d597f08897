"""The single list of the node's topics and services: name, type, quality of service, content.

The node makes its publishers, subscriptions and services from these rows, and docs/ros.md prints them. This module
does not import ROS, so that the docs can be made and checked without it.

``~/`` stands for the node's name, ``<camera>`` for the namespace of a camera's image topic, and the name of a parameter
(``image_topic``) for its value.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Quality:
    """Quality of service of a topic; ``reliability`` and ``durability`` as rclpy names them, in lower case."""

    name: str
    reliability: str
    durability: str
    depth: int
    follows: str = ""

    @property
    def words(self) -> str:
        """The text for the docs."""
        return f"{self.reliability}, {self.durability}, depth {self.depth}".replace("_", " ")


# For subscriptions, ``follows`` names the parameters that change it.
LATCHED = Quality("latched", "reliable", "transient_local", 1)
RELIABLE = Quality("reliable", "reliable", "volatile", 10)
TILES = Quality("tiles", "reliable", "volatile", 200)
IMAGES = Quality("images", "best_available", "volatile", 5, "`image_reliability`, `image_depth`")
SENSOR = Quality("sensor data", "best_effort", "volatile", 5)
ODOMETRY = Quality("odometry", "best_effort", "volatile", 50)
IMU = Quality("imu", "best_effort", "volatile", 400)
TF = Quality("tf", "reliable", "volatile", 100)
TF_STATIC = Quality("tf static", "reliable", "transient_local", 100)
QUALITIES = (LATCHED, RELIABLE, TILES, IMAGES, SENSOR, ODOMETRY, IMU, TF, TF_STATIC)


@dataclass(frozen=True)
class Topic:
    """A topic as users see it; ``type`` is ``package/Name``, ``when`` and ``what`` are phrases for a table."""

    name: str
    type: str
    quality: Quality
    when: str
    what: str


@dataclass(frozen=True)
class Service:
    """A service as users see it; ``type`` is ``package/Name``."""

    name: str
    type: str
    does: str


# Keys are the names used in the node's code.
OUTPUTS: dict[str, Topic] = {
    "map": Topic(
        "~/map",
        "sensor_msgs/PointCloud2",
        LATCHED,
        "at most every `map_period` seconds, when it changed",
        "the whole map, thinned to `map_max_points`; fields x, y, z, rgb, confidence (float32; rgb packed as usual)",
    ),
    "map_tiles": Topic(
        "~/map_tiles",
        "sensor_msgs/PointCloud2",
        TILES,
        "when keyframes changed",
        "the complete map, piece by piece: each message has the points of one changed keyframe, with its stamp, and"
        " replaces earlier points of that keyframe; fields as on `~/map`, plus `keyframe` (uint32). A removed keyframe"
        " is sent as one NaN point",
    ),
    "keyframe_cloud": Topic(
        "~/keyframe_cloud",
        "sensor_msgs/PointCloud2",
        RELIABLE,
        "once per keyframe, as soon as it has depth",
        "its points, in the map frame",
    ),
    "grid": Topic(
        "~/grid",
        "nav_msgs/OccupancyGrid",
        LATCHED,
        "with the map",
        "occupancy grid with cells of `grid_resolution`, for nav2's static layer",
    ),
    "path": Topic(
        "~/path",
        "nav_msgs/Path",
        LATCHED,
        "with the map",
        "trajectory of the first camera as currently estimated, thinned to about 2000 poses",
    ),
    "graph": Topic(
        "~/graph",
        "visualization_msgs/MarkerArray",
        LATCHED,
        "with the map",
        "keyframes as spheres, up to 100 of them with their numbers (namespace `numbers`); pairs as lines, the"
        " greener, the higher a pair's weight",
    ),
    "pose": Topic(
        "~/pose",
        "geometry_msgs/PoseWithCovarianceStamped",
        RELIABLE,
        "at each tracked or bridged image of the first camera",
        "pose of its optical frame in the map frame, with covariance",
    ),
    "camera_pose": Topic(
        "<camera>/estimated/pose",
        "geometry_msgs/PoseWithCovarianceStamped",
        RELIABLE,
        "at each tracked or bridged image, if there are several cameras",
        "like `~/pose`, for each camera",
    ),
    "depth": Topic(
        "~/depth",
        "sensor_msgs/Image",
        RELIABLE,
        "with `~/keyframe_cloud`",
        "depth of that keyframe as 32FC1 in map units, NaN where unknown, at the working resolution (scaled and cropped"
        " to multiples of 16 pixels)",
    ),
    "depth_info": Topic(
        "~/depth/camera_info",
        "sensor_msgs/CameraInfo",
        RELIABLE,
        "with `~/depth`",
        "pinhole intrinsics of `~/depth` and `~/keyframe_image`",
    ),
    "keyframe_image": Topic(
        "~/keyframe_image",
        "sensor_msgs/Image",
        RELIABLE,
        "with `~/depth`",
        "undistorted image of that keyframe as rgb8, registered to its depth",
    ),
    "estimated": Topic(
        "<camera>/estimated/camera_info",
        "sensor_msgs/CameraInfo",
        RELIABLE,
        "at each image",
        "estimated intrinsics at native resolution",
    ),
    "status": Topic(
        "~/status",
        "dust3r_ros/MappingStatus",
        RELIABLE,
        "every second and at each change of state",
        "state, counts, lag, latencies, memory, scale, cameras",
    ),
    "status_text": Topic(
        "~/status_text",
        "visualization_msgs/Marker",
        RELIABLE,
        "every second",
        "state and lag as text above the first camera, for RViz",
    ),
    "diagnostics": Topic(
        "/diagnostics",
        "diagnostic_msgs/DiagnosticArray",
        RELIABLE,
        "every second",
        "health of mapping, backend, scale, inputs, TF and each camera",
    ),
    "tf": Topic(
        "/tf",
        "tf2_msgs/TFMessage",
        TF,
        "at each tracked image or, with odometry, `tf_rate` times per second; if `publish_tf`",
        "`map_frame` -> `odom_frame` with odometry, once the map is metric; else `map_frame` -> `base_frame` or"
        " camera; inverted with `invert_tf`; nothing if another node already publishes a parent of that frame",
    ),
    "tf_static": Topic(
        "/tf_static",
        "tf2_msgs/TFMessage",
        TF_STATIC,
        "when cameras turn out to be rigidly connected, if `publish_tf`",
        "first camera -> other cameras, unless TF already has it",
    ),
}

INPUTS: dict[str, Topic] = {
    "image": Topic(
        "image_topic",
        "sensor_msgs/Image",
        IMAGES,
        "always",
        "images to map, or `sensor_msgs/CompressedImage`; for several cameras see `image_topics`",
    ),
    "camera_info": Topic(
        "<camera>/camera_info",
        "sensor_msgs/CameraInfo",
        SENSOR,
        "always",
        "the camera's calibration; `camera_info_topic` overrides the name",
    ),
    "mask": Topic(
        "mask_topics",
        "sensor_msgs/Image",
        IMAGES,
        "when given",
        "mono8, one per camera; non-zero pixels are excluded from poses, focal length and cloud",
    ),
    "depth": Topic(
        "depth_topics",
        "sensor_msgs/Image",
        IMAGES,
        "when given",
        "16UC1 (mm) or 32FC1 (m), one per camera; gives the map its metric scale",
    ),
    "depth_info": Topic(
        "<depth>/camera_info",
        "sensor_msgs/CameraInfo",
        SENSOR,
        "with `depth_topics`",
        "intrinsics of depth images that are not registered to the image; `<depth>` is the namespace of their topic",
    ),
    "odom": Topic(
        "odom_topic",
        "nav_msgs/Odometry",
        ODOMETRY,
        "when given",
        "odometry that is not on /tf; gives the scale and, with `odom_frame`, the map's transform",
    ),
    "imu": Topic(
        "imu_topic", "sensor_msgs/Imu", IMU, "when given", "acceleration and angular velocity; for gravity and bridging"
    ),
    "tf": Topic(
        "/tf",
        "tf2_msgs/TFMessage",
        TF,
        "always",
        "`odom_frame` -> `base_frame`, and parents published by others",
    ),
    "tf_static": Topic("/tf_static", "tf2_msgs/TFMessage", TF_STATIC, "always", "mounting of cameras, IMU and base"),
}

SERVICES: dict[str, Service] = {
    "reset": Service(
        "~/reset",
        "std_srvs/Trigger",
        "discards the map and waiting images; the next image starts a new map; calibrations are kept",
    ),
    "pause": Service("~/pause", "std_srvs/Trigger", "ignores images until resumed"),
    "resume": Service("~/resume", "std_srvs/Trigger", "resumes mapping"),
    "save_map": Service("~/save_map", "dust3r_ros/SaveMap", "saves the map to a file on the node's machine"),
    "load_map": Service(
        "~/load_map",
        "dust3r_ros/LoadMap",
        "replaces the map by a saved one, to extend it or to localize in it",
    ),
    "localize": Service("~/localize", "dust3r_ros/Localize", "localizes one image in the map, which stays unchanged"),
    "set_scale": Service("~/set_scale", "dust3r_ros/SetScale", "makes the map metric, by a factor or a known distance"),
    "save_calibration": Service(
        "~/save_calibration",
        "dust3r_ros/SaveCalibration",
        "saves the estimated intrinsics of each camera as a file for `camera_info_manager`",
    ),
    "export_map": Service(
        "~/export_map", "dust3r_ros/ExportMap", "exports the map: PLY, TUM, COLMAP, nerfstudio, occupancy grid"
    ),
}

# What rclpy gives every lifecycle node; an access policy must allow it, too.
NODE_PUBLISHES = ("/parameter_events", "/rosout", "~/transition_event")
NODE_SUBSCRIBES = ("/clock",)
NODE_SERVICES = tuple(
    f"~/{name}"
    for name in (
        "change_state",
        "describe_parameters",
        "get_available_states",
        "get_available_transitions",
        "get_parameter_types",
        "get_parameters",
        "get_state",
        "get_transition_graph",
        "get_type_description",
        "list_parameters",
        "set_parameters",
        "set_parameters_atomically",
    )
)


def interface_type(row: Topic | Service) -> Any:
    """The class of a row's message or service; raises ``ImportError`` where its ROS package is missing."""
    package, _, name = row.type.partition("/")
    module = importlib.import_module(f"{package}.{'srv' if isinstance(row, Service) else 'msg'}")
    return getattr(module, name)


def qos_profile(quality: Quality) -> Any:
    """The ``rclpy.qos.QoSProfile`` of a quality."""
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    return QoSProfile(
        depth=quality.depth,
        reliability=ReliabilityPolicy[quality.reliability.upper()],
        durability=DurabilityPolicy[quality.durability.upper()],
    )
