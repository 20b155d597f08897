"""The folder of a run: its layout, its lock, and the state that the next step depends on."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import torch

from dust3r_ros.errors import ConfigError, InputError, OutputError
from dust3r_ros.io.files import FileLock, atomic_folder, atomic_path, make_folder, output_error, write_text

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
