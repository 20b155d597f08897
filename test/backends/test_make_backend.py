"""Which backend a configuration makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.backends import make_backend
from dust3r_ros.backends.two_view import TwoViewBackend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError, Dust3rRosError
from dust3r_ros.mapping.camera_stream import ImageGeometry
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.types import View


def test_the_default_needs_nothing() -> None:
    backend = make_backend(MapperConfig())
    assert isinstance(backend, TwoViewBackend) and backend.uses_poses and backend.name == "two_view"


@pytest.mark.parametrize("backend", ["dust3r", "both", "mono"])
def test_the_network_needs_weights(backend: str) -> None:
    with pytest.raises(Dust3rRosError, match=f"backend '{backend}' needs weights; set 'checkpoint'"):
        make_backend(MapperConfig(backend=backend))


def test_weights_of_an_unknown_name() -> None:
    with pytest.raises(Dust3rRosError, match=r"checkpoint 'tinny' does not exist|torch"):
        make_backend(MapperConfig(backend="both", checkpoint="tinny"))


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """Untrained ones, for images of 64x48 pixels."""
    pytest.importorskip("torch", reason="torch is not installed")
    from dust3r_ros.network import Dust3r, Dust3rConfig, save_checkpoint

    config = Dust3rConfig(
        head_type="linear", img_size=(48, 64), enc_embed_dim=16, enc_depth=1, enc_num_heads=1, dec_embed_dim=16,
        dec_depth=1, dec_num_heads=1,
    )  # fmt: skip
    save_checkpoint(Dust3r(config), tmp_path, half=True)
    return str(tmp_path)


def test_images_larger_than_those_of_training_are_reported(weights: str, caplog: pytest.LogCaptureFixture) -> None:
    make_backend(MapperConfig(backend="dust3r", checkpoint=weights, device="cpu", working_size=64))
    make_backend(MapperConfig(backend="both", checkpoint=weights, device="cpu", working_size=320))  # these it shrinks
    assert not caplog.text
    make_backend(MapperConfig(backend="dust3r", checkpoint=weights, device="cpu", working_size=320))
    assert "'working_size' is 320" in caplog.text and "64x48 pixels" in caplog.text and "set it to 64" in caplog.text


def test_images_are_as_large_as_those_of_training(weights: str) -> None:
    config = MapperConfig(backend="dust3r", checkpoint=weights, device="cpu")
    mapper = Mapper(config)
    assert (config.working_size, mapper.config.working_size) == (0, 64)
    resize = ImageGeometry(320, 240, mapper.config).resize
    assert (resize.width, resize.height) == (64, 48)
    for other in (MapperConfig(working_size=96), MapperConfig(backend="dust3r", checkpoint=weights, working_size=96)):
        assert Mapper(other).config.working_size == 96
    both = MapperConfig(backend="both", checkpoint=weights, device="cpu")  # geometry's images
    assert Mapper(both).config.working_size == Mapper(MapperConfig()).config.working_size == 320
    with pytest.raises(ConfigError, match="'working_size' is 7; it must be 0"):
        Mapper(MapperConfig(working_size=7))


def test_the_network_computes_in_the_precision_asked_for(weights: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    found = {}
    for precision in ("float32", "bfloat16"):
        config = MapperConfig(backend="dust3r", checkpoint=weights, device="cpu", precision=precision, working_size=64)
        backend = make_backend(config)
        backend.add(View(0, "front", image))
        found[precision] = backend.predict([(0, 0)], {})[0].points_first
    off = np.linalg.norm(found["bfloat16"] - found["float32"]) / np.linalg.norm(found["float32"])
    assert 0 < off < 0.05


def test_both_maps_with_weights(weights: str) -> None:
    backend = make_backend(MapperConfig(backend="both", checkpoint=weights, device="cpu"))
    assert backend.uses_poses and backend.name == "both"
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (96, 136, 3), dtype=np.uint8)
    for index in range(2):
        backend.add(View(index, "front", np.ascontiguousarray(texture[:, 4 * index : 4 * index + 128])))
    poses = {0: np.eye(4), 1: np.eye(4)}
    poses[1] = np.array([[1.0, 0, 0, 0.04], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    (found,) = backend.predict([(0, 1)], {"front": 100.0}, poses)
    # A plane one unit away: four pixels of disparity; untrained weights change nothing about it
    known = found.confidence_first > 1.5
    assert known.mean() > 0.3
    np.testing.assert_allclose(np.median(found.points_first[..., 2][known]), 1.0, rtol=0.02)


def test_mono_takes_a_graph(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from depth_graphs import depth_anything

    path = str(depth_anything(tmp_path / "it.onnx"))
    with caplog.at_level("INFO"):
        backend = make_backend(MapperConfig(backend="mono", checkpoint=path, device="cpu"))
    assert backend.uses_poses and backend.name == "mono" and "it.onnx' is Depth Anything V2, on cpu" in caplog.text
    with pytest.raises(ConfigError, match="'precision' is 'bfloat16'; the graph"):
        make_backend(MapperConfig(backend="mono", checkpoint=path, precision="bfloat16"))
    with pytest.raises(Dust3rRosError, match=r"is not a file; backend 'mono' needs the \.onnx file"):
        make_backend(MapperConfig(backend="mono", checkpoint=str(tmp_path)))


def test_weights_that_are_not_there(tmp_path) -> None:
    missing = tmp_path / "none.pth"
    with pytest.raises(Dust3rRosError, match=r"none\.pth|torch"):
        make_backend(MapperConfig(backend="dust3r", checkpoint=str(missing)))


def test_only_geometry_maps_without_depth() -> None:
    assert make_backend(MapperConfig(dense=False)).uses_poses
    for backend in ("dust3r", "both", "mono"):
        with pytest.raises(ConfigError, match=rf"'dense' is false.*{backend}.*only two_view"):
            make_backend(MapperConfig(backend=backend, dense=False))
