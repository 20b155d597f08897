"""Commands on a machine without the packages that come by pip only, and without those of the extras."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from blocked import OPTIONAL, python_path
from PIL import Image
from sequences import walk

MISSING = tuple(name for name in OPTIONAL if name != "tqdm")  # the progress bar is of package.xml


def _map(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "blocked").mkdir()
    return subprocess.run(
        [sys.executable, "-m", "dust3r_ros.cli.map", *arguments],
        env={**os.environ, "PYTHONPATH": python_path(tmp_path / "blocked", MISSING)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_images_are_mapped(tmp_path: Path) -> None:
    sequence, images = walk("orbit", frames=8), tmp_path / "images"
    images.mkdir()
    for index, image in enumerate(sequence.images):
        Image.fromarray(image).save(images / f"{index:03d}.png")
    done = _map(tmp_path, str(images), "--out", str(tmp_path / "out"), "--set", "working_size=160", "--focal", "199.2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "preview.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "summary.json").is_file()


@pytest.mark.parametrize("name", ["walk.bag", "walk.mcap"])
def test_a_bag_says_what_to_install(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"#ROSBAG V2.0\n")
    done = _map(tmp_path, str(tmp_path / name), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "pip install rosbags" in done.stderr and "Traceback" not in done.stderr
