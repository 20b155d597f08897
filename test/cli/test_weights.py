"""dust3r-weights as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.cli.map import main as map_main  # noqa: E402
from dust3r_ros.cli.weights import main  # noqa: E402
from dust3r_ros.network import Dust3r, Dust3rConfig, load_checkpoint, save_checkpoint  # noqa: E402

CONFIG = Dust3rConfig(
    head_type="linear", img_size=(64, 64), enc_embed_dim=16, enc_depth=1, enc_num_heads=1, dec_embed_dim=16,
    dec_depth=1, dec_num_heads=1,
)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(Dust3r(CONFIG), tmp_path / "net")
    return tmp_path / "net"


def test_half_the_bytes(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = checkpoint.with_name("half")
    assert main([str(checkpoint), "--half", str(half)]) == 0
    assert str(half) in capsys.readouterr().out
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, checkpoint)]
    assert sizes[0] < 0.6 * sizes[1]
    for a, b in zip(load_checkpoint(half).parameters(), load_checkpoint(checkpoint).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, "nothing to write; give at least one of --half, --onnx"),
        (["--half", "out", "--int8"], 2, "it needs --onnx DIR"),
        (["--half", "{file}"], 1, "is a file; it must be a folder"),
    ],
)
def test_wrong_options(
    checkpoint: Path, options: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint / "config.json"
    assert main([str(checkpoint), *(option.format(file=file) for option in options)]) == code
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tinny", "--half", "out"]) == 2
    assert "checkpoint 'tinny' does not exist" in capsys.readouterr().err
    assert main([]) == 0


@pytest.mark.parametrize("option", ["--half", "--onnx"])
def test_weights_to_convert_are_named(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option, "out"]) == 2
    assert "no CHECKPOINT to convert" in capsys.readouterr().err


def test_weights_that_the_mapper_would_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert map_main([str(tmp_path), "--out", str(tmp_path / "out"), "--checkpoint", "tiny"]) == 2
    assert "backend 'two_view' uses no weights; use --backend both, dust3r or mono" in capsys.readouterr().err
