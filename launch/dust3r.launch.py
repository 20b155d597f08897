"""Maps with one camera or several: ros2 launch dust3r_ros dust3r.launch.py image_topic:=/camera/image_raw."""

import sys
from itertools import chain
from pathlib import Path

import yaml
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.logging import launch_config
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from dust3r_ros.config import MapperConfig, NodeConfig, expanded, load_yaml, rows
from dust3r_ros.config import ParameterValue as ParameterConstant
from dust3r_ros.node.launching import (
    argument_value,
    flag,
    full_name,
    mistyped,
    parameter_file,
    require_success,
    require_viewer,
    shown,
)
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

# Node parameters that are also arguments of this file. Empty: the config file or the default applies; two quotes
# are an empty value.
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
    "viewer",
    "viewer_address",
    "output_dir",
)

ARGUMENTS = {
    "config": ("", "Parameter file, or the name of one in the package's config/; empty: dust3r."),
    "namespace": ("", "Namespace of the node, or several separated by commas: one node each, in one process."),
    "rviz": ("false", "Start RViz."),
    "foxglove": ("false", "Start foxglove_bridge (ws://localhost:8765)."),
    "bag": ("", "Bag to play with --clock; sets use_sim_time and shuts down at the end of the bag."),
    "bag_rate": ("1.0", "Playback rate of the bag."),
    "bag_loop": ("false", "Loop the bag; see on_time_jump."),
    "use_sim_time": (
        "",
        "Use the time of /clock: true or false; empty: true with a bag, otherwise as configured.",
    ),
    "autostart": (
        "",
        "Configure and activate the node at startup; false leaves that to a lifecycle manager; empty: as configured.",
    ),
    "log_level": ("info", "Log level of the node; logger:=level sets that of any logger in its process."),
}

# The names of these arguments in KISS-ICP.
SYNONYMS = {
    "publish_odom_tf": "publish_tf",
    "invert_odom_tf": "invert_tf",
    "visualize": "rviz",
    "bagfile": "bag",
    "topic": "image_topic",
}

ROWS = {row.name: row for row in chain(rows(MapperConfig), rows(NodeConfig))}


def _flags(values: dict[str, str]) -> dict[str, bool]:
    """use_sim_time and autostart if given; otherwise a parameter file or an including launch file may set them."""
    given = {name: flag(name, values[name]) for name in ("use_sim_time", "autostart") if values[name]}
    return {**({"use_sim_time": True} if values["bag"] else {}), **given}


def _node(values: dict[str, str], spaces: list[str], config: Path, given: dict[str, ParameterConstant]) -> Node:
    """The node; with several namespaces, one process with a node in each."""
    several = len(spaces) > 1
    typed = {
        name: ParameterValue(
            list(value) if isinstance(value, tuple) else value,
            value_type=list[str] if isinstance(value, tuple) else type(value),
        )
        for name, value in given.items()
    }
    # Only for these nodes: middleware and rclpy log far more at debug.
    level = values["log_level"]
    loggers = (
        [f"{full_name(space)[1:].replace('/', '.')}:={level}" for space in spaces] if ":=" not in level else [level]
    )
    return Node(
        package="dust3r_ros",
        executable="dust3r_node",
        # A name or namespace given here would apply to all nodes of the process.
        name=None if several else "dust3r",
        namespace=None if several else spaces[0],
        arguments=["--namespaces", *spaces] if several else [],
        output="screen",
        emulate_tty=True,
        parameters=[str(config), {**typed, **_flags(values)}],
        ros_arguments=[word for logger in loggers for word in ("--log-level", logger)],
        # The final refinement and writing the results take longer than the default of 5 s.
        sigterm_timeout="120",
        sigkill_timeout="10",
    )


def _viewers(values: dict[str, str], named: str, settings: dict[str, object]) -> list[LaunchDescriptionEntity]:
    """Viewers for the node with this full name and these parameters."""
    entities: list[LaunchDescriptionEntity] = []
    parameters = [{"use_sim_time": True}] if {**settings, **_flags(values)}.get("use_sim_time") else []
    if flag("rviz", values["rviz"]):
        require_viewer("rviz2", "rviz")
        names = shown(settings, named)
        share = Path(FindPackageShare("dust3r_ros").find("dust3r_ros"))
        layout = names.layout(yaml.safe_load((share / "rviz" / "dust3r.rviz").read_text(encoding="utf-8")))
        written = Path(launch_config.get_log_file_path("dust3r.rviz"))
        written.write_text(yaml.safe_dump(layout, sort_keys=False), encoding="utf-8")
        entities.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", str(written)],
                parameters=parameters,
                # The map is overlaid on the image with the estimated camera; depth displays look for its CameraInfo.
                remappings=[
                    (names.camera_info, names.estimated),
                    (f"{named}/camera_info", f"{named}/depth/camera_info"),
                ],
            )
        )
    if flag("foxglove", values["foxglove"]):
        require_viewer("foxglove_bridge", "foxglove")
        entities.append(Node(package="foxglove_bridge", executable="foxglove_bridge", parameters=parameters))
    return entities


def _player(values: dict[str, str], nodes: list[str]) -> list[LaunchDescriptionEntity]:
    """The bag, played once all nodes are ready; at its end everything shuts down."""
    wait = [sys.executable, "-m", "dust3r_ros.node.tools.finish", "--node", *nodes]
    ready = ExecuteProcess(cmd=wait, output="screen")
    # The delay lets the nodes discover the player before it sends.
    command = ["ros2", "bag", "play", values["bag"], "--clock", "--delay", "2", "--rate", values["bag_rate"]]
    player = ExecuteProcess(cmd=command + ["--loop"] * flag("bag_loop", values["bag_loop"]), output="screen")

    def play(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        require_success("waiting for the node", event.returncode)
        return [player]

    def end(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        require_success("playing the bag", event.returncode)
        return [Shutdown(reason="the bag has ended")]

    return [
        ready,
        RegisterEventHandler(OnProcessExit(target_action=ready, on_exit=play)),
        RegisterEventHandler(OnProcessExit(target_action=player, on_exit=end)),
    ]


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = {name: LaunchConfiguration(name).perform(context) for name in (*PARAMETERS, *ARGUMENTS)}
    for synonym, name in SYNONYMS.items():
        values[name] = LaunchConfiguration(synonym).perform(context) or values[name]
    values["bag"] = expanded(values["bag"], "argument bag")
    spaces = [space.strip().strip("/") for space in values["namespace"].split(",")]
    config = parameter_file(values["config"], Path(FindPackageShare("dust3r_ros").perform(context)) / "config")
    names = [full_name(space) for space in spaces]
    # All are loaded, to refuse a file without parameters for one of the nodes, which would run on defaults.
    configured = [load_yaml(config, name) for name in names]
    given = {name: argument_value(ROWS[name], values[name]) for name in PARAMETERS if values[name]}
    remarks = mistyped(context.launch_configurations, [*PARAMETERS, *ARGUMENTS, *SYNONYMS])
    entities: list[LaunchDescriptionEntity] = [LogInfo(msg=remark) for remark in remarks]
    entities += [_node(values, spaces, config, given), *_viewers(values, names[0], {**configured[0], **given})]
    return entities + (_player(values, names) if values["bag"] else [])


def generate_launch_description() -> LaunchDescription:
    """The node, and on request RViz, Foxglove's bridge and a bag being played."""
    declared = [
        DeclareLaunchArgument(name, default_value="", description=ROWS[name].description) for name in PARAMETERS
    ]
    declared += [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    declared += [
        DeclareLaunchArgument(name, default_value="", description=f"Same as {meant}, under its name in KISS-ICP.")
        for name, meant in SYNONYMS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_start)])
