"""The folder of a run: what is where, who may write, what the run was started with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from dust3r_ros.errors import ConfigError, InputError, OutputError
from dust3r_ros.io.files import atomic_folder, make_folder, output_error, write_text
from dust3r_ros.storage.journal import FileLock

_WAIT = 5.0  # seconds; workers of a run that was killed let go of its lock a moment later than it


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
        """Keeps other runs out. Raises ``OutputError`` while one writes here."""
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
        """Write down how the run is started. Raises ``InputError`` when a run with a state is here already."""
        if self.about.exists() and any(self.state.glob("step-*.pt")):
            raise InputError(f"'{self.path}' holds a run already; go on with --resume or give another folder")
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
        """Raises ``ConfigError`` naming the first thing that a resumed run would do otherwise."""
        for name, value in now.items():
            if value is not None and started.get(name) != value:
                raise ConfigError(
                    f"the run in '{self.path}' was started with {name} {_short(started.get(name))}; to go on with "
                    f"{_short(value)} would not be the same run (leave it out, or give another folder)"
                )

    def write_model(self, model: Any) -> None:
        """The network as a checkpoint folder, in place of the one before; raises ``OutputError``.

        Configuration and weights belong together, so the folder is exchanged as a whole.
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
