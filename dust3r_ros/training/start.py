"""Networks to begin with: random weights, weights of an earlier stage, those that the forward pass never reads."""

from __future__ import annotations

import torch
from torch import nn

from dust3r_ros.errors import CheckpointError
from dust3r_ros.network.config import Dust3rConfig
from dust3r_ros.network.heads import LinearHead
from dust3r_ros.network.model import Dust3r

_HEAD_SCALE = 0.05
_HEADS = ("downstream_head1.", "downstream_head2.")


def new_model(config: Dust3rConfig, seed: int) -> Dust3r:
    """A network with random weights, which depend on ``seed`` only.

    Linear layers start as Glorot & Bengio (2010) have it with biases at 0, the patch embedding as the linear
    layer it is, a linear head much smaller; the filters of a DPT head as torch makes them.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Dust3r(config)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for head in (model.downstream_head1, model.downstream_head2):
            if isinstance(head, LinearHead):  # what all images have in common is learned first, by its biases
                head.proj.weight.mul_(_HEAD_SCALE)
        projection = model.patch_embed.proj
        nn.init.xavier_uniform_(projection.weight.view(projection.weight.shape[0], -1))
        if projection.bias is not None:
            nn.init.zeros_(projection.bias)
        nn.init.normal_(model.mask_token, std=0.02)
    return model


def with_head(model: Dust3r, config: Dust3rConfig, seed: int) -> Dust3r:
    """``model`` as ``config`` has it: its own weights, new heads where the kind of head differs.

    Raises ``CheckpointError`` when encoder or decoders differ in size.
    """
    sizes = [name for name in vars(config) if name.startswith(("enc_", "dec_", "pos_"))]
    for name in sizes:
        have, want = getattr(model.config, name), getattr(config, name)
        if have != want:
            raise CheckpointError(f"the weights to start from have {name} {have}; the recipe says {want}")
    new = new_model(config, seed)
    state = model.state_dict()
    if model.config.head_type != config.head_type:
        state = {name: value for name, value in state.items() if not name.startswith(_HEADS)}
        state |= {name: value for name, value in new.state_dict().items() if name.startswith(_HEADS)}
    new.load_state_dict(state)
    return new


def freeze_unused(model: Dust3r) -> None:
    """What the pairs' forward pass never reads gets no gradient, no decay and is not waited for."""
    model.mask_token.requires_grad_(False)
    for head in (model.downstream_head1, model.downstream_head2):
        for name, value in head.named_parameters():
            if ".refinenet4.resConfUnit1." in name:  # the coarsest level has no skip to work on
                value.requires_grad_(False)
