"""Places of patches: what RoPE alone cannot tell, and the same at every resolution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from dust3r_ros.network import Dust3r, Dust3rConfig, load_checkpoint, save_checkpoint  # noqa: E402
from dust3r_ros.network.blocks import grid_waves  # noqa: E402
from dust3r_ros.network.config import GRID_POSITIONS  # noqa: E402

PLAIN = Dust3rConfig(
    head_type="linear", enc_embed_dim=32, enc_depth=2, enc_num_heads=2, dec_embed_dim=24, dec_depth=2, dec_num_heads=2
)
GRID = replace(PLAIN, pos_embed=GRID_POSITIONS)
CPU = torch.device("cpu")


def spread(config: Dust3rConfig) -> float:
    """How much the patches of a grey image differ after the encoder."""
    torch.manual_seed(0)
    with torch.inference_mode():
        tokens = Dust3r(config).eval().encode(torch.full((1, 3, 48, 64), 0.2)).features[0]
    return float((tokens - tokens[0]).abs().max())


def test_in_a_grey_image_only_the_grid_tells_patches_apart() -> None:
    assert spread(PLAIN) < 1e-5 and spread(GRID) > 0.1


def test_every_place_has_waves_of_its_own() -> None:
    waves = grid_waves(14, 14, 192, CPU)
    assert waves.shape == (196, 192) and float(waves.abs().max()) <= 1
    distance = torch.cdist(waves, waves) + 100 * torch.eye(196)
    assert float(distance.min()) > 0.5
    nearest = distance.argmin(dim=1)
    rows, columns = nearest // 14 - torch.arange(196) // 14, nearest % 14 - torch.arange(196) % 14
    assert bool((rows.abs() + columns.abs() == 1).all()), "a patch is most like its neighbours"


def test_the_same_angle_has_the_same_waves_at_every_resolution() -> None:
    """Patch (1, 1) of 4 x 4 has its middle where the corner of the middle four of 12 x 12, patch (4, 4), has it."""
    small, large = grid_waves(4, 4, 32, CPU).view(4, 4, 32), grid_waves(12, 12, 32, CPU).view(12, 12, 32)
    torch.testing.assert_close(small[1, 1], large[4, 4], atol=1e-5, rtol=0)
    wide = grid_waves(2, 4, 32, CPU).view(2, 4, 32)
    torch.testing.assert_close(wide, small[1:3], atol=1e-5, rtol=0)


def test_tensors_are_those_of_the_plain_network_and_the_file_says_which_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Dust3r(GRID).eval()
    assert model.state_dict().keys() == Dust3r(PLAIN).state_dict().keys()
    save_checkpoint(model, tmp_path / "mine")
    back = load_checkpoint(tmp_path / "mine")
    assert back.config == GRID
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(back.encode(image).features, model.encode(image).features)
