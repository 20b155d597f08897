"""What README and docs say of ROS is so: launch arguments, parameters, topics, services, messages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest
import yaml
from launch_files import LAUNCH_FILES, constants, declared, taken
from pages import CODE, NAMES, ROOT, ROWS, text_of

from dust3r_ros.io.encodings import SUPPORTED
from dust3r_ros.node.interface import INPUTS, OUTPUTS, QUALITIES, SERVICES


def _calls() -> Iterator[tuple[str, str, dict[str, str]]]:
    """(page, launch file, arguments) of every call of ours in blocks of code."""
    for name in NAMES:
        for language, block in CODE.findall(text_of(name)):
            for line in block.splitlines() if language == "bash" else ():
                words = shlex.split(line)
                if words[:3] == ["ros2", "launch", "dust3r_ros"]:
                    yield name, words[3], {key: value for key, _, value in (word.partition(":=") for word in words[4:])}


def test_calls_of_launch_files_have_arguments_that_exist() -> None:
    calls = list(_calls())
    assert {file for _, file, _ in calls} == set(LAUNCH_FILES)
    for name, file, arguments in calls:
        assert set(arguments) <= taken(file), f"{name}: {arguments}"
        for argument, value in arguments.items():
            if argument in ROWS and ROWS[argument].choices:
                assert value in ROWS[argument].choices, f"{name}: {argument}"


# Parameters and launch arguments of camera drivers, which their pages name.
OF_DRIVERS = {
    "enable_gyro", "enable_accel", "format", "pixel_format", "publish_map_tf", "rs_compat",
    "unite_imu_method",
}  # fmt: skip


def test_launch_arguments_in_sentences_exist() -> None:
    known = {argument for file in LAUNCH_FILES for argument in declared(file)}
    used = {
        (name, argument)
        for name in NAMES
        for code in re.findall(r"`([^`]+)`", CODE.sub("", text_of(name)))
        if re.match(r"\w+:=", code)
        for argument in re.findall(r"(?<![\w:/])([a-z_]+):=", code)
    }
    assert {argument for _, argument in used} >= {"rviz", "namespace"}
    wrong = {(name, argument) for name, argument in used if argument not in known}
    assert {(name, argument) for name, argument in wrong if not name.startswith("docs/cameras/")} == set()
    assert {argument for _, argument in wrong} == OF_DRIVERS


@pytest.mark.parametrize("file", LAUNCH_FILES)
def test_launch_arguments_are_all_described(file: str) -> None:
    table = text_of("docs/ros.md").split(f"docs.py: launch {file} -->")[1].split("<!-- end -->")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {word for cell in first for word in re.findall(r"`(\w+)`", cell)} == declared(file)
    for argument, (_, text) in constants(LAUNCH_FILES[file])["ARGUMENTS"].items():
        assert f"| `{argument}` |" in table and text in table


def test_parameters_in_sentences_exist() -> None:
    for name in NAMES:
        for parameter, value in re.findall(r"`([a-z_]+): ([\w./-]+)`", CODE.sub("", text_of(name))):
            row = ROWS[parameter]
            row.check(yaml.safe_load(value))


NODE = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "dust3r_ros/node").glob("*.py")}
MADE = "".join(text for name, text in NODE.items() if name not in ("interface.py", "finish.py"))


def _rows_of(section: str) -> dict[str, list[str]]:
    """First cell to the other cells of the tables in a section of docs/ros.md."""
    body = re.split(r"^## ", text_of("docs/ros.md").split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line[:3] == "| `"]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_topics_and_services_of_the_table_are_those_of_the_node() -> None:
    """The node makes its topics and services from the rows that the tables are made from, and no others."""
    for section, interface in (("Input", INPUTS), ("Output", OUTPUTS)):
        assert {row.name for row in interface.values()} <= set(_rows_of(section))
    assert {row.name: row.type for row in SERVICES.values()} == {
        name: cells[0].strip("`") for name, cells in _rows_of("Services").items()
    }
    literal = re.findall(r'create_(?:lifecycle_)?(?:publisher|service)\(\s*[\w.]+,\s*"([^"]+)"', MADE)
    known = {row.name for row in (*OUTPUTS.values(), *SERVICES.values())}
    assert {name for name in literal if name[0] in "~/"} <= known
    for key, row in {**OUTPUTS, **SERVICES}.items():
        assert f'"{key}"' in MADE or f'"{row.name}"' in MADE, f"nothing in the node makes {row.name}"
    for row in (*INPUTS.values(), *OUTPUTS.values()):
        assert row.quality in QUALITIES


def test_topics_and_services_in_sentences_exist() -> None:
    known = {row.name for row in (*OUTPUTS.values(), *SERVICES.values())}
    for name in NAMES:
        text = re.sub(r"~/ws\b", "", text_of(name))
        assert {f"~/{word}" for word in re.findall(r"(?<!\w)~/(\w+)", text)} <= known, name
        absolute = {f"~/{word}" for word in re.findall(r"/dust3r/(\w+)", text)}
        assert absolute <= {*known, "~/get_parameters"}, name


def test_calls_of_services_fit_their_types() -> None:
    calls = [
        (n, *found) for n in NAMES for found in re.findall(r"ros2 service call (\S+) (\S+) \"([^\"]*)\"", text_of(n))
    ]
    assert len(calls) >= 3
    types = {row.name.replace("~", "/dust3r"): row.type.replace("/", "/srv/") for row in SERVICES.values()}
    for name, service, kind, values in calls:
        assert types[service] == kind, name
        request = text_of(f"srv/{kind.rpartition('/')[2]}.srv").split("---")[0]
        fields = set(re.findall(r"^[\w/\[\]]+ (\w+)(?: |$)", request, re.MULTILINE))
        assert set(yaml.safe_load(values)) <= fields, name


def test_fields_of_the_status_exist() -> None:
    fields = {
        field
        for kind in ("MappingStatus", "CameraEstimate")
        for field in re.findall(r"^[\w/\[\]]+ (\w+)(?: |$)", text_of(f"msg/{kind}.msg"), re.MULTILINE)
    }
    named = {(name, field) for name in NAMES for field in re.findall(r"/dust3r/status --field (\w+)", text_of(name))}
    assert named and {field for _, field in named} <= fields


# Names of others that the docs speak of: frames, packages, keys of calibration files.
FOREIGN = {
    "base_link", "camera_calibration", "camera_info_manager", "camera_matrix", "camera_name", "camera_optical_frame",
    "distortion_coefficients", "distortion_model", "frame_id", "image_height", "image_proc", "image_width",
    "map_server", "my_bag", "plumb_bob", "projection_matrix", "rclcpp_components", "rectification_matrix",
    "transient_local", "view_frames",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("docs/my-", "docs/ros", "README"))])
def test_every_name_in_a_sentence_is_one_of_something(name: str) -> None:
    known = {*ROWS, *SUPPORTED, *FOREIGN, *(choice for row in ROWS.values() for choice in row.choices)}
    known |= {argument for file in LAUNCH_FILES for argument in declared(file)}
    known |= {row.name.rpartition("/")[2] for rows in (INPUTS, OUTPUTS, SERVICES) for row in rows.values()}
    known |= {path.stem for path in (ROOT / "config").iterdir()}
    for folder in ("msg", "srv"):
        for path in (ROOT / folder).iterdir():
            known |= set(re.findall(r"^[\w/\[\]]+ (\w+)(?: |$|=)", path.read_text(encoding="utf-8"), re.MULTILINE))
    words = {
        word
        for code in re.findall(r"`([^`\n]+)`", CODE.sub("", text_of(name)))
        for word in re.findall(r"(?<![\w/.:$])[a-z]+(?:_[a-z0-9]+)+(?![\w/.(])", code)
    }
    assert words - known == set()


def test_every_kind_of_user_has_a_page() -> None:
    pages = {"my-robot.md", "my-bag.md", "my-calibration.md", "my-map-in-nav2.md"}
    for page in pages:
        assert "## When it does not work" in text_of(f"docs/{page}")
        assert page in text_of("README.md") and page in text_of("docs/ros.md")


def test_interfaces_all_have_a_service() -> None:
    kinds = {path.stem for path in (ROOT / "srv").glob("*.srv")}
    assert kinds == {row.type.partition("/")[2] for row in SERVICES.values() if row.type.startswith("dust3r_ros/")}


def test_states_and_encodings_are_listed() -> None:
    states = re.findall(r"^string [A-Z]+=(\w+)$", text_of("msg/MappingStatus.msg"), re.MULTILINE)
    table = _rows_of("Output")
    assert states and set(states) <= set(table)
    listed = re.search(r"Encodings of raw images: (.+?)\. 16 bits", text_of("docs/ros.md"), re.DOTALL)
    assert listed is not None and tuple(re.findall(r"`(\w+)`", listed[1])) == SUPPORTED
