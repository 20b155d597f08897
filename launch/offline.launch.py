"""Maps every image of a bag and shows the result: ros2 launch dust3r_ros offline.launch.py bag:=/path/to/bag."""

import sys
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import ExecutableInPackage, FindPackageShare

from dust3r_ros.config import expanded
from dust3r_ros.node.launching import (
    flag,
    is_installed,
    parameter_file,
    recorded_reliability,
    require_success,
    require_viewer,
)
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

ARGUMENTS = {
    "bag": ("", "Bag to map: rosbag2 (sqlite3 or MCAP); dust3r-map also reads ROS 1 bags, videos and folders."),
    "image_topic": ("", "Image topic of the bag; empty: the only one (dust3r-map) or the configured one (node)."),
    "out": ("result", "Output folder, created if missing."),
    "through": ("dust3r-map", "dust3r-map (every image, as fast as possible) or node (played over DDS)."),
    "bag_rate": ("0.3", "Playback rate for the node."),
    "config": ("", "Parameter file, or the name of one in the package's config/; empty: dust3r."),
    "rviz": ("", "Show the result in RViz when done: true or false; empty: if rviz2 is installed."),
    "foxglove": ("false", "Show the result in Foxglove when done (ws://localhost:8765)."),
}

# With these the node maps every image that reaches it, however long that takes.
LOSSLESS = {"image_depth": "1000", "backlog": "every"}
# A robot's configuration may name files of its own; nothing of a bag goes there.
UNWRITTEN = {"map_db": "''", "output_dir": "''", "manifest": "''", "profile": "''"}


def _node(**arguments: str) -> IncludeLaunchDescription:
    """Includes dust3r.launch.py; sets all arguments that both files have, so that none leaks in from here."""
    launch_file = PathJoinSubstitution([FindPackageShare("dust3r_ros"), "launch", "dust3r.launch.py"])
    given = {"bag": "", "image_topic": "", "config": "", "rviz": "false", "foxglove": "false", **UNWRITTEN, **arguments}
    return IncludeLaunchDescription(launch_file, launch_arguments=list(given.items()))


def _viewers(values: dict[str, str]) -> dict[str, str]:
    """The arguments of requested viewers. Raises ``ConfigError`` for one that is not installed."""
    if not values["rviz"]:
        values = {**values, "rviz": str(is_installed("rviz2"))}
    packages = {"rviz": "rviz2", "foxglove": "foxglove_bridge"}
    asked = {name: values[name] for name in packages if flag(name, values[name])}
    for name in asked:
        require_viewer(packages[name], name)
    return asked


def _result(values: dict[str, str], code: int) -> list[LaunchDescriptionEntity]:
    """What follows mapping: viewers of the saved map if requested, otherwise shutdown."""
    require_success("dust3r-map", code)
    shown = _viewers(values)
    if not shown:
        return [Shutdown(reason=f"the results are in {values['out']}")]
    note = LogInfo(msg=f"the results are in {values['out']}; Ctrl-C ends the viewer")
    return [note, _node(load_map=f"{values['out']}/map.db", mode="localization", config=values["config"], **shown)]


def _by_command(values: dict[str, str]) -> list[LaunchDescriptionEntity]:
    """dust3r-map, then the viewers."""
    program = ExecutableInPackage("dust3r-map", "dust3r_ros")
    command = [program, values["bag"], "--out", values["out"]]
    for option, value in (("--topic", values["image_topic"]), ("--config", values["config"])):
        command += [option, value] if value else []
    mapping = ExecuteProcess(cmd=command, output="screen", emulate_tty=True, sigterm_timeout="120")

    def ended(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        return _result(values, event.returncode)

    return [mapping, RegisterEventHandler(OnProcessExit(target_action=mapping, on_exit=ended))]


def _by_node(values: dict[str, str]) -> list[LaunchDescriptionEntity]:
    """The node and the bag; at its end the save services, then the node shuts down and writes its other results."""
    node = _node(
        image_topic=values["image_topic"],
        config=values["config"],
        output_dir=values["out"],
        use_sim_time="true",
        # As recorded: detecting it would lose the first images.
        image_reliability=recorded_reliability(Path(values["bag"])),
        **LOSSLESS,
        **_viewers(values),
    )
    wait = [sys.executable, "-m", "dust3r_ros.node.tools.finish", "--node", "/dust3r"]
    ready = ExecuteProcess(cmd=wait, output="screen")
    # The delay lets the node discover the player before it sends.
    command = ["ros2", "bag", "play", values["bag"], "--clock", "--delay", "2", "--rate", values["bag_rate"]]
    player = ExecuteProcess(cmd=command, output="screen")
    # Waits until the queue is empty, then calls ~/save_map and ~/save_calibration.
    saving = ExecuteProcess(cmd=[*wait, "--out", values["out"]], output="screen")

    def play(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        require_success("waiting for the node", event.returncode)
        return [player]

    def save(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        require_success("playing the bag", event.returncode)
        return [saving]

    def saved(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        require_success("saving the map", event.returncode)
        if not _viewers(values):
            return [Shutdown(reason="the map is saved")]
        return [
            LogInfo(msg=f"the map is in {values['out']}; Ctrl-C writes the other results there and ends the viewer")
        ]

    return [
        node,
        ready,
        RegisterEventHandler(OnProcessExit(target_action=ready, on_exit=play)),
        RegisterEventHandler(OnProcessExit(target_action=player, on_exit=save)),
        RegisterEventHandler(OnProcessExit(target_action=saving, on_exit=saved)),
    ]


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    for name in ("bag", "out"):
        values[name] = expanded(values[name], f"argument {name}")
    if values["config"]:
        configs = Path(FindPackageShare("dust3r_ros").perform(context)) / "config"
        values["config"] = str(parameter_file(values["config"], configs))
    _viewers(values)  # reports a missing viewer now, not after mapping
    ways = {"dust3r-map": _by_command, "node": _by_node}
    if not values["bag"]:
        raise ValueError("argument bag is empty; it must be the bag to map")
    if values["through"] not in ways:
        raise ValueError(f"argument through is '{values['through']}'; it must be one of {', '.join(ways)}")
    return ways[values["through"]](values)


def generate_launch_description() -> LaunchDescription:
    """The bag, mapped by dust3r-map or the node; viewers of the result."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_start)])
