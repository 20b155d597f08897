"""The network as graphs of ONNX Runtime: the same numbers, and what is wrong with a folder is told."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.backends.dust3r import Dust3rBackend  # noqa: E402
from dust3r_ros.errors import BackendError, CheckpointError, ConfigError, InputError  # noqa: E402
from dust3r_ros.network import Dust3r, Dust3rConfig, save_checkpoint  # noqa: E402
from dust3r_ros.network.config import GRID_POSITIONS  # noqa: E402
from dust3r_ros.network.onnx import OUTPUTS  # noqa: E402
from dust3r_ros.types import View  # noqa: E402

CONFIG = Dust3rConfig(
    head_type="linear", img_size=(64, 64), enc_embed_dim=32, enc_depth=1, enc_num_heads=2, dec_embed_dim=24,
    dec_depth=1, dec_num_heads=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Dust3r:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Dust3r(replace(CONFIG, pos_embed=GRID_POSITIONS)).eval()


@pytest.fixture(scope="module")
def folders(model: Dust3r, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Exported in float32 (False) and in int8 (True)."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    from dust3r_ros.network.onnx import export_onnx

    made = {int8: tmp_path_factory.mktemp(f"int8_{int8}") for int8 in (False, True)}
    for int8, folder in made.items():
        export_onnx(model, folder, int8)
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "decoder.onnx", "encoder.onnx"]
    return made


@pytest.mark.long
@pytest.mark.parametrize(("int8", "tolerance"), [(False, 1e-5), (True, 0.05)])
@pytest.mark.parametrize("sizes", [((64, 96), (48, 80)), ((64, 64), (64, 64)), ((128, 32), (16, 16))])
@pytest.mark.parametrize("pairs", [1, 3])
def test_parity(model: Dust3r, folders, int8: bool, tolerance: float, sizes, pairs: int) -> None:
    """Of images of any size, any number of pairs: how far all values are off, relative."""
    from dust3r_ros.network.onnx import OnnxDust3r

    onnx = OnnxDust3r(folders[int8], threads=1)
    first, second = (2 * torch.rand(pairs, 3, *size) - 1 for size in sizes)
    with torch.inference_mode():
        expected, found = model(first, second), onnx.decode(onnx.encode(first), onnx.encode(second))
    for name in OUTPUTS:
        a, b = getattr(expected, name), getattr(found, name)
        assert a.shape == b.shape and b.dtype == torch.float32
        assert (a - b).norm() / a.norm() < tolerance, name


@pytest.mark.long
def test_parity_without_places_and_with_the_dpt_head(folders, tmp_path: Path) -> None:
    """As the published networks are."""
    from dust3r_ros.network.onnx import OnnxDust3r, export_onnx

    torch.manual_seed(1)
    model = Dust3r(replace(CONFIG, head_type="dpt", dec_depth=4)).eval()
    export_onnx(model, tmp_path)
    onnx = OnnxDust3r(tmp_path, threads=1)
    first, second = 2 * torch.rand(2, 3, 64, 96) - 1, 2 * torch.rand(2, 3, 80, 48) - 1
    with torch.inference_mode():
        expected, found = model(first, second), onnx.decode(onnx.encode(first), onnx.encode(second))
    for name in OUTPUTS:
        a, b = getattr(expected, name), getattr(found, name)
        assert (a - b).norm() / a.norm() < 1e-5, name


@pytest.mark.long
def test_the_backend_runs_it(model: Dust3r, folders, tmp_path: Path) -> None:
    backends = Dust3rBackend(model, "cpu"), Dust3rBackend(folders[False], "auto"), Dust3rBackend(folders[True], "cpu")
    predictions = []
    for backend in backends:
        for index in range(2):
            pixels = np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            backend.add(View(index, "front", pixels))
        predictions.append(backend.predict([(0, 1), (1, 0)], {}))
        assert backend.image_size == (64, 64)
    for expected, found, rough in zip(*predictions, strict=True):
        np.testing.assert_allclose(found.points_second, expected.points_second, atol=1e-4)
        np.testing.assert_allclose(rough.confidence_first, expected.confidence_first, rtol=0.1)
    with pytest.raises(BackendError, match="'cuda' cannot run the ONNX graphs"):
        Dust3rBackend(folders[False], "cuda")
    with pytest.raises(ConfigError, match=r"'precision' is 'bfloat16'; the graphs of .* have a fixed precision"):
        Dust3rBackend(folders[False], "cpu", precision="bfloat16")
    with pytest.raises(InputError, match="multiples of 16"):
        backends[1]._model.encode(torch.zeros(1, 3, 20, 32))


def test_folders_that_cannot_be_used(model: Dust3r, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    save_checkpoint(model, tmp_path)
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"'decoder\.onnx' is missing"):
        Dust3rBackend(tmp_path, "cpu")
    (tmp_path / "decoder.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"encoder\.onnx' is not a graph for ONNX Runtime"):
        Dust3rBackend(tmp_path, "cpu")


def test_without_onnx(model: Dust3r, tmp_path: Path) -> None:
    """What to install is said by both sides."""
    save_checkpoint(model, tmp_path)
    (tmp_path / "encoder.onnx").touch()
    code = (
        "import sys; sys.modules['onnx'] = sys.modules['onnxruntime'] = None\n"
        "from dust3r_ros.backends.dust3r import Dust3rBackend\n"
        "from dust3r_ros.errors import BackendError\n"
        "from dust3r_ros.network import load_checkpoint\n"
        "from dust3r_ros.network.onnx import export_onnx\n"
        f"folder = {str(tmp_path)!r}\n"
        "for call in (lambda: Dust3rBackend(folder), lambda: export_onnx(load_checkpoint(folder), folder)):\n"
        "    try: call()\n"
        "    except BackendError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert "needs onnxruntime; install it with: pip install 'dust3r_ros[onnx]'" in lines[0]
    assert "needs onnx; install it with: pip install 'dust3r_ros[onnx]'" in lines[1]
