"""Architectures as files state them. Needs no torch."""

from __future__ import annotations

import json
from math import inf

import pytest

from dust3r_ros.errors import CheckpointError
from dust3r_ros.network.config import Dust3rConfig

PUBLISHED = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', img_size=(512, 512), "
    "head_type='dpt', output_mode='pts3d', depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), "
    "enc_embed_dim=1024, enc_depth=24, enc_num_heads=16, dec_embed_dim=768, dec_depth=12, dec_num_heads=12)"
)


def test_every_published_string(architectures):
    for name, entry in architectures.items():
        config = Dust3rConfig.from_string(entry["args"])
        assert config.head_type == name.rsplit("_", 1)[-1]
        assert config.depth_mode == ("exp", -inf, inf) and config.conf_mode == ("exp", 1, inf)
        if "224" in name:
            assert config.img_size == (224, 224)


def test_every_published_json(shared):
    linear = Dust3rConfig.from_json((shared / "fixtures" / "tiny_linear" / "config.json").read_text())
    dpt = json.loads((shared / "fixtures" / "tiny_dpt_hf_layout.json").read_text())["config"]
    assert (linear.head_type, linear.enc_embed_dim, linear.dec_depth) == ("linear", 64, 2)
    assert Dust3rConfig.from_mapping(dpt).head_type == "dpt"


def test_defaults_are_the_published_512_dpt():
    assert Dust3rConfig.from_string(PUBLISHED.replace("ManyAR_PatchEmbed", "PatchEmbedDust3R")) == Dust3rConfig()


@pytest.mark.parametrize("infinity", ["inf", "float('inf')"])
def test_spellings(infinity):
    text = PUBLISHED.replace("inf", infinity).replace("(512, 512)", "[512, 512]")
    assert Dust3rConfig.from_string(f"  {text}\n") == Dust3rConfig.from_string(PUBLISHED)
    assert Dust3rConfig.from_string(PUBLISHED.replace("(512, 512)", "512")).img_size == (512, 512)
    assert Dust3rConfig.from_string(PUBLISHED.replace("-inf", "float('-inf')")).depth_mode[1] == -inf


def test_round_trips():
    config = Dust3rConfig(head_type="linear", img_size=(224, 224), enc_depth=3, landscape_only=True, freeze="encoder")
    assert Dust3rConfig.from_string(config.to_string()) == config
    assert Dust3rConfig.from_json(config.to_json()) == config
    assert "-Infinity" in config.to_json()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("'RoPE100'", "'cosine'", "pos_embed"),
        ("'ManyAR_PatchEmbed'", "'Other'", "patch_embed_cls"),
        ("head_type='dpt'", "head_type='catmlp+dpt'", "head_type"),
        ("'pts3d'", "'pts3d+desc24'", "output_mode"),
        ("('exp', -inf, inf)", "('linear', -inf, inf)", "depth_mode"),
        ("('exp', -inf, inf)", "('exp', 0, inf)", "depth_mode"),
        ("('exp', 1, inf)", "('sigmoid', 0, 1)", "conf_mode"),
        ("enc_depth=24", "enc_depth=10000000", "enc_depth"),
        ("enc_depth=24", "enc_depth=True", "enc_depth"),
        ("enc_depth=24", "enc_depth=24.0", "enc_depth"),
        ("enc_num_heads=16", "enc_num_heads=15", "enc_embed_dim"),
        ("dec_num_heads=12", "dec_num_heads=0", "dec_num_heads"),
        ("dec_depth=12", "dec_depth=10", "dec_depth"),
        ("(512, 512)", "(512, 500)", "img_size"),
        ("(512, 512)", "'large'", "img_size"),
        ("head_type='dpt'", "head_type='dpt', two_confs=True", "two_confs"),
        ("pos_embed='RoPE100', ", "", "pos_embed"),
        (", dec_num_heads=12", "", "dec_num_heads"),
        ("head_type='dpt'", "head_type='dpt', landscape_only='yes'", "landscape_only"),
    ],
)
def test_unsupported_arguments_are_named(old, new, named):
    assert old in PUBLISHED
    with pytest.raises(CheckpointError, match=f"'{named}'"):
        Dust3rConfig.from_string(PUBLISHED.replace(old, new))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "Other(enc_depth=1)",
        "AsymmetricCroCo3DStereo",
        "AsymmetricCroCo3DStereo('RoPE100')",
        "AsymmetricCroCo3DStereo(**{})",
        "AsymmetricCroCo3DStereo(pos_embed=__import__('os').getcwd())",
        "AsymmetricCroCo3DStereo(pos_embed=open)",
        "AsymmetricCroCo3DStereo(enc_depth=2**1000)",
        "AsymmetricCroCo3DStereo(enc_depth=float('1'))",
        "AsymmetricCroCo3DStereo(enc_depth=[0 for x in (1,)])",
        "AsymmetricCroCo3DStereo(enc_depth=1, enc_depth=2)",
        "AsymmetricCroCo3DStereo(enc_depth=-'a')",
        "__import__('os').system('true')",
        "AsymmetricCroCo3DStereo(enc_depth=1); import os",
        "AsymmetricCroCo3DStereo(a=" + "(" * 3000 + ")" * 3000 + ")",
        "AsymmetricCroCo3DStereo(a=" + "-" * 5000 + "1)",
        "AsymmetricCroCo3DStereo(a='" + "x" * 20000 + "')",
        "AsymmetricCroCo3DStereo(a=\x00)",
    ],
)
def test_strings_that_are_not_literal_calls(text):
    with pytest.raises(CheckpointError):
        Dust3rConfig.from_string(text)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"enc_depth": NaN}'])
def test_json_that_is_no_configuration(text):
    with pytest.raises(CheckpointError):
        Dust3rConfig.from_json(text)
