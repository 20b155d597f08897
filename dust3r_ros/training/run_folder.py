"""The folder of a run: its layout, its lock, the state that the next step depends on, weights in pieces to transfer."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import torch

from dust3r_ros.errors import CheckpointError, ConfigError, InputError, OutputError
from dust3r_ros.io.files import FileLock, atomic_folder, atomic_path, make_folder, output_error, write_bytes, write_text

_NAME = re.compile(r"step-(\d+)\.pt")
_FORMAT = 2


def write_state(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write ``folder``/step-N.pt, then remove all but the last ``keep``. Raises ``OutputError`` and keeps what was
    there.
    """
    path = make_folder(folder) / f"step-{step:09d}.pt"
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": _FORMAT, **state}, temporary)
        except RuntimeError as error:  # torch's writer does not say OSError when the disk is full
            line = " ".join(str(error).split())[:150]
            raise OutputError(
                f"'{path}' cannot be written: the disk is full or the file too large for it ({line})"
            ) from error
    for old in states(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def states(folder: Path) -> list[Path]:
    """The states in ``folder``, oldest first."""
    found = [path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.partition("-")[2]))


def read_state(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The newest readable state, and what is wrong with newer ones. Raises ``InputError`` without one."""
    wrong: list[str] = []
    for path in reversed(states(folder)):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file may raise anything from the unpickler
            wrong.append(f"'{path}' cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:100]})")
            continue
        if isinstance(content, dict) and content.get("format") == _FORMAT:
            return content, wrong
        wrong.append(f"'{path}' is not a state of a training run of this version")
    why = f": {'; '.join(wrong)}" if wrong else ""
    raise InputError(f"no state to resume from in '{folder}'{why}; start without --resume")


def random_states() -> dict[str, Any]:
    """The states of all global generators: Python's, NumPy's, torch's."""
    name, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, second = random.getstate()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "python": (version, list(internal), second),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), place, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Restore the result of ``random_states``."""
    version, internal, second = states["python"]
    random.setstate((version, tuple(internal), second))
    name, keys, place, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def seed_everything(seed: int, rank: int) -> None:
    """Seed all generators, differently in every process."""
    mixed = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


_WAIT = 5.0  # seconds; workers of a killed run release its lock a moment after it


class RunFolder:
    """``run.json`` (how it was started), ``state/``, ``metrics.jsonl``, ``tensorboard/``, ``model/``, ``picture.png``,
    ``MODEL_CARD.md``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.about = path / "run.json"
        self.state = path / "state"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.model = path / "model"
        self.picture = path / "picture.png"
        self.card = path / "MODEL_CARD.md"

    def lock(self) -> FileLock:
        """Keeps other runs out. Raises ``OutputError`` while another run writes here."""
        make_folder(self.path)
        end = monotonic() + _WAIT
        while True:
            try:
                return FileLock(self.about)
            except OutputError:
                if monotonic() > end:
                    raise
                sleep(0.2)

    def begin(self, about: Mapping[str, Any]) -> None:
        """Record how the run was started. Raises ``InputError`` when the folder already holds a run with a state."""
        if self.about.exists() and any(self.state.glob("step-*.pt")):
            raise InputError(f"'{self.path}' holds a run already; continue it with --resume or give another folder")
        self.record(about)

    def record(self, about: Mapping[str, Any]) -> None:
        """Write how the run was started."""
        write_text(self.about, json.dumps(dict(about), indent=1) + "\n")

    def read(self) -> dict[str, Any]:
        """How the run was started. Raises ``InputError`` when there is none."""
        try:
            content = json.loads(self.about.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"'{self.path}' holds no run to resume ({error.strerror}: run.json)") from error
        except ValueError as error:
            raise InputError(f"'{self.about}' is not what a run writes: {error}") from error
        if not isinstance(content, dict) or "recipe" not in content:
            raise InputError(f"'{self.about}' is not what a run writes; it lacks the recipe")
        return content

    def same(self, started: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Raises ``ConfigError`` naming the first difference of a resumed run."""
        for name, value in now.items():
            if value is not None and started.get(name) != value:
                raise ConfigError(
                    f"the run in '{self.path}' was started with {name} {_short(started.get(name))}; {_short(value)} "
                    f"would be another run (leave it out, or give another folder)"
                )

    def write_model(self, model: Any) -> None:
        """Write the network as a checkpoint folder, replacing the previous one; raises ``OutputError``.

        Configuration and weights belong together, so the folder is replaced as a whole.
        """
        from dust3r_ros.network.checkpoint import save_checkpoint

        new, old = self.path / ".model-new", self.path / ".model-old"
        try:
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)
            with atomic_folder(new) as folder:
                save_checkpoint(model, folder)
            if self.model.exists():
                os.replace(self.model, old)
            os.replace(new, self.model)
        except OSError as error:
            raise output_error(self.model, error) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


PIECE = 15_500_000
"""Most bytes of a file."""

_MANIFEST, _WEIGHTS, _CONFIG = "pieces.json", "model.safetensors", "config.json"


def split_weights(checkpoint: Path, folder: Path, size: int = PIECE) -> int:
    """Write the checkpoint folder in float16 as ``folder``/weights.NN of at most ``size`` bytes each, and pieces.json
    with their digests and its config; returns their number. Raises ``CheckpointError`` and ``OutputError``.
    """
    from dust3r_ros.network.checkpoint import load_checkpoint, save_checkpoint

    with tempfile.TemporaryDirectory() as scratch:
        save_checkpoint(load_checkpoint(checkpoint), Path(scratch) / "half", half=True)
        weights = (Path(scratch) / "half" / _WEIGHTS).read_bytes()
        config = json.loads((Path(scratch) / "half" / _CONFIG).read_text(encoding="utf-8"))
    make_folder(folder)
    names = []
    for number, start in enumerate(range(0, len(weights), size)):
        names.append(f"weights.{number:02d}")
        write_bytes(folder / names[-1], weights[start : start + size])
    for left in set(folder.glob("weights.*")) - {folder / name for name in names}:
        left.unlink()
    digest = hashlib.sha256(weights).hexdigest()
    about = {"pieces": names, "bytes": len(weights), "sha256": digest, "config": config}
    write_text(folder / _MANIFEST, json.dumps(about, indent=1) + "\n")
    return len(names)


def join_weights(folder: Path, target: Path) -> Path:
    """The checkpoint folder ``target`` from the output of ``split_weights`` in ``folder``, with card and figures.

    Raises ``CheckpointError`` for pieces that are missing, truncated or from another set, ``OutputError`` for the
    target.
    """
    about = _manifest(folder)
    parts = []
    for name in about["pieces"]:
        try:
            parts.append((folder / name).read_bytes())
        except OSError as error:
            raise CheckpointError(f"'{folder / name}' cannot be read ({error.strerror}); copy all pieces") from error
    weights = b"".join(parts)
    if len(weights) != about["bytes"] or hashlib.sha256(weights).hexdigest() != about["sha256"]:
        raise CheckpointError(
            f"the pieces in '{folder}' have {len(weights)} bytes, not the {about['bytes']} that were written; "
            "a piece is truncated or from another run"
        )
    with atomic_folder(target) as made:
        (made / _WEIGHTS).write_bytes(weights)
        (made / _CONFIG).write_text(json.dumps(about["config"], indent=1) + "\n", encoding="utf-8")
        for beside in ("MODEL_CARD.md", "day.json"):
            if (folder / beside).is_file():
                shutil.copyfile(folder / beside, made / beside)
    return target


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        names = about["pieces"]
        plain = all(isinstance(name, str) and Path(name).name == name for name in names) and names
        if not (plain and isinstance(about["bytes"], int) and isinstance(about["config"], dict) and about["sha256"]):
            raise ValueError("it lacks pieces, bytes, sha256 or config")
    except OSError as error:
        raise CheckpointError(f"'{folder}' holds no pieces of weights ({_MANIFEST}: {error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"'{folder / _MANIFEST}' is not a manifest of pieces: {error}") from error
    return dict(about)
