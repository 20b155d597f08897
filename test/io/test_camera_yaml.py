"""Camera files in the ROS format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dust3r_ros.errors import InputError
from dust3r_ros.io.camera_yaml import read_calibrations, write_cameras
from dust3r_ros.types import Calibration, Camera

LEFT = Camera("front/left", 640, 480, 523.4567890123456, 1.25, 17)
RIGHT = Camera("right", 1280, 719, 900.1, fixed=True)
BENT = Camera("bent", 640, 480, 500.0, 2.0, 9, principal_offset=(3.25, -4.5), distortion=(0.11, -0.03, 0.0, 0.0, 0.017))
WIDE = Camera("wide", 640, 480, 333.0, distortion_model="equidistant", distortion=(0.01, -0.02, 0.003, 0.0))


def _file(matrix: str, more: str = "", size: int = 640) -> str:
    return f"image_width: {size}\nimage_height: 480\ncamera_matrix: {{{matrix}}}\n{more}"


@pytest.mark.parametrize("cameras", [[LEFT], [LEFT, RIGHT, BENT, WIDE]])
def test_round_trip_is_exact(tmp_path: Path, cameras: list[Camera]) -> None:
    write_cameras(tmp_path / "cameras.yaml", cameras)
    found = read_calibrations(tmp_path / "cameras.yaml")
    assert list(found) == [camera.name for camera in cameras]
    for camera in cameras:
        known = camera.calibration
        assert found[camera.name] == replace(known, coefficients=known.coefficients or (0.0,) * 5)


def test_one_camera_is_a_usual_calibration_file(tmp_path: Path) -> None:
    write_cameras(tmp_path / "cameras.yaml", [LEFT])
    text = (tmp_path / "cameras.yaml").read_text()
    data = yaml.safe_load(text)  # one document
    f = LEFT.focal
    assert (data["image_width"], data["image_height"], data["camera_name"]) == (640, 480, "front/left")
    assert data["camera_matrix"] == {"rows": 3, "cols": 3, "data": [f, 0, 319.5, 0, f, 239.5, 0, 0, 1]}
    assert data["distortion_model"] == "plumb_bob"
    assert data["distortion_coefficients"] == {"rows": 1, "cols": 5, "data": [0] * 5}
    assert data["rectification_matrix"]["data"] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert data["projection_matrix"] == {"rows": 3, "cols": 4, "data": [f, 0, 319.5, 0, 0, f, 239.5, 0, 0, 0, 1, 0]}
    assert text.startswith("image_width: 640\n") and "data: [" in text


def test_the_file_describes_the_raw_image(tmp_path: Path) -> None:
    write_cameras(tmp_path / "cameras.yaml", [BENT])
    data = yaml.safe_load((tmp_path / "cameras.yaml").read_text())
    assert data["camera_matrix"]["data"] == [500, 0, 322.75, 0, 500, 235, 0, 0, 1]
    assert data["distortion_coefficients"] == {"rows": 1, "cols": 5, "data": [0.11, -0.03, 0, 0, 0.017]}
    assert data["projection_matrix"]["data"] == [500, 0, 322.75, 0, 0, 500, 235, 0, 0, 0, 1, 0]


def test_a_focal_that_changed_is_said_to(tmp_path: Path) -> None:
    """Nobody should take a mean for the calibration of a zoom; of one focal there is no range."""
    zoomed = replace(RIGHT, focal_range=(810.5, 1020.25))
    write_cameras(tmp_path / "cameras.yaml", [LEFT, zoomed])
    one, other = yaml.safe_load_all((tmp_path / "cameras.yaml").read_text())
    assert "focal_range" not in one and other["focal_range"] == [810.5, 1020.25]
    assert read_calibrations(tmp_path / "cameras.yaml")["right"].fx == RIGHT.focal


def test_files_of_other_programs_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "image_width: 640\nimage_height: 480\ncamera_name: narrow\n"
        "camera_matrix:\n  rows: 3\n  cols: 3\n  data: [500, 0, 320, 0, 504, 240, 0, 0, 1]\n"
        "distortion_model: plumb_bob\ndistortion_coefficients:\n  rows: 1\n  cols: 5\n  data: [0.1, 0, 7, 7, 0.2]\n"
    )
    known = Calibration(640, 480, 500, 504, 320, 240, "plumb_bob", (0.1, 0, 7, 7, 0.2))
    assert read_calibrations(tmp_path / "c.yaml") == {"narrow": known}


def test_a_file_without_distortion_has_none(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(_file("data: [500, 0, 320, 0, 500, 240, 0, 0, 1]"))
    assert read_calibrations(tmp_path / "c.yaml") == {"camera": Calibration(640, 480, 500, 500, 320, 240)}


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no camera"),
        ("just text", "wrong value"),
        ("image_width: 640", "camera_matrix"),
        (_file("data: [1, 0, 0, 0, 1, 0]", size=0), "positive"),
        (_file("data: [.nan, 0, 0, 0, 1, 0]"), "not finite"),
        (_file("data: [1, 0, .inf, 0, 1, 0]"), "not finite"),
        (_file("data: [1, 0]"), "wrong value"),
        (_file("data: [1, 0, 0, 0, 1, 0]", "distortion_coefficients: {data: [.nan]}"), "not finite"),
        (
            _file(
                "data: [500, 0, 320, 0, 500, 240]", "distortion_model: ptlens\ndistortion_coefficients: {data: [0.1]}"
            ),
            "model 'ptlens'.*plumb_bob",
        ),
        ("a: [", "not YAML"),
    ],
)
def test_what_is_no_camera_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_calibrations(tmp_path / "c.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml"):
        read_calibrations(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("fixed: false", "fixed: false\nfixed: true", "'fixed' is given twice"),
        ("camera_name: right", "camera_name: left", "two cameras 'left'"),
        ("image_width: 320", "image_width: 320.5", "not a whole number"),
        ("image_width: 320", "image_width: .inf", "missing or wrong value"),
        ("image_width: 320", "image_width: 3200000000", "at most"),
        ("image_width: 320", f"image_width: {10**400}", "missing or wrong value"),
        ("image_width: 320", f"image_width: {'9' * 5000}", "not YAML"),
        ("image_width: 320", "image_width: 2001-99-99", "not YAML"),
        ("[260.0, 0.0, 159.5, 0.0, 260.0", "[520.0, 0.0, 159.5, 0.0, -1.0", "fx and fy must be similar"),
        ("[260.0, 0.0, 159.5, 0.0, 260.0", f"[{10**400}, 0.0, 159.5, 0.0, 1.0", "missing or wrong value"),
    ],
)
def test_numbers_that_no_camera_has(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "cameras.yaml"
    write_cameras(path, [Camera("left", 640, 480, 500.0, 2.0, 40), Camera("right", 320, 240, 260.0, 2.0)])
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(new.join(text.rsplit(old, 1)), encoding="utf-8")
    with pytest.raises(InputError, match=rf"cameras\.yaml.*{words}"):
        read_calibrations(path)
