"""Maps with one camera or several: ros2 launch dust3r_ros dust3r.launch.py image_topic:=/camera/image_raw."""

from itertools import chain

import yaml
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from dust3r_ros.config import MapperConfig, NodeConfig, Row, rows
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity, SomeSubstitutionsType

# Parameters of the node that are arguments of this file, too. Empty: what the config file or the default says.
PARAMETERS = (
    "image_topic",
    "image_topics",
    "camera_names",
    "image_transport",
    "camera_info_topic",
    "mask_topics",
    "depth_topics",
    "odom_frame",
    "odom_topic",
    "base_frame",
    "imu_topic",
    "map_frame",
    "camera_frame",
    "publish_tf",
    "invert_tf",
    "backend",
    "checkpoint",
    "calibration",
    "mode",
    "load_map",
    "map_db",
    "map_start",
    "on_time_jump",
    "image_reliability",
    "image_depth",
    "backlog",
    "manifest",
    "profile",
    "output_dir",
)

ARGUMENTS = {
    "config": ("", "YAML file with parameters, or the name of one in config/ of the package; empty takes dust3r."),
    "namespace": ("", "Namespace of the node, or several with commas: that many nodes in one process."),
    "rviz": ("false", "Start RViz with the map, path, graph and camera."),
    "foxglove": ("false", "Start foxglove_bridge, to which Foxglove connects (ws://localhost:8765)."),
    "bag": ("", "Bag to play with --clock; sets use_sim_time, and everything ends with the bag."),
    "bag_rate": ("1.0", "How many times as fast as recorded the bag is played."),
    "bag_loop": ("false", "Play the bag again and again; on_time_jump says what the node does then."),
    "use_sim_time": ("", "Take the time from /clock: true or false; empty is true exactly when a bag is played."),
    "autostart": ("true", "Configure and activate the node at start; false leaves it to a lifecycle manager."),
    "log_level": ("info", "Log level of the node."),
}

# What rviz/dust3r.rviz shows of the node.
SHOWN = ("map", "map_tiles", "keyframe_cloud", "grid", "path", "graph", "pose", "depth", "status_text")

ROWS = {row.name: row for row in chain(rows(MapperConfig), rows(NodeConfig))}


def _value(row: Row, text: str) -> ParameterValue:
    """An argument as the parameter that it is; raises ``ConfigError`` for one out of range."""
    if row.type is str:  # as text: a checkpoint named 2024 is no number
        return ParameterValue(str(row.check(text)), value_type=str)
    if row.type is tuple:
        row.check(items := [item.strip() for item in text.split(",")])
        return ParameterValue(items, value_type=list[str])
    return ParameterValue(row.check(yaml.safe_load(text)), value_type=row.type)


def _flag(values: dict[str, str], name: str) -> bool:
    """An argument that is true or false."""
    words = {"true": True, "1": True, "false": False, "0": False}
    if values[name].lower() not in words:
        raise ValueError(f"argument {name} is '{values[name]}'; it must be true or false")
    return words[values[name].lower()]


def _config(values: dict[str, str]) -> SomeSubstitutionsType:
    """The parameter file; a bare name is one of the package's."""
    name = values["config"] or "dust3r"
    if "/" in name or "." in name:
        return name
    return PathJoinSubstitution([FindPackageShare("dust3r_ros"), "config", f"{name}.yaml"])


def _nodes(values: dict[str, str], spaces: list[str], simulated: bool) -> Node:
    """The node; with several namespaces, one process with a node in each."""
    given = {name: _value(ROWS[name], values[name]) for name in PARAMETERS if values[name]}
    several = len(spaces) > 1
    return Node(
        package="dust3r_ros",
        executable="dust3r_node",
        # A name or namespace given here would be that of all nodes of the process.
        name=None if several else "dust3r",
        namespace=None if several else spaces[0],
        arguments=["--namespaces", *spaces] if several else [],
        output="screen",
        emulate_tty=True,
        parameters=[_config(values), {**given, "use_sim_time": simulated, "autostart": _flag(values, "autostart")}],
        ros_arguments=["--log-level", values["log_level"]],
        # The last refinement and the results take longer than the 5 s that are usual.
        sigterm_timeout="120",
        sigkill_timeout="10",
    )


def _shown(values: dict[str, str], space: str) -> list[tuple[str, str]]:
    """Remappings from the topics of the RViz file to those of this run."""
    space = f"/{space}" if space else ""
    rules = [(f"/dust3r/{name}", f"{space}/dust3r/{name}") for name in SHOWN] if space else []
    image = (values["image_topics"].split(",")[0].strip() or values["image_topic"]).removesuffix("/compressed")
    image = image or ROWS["image_topic"].default
    image = image if image.startswith("/") else f"{space}/{image}"
    if image != "/camera/image_raw":
        rules.append(("/camera/image_raw", image))
    # The map is drawn over the image with the estimated camera.
    return [*rules, ("/camera/camera_info", f"{image.rpartition('/')[0]}/estimated/camera_info")]


def _viewers(values: dict[str, str], space: str, simulated: bool) -> list[LaunchDescriptionEntity]:
    entities: list[LaunchDescriptionEntity] = []
    if _flag(values, "rviz"):
        layout = PathJoinSubstitution([FindPackageShare("dust3r_ros"), "rviz", "dust3r.rviz"])
        entities.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", layout],
                parameters=[{"use_sim_time": simulated}],
                remappings=_shown(values, space),
            )
        )
    if _flag(values, "foxglove"):
        parameters = [{"use_sim_time": simulated}]
        entities.append(Node(package="foxglove_bridge", executable="foxglove_bridge", parameters=parameters))
    return entities


def _player(values: dict[str, str]) -> list[LaunchDescriptionEntity]:
    """The bag, at whose end everything ends."""
    # The node gets a moment to come up before the first image.
    command = ["ros2", "bag", "play", values["bag"], "--clock", "--delay", "3", "--rate", values["bag_rate"]]
    player = ExecuteProcess(cmd=command + ["--loop"] * _flag(values, "bag_loop"), output="screen")
    ended = OnProcessExit(target_action=player, on_exit=[Shutdown(reason="the bag has ended")])
    return [player, RegisterEventHandler(ended)]


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = {name: LaunchConfiguration(name).perform(context) for name in (*PARAMETERS, *ARGUMENTS)}
    simulated = _flag(values, "use_sim_time") if values["use_sim_time"] else bool(values["bag"])
    spaces = [space.strip().strip("/") for space in values["namespace"].split(",")]
    entities = [_nodes(values, spaces, simulated), *_viewers(values, spaces[0], simulated)]
    return entities + (_player(values) if values["bag"] else [])


def generate_launch_description() -> LaunchDescription:
    """The node, and RViz, Foxglove's bridge and a playing bag when asked for."""
    declared = [
        DeclareLaunchArgument(name, default_value="", description=ROWS[name].description) for name in PARAMETERS
    ]
    declared += [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_start)])
