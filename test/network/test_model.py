"""The network against the reference outputs of the published one."""

from __future__ import annotations

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.errors import InputError  # noqa: E402
from dust3r_ros.network import Dust3r, Dust3rConfig, Tokens, normalise  # noqa: E402
from dust3r_ros.network.heads import Raster, make_head, points_and_confidence  # noqa: E402

SIZES = ("64x96", "96x64", "80x112", "mixed_64x96_96x64")
LIMITS = {"tiny_linear": (2e-6, 2e-6), "tiny_dpt": (2e-5, 4e-6)}
"""Largest and root mean square difference."""

TINY = Dust3rConfig(
    head_type="linear", enc_embed_dim=32, enc_depth=2, enc_num_heads=2, dec_embed_dim=24, dec_depth=2, dec_num_heads=2
)


def fields(output):
    return {
        "pts3d_1": output.points_1,
        "conf_1": output.confidence_1,
        "pts3d_2": output.points_2,
        "conf_2": output.confidence_2,
    }


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Dust3r(TINY).eval()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("network", LIMITS)
def test_reference_outputs(shared, networks, network, size):
    reference = np.load(shared / "fixtures" / f"{network}_{size}.npz")
    model = networks[network]
    with torch.inference_mode():
        first, second = (model.encode(normalise(reference[name])) for name in ("image1", "image2"))
        output = model.decode(first, second)
    largest, rms = LIMITS[network]
    for name, value in fields(output).items():
        error = value.numpy().astype(np.float64) - reference[name]
        assert value.shape == reference[name].shape and value.dtype == torch.float32
        assert np.abs(error).max() <= largest, f"{name}: {np.abs(error).max():.3g}"
        assert np.sqrt((error**2).mean()) <= rms, f"{name}: rms {np.sqrt((error**2).mean()):.3g}"


@pytest.mark.parametrize("size", ("80x112", "mixed_64x96_96x64"))
@pytest.mark.parametrize("network", LIMITS)
def test_one_encoding_serves_all_pairs(shared, networks, network, size):
    """Images encoded one by one, batched as tokens, both directions at once: the same as pair by pair."""
    reference = np.load(shared / "fixtures" / f"{network}_{size}.npz")
    model = networks[network]
    one, two = (normalise(reference[name]) for name in ("image1", "image2"))
    with torch.inference_mode():
        first = Tokens.cat([model.encode(image[None]) for image in one])
        second = Tokens.cat([model.encode(image[None]) for image in two])
        forth, back = model.decode_both(first, second)
        expected = model(one, two), model(two, one)
    for output, apart in zip((forth, back), expected, strict=True):
        for name, value in fields(output).items():
            np.testing.assert_allclose(value, fields(apart)[name], atol=LIMITS[network][0], rtol=0, err_msg=name)


def test_order_matters(shared, networks):
    """The two decoders are two: what image 1 sees is not what it sees as image 2."""
    reference = np.load(shared / "fixtures" / "tiny_linear_64x96.npz")
    with torch.inference_mode():
        tokens = [networks["tiny_linear"].encode(normalise(reference[name])) for name in ("image1", "image2")]
        forth, back = networks["tiny_linear"].decode_both(*tokens)
    assert float((forth.points_1 - back.points_2).abs().max()) > 1e-2


@pytest.mark.parametrize(
    "network",
    [
        "tiny_linear",
        "tiny_dpt",
        "DUSt3R_ViTLarge_BaseDecoder_224_linear",
        "DUSt3R_ViTLarge_BaseDecoder_512_linear",
        "DUSt3R_ViTLarge_BaseDecoder_512_dpt",
    ],
)
def test_names_and_shapes_are_the_published_ones(architectures, network):
    published = architectures[network]
    with torch.device("meta"):
        model = Dust3r(Dust3rConfig.from_string(published["args"]))
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in list(shapes.items()):  # a .pth holds some tensors under two names
        if match := re.fullmatch(r"(.+\.scratch)\.layer([1-4])_rn\.weight", name):
            shapes[f"{match[1]}.layer_rn.{int(match[2]) - 1}.weight"] = shape
    assert shapes == published["tensors"]
    assert sum(parameter.numel() for parameter in model.parameters()) == published["n_params"]


def test_recipe(shared, make_weights):
    """The weights of these tests are the ones the reference outputs were made with."""
    import json

    for name, check in json.loads((shared / "fixtures" / "recipe_check.json").read_text())["check"].items():
        values = make_weights(name, tuple(check["shape"]))
        np.testing.assert_allclose(values.reshape(-1)[:5], check["first5"], rtol=1e-6, err_msg=name)
        assert values.dtype == np.float32
        assert values.mean(dtype=np.float64) == pytest.approx(check["mean"], rel=1e-4, abs=1e-9)
        assert values.std(dtype=np.float64) == pytest.approx(check["std"], rel=1e-5)


def test_odd_and_smallest_grids(networks):
    """One patch, one row, odd numbers of patches: every size of the DPT head's pyramid comes out right."""
    generator = torch.Generator().manual_seed(1)
    model = networks["tiny_dpt"]
    with torch.inference_mode():
        for height, width in ((16, 16), (16, 80), (48, 16)):
            tokens = model.encode(torch.rand(1, 3, height, width, generator=generator) * 2 - 1)
            output = model.decode(tokens, tokens)
            assert output.points_1.shape == (1, height, width, 3) and output.confidence_2.shape == (1, height, width)
            assert torch.isfinite(output.points_1).all() and (output.confidence_1 >= 1).all()


def test_gradients_reach_every_used_parameter(tiny):
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(2))
    output = tiny(image, image.flip(-1))
    sum(value.square().mean() for value in fields(output).values()).backward()
    without = {name for name, parameter in tiny.named_parameters() if parameter.grad is None}
    assert without == {"mask_token"}
    assert all(torch.isfinite(p.grad).all() for p in tiny.parameters() if p.grad is not None)


def test_heads_stay_in_float32_under_autocast(tiny):
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(3)) * 2 - 1
    seen = []
    tiny.downstream_head1.proj.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.inference_mode():
        exact = tiny(image, image.flip(-1))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = tiny(image, image.flip(-1))
    assert seen == [torch.float32, torch.float32]
    assert rough.points_1.dtype == torch.float32
    difference = float((rough.points_1 - exact.points_1).norm() / exact.points_1.norm())
    assert 0 < difference < 0.05


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 32, 40), (1, 3, 0, 32)])
def test_encode_refuses_other_shapes(tiny, shape):
    with pytest.raises(InputError, match="multiples of 16"):
        tiny.encode(torch.zeros(shape))


def test_decode_refuses_unequal_batches(tiny):
    with torch.inference_mode():
        tokens = tiny.encode(torch.zeros(3, 3, 32, 32))
        with pytest.raises(InputError, match="3 first and 1 second"):
            tiny.decode(tokens, tokens[0])


def test_tokens_batch_by_grid_only(tiny):
    with torch.inference_mode():
        wide, tall = tiny.encode(torch.zeros(2, 3, 32, 48)), tiny.encode(torch.zeros(1, 3, 48, 32))
    assert wide.grid == (2, 3) and len(wide[1]) == 1 and len(Tokens.cat([wide, wide[0]])) == 3
    with pytest.raises(InputError, match="one grid"):
        Tokens.cat([wide, tall])


@pytest.mark.parametrize("head", ["linear", "dpt"])
@pytest.mark.parametrize("raster", [Raster(1, 0, 2), Raster(3, 2, 4), Raster(15, 15, 16), Raster()])
def test_a_raster_gives_those_pixels(head: str, raster: Raster) -> None:
    torch.manual_seed(0)
    config = Dust3rConfig(
        enc_embed_dim=32, enc_depth=1, enc_num_heads=2, dec_embed_dim=32, dec_depth=4, dec_num_heads=2, head_type=head
    )
    made = make_head(config).eval()
    layers = [torch.randn(2, 6, 32) for _ in range(5)]
    with torch.no_grad():
        torch.testing.assert_close(made(layers, (2, 3), raster), raster.of(made(layers, (2, 3))), atol=1e-5, rtol=1e-4)


def test_in_training_nothing_overflows() -> None:
    """Near things are the same to the last bit; far beyond, distances and confidence still grow, and say so."""
    usual = 3 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for one, other in zip(points_and_confidence(usual), points_and_confidence(usual, bounded=True), strict=True):
        assert torch.equal(one, other)
    raw = torch.full((1, 4, 1, 2), 200.0)
    raw[..., 1] = 100.0
    assert not any(torch.isfinite(value).any() for value in points_and_confidence(raw))
    points, confidence = points_and_confidence(raw.requires_grad_(), bounded=True)
    assert (points[..., 0, :] > points[..., 1, :]).all() and confidence[..., 0] > confidence[..., 1]
    (points.square().sum() + confidence.sum()).backward()
    assert torch.isfinite(raw.grad).all() and (raw.grad > 0).all()
