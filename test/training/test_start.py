"""Weights of plain vision transformers in the encoder, by timm's names, checked against a transformer made of torch."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_worlds import RECIPE

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

from torch.nn import functional  # noqa: E402

from dust3r_ros.errors import BackendError, CheckpointError  # noqa: E402
from dust3r_ros.network import Dust3r  # noqa: E402
from dust3r_ros.training.recipe import from_mapping  # noqa: E402
from dust3r_ros.training.start import new_model, start_encoder, to_encoder  # noqa: E402

WIDTH, HEADS = 32, 2


def transformer(depth: int = 2, patch: int = 16, scaled: bool = False) -> dict[str, torch.Tensor]:
    """Random tensors with timm's names."""
    generator = torch.Generator().manual_seed(1)

    def some(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(shape, generator=generator)

    state = {
        "cls_token": some(1, 1, WIDTH), "pos_embed": some(1, 197, WIDTH), "reg_token": some(1, 4, WIDTH),
        "patch_embed.proj.weight": some(WIDTH, 3, patch, patch), "patch_embed.proj.bias": some(WIDTH),
        "norm.weight": 1 + some(WIDTH), "norm.bias": some(WIDTH),
        "head.weight": some(10, WIDTH), "head.bias": some(10), "fc_norm.weight": some(WIDTH),
    }  # fmt: skip
    for k in range(depth):
        for name, shape in {
            "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,),
            "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.qkv.bias": (3 * WIDTH,),
            "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,),
            "mlp.fc1.weight": (4 * WIDTH, WIDTH), "mlp.fc1.bias": (4 * WIDTH,),
            "mlp.fc2.weight": (WIDTH, 4 * WIDTH), "mlp.fc2.bias": (WIDTH,),
        }.items():  # fmt: skip
            state[f"blocks.{k}.{name}"] = some(*shape)
        if scaled:
            state |= {f"blocks.{k}.ls{n}.gamma": some(WIDTH) for n in (1, 2)}
    return state


def forward(state: dict[str, torch.Tensor], image: torch.Tensor, depth: int = 2) -> torch.Tensor:
    """A vision transformer without positions and class token, as its paper has it: (1, 3, 16, 16) -> (1, 1, WIDTH).

    One patch: at place (0, 0) RoPE turns nothing, so the encoder must give the same.
    """
    x = functional.conv2d(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    x = x.flatten(2).transpose(1, 2)
    for k in range(depth):
        part = {
            name.removeprefix(f"blocks.{k}."): value for name, value in state.items() if name.startswith(f"blocks.{k}.")
        }
        y = functional.layer_norm(x, (WIDTH,), part["norm1.weight"], part["norm1.bias"], 1e-6)
        v = functional.linear(y, part["attn.qkv.weight"], part["attn.qkv.bias"]).chunk(3, dim=-1)[2]
        y = functional.linear(v, part["attn.proj.weight"], part["attn.proj.bias"])  # one token attends to itself
        x = x + y * part.get("ls1.gamma", 1)
        y = functional.layer_norm(x, (WIDTH,), part["norm2.weight"], part["norm2.bias"], 1e-6)
        y = functional.gelu(functional.linear(y, part["mlp.fc1.weight"], part["mlp.fc1.bias"]))
        y = functional.linear(y, part["mlp.fc2.weight"], part["mlp.fc2.bias"])
        x = x + y * part.get("ls2.gamma", 1)
    return functional.layer_norm(x, (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)


@pytest.fixture
def model() -> Dust3r:
    recipe = from_mapping(RECIPE, {}, "small")
    return new_model(recipe.architecture(recipe.stages[0]), 0)


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "layer scale"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_encoder_computes_what_the_transformer_does(
    model: Dust3r, tmp_path: Path, suffix: str, scaled: bool
) -> None:
    state, path = transformer(3, scaled=scaled), tmp_path / f"vit{suffix}"
    if suffix == ".pth":
        torch.save({"model": state}, path)
    else:
        safetensors.save_file(state, path)
    untouched = {
        name: value.clone() for name, value in model.state_dict().items() if not name.startswith(("enc", "patch"))
    }
    assert start_encoder(model, str(path)) == 2 * 12 + 4, "of three blocks the first two are taken"
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = forward(state, image)
        torch.testing.assert_close(model.eval().encode(image).features, expected, atol=1e-5, rtol=1e-5)
    assert untouched and all(torch.equal(model.state_dict()[name], value) for name, value in untouched.items())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda state: state.pop("blocks.1.mlp.fc1.bias"), "lacks 'enc_blocks.1.mlp.fc1.bias'"),
        (lambda state: state.update({"stages.0.weight": torch.ones(1)}), "'stages.0.weight' does not belong"),
        (lambda state: state.update({"norm.bias": torch.full((WIDTH,), float("nan"))}), "not finite"),
        (lambda state: state.update(transformer(patch=14)), "patches of 16 pixels"),
        (lambda state: state.update({"norm.weight": torch.ones(64)}), r"shape \(64,\); the encoder has \(32,\)"),
    ],
)
def test_other_networks_are_refused_by_name(model: Dust3r, tmp_path: Path, spoil: object, words: str) -> None:
    state, path = transformer(), tmp_path / "vit.safetensors"
    spoil(state)  # type: ignore[operator]
    safetensors.save_file(state, path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"vit.safetensors.*{words}"):
        start_encoder(model, str(path))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_a_norm_of_queries_would_compute_something_else() -> None:
    state = {**transformer(), "blocks.0.attn.q_norm.weight": torch.ones(16)}
    with pytest.raises(CheckpointError, match=r"blocks.0.attn.q_norm.weight' does not belong to a plain"):
        to_encoder(state, 2)


def test_files_that_hold_no_weights(model: Dust3r, tmp_path: Path) -> None:
    path = tmp_path / "vit.pth"
    with pytest.raises(CheckpointError, match="are not a file"):
        start_encoder(model, str(path))
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        start_encoder(model, str(path))
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="do not map names to tensors"):
        start_encoder(model, str(path))


def test_without_timm_it_is_said_how_to_get_it(model: Dust3r, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(BackendError, match=r"extra 'timm'"):
        start_encoder(model, "timm:vit_small_patch16_224")
