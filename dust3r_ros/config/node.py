"""The parameters of the ROS node beyond the mapper's."""

from __future__ import annotations

from dataclasses import dataclass

from dust3r_ros.config.rows import row


@dataclass(frozen=True)
class NodeConfig:
    """Parameters of the ROS node beyond the mapper's."""

    image_topic: str = row("/camera/image_raw", "Image topic to map; its camera's name is the topic's namespace.")
    image_topics: tuple[str, ...] = row(
        ("",), "Image topics of several cameras that make one map; without any, image_topic is the only one."
    )
    camera_names: tuple[str, ...] = row(
        ("",), "Names of the cameras, in the order of image_topics; without any, the namespaces of their topics."
    )
    mask_topics: tuple[str, ...] = row(
        ("",), "Masks (mono8) per camera, in the order of image_topics: what is not 0 is left out. Empty: none."
    )
    depth_topics: tuple[str, ...] = row(
        ("",), "Depth (16UC1 mm, 32FC1 m) per camera, in the order of image_topics; it tells the scale. Empty: none."
    )
    odom_topic: str = row("", "Odometry (nav_msgs/Odometry) where it is not on /tf; empty: none.")
    imu_topic: str = row("", "IMU (sensor_msgs/Imu), fixed to the cameras by TF, that tells what is up; empty: none.")
    companion_wait: float = row(
        0.1, "Seconds that an image waits for its odometry, mask and depth, where there are any.", low=0.0, high=10.0
    )
    bridge_time: float = row(
        2.0,
        "Seconds for which odometry, else the gyroscope, carries the pose on while the camera is lost; 0: not at all.",
        low=0.0,
        high=60.0,
    )
    focal_wait: float = row(
        2.6,
        "Seconds of motion for which the first poses wait for a focal that is more than a guess; 0: not at all.",
        low=0.0,
        high=60.0,
    )
    image_transport: str = row(
        "auto",
        "Message type of the image topics; auto takes compressed for topics that end in /compressed.",
        choices=("auto", "raw", "compressed"),
    )
    camera_info_topic: str = row("", "CameraInfo of the only camera; empty derives it from the image topic.")
    image_reliability: str = row(
        "best_available",
        "QoS reliability of image subscriptions; best_available takes what the publisher offers, also of one that comes"
        " later.",
        choices=("best_available", "reliable", "best_effort"),
    )
    image_depth: int = row(5, "QoS history depth of image subscriptions.", low=1, high=1000)
    backlog: str = row(
        "latest",
        "When images come faster than they are mapped: latest drops the oldest of queue_size, every keeps all up to"
        " backlog_mb.",
        choices=("latest", "every"),
    )
    queue_size: int = row(
        2,
        "Images of a camera without a pose that wait for the map; when full, the oldest is dropped and counted.",
        low=1,
        high=10000,
    )
    backlog_mb: int = row(
        2000,
        "Megabytes of messages that may wait with backlog every; beyond, the oldest are dropped.",
        low=1,
        high=10**6,
    )
    map_frame: str = row("map", "Frame of the map (z up).")
    camera_frame: str = row("", "Optical frame of the only camera; empty takes the frame of the images.")
    odom_frame: str = row("", "Frame of the odometry: map -> odom_frame is published; empty: no odometry.")
    base_frame: str = row(
        "",
        "Without odometry, publish map -> base_frame, of which TF knows where the cameras are; empty: map -> camera.",
    )
    publish_tf: bool = row(True, "Publish the map's transform on /tf.", live=True)
    invert_tf: bool = row(False, "Publish it the other way round: the map hangs below odometry or camera.", live=True)
    tf_rate: float = row(
        20.0, "Transforms per second of map -> odom_frame or base_frame, also between images.", low=0.5, high=200.0
    )
    transform_tolerance: float = row(
        0.1,
        "Seconds by which map -> odom_frame is dated ahead, so that it is there for newest odometry.",
        low=0.0,
        high=10.0,
    )
    map_period: float = row(0.5, "Seconds between publications of the map cloud.", low=0.05, high=3600.0, live=True)
    map_stride: int = row(
        2, "Every n-th row and column of a keyframe goes into the map cloud.", low=1, high=32, live=True
    )
    map_max_points: int = row(
        1_000_000,
        "Points of ~/map at most: where there are more, every second goes, or more; ~/map_tiles has all.",
        low=1000,
        high=100_000_000,
        live=True,
    )
    on_time_jump: str = row(
        "reset",
        "What a stamp that jumps back does: reset starts a new map, submap lets the old one wait until it is seen"
        " again, ignore drops the frame.",
        choices=("reset", "submap", "ignore"),
    )
    grid_resolution: float = row(
        0.05, "Metres per cell of ~/grid; map units while the scale is unknown.", low=0.005, high=10.0
    )
    grid_min_height: float = row(
        0.0, "What is lower above the ground than this is no obstacle in ~/grid; 0: from the map.", low=0.0, high=100.0
    )
    grid_max_height: float = row(
        0.0, "What is higher above the ground than this is no obstacle in ~/grid; 0: from the map.", low=0.0, high=100.0
    )
    grid_camera_height: float = row(
        0.0, "How high above the ground the cameras are, for ~/grid; 0: found from the map.", low=0.0, high=100.0
    )
    map_db: str = row(
        "", "Saved map that is written as the map grows, so that it survives the process; empty: none.", path=True
    )
    map_start: str = row(
        "continue", "Whether a map_db that is there is continued or replaced.", choices=("continue", "new")
    )
    load_map: str = row("", "Saved map to begin with, which is left as it is; empty: none.", path=True)
    manifest: str = row(
        "",
        "File that lists every image that was used, for dust3r-map --manifest to make the same map; empty: none.",
        path=True,
    )
    profile: str = row(
        "",
        "File that gets what ran when, in both processes, when the node is cleaned up: a Chrome trace of the newest"
        " 200000 events; empty: none.",
        path=True,
    )
    output_dir: str = row(
        "", "Folder that gets the files of a run when the node is cleaned up; empty writes none.", path=True
    )
