"""Initial networks: random weights, weights of an earlier stage, a plain vision transformer's.

Positions come from RoPE here, so a transformer's position embedding and class token are dropped; their role is
relearned quickly, and the blocks keep what they know about images.
"""

from __future__ import annotations

import re
from pathlib import Path
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from dust3r_ros.errors import BackendError, CheckpointError
from dust3r_ros.network.config import PATCH, Dust3rConfig
from dust3r_ros.network.heads import LinearHead
from dust3r_ros.network.model import Dust3r

_TIMM = "timm:"
_DROPPED = re.compile(r"(cls_token|reg_token|dist_token|mask_token|pos_embed|head[\w.]*|fc_norm\.\w+|pre_logits\..*)$")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)$")
_LAYERS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_SCALED = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2"}  # layer scale and the layer it follows


def start_encoder(model: Dust3r, weights: str) -> int:
    """Put the weights of a vision transformer into the encoder of ``model``; returns the number of tensors taken.

    ``weights``: a file (.safetensors, .pth or .bin with tensors by timm's names), or ``timm:NAME``, which timm
    downloads. The width must be the encoder's and patches 16 pixels; of a deeper
    transformer the first blocks are taken.
    Raises ``CheckpointError``, or ``BackendError`` without timm.
    """
    state = _from_timm(weights.removeprefix(_TIMM)) if weights.startswith(_TIMM) else _from_file(Path(weights))
    try:
        mapped = to_encoder(state, model.config.enc_depth)
        wanted = {
            name: value
            for name, value in model.state_dict().items()
            if name.startswith(("patch_embed.", "enc_blocks.", "enc_norm."))
        }
        if missing := sorted(wanted.keys() - mapped.keys()):
            raise CheckpointError(f"it lacks '{missing[0]}' ({len(missing)} tensors are missing)")
        for name, value in wanted.items():
            if mapped[name].shape != value.shape:
                have, want = tuple(mapped[name].shape), tuple(value.shape)
                raise CheckpointError(f"'{name}' has shape {have}; the encoder has {want} (patches of {PATCH} pixels)")
            if not torch.isfinite(mapped[name]).all():
                raise CheckpointError(f"'{name}' holds numbers that are not finite")
    except CheckpointError as error:
        raise CheckpointError(f"encoder weights '{weights}' cannot be used: {error}") from error
    model.load_state_dict({name: mapped[name].float() for name in wanted}, strict=False)
    return len(wanted)


def to_encoder(state: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Tensors of a timm vision transformer under the names of ``Dust3r``'s encoder, the first ``depth`` blocks.

    A layer scale is multiplied into the layer before it. Raises ``CheckpointError`` for a tensor without a
    counterpart: that architecture computes something else.
    """
    mapped: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    for name, value in state.items():
        if _DROPPED.match(name):
            continue
        if match := _BLOCK.fullmatch(name):
            block, rest = f"enc_blocks.{match[1]}", match[2]
            if int(match[1]) >= depth:
                continue
            if rest in _SCALED:
                scales[f"{block}.{_SCALED[rest]}"] = value
            elif rest.rpartition(".")[0] in _LAYERS:
                mapped[f"{block}.{rest}"] = value
            else:
                raise CheckpointError(_foreign(name))
        elif name.startswith("norm."):
            mapped[f"enc_{name}"] = value
        elif name.startswith("patch_embed.proj."):
            mapped[name] = value
        else:
            raise CheckpointError(_foreign(name))
    for layer, gamma in scales.items():
        mapped[f"{layer}.weight"] = mapped[f"{layer}.weight"] * gamma[:, None]
        mapped[f"{layer}.bias"] = mapped[f"{layer}.bias"] * gamma
    return mapped


def _foreign(name: str) -> str:
    return f"'{name}' does not belong to a plain vision transformer (timm's VisionTransformer)"


def _from_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"encoder weights '{path}' are not a file; give a file or timm:NAME")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # a broken or hostile file may raise anything
        line = " ".join(str(error).split())[:150]
        raise CheckpointError(f"encoder weights '{path}' cannot be read ({type(error).__name__}: {line})") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"encoder weights '{path}' do not map names to tensors")
    return content


def _from_timm(name: str) -> dict[str, Tensor]:
    try:
        import timm
    except ImportError as error:
        raise BackendError(
            "timm is not installed; install the extra 'timm' (pip install 'dust3r_ros[timm]')"
        ) from error
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # an unknown name, no network, a changed file: timm says which
        line = " ".join(str(error).split())[:200]
        raise CheckpointError(f"timm gives no weights '{name}' ({type(error).__name__}: {line})") from error


_HEAD_SCALE = 0.05
_HEADS = ("downstream_head1.", "downstream_head2.")


def new_model(config: Dust3rConfig, seed: int) -> Dust3r:
    """A network with random weights, which depend on ``seed`` only.

    Linear layers and the patch embedding (a linear layer too) start as in Glorot & Bengio (2010) with biases at 0, a
    linear head much smaller; the filters of a DPT head keep torch's default.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Dust3r(config)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for head in (model.downstream_head1, model.downstream_head2):
            if isinstance(head, LinearHead):  # its biases learn first what all images have in common
                head.proj.weight.mul_(_HEAD_SCALE)
        projection = model.patch_embed.proj
        nn.init.xavier_uniform_(projection.weight.view(projection.weight.shape[0], -1))
        if projection.bias is not None:
            nn.init.zeros_(projection.bias)
        nn.init.normal_(model.mask_token, std=0.02)
    return model


def with_head(model: Dust3r, config: Dust3rConfig, seed: int) -> Dust3r:
    """``model`` in the form of ``config``: its own weights, new heads where the kind of head differs.

    Raises ``CheckpointError`` when encoder or decoders differ in size.
    """
    sizes = [name for name in vars(config) if name.startswith(("enc_", "dec_", "pos_"))]
    for name in sizes:
        have, want = getattr(model.config, name), getattr(config, name)
        if have != want:
            raise CheckpointError(f"the initial weights have {name} {have}; the recipe has {want}")
    new = new_model(config, seed)
    state = model.state_dict()
    if model.config.head_type != config.head_type:
        state = {name: value for name, value in state.items() if not name.startswith(_HEADS)}
        state |= {name: value for name, value in new.state_dict().items() if name.startswith(_HEADS)}
    new.load_state_dict(state)
    return new


def freeze_unused(model: Dust3r) -> None:
    """Freeze what the pairs' forward pass never reads: no gradient, no decay, no waiting for it."""
    model.mask_token.requires_grad_(False)
    for head in (model.downstream_head1, model.downstream_head2):
        for name, value in head.named_parameters():
            if ".refinenet4.resConfUnit1." in name:  # the coarsest level has no skip connection
                value.requires_grad_(False)
