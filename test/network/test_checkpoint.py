"""Checkpoint files, good and bad."""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import resource
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from safetensors.torch import load_file, save_file  # noqa: E402

import dust3r_ros.network.checkpoint as module  # noqa: E402
from dust3r_ros.errors import BackendError, CheckpointError, OutputError  # noqa: E402
from dust3r_ros.network import Dust3r, Dust3rConfig, load_checkpoint, save_checkpoint  # noqa: E402

LINEAR = "tiny_linear"


@pytest.fixture(scope="module")
def pth(write_pth, tmp_path_factory):
    return write_pth(tmp_path_factory.mktemp("good") / "tiny_linear.pth", LINEAR)


@pytest.fixture
def hub(shared, tmp_path):
    """A copy of the hub layout that a test may damage."""
    folder = tmp_path / "hub"
    folder.mkdir()
    for file in (shared / "fixtures" / LINEAR).iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def assert_equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and caught.value.exit_code == 2
    return message


def test_both_layouts_hold_the_same_network(pth, hub):
    from_file, from_folder = load_checkpoint(pth), load_checkpoint(str(hub))
    assert_equal(from_file, from_folder)
    assert not from_file.training
    assert all(p.dtype == torch.float32 and p.requires_grad for p in from_file.parameters())


def test_hub_layout_of_the_dpt_network(shared, networks, tmp_path):
    """Written by us it has the published names, without second names; read again it is the same network."""
    layout = json.loads((shared / "fixtures" / "tiny_dpt_hf_layout.json").read_text())
    save_checkpoint(networks["tiny_dpt"], tmp_path / "net")
    written = load_file(tmp_path / "net" / "model.safetensors")
    assert sorted(written) == sorted(layout["keys"])
    assert Dust3rConfig.from_json((tmp_path / "net" / "config.json").read_text()) == Dust3rConfig.from_mapping(
        layout["config"]
    )
    assert_equal(load_checkpoint(tmp_path / "net"), networks["tiny_dpt"])
    # A writer that keeps the other of the two names is read as well.
    first, second = "downstream_head1.dpt.scratch.layer2_rn.weight", "downstream_head1.dpt.scratch.layer_rn.1.weight"
    written[second] = written.pop(first)
    save_file(written, tmp_path / "net" / "model.safetensors")
    assert_equal(load_checkpoint(tmp_path / "net"), networks["tiny_dpt"])
    # Both names with different content are no published checkpoint.
    written[first] = written[second] + 1
    save_file(written, tmp_path / "net" / "model.safetensors")
    refused(tmp_path / "net", "differ")


def test_missing_second_decoder_starts_as_a_copy(write_pth, make_state, tmp_path):
    state = {name: tensor for name, tensor in make_state(LINEAR).items() if not name.startswith("dec_blocks2.")}
    model = load_checkpoint(write_pth(tmp_path / "croco.pth", LINEAR, state=state))
    first, second = model.dec_blocks.state_dict(), model.dec_blocks2.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    with torch.no_grad():
        model.dec_blocks[0].attn.qkv.weight.add_(1)  # a copy, not the same memory
    assert not torch.equal(model.dec_blocks[0].attn.qkv.weight, model.dec_blocks2[0].attn.qkv.weight)


def test_half_precision_files_are_read_as_float32(write_pth, make_state, tmp_path):
    state = {name: tensor.half() for name, tensor in make_state(LINEAR).items()}
    model = load_checkpoint(write_pth(tmp_path / "half.pth", LINEAR, state=state))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    np.testing.assert_array_equal(model.enc_norm.weight.detach(), state["enc_norm.weight"].float())


def test_the_same_weights_give_the_same_bytes(networks, tmp_path):
    made = set()
    for number in range(6):
        save_checkpoint(networks[LINEAR], tmp_path / str(number))
        made.add((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert len(made) == 1


def test_one_bit_of_the_weights_is_noticed(networks, write_pth, tmp_path):
    """That stay finite, too: the formats have no checksum, or torch does not look at it."""
    save_checkpoint(networks[LINEAR], tmp_path / "net")
    write_pth(tmp_path / "net.pth", LINEAR)
    for path, name, words in (
        (tmp_path / "net", "net/model.safetensors", "not those that were written"),
        (tmp_path / "net.pth", "net.pth", "not what was written"),
    ):
        raw = bytearray((tmp_path / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (tmp_path / name).write_bytes(raw)
        refused(path, words)


class Payload:
    """Makes a pickle that would leave a file behind when anything of it ran."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(trace):
    return {
        "os.system": Payload(os.system, f"touch {trace}"),
        "subprocess": Payload(subprocess.call, ["touch", str(trace)]),
        "eval": Payload(eval, f"open({str(trace)!r}, 'w')"),
        "exec": Payload(exec, f"open({str(trace)!r}, 'w')"),
        "method": Payload(Path(trace).touch),
    }


@pytest.mark.parametrize("kind", payloads("").keys())
@pytest.mark.parametrize("place", ["args", "model", "extra", "alone", "namespace", "legacy", "plain pickle"])
def test_code_in_a_file_is_not_run(architectures, tmp_path, kind, place):
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    payload = payloads(trace)[kind]
    args = argparse.Namespace(model=architectures[LINEAR]["args"])
    content = {"args": args, "model": {}, "epoch": 0}
    if place == "alone":
        content = payload
    elif place == "namespace":
        args.lr = payload
    elif place in content:
        content[place] = payload
    else:
        content["extra"] = payload
    if place == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=place != "legacy")
    message = refused(path, "cannot be used")
    assert not trace.exists()
    if place != "plain pickle":
        assert "no code was run" in message


def test_the_payloads_work(tmp_path):
    """What the test above refuses does leave its trace when an ordinary unpickler reads it."""
    for kind, payload in payloads(tmp_path / "trace").items():
        data = pickle.dumps(payload)
        (tmp_path / "trace").unlink(missing_ok=True)
        pickle.loads(data)
        assert (tmp_path / "trace").exists(), kind


@pytest.mark.parametrize("part", [0, 1, 100, 0.3, 0.9, 0.999])
def test_truncated_pth(pth, tmp_path, part):
    data = pth.read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: int(part * len(data)) if isinstance(part, float) else part])
    refused(tmp_path / "cut.pth", "truncated or not a torch file")


@pytest.mark.parametrize("part", [0, 4, 1000, 0.5, 0.999])
def test_truncated_safetensors(hub, part):
    data = (hub / "model.safetensors").read_bytes()
    (hub / "model.safetensors").write_bytes(data[: int(part * len(data)) if isinstance(part, float) else part])
    refused(hub, "truncated or not a safetensors file")


def test_foreign_files(tmp_path, hub):
    path = tmp_path / "file.pth"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    refused(path, "not a torch file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "not a torch file")
    for content, match in (
        ({"state_dict": {}}, "'state_dict'; a DUSt3R checkpoint holds 'args' and 'model'"),
        ([1, 2], "a list"),
        ({}, "a mapping of nothing"),
        (torch.zeros(3), "a Tensor"),
        ({"args": {"model": "x"}, "model": {}}, "args.model is NoneType"),
        ({"args": argparse.Namespace(model=3), "model": {}}, "args.model is int"),
        ({"args": argparse.Namespace(model="resnet50()"), "model": {}}, "must be a call of"),
    ):
        torch.save(content, path)
        refused(path, match)
    refused(hub / "model.safetensors", "give the folder")


def test_missing_files(tmp_path, hub):
    refused(tmp_path / "none.pth", "does not exist; it must be a .pth file or a folder")
    refused(tmp_path, "'config.json' is missing")
    (hub / "model.safetensors").unlink()
    refused(hub, "'model.safetensors' is missing")


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff\xfe", b'{"enc_depth": 3}'])
def test_bad_hub_configuration(hub, text):
    (hub / "config.json").write_bytes(text)
    refused(hub, "cannot be used")


def change(state, name, tensor):
    return {**state, name: tensor}


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "enc_norm.bias"}, "tensors missing: enc_norm.bias"),
        (lambda s: change(s, "enc_blocks.9.norm1.bias", torch.zeros(64)), "not of this architecture: enc_blocks.9"),
        (lambda s: {k: v for k, v in s.items() if "enc_blocks" not in k}, "and 21 more"),
        (lambda s: change(s, "enc_norm.bias", torch.zeros(65)), r"'enc_norm.bias' has shape \(65,\).*says \(64,\)"),
        (lambda s: change(s, "enc_norm.bias", torch.full((64,), torch.nan)), "'enc_norm.bias' holds numbers that are"),
        (lambda s: change(s, "enc_norm.bias", torch.full((64,), -torch.inf)), "'enc_norm.bias' holds numbers that are"),
        (lambda s: change(s, "enc_norm.bias", torch.zeros(64, dtype=torch.int64)), "int64"),
        (lambda s: change(s, "enc_norm.bias", torch.zeros(64).to_sparse()), "dense floating point"),
        (lambda s: change(s, "enc_norm.bias", torch.zeros(1).expand(64)), "not stored in full"),
        (lambda s: change(s, "enc_norm.bias", [0.0] * 64), "list under 'enc_norm.bias'"),
        (lambda s: list(s.values()), "a list"),
        (lambda s: {}, "tensors missing"),
    ],
)
def test_weights_that_do_not_fit(write_pth, make_state, tmp_path, damage, match):
    refused(write_pth(tmp_path / "bad.pth", LINEAR, state=damage(make_state(LINEAR))), match)


def test_architecture_and_weights_must_agree(write_pth, architectures, tmp_path):
    args = architectures[LINEAR]["args"].replace("enc_depth=2", "enc_depth=3")
    refused(write_pth(tmp_path / "a.pth", LINEAR, args=args), "tensors missing: enc_blocks.2")
    args = architectures[LINEAR]["args"].replace("RoPE100", "cosine")
    refused(write_pth(tmp_path / "b.pth", LINEAR, args=args), "'pos_embed' is 'cosine'; supported is 'RoPE100'")


def test_save_replaces_whole_files(tmp_path, networks, monkeypatch):
    folder = tmp_path / "deep" / "net"
    save_checkpoint(networks[LINEAR], folder)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    before = (folder / "model.safetensors").read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(networks[LINEAR], folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_checkpoint(networks[LINEAR], tmp_path / "file")


def test_a_full_disk_is_reported(tmp_path, networks):
    """No file grows beyond 100 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"net' cannot be written.*File too large"):
            save_checkpoint(networks[LINEAR], tmp_path / "net")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "net").iterdir()) == []


def test_licence_is_said_for_weights_of_the_published_size(pth, monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        load_checkpoint(pth)
        assert "licence" not in caplog.text and "CC BY-NC-SA" not in caplog.text
        monkeypatch.setattr(module, "_PUBLISHED", load_checkpoint(pth).config)
        load_checkpoint(pth)
    assert "CC BY-NC-SA 4.0" in caplog.text and len(caplog.records) == 1


def test_device_that_is_not_there(pth):
    with pytest.raises(BackendError, match="device 'cuda:99'"):
        load_checkpoint(pth, "cuda:99")


def test_loading_leaves_no_permission_behind(pth):
    """The allow-list is for the time of loading only."""
    before = torch.serialization.get_safe_globals()
    load_checkpoint(pth)
    # torch keeps a set: its order may change when a name comes and goes
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_a_new_network_round_trips(tmp_path):
    torch.manual_seed(0)
    sizes = {"embed_dim": 24, "depth": 1, "num_heads": 2}
    config = Dust3rConfig(
        head_type="linear", **{f"{side}_{name}": value for side in ("enc", "dec") for name, value in sizes.items()}
    )
    model = Dust3r(config)
    save_checkpoint(model, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.config == config
    assert_equal(loaded, model)
