"""Maps with one camera: ros2 launch dust3r_ros dust3r.launch.py image_topic:=/camera/image_raw [bag:=…]."""

from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

# Parameters of the node that are also arguments of this file. Empty: what the config file or the default says.
PARAMETERS = {
    "image_topic": "Image topic to map, sensor_msgs/Image or CompressedImage.",
    "image_transport": "Message type of the image topic: auto, raw or compressed.",
    "camera_info_topic": "CameraInfo of the camera; empty derives it from the image topic.",
    "backend": "What turns image pairs into pointmaps: two_view (no weights) or dust3r (the network).",
    "checkpoint": "Weights of the dust3r backend: a .pth file or a folder.",
    "output_dir": "Folder that gets trajectory, map, cameras and report when the node ends.",
}

ARGUMENTS = {
    "config": ("", "YAML file with parameters; empty takes the package's config/dust3r.yaml."),
    "namespace": ("", "Namespace of the node."),
    "rviz": ("false", "Start RViz with the map, path, graph and camera."),
    "bag": ("", "Bag to play with --clock; sets use_sim_time, and everything ends with the bag."),
    "bag_rate": ("1.0", "How many times as fast as recorded the bag is played."),
    "use_sim_time": ("", "Take the time from /clock: true or false; empty is true exactly when a bag is played."),
    "autostart": ("true", "Configure and activate the node at start; false leaves it to a lifecycle manager."),
    "log_level": ("info", "Log level of the node."),
}

# What rviz/dust3r.rviz shows of the node.
SHOWN = ("map", "keyframe_cloud", "path", "graph", "pose")


def _shown(values: dict[str, str]) -> list[tuple[str, str]]:
    """Remappings from the topics of the RViz file to those of this run."""
    space = f"/{values['namespace'].strip('/')}" if values["namespace"].strip("/") else ""
    rules = [(f"/dust3r/{name}", f"{space}/dust3r/{name}") for name in SHOWN] if space else []
    image = values["image_topic"].removesuffix("/compressed")
    if image or space:
        image = image or "/camera/image_raw"
        rules.append(("/camera/image_raw", image if image.startswith("/") else f"{space}/{image}"))
    return rules


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = {name: LaunchConfiguration(name).perform(context) for name in (*PARAMETERS, *ARGUMENTS)}
    share = FindPackageShare("dust3r_ros")
    config = values["config"] or PathJoinSubstitution([share, "config", "dust3r.yaml"])
    simulated = values["use_sim_time"].lower() in ("true", "1") if values["use_sim_time"] else bool(values["bag"])
    # As text: a checkpoint named 2024 is no number.
    given = {name: ParameterValue(values[name], value_type=str) for name in PARAMETERS if values[name]}
    node = Node(
        package="dust3r_ros",
        executable="dust3r_node",
        name="dust3r",
        namespace=values["namespace"],
        output="screen",
        emulate_tty=True,
        parameters=[
            config,
            {**given, "use_sim_time": simulated, "autostart": values["autostart"].lower() in ("true", "1")},
        ],
        ros_arguments=["--log-level", values["log_level"]],
        # The last refinement and the results take longer than the 5 s that are usual.
        sigterm_timeout="120",
        sigkill_timeout="10",
    )
    entities: list[LaunchDescriptionEntity] = [node]
    if values["rviz"].lower() in ("true", "1"):
        entities.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", PathJoinSubstitution([share, "rviz", "dust3r.rviz"])],
                parameters=[{"use_sim_time": simulated}],
                remappings=_shown(values),
            )
        )
    if values["bag"]:
        # The node gets a moment to come up before the first image.
        command = ["ros2", "bag", "play", values["bag"], "--clock", "--delay", "3", "--rate", values["bag_rate"]]
        player = ExecuteProcess(cmd=command, output="screen")
        entities += [
            player,
            RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[Shutdown(reason="the bag has ended")])),
        ]
    return entities


def generate_launch_description() -> LaunchDescription:
    """The node, and RViz and a playing bag when asked for."""
    declared = [DeclareLaunchArgument(name, default_value="", description=text) for name, text in PARAMETERS.items()]
    declared += [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_start)])
