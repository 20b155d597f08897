"""Weights by name: where they lie, what a wrong name is told, float16 on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.errors import CheckpointError, OutputError
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import look_at, render_path
from dust3r_ros.types import View

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from dust3r_ros.backends.dust3r import Dust3rBackend  # noqa: E402
from dust3r_ros.network import Dust3r, Dust3rConfig, load_checkpoint, save_checkpoint  # noqa: E402
from dust3r_ros.network import checkpoint as module  # noqa: E402
from dust3r_ros.network.checkpoint import find_checkpoint, shipped  # noqa: E402

CONFIG = Dust3rConfig(
    head_type="linear", img_size=(64, 64), enc_embed_dim=32, enc_depth=1, enc_num_heads=2, dec_embed_dim=24,
    dec_depth=1, dec_num_heads=2,
)  # fmt: skip


@pytest.fixture
def model() -> Dust3r:
    torch.manual_seed(0)
    return Dust3r(CONFIG).eval()


@pytest.fixture
def home(tmp_path: Path, model: Dust3r, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships 'mini' in float16; the network is asked for by name from everywhere."""
    folder = tmp_path / "weights"
    save_checkpoint(model, folder / "mini", half=True)
    (folder / "notes").mkdir()
    monkeypatch.setattr(module.find_checkpoint, "__defaults__", (folder,))
    return folder


def test_names_are_those_of_folders_with_a_network(home: Path) -> None:
    assert shipped(home) == {"mini": home / "mini"}
    assert shipped(home / "missing") == {}


def test_what_the_package_ships_is_whole() -> None:
    for folder in shipped().values():
        assert {"config.json", "model.safetensors", "MODEL_CARD.md"} <= {path.name for path in folder.iterdir()}
        assert sum(path.stat().st_size for path in folder.iterdir()) < 64e6
        load_checkpoint(folder)


def test_what_the_package_ships_tells_near_from_far() -> None:
    """In a room of a generator that training never used: code that changes what tensors mean leaves them whole."""
    at, target = np.array([1.9, -0.2, 1.4]), np.array([0.0, 0.3, 0.9])
    poses = np.stack([look_at(at + np.array([0.0, step, 0.0]), target) for step in (0.0, 0.4)])
    views = render_path("room", room(0), poses, width=224, height=224)
    true = np.log(views.depths[0])
    spread = np.abs(true - np.median(true)).mean()
    for name in shipped():
        backend = Dust3rBackend(name, "cpu")
        for index, image in enumerate(views.images):
            backend.add(View(index, "front", image))
        (found,) = backend.predict([(0, 1)], {})
        off = true - np.log(found.points_first[..., 2])
        assert np.abs(off - np.median(off)).mean() < 0.5 * spread, name


def test_a_name_is_loaded_in_single_precision(home: Path, model: Dust3r) -> None:
    loaded = load_checkpoint("mini")
    for (name, half), whole in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert half.dtype == torch.float32, name
        torch.testing.assert_close(half, whole, rtol=1e-3, atol=1e-6)
        assert torch.equal(half, whole.half().float())
    size = {path.name: path.stat().st_size for path in (home / "mini").iterdir()}
    assert size["model.safetensors"] < 2.2 * sum(value.numel() for value in model.state_dict().values()) + 10_000
    assert Dust3rBackend("mini", "cpu").image_size == (64, 64)


def test_a_name_wins_against_a_folder_and_a_path_does_not(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mini", "mine"):
        (tmp_path / name).mkdir()
    assert find_checkpoint("mini") == home / "mini"
    assert find_checkpoint("./mini") == Path("mini")
    assert find_checkpoint(Path("mini")) == Path("mini")
    assert find_checkpoint("mine") == Path("mine")
    with pytest.raises(CheckpointError, match=r"'mine' cannot be used: 'config\.json' is missing"):
        load_checkpoint("mine")


def test_an_unknown_name_is_reported_the_known_ones(home: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'mimi' does not exist.*shipped are mini\).*\.pth file or a folder"):
        load_checkpoint("mimi")
    with pytest.raises(CheckpointError, match="none are shipped with this installation"):
        find_checkpoint("mini", home / "missing")
    with pytest.raises(CheckpointError, match=r"'no\.pth' does not exist; it must be"):
        load_checkpoint("no.pth")


def test_a_folder_without_weights_is_reported(home: Path) -> None:
    (home / "mini" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"mini' cannot be used: 'model\.safetensors' is missing"):
        load_checkpoint("mini")


def test_a_weight_that_half_precision_does_not_hold(model: Dust3r, tmp_path: Path) -> None:
    with torch.no_grad():
        model.enc_norm.weight[3] = 1e6
    with pytest.raises(OutputError, match=r"'enc_norm\.weight' holds 1e\+06; float16 holds"):
        save_checkpoint(model, tmp_path / "out", half=True)
    assert not (tmp_path / "out").exists()
    save_checkpoint(model, tmp_path / "out")
