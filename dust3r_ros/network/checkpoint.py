"""Checkpoints: those shipped with the package, the published ``.pth`` layout and the hub's folder layout.

Nothing in a file is executed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkstemp
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor

from dust3r_ros.errors import BackendError, CheckpointError, OutputError, refuse_pointers
from dust3r_ros.network.config import Dust3rConfig
from dust3r_ros.network.model import Dust3r

_HOME = Path(__file__).resolve().parents[1] / "weights"
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def shipped(home: Path = _HOME) -> dict[str, Path]:
    """Folders of weights in ``home``, by name."""
    if not home.is_dir():
        return {}
    return {folder.name: folder for folder in sorted(home.iterdir()) if (folder / "config.json").is_file()}


def find_checkpoint(checkpoint: str | Path, home: Path = _HOME) -> Path:
    """The path of a checkpoint: weights in ``home`` by name, anything else as a path.

    A name takes precedence over a folder of that name in the working directory (``./tiny`` means the folder). Raises
    ``CheckpointError`` for a single word that is neither a name nor a path that exists.
    """
    path = Path(checkpoint)
    if not isinstance(checkpoint, str) or not _NAME.fullmatch(checkpoint):
        return path
    known = shipped(home)
    if checkpoint in known:
        return known[checkpoint]
    if path.exists():
        return path
    names = f"shipped are {', '.join(known)}" if known else "none are shipped with this installation"
    raise CheckpointError(
        f"checkpoint '{checkpoint}' does not exist: it is neither the name of weights ({names}) nor a path;"
        " give a .pth file or a folder with config.json and model.safetensors"
    )


State = dict[str, Tensor]

_STORED_TWICE = re.compile(r"(?P<scratch>.+\.scratch)\.layer_rn\.(?P<index>[0-3])\.weight")


def to_model(state: State) -> State:
    """A checkpoint's tensors under the model's names.

    Second names are merged into the first; a missing second decoder starts as a copy of the first
    (weights of the pretraining). Raises ``CheckpointError`` if the two names of a tensor differ in content.
    """
    renamed = {}
    for name, tensor in state.items():
        if match := _STORED_TWICE.fullmatch(name):
            first = f"{match['scratch']}.layer{int(match['index']) + 1}_rn.weight"
            if first in state and not _equal(state[first], tensor):
                raise CheckpointError(f"'{name}' and '{first}' differ; they must be the same tensor")
            name = first
        renamed[name] = tensor
    if not any(name.startswith("dec_blocks2.") for name in renamed):
        for name in [name for name in renamed if name.startswith("dec_blocks.")]:
            renamed[name.replace("dec_blocks.", "dec_blocks2.", 1)] = renamed[name]
    return renamed


def _equal(a: Tensor, b: Tensor) -> bool:
    # In one .pth both names share a storage: nothing to compare then.
    return a.shape == b.shape and a.dtype == b.dtype and (a.data_ptr() == b.data_ptr() or torch.equal(a, b))


def pick_device(name: str) -> torch.device:
    """``name`` as a device: "cpu", "cuda", "cuda:N", or "auto" for CUDA if available.

    Raises ``BackendError`` for a name that torch does not know or a CUDA device that is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"device '{name}' is not known; it must be auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"device '{name}' is not supported; it must be auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(
            f"device '{name}' is not available: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; use cpu or install torch with CUDA"
        )
    return device


CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_CHECKSUM = "crc32"

_log = logging.getLogger(__name__)

_LAYOUTS = f"a .pth file or a folder with {CONFIG} and {WEIGHTS}"
_PUBLISHED = Dust3rConfig()


def load_checkpoint(path: str | Path, device: str = "cpu") -> Dust3r:
    """The network of a ``.pth`` file, or of a folder with ``config.json`` and ``model.safetensors``.

    ``path`` may also name weights shipped with the package, such as ``mini``. The network is float32 whatever the
    stored type, in evaluation mode, on ``device`` ("cpu", "cuda", "cuda:1" or "auto"). The file must hold every
    tensor of the architecture and no other. For weights of the published sizes, the licence is logged.

    Raises ``CheckpointError`` for a file that is missing, truncated, of another kind or architecture,
    holds numbers that are not finite, or asks to run code; ``BackendError`` for a device that is not available.
    """
    path = find_checkpoint(path)
    target = pick_device(device)
    if not path.exists():
        raise CheckpointError(f"checkpoint '{path}' does not exist; it must be {_LAYOUTS}")
    refuse_pointers(path, CheckpointError)
    try:
        config, state = _read_folder(path) if path.is_dir() else _read_pth(path)
        model = _assemble(config, state).to(target)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint '{path}' cannot be used: {error}") from error
    _say_licence(path, config)
    return model


def save_checkpoint(model: Dust3r, folder: str | Path, half: bool = False) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``folder``, created if missing.

    ``half``: in float16, half the bytes. The weights carry a checksum, which the format lacks. Each file is written to
    a temporary name and renamed. Raises ``OutputError`` if that fails, or for a weight outside the range of float16.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        state = {name: _halved(name, tensor) for name, tensor in state.items()}
    metadata = {"format": "pt", _CHECKSUM: str(_checksum(state))}

    def write_weights(file: Path) -> None:
        save_file(state, file, metadata=metadata)
        _sort_metadata(file)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / WEIGHTS, write_weights)
        _write(folder / CONFIG, lambda file: file.write_text(model.config.to_json(), encoding="utf-8"))
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk by an error of its own
        raise OutputError(f"checkpoint folder '{folder}' cannot be written: {error}") from error


def _sort_metadata(file: Path) -> None:
    """Order the metadata, which safetensors writes in any order, so that the same weights give the same bytes."""
    with open(file, "r+b") as weights:
        size = int.from_bytes(weights.read(8), "little")
        header = json.loads(weights.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        weights.seek(8)
        weights.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))


def _checksum(state: State) -> int:
    """CRC-32 of all tensors, by name."""
    crc = 0
    for name in sorted(state):
        crc = zlib.crc32(f"{name} {tuple(state[name].shape)} {state[name].dtype}".encode(), crc)
        crc = zlib.crc32(state[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


def _halved(name: str, tensor: Tensor) -> Tensor:
    half = tensor.to(torch.float16)
    if not torch.isfinite(half).all():
        most = float(tensor.abs().max())
        raise OutputError(f"'{name}' holds {most:g}; float16 holds numbers up to 65504, so it must stay float32")
    return half


def _read_pth(path: Path) -> tuple[Dust3rConfig, State]:
    """Architecture and tensors of the published layout."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        # Before 2.6 a file could run code despite weights_only (CVE-2025-32434).
        raise CheckpointError(f"torch {torch.__version__} does not open .pth files safely; update it to 2.6 or newer")
    if path.suffix == ".safetensors":
        raise CheckpointError(f"it lacks the architecture; give the folder that holds it and {CONFIG}")
    try:
        if is_zipfile(path):  # a memory-mapped archive is not checked by torch
            with ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise CheckpointError(f"its part '{damaged}' is not what was written")
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except CheckpointError:
        raise
    except Exception as error:  # a hostile or broken file may raise anything from the unpickler
        raise CheckpointError(_why_not_loaded(error)) from error
    if not isinstance(content, dict) or not {"args", "model"} <= content.keys():
        raise CheckpointError(f"it holds {_summary(content)}; a DUSt3R checkpoint holds 'args' and 'model'")
    architecture = getattr(content["args"], "model", None)
    if not isinstance(architecture, str):
        raise CheckpointError(f"args.model is {type(architecture).__name__}; it must be the architecture as a string")
    return Dust3rConfig.from_string(architecture), _tensors(content["model"])


def _read_folder(folder: Path) -> tuple[Dust3rConfig, State]:
    """Architecture and tensors of the hub's layout."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"'{name}' is missing; a checkpoint is {_LAYOUTS}")
    try:
        config = Dust3rConfig.from_json((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, "pt") as file:
            wanted = (file.metadata() or {}).get(_CHECKSUM)
        state = _tensors(load_file(folder / WEIGHTS))
        if wanted not in (None, str(_checksum(state))):
            raise CheckpointError(f"the numbers in '{WEIGHTS}' are not those that were written")
        return config, state
    except UnicodeDecodeError as error:
        raise CheckpointError(f"'{CONFIG}' is not text: {error}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"'{WEIGHTS}' is truncated or not a safetensors file ({_line(error)})") from error


def _assemble(config: Dust3rConfig, state: State) -> Dust3r:
    """The network with these weights; raises ``CheckpointError`` naming the tensors that do not fit."""
    with torch.device("meta"):
        model = Dust3r(config)
    wanted = model.state_dict()
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"'{name}' holds numbers that are not finite")
    state = to_model(state)
    _check_names(wanted, state)
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            have, want = tuple(state[name].shape), tuple(tensor.shape)
            raise CheckpointError(f"'{name}' has shape {have}; the architecture says {want}")
    # Copy each: the file is memory-mapped, and a copied decoder must not share its source.
    own = {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in state.items()}
    model.load_state_dict(own, assign=True)
    return model.eval()


def _check_names(wanted: Mapping[str, Tensor], state: State) -> None:
    for names, what in (
        (sorted(wanted.keys() - state.keys()), "missing"),
        (sorted(state.keys() - wanted.keys()), "not of this architecture"),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointError(f"tensors {what}: {', '.join(names[:3])}{more}")


def _tensors(state: object) -> State:
    """``state`` as dense float tensors by name; raises ``CheckpointError`` for anything else."""
    if not isinstance(state, dict):
        raise CheckpointError(f"its weights are {_summary(state)}; they must be tensors by name")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"its weights hold {type(tensor).__name__} under {name!r}; they must be tensors by name"
            )
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError(f"'{name}' is {tensor.dtype} ({tensor.layout}); it must be dense floating point")
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            # A few bytes with strides that claim gigabytes.
            raise CheckpointError(f"'{name}' of shape {tuple(tensor.shape)} is not stored in full")
    return dict(state)


def _why_not_loaded(error: Exception) -> str:
    text = _line(error)
    if isinstance(error, OSError):
        return text
    if match := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it holds more than tensors and was not opened (it asks for {match[1]}); no code was run"
    return f"it is truncated or not a torch file ({type(error).__name__}: {text[:120]})"


def _summary(content: object) -> str:
    if isinstance(content, dict):
        return f"a mapping of {', '.join(repr(key) for key in list(content)[:5]) or 'nothing'}"
    return f"a {type(content).__name__}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _say_licence(path: Path, config: Dust3rConfig) -> None:
    sizes = [name for name in vars(_PUBLISHED) if name.startswith(("enc_", "dec_"))]
    if all(getattr(config, name) == getattr(_PUBLISHED, name) for name in sizes):
        _log.warning(
            "%s has the size of the published DUSt3R weights; those are under CC BY-NC-SA 4.0 (no commercial use)", path
        )


def _write(path: Path, writer: Callable[[Path], object]) -> None:
    handle, name = mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        writer(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
