"""Occupancy grids as map_server reads them: checked by a reader of its own, from the documentation of the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from dust3r_ros.errors import ConfigError, GeometryError, OutputError
from dust3r_ros.occupancy import Grid
from dust3r_ros.products.exports import write_grid


def served(path: Path) -> tuple[np.ndarray, float, list[float]]:
    """Data (H, W) as in nav_msgs/OccupancyGrid, resolution and origin: what map_server makes of the files."""
    about = yaml.safe_load(path.read_text())
    assert set(about) == {"image", "mode", "resolution", "origin", "negate", "occupied_thresh", "free_thresh"}
    assert about["mode"] == "trinary" and about["negate"] == 0
    magic, *lines = (path.parent / about["image"]).read_bytes().split(b"\n", 3)
    assert magic == b"P5" and lines[0].startswith(b"#")
    width, height = map(int, lines[1].split())
    depth, pixels = lines[2].split(b"\n", 1)
    assert depth == b"255" and len(pixels) == width * height
    occupancy = (255 - np.frombuffer(pixels, np.uint8).reshape(height, width).astype(float)) / 255
    data = np.full(occupancy.shape, -1)
    data[occupancy > about["occupied_thresh"]] = 100
    data[occupancy < about["free_thresh"]] = 0
    return data[::-1], about["resolution"], about["origin"]  # the image begins at the top, the message at the bottom


def some_grid(shape: tuple[int, int] = (7, 12), resolution: float = 0.05) -> Grid:
    data = np.random.default_rng(0).choice(np.array([-1, 0, 100], np.int8), shape)
    return Grid(resolution, (-3.25, 1.0 / 3.0, 0.0), data)


@pytest.mark.parametrize("shape", [(7, 12), (1, 1), (300, 2)])
@pytest.mark.parametrize("resolution", [0.05, 1.0, 2e-6])
def test_map_server_reads_what_was_written(tmp_path: Path, shape: tuple[int, int], resolution: float) -> None:
    grid = some_grid(shape, resolution)
    write_grid(tmp_path / "room's map.yaml", grid)
    data, size, origin = served(tmp_path / "room's map.yaml")
    assert np.array_equal(data, grid.data)
    assert isinstance(size, float) and size == pytest.approx(resolution, rel=1e-5)
    assert origin == pytest.approx(list(grid.origin)) and all(isinstance(value, float) for value in origin)


def test_the_picture_has_the_greys_of_map_saver_and_north_at_the_top(tmp_path: Path) -> None:
    grid = Grid(0.1, (0.0, 0.0, 0.0), np.array([[0, -1], [100, 0]], np.int8))
    write_grid(tmp_path / "map.yaml", grid)
    assert (tmp_path / "map.pgm").read_bytes().endswith(bytes([0, 254, 254, 205]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.pgm", "map.yaml"]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"map\.png.*yaml"):
        write_grid(tmp_path / "map.png", some_grid())
    with pytest.raises(GeometryError, match="no cell"):
        write_grid(tmp_path / "map.yaml", Grid(0.1, (0.0, 0.0, 0.0), np.zeros((0, 0), np.int8)))
    with pytest.raises(OutputError, match="nowhere"):
        write_grid(tmp_path / "nowhere" / "map.yaml", some_grid())
    assert list(tmp_path.iterdir()) == []
