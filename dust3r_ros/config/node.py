"""The parameters of the ROS node beyond the mapper's."""

from __future__ import annotations

from dataclasses import dataclass

from dust3r_ros.config.rows import Checked, row


@dataclass(frozen=True)
class NodeConfig(Checked):
    """Parameters of the ROS node beyond the mapper's."""

    image_topic: str = row("/camera/image_raw", "Image topic to map; the camera is named after the topic's namespace.")
    image_topics: tuple[str, ...] = row(
        ("",), "Image topics of several cameras that build one map together; empty: image_topic only."
    )
    camera_names: tuple[str, ...] = row(
        ("",), "Camera names, in the order of image_topics; empty: the namespaces of the topics."
    )
    mask_topics: tuple[str, ...] = row(
        ("",), "Mask topics (mono8) in the order of image_topics; non-zero pixels are ignored. Empty: none."
    )
    depth_topics: tuple[str, ...] = row(
        ("",),
        "Depth topics (16UC1 in mm, 32FC1 in m) in the order of image_topics; they give the metric scale. Empty: none.",
    )
    odom_topic: str = row("", "Odometry topic (nav_msgs/Odometry), for odometry that is not on /tf; empty: none.")
    imu_topic: str = row(
        "",
        "IMU topic (sensor_msgs/Imu) for gravity and rotation; TF must connect the IMU rigidly to the cameras. "
        "Empty: none.",
    )
    companion_wait: float = row(
        0.1, "Maximum time, in seconds, that an image waits for its odometry, mask and depth.", low=0.0, high=10.0
    )
    bridge_time: float = row(
        2.0,
        "Time, in seconds, for which odometry or the gyroscope extends the pose while the camera is lost; 0: off.",
        low=0.0,
        high=60.0,
    )
    focal_wait: float = row(
        2.5,
        "Maximum time of motion, in seconds, for which the first poses are held back until the focal length is more "
        "than a guess; twice that while it has never been calibrated; 0: off.",
        low=0.0,
        high=60.0,
    )
    image_transport: str = row(
        "auto",
        "Type of the image topics; auto selects compressed for topics that end in /compressed; compressed appends "
        "/compressed to topics without it.",
        choices=("auto", "raw", "compressed"),
    )
    camera_info_topic: str = row("", "CameraInfo topic, if there is one camera; empty: derived from the image topic.")
    image_reliability: str = row(
        "best_available",
        "QoS reliability of image subscriptions; best_available adapts to the publishers, including those that "
        "appear later.",
        choices=("best_available", "reliable", "best_effort"),
    )
    image_depth: int = row(5, "QoS history depth of image subscriptions.", low=1, high=1000)
    backlog: str = row(
        "latest",
        "What happens when images arrive faster than they are mapped: latest keeps queue_size and drops the "
        "oldest; every keeps all, up to backlog_mb.",
        choices=("latest", "every"),
    )
    queue_size: int = row(
        2,
        "Images without a pose that may wait for the map, per camera; when the queue is full, the oldest is "
        "dropped and counted.",
        low=1,
        high=10000,
    )
    backlog_mb: int = row(
        2000,
        "Memory, in megabytes, for waiting messages with backlog every; beyond that the oldest are dropped.",
        low=1,
        high=10**6,
    )
    map_frame: str = row("map", "Frame of the map (z up).", frame=True)
    camera_frame: str = row(
        "", "Optical frame of the camera, if there is only one; empty: the frame of the images.", frame=True
    )
    odom_frame: str = row(
        "", "Odometry frame; the node then publishes map -> odom_frame. Empty: no odometry.", frame=True
    )
    base_frame: str = row(
        "",
        "Without odometry, publish map -> base_frame; TF must contain the cameras' poses on it. Empty: map -> camera.",
        frame=True,
    )
    publish_tf: bool = row(True, "Publish the map's transform on /tf.", live=True)
    invert_tf: bool = row(
        False, "Publish the inverse transform, so that the map is a child of the odometry or camera frame.", live=True
    )
    tf_rate: float = row(
        20.0, "Rate, in Hz, of the transform map -> odom_frame, also between images.", low=0.5, high=200.0
    )
    transform_tolerance: float = row(
        0.1,
        "Time, in seconds, by which map -> odom_frame is post-dated, so that it covers the newest odometry.",
        low=0.0,
        high=10.0,
    )
    map_period: float = row(
        0.5,
        "Minimum time, in seconds, between publications of the map cloud, with its grid, graph and path.",
        low=0.05,
        high=3600.0,
        live=True,
    )
    map_stride: int = row(
        2, "Use every n-th row and column of a keyframe for the map cloud.", low=1, high=32, live=True
    )
    map_max_points: int = row(
        1_000_000,
        "Maximum number of points on ~/map, which is thinned beyond that; ~/map_tiles is always complete.",
        low=1000,
        high=100_000_000,
        live=True,
    )
    on_time_jump: str = row(
        "reset",
        "What happens when time jumps back: reset starts a new map; submap starts one and joins the old map when "
        "it is seen again; ignore drops the image. With mode localization the map stays.",
        choices=("reset", "submap", "ignore"),
    )
    grid_resolution: float = row(
        0.05, "Cell size of ~/grid in metres; in map units while the scale is unknown.", low=0.005, high=10.0
    )
    grid_min_height: float = row(
        0.0, "Minimum height above ground of obstacles in ~/grid; 0: derived from the map.", low=0.0, high=100.0
    )
    grid_max_height: float = row(
        0.0, "Maximum height above ground of obstacles in ~/grid; 0: derived from the map.", low=0.0, high=100.0
    )
    grid_camera_height: float = row(
        0.0, "Height of the cameras above ground, for ~/grid; 0: derived from the map.", low=0.0, high=100.0
    )
    map_db: str = row(
        "",
        "Map file that is kept up to date while the map grows, so that the map survives the process; with mode "
        "localization it is only read. Empty: none.",
        path=True,
    )
    map_start: str = row("continue", "Continue or replace an existing map_db.", choices=("continue", "new"))
    load_map: str = row(
        "",
        "Saved map to start from; the file is not modified. When mapping, it is refused beside another map_db that "
        "exists, unless map_start is new. Empty: none.",
        path=True,
    )
    manifest: str = row(
        "",
        "File that records every image used, so that dust3r-map --manifest can reproduce the map; empty: none.",
        path=True,
    )
    profile: str = row(
        "",
        "File for a Chrome trace of both processes, written on cleanup (newest 200000 events); empty: none.",
        path=True,
    )
    viewer: str = row(
        "none", "Watch the map as it grows; web: in a browser (pip extra viewer).", choices=("none", "web")
    )
    viewer_address: str = row(
        "127.0.0.1:8080",
        "HOST:PORT of the web viewer; if the port is taken, the next free one is used. 0.0.0.0 exposes the map to the"
        " whole network.",
    )
    output_dir: str = row("", "Folder for the results, written on cleanup; empty: none.", path=True)
    files_root: str = row(
        "",
        "Folder outside which services neither read nor write files; their relative paths then start there. "
        "Empty: anywhere.",
        path=True,
    )
