"""Graphs of depth networks: the documented ones run, all others are refused by what was found."""

from __future__ import annotations

import sys
from pathlib import Path

import depth_graphs
import numpy as np
import pytest

from dust3r_ros.backends.depth_graph import AffinePoints, DepthGraph, InverseDepth
from dust3r_ros.errors import BackendError, CheckpointError

SHAPE = (112, 160)
FOCAL = 0.8  # image widths


def fog() -> tuple[np.ndarray, np.ndarray]:
    """An image, and the depth (H, W) in it, metres."""
    v, u = np.mgrid[: SHAPE[0], : SHAPE[1]] / SHAPE[1]
    depth = 1.0 + 2 * u + v
    grey = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)
    image = depth_graphs.blue(grey, depth)
    return image, depth_graphs.NEAREST * 255 / image[..., 2].astype(float)


@pytest.mark.parametrize(
    ("name", "output", "size", "half"),
    [
        ("pixel_values", "predicted_depth", ("height", "width"), False),
        ("image", "depth", (518, 518), False),
        ("pixel_values", "predicted_depth", (None, None), True),
        ("pixel_values", "depth", (112, 154), False),
    ],
)
def test_depth_anything(tmp_path: Path, name: str, output: str, size, half: bool) -> None:
    graph = DepthGraph(depth_graphs.depth_anything(tmp_path / "it.onnx", name, output, size, half=half), "cpu")
    image, depth = fog()
    found = graph.infer(image)
    assert graph.network == "Depth Anything V2" and isinstance(found, InverseDepth)
    assert found.values.shape == SHAPE and found.values.dtype == np.float32 and found.bad == 0
    # As the graph makes it, of an image that went through another size
    np.testing.assert_allclose((found.values - 3.0) / 40.0, depth_graphs.NEAREST / depth, rtol=0.03)


def test_sides_are_multiples_of_14_of_about_as_many_pixels_as_usual(tmp_path: Path) -> None:
    graph = DepthGraph(depth_graphs.depth_anything(tmp_path / "it.onnx"), "cpu")
    for shape in ((240, 320), (320, 240), (112, 112), (64, 320)):
        rows, columns = graph._size(*shape)
        assert rows % 14 == columns % 14 == 0 and abs(rows * columns / 518**2 - 1) < 0.05
        assert abs(np.log(columns / rows) - np.log(shape[1] / shape[0])) < 0.05


@pytest.mark.parametrize("tokens", [(), (1,), None])
def test_moge(tmp_path: Path, tokens) -> None:
    graph = DepthGraph(depth_graphs.moge(tmp_path / "it.onnx", FOCAL, tokens=tokens, least=0.2), "cpu")
    image, depth = fog()
    found = graph.infer(image)
    assert graph.network == "MoGe-2" and isinstance(found, AffinePoints)
    assert (found.metres, found.bad, found.points.shape) == (2.0, 0, (*SHAPE, 3))
    shown = image[..., 2] > 0.2 * 255
    assert 0.2 < shown.mean() < 0.98
    np.testing.assert_allclose(2.0 * (found.points[..., 2][shown] + 0.4), depth[shown], rtol=1e-4)
    assert np.isnan(found.points[~shown]).all()


def test_numbers_that_are_none_are_counted(tmp_path: Path) -> None:
    found = DepthGraph(depth_graphs.depth_anything(tmp_path / "it.onnx", gives="nan"), "cpu").infer(fog()[0])
    assert np.isnan(found.values).all() and found.bad > 0


def test_another_signature_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        DepthGraph(depth_graphs.other(tmp_path / "other.onnx"), "cpu")
    text = str(error.value)
    assert "other.onnx' is a graph that takes x (1, 10) tensor(float) and gives logits" in text
    for wanted in ("points, mask and metric_scale", "predicted_depth", "num_tokens"):
        assert wanted in text


@pytest.mark.parametrize(
    ("name", "output", "size"),
    [("pixels", "depth", ("h", "w")), ("image", "disparity", ("h", "w"))],
)
def test_other_names_are_refused(tmp_path: Path, name: str, output: str, size) -> None:
    path = depth_graphs.depth_anything(tmp_path / "it.onnx", name, output, size)
    with pytest.raises(CheckpointError, match=rf"takes {name} .*gives {output}; it must be one of"):
        DepthGraph(path, "cpu")


def test_points_for_one_size_of_image_are_refused(tmp_path: Path) -> None:
    """Stretched to it, an image would have two focals."""
    path = depth_graphs.moge(tmp_path / "it.onnx", FOCAL, size=(518, 490))
    with pytest.raises(CheckpointError, match=r"takes images of 490x518 pixels only; .* dynamic height and width"):
        DepthGraph(path, "cpu")


def test_what_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    (tmp_path / "empty.onnx").write_bytes(b"")
    whole = depth_graphs.depth_anything(tmp_path / "it.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    for name in ("text.onnx", "empty.onnx", "cut.onnx"):
        with pytest.raises(CheckpointError, match=rf"{name}' is (not )?a graph"):
            DepthGraph(tmp_path / name, "cpu")
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(CheckpointError, match="is not a file"):
            DepthGraph(path, "cpu")


def test_a_graph_that_fails_says_so(tmp_path: Path) -> None:
    """This one adds nothing but 518 x 518 pixels to a constant of another size."""
    helper = depth_graphs.helper
    nodes = [
        depth_graphs._constant("three", np.zeros((1, 3, 5, 7))),
        helper.make_node("Add", ["image", "three"], ["sum"]),
        helper.make_node("ReduceMean", ["sum"], ["depth"], axes=[1], keepdims=0),
    ]
    inputs = [depth_graphs._input("image", ("batch", 3, "h", "w"))]
    path = depth_graphs._save(tmp_path / "it.onnx", nodes, inputs, {"depth": ("batch", "h", "w")})
    with pytest.raises(BackendError, match=r"it\.onnx' failed on an image"):
        DepthGraph(path, "cpu").infer(fog()[0])


@pytest.mark.parametrize("shape", [(1, 8, 10, 3), (1, 112, 160), (0,)])
def test_results_of_another_shape_are_named(tmp_path: Path, shape, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        def run(self, names, inputs):
            return [np.zeros(shape, np.float32) for _ in names]

    for path in (depth_graphs.moge(tmp_path / "m.onnx", FOCAL), depth_graphs.depth_anything(tmp_path / "d.onnx")):
        graph = DepthGraph(path, "cpu")
        if graph.network == "Depth Anything V2" and shape == (1, 112, 160):
            continue  # this one is right
        monkeypatch.setattr(graph, "_session", Odd())
        with pytest.raises(BackendError, match=r"\.onnx' gave .* must be"):
            graph.infer(fog()[0])


def test_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    path = depth_graphs.depth_anything(tmp_path / "it.onnx")
    assert DepthGraph(path, "cpu").device == "cpu"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert DepthGraph(path, "auto").device == "cpu"
    with pytest.raises(BackendError, match="device 'cuda' is not available to onnxruntime"):
        DepthGraph(path, "cuda")


def test_threads_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = depth_graphs.depth_anything(tmp_path / "it.onnx")
    for value, threads in (("1", 1), ("3", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert DepthGraph(path, "cpu")._session.get_session_options().intra_op_num_threads == threads


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match="needs onnxruntime; install it with: pip install onnxruntime"):
        DepthGraph(tmp_path / "it.onnx")
