"""Weights cut into files to travel are whole again, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_worlds import RECIPE

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from dust3r_ros.cli.weights import main  # noqa: E402
from dust3r_ros.errors import CheckpointError  # noqa: E402
from dust3r_ros.network.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from dust3r_ros.training.pieces import join, split  # noqa: E402
from dust3r_ros.training.recipe import from_mapping  # noqa: E402
from dust3r_ros.training.start import new_model  # noqa: E402


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    recipe = from_mapping(RECIPE, {}, "small")
    save_checkpoint(new_model(recipe.architecture(recipe.stages[0]), 0), tmp_path / "model")
    (tmp_path / "pieces").mkdir()
    (tmp_path / "pieces" / "weights.09").write_bytes(b"of an earlier leg")
    count = split(tmp_path / "model", tmp_path / "pieces", size=100_000)
    files = sorted(path.name for path in (tmp_path / "pieces").iterdir())
    assert files == ["pieces.json", *(f"weights.{k:02d}" for k in range(count))] and count > 1
    return tmp_path / "pieces"


def test_what_is_joined_is_what_was_cut_in_half_precision(pieces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pieces / "MODEL_CARD.md").write_text("# card")
    assert main(["join", str(pieces)]) == 0
    assert "MB" in capsys.readouterr().out
    whole, again = load_checkpoint(pieces.parent / "model"), load_checkpoint(pieces / "model")
    assert whole.config == again.config
    for (name, value), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value.half().float(), other.float()), name
    assert (pieces / "model" / "MODEL_CARD.md").read_text() == "# card"
    assert main(["join", str(pieces)]) != 0  # it is there already


def test_damaged_pieces_are_refused(pieces: Path, tmp_path: Path) -> None:
    first = (pieces / "weights.00").read_bytes()
    (pieces / "weights.00").write_bytes(first[:-1])
    with pytest.raises(CheckpointError, match="truncated or from another run"):
        join(pieces, tmp_path / "out")
    (pieces / "weights.00").unlink()
    with pytest.raises(CheckpointError, match=r"weights\.00.*copy all pieces"):
        join(pieces, tmp_path / "out")
    about = json.loads((pieces / "pieces.json").read_text())
    for wrong in ({**about, "pieces": ["../model/config.json"]}, {**about, "pieces": []}, {"bytes": 1}, []):
        (pieces / "pieces.json").write_text(json.dumps(wrong))
        with pytest.raises(CheckpointError, match="is not a manifest of pieces"):
            join(pieces, tmp_path / "out")
    with pytest.raises(CheckpointError, match="holds no pieces"):
        join(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
