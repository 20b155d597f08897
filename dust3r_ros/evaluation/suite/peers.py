"""pycolmap's mappings as peers: their own environment, a process with a time limit, a row for each."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import tempfile
import venv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.errors import BackendError
from dust3r_ros.evaluation.report.published import COLMAP
from dust3r_ros.evaluation.report.run_file import Row
from dust3r_ros.evaluation.scene import read_scene
from dust3r_ros.evaluation.suite.job import fingerprint, names_of, pose_figures
from dust3r_ros.io.trajectory import stamp_from_text
from dust3r_ros.types import StampedPose


def finish(command: Sequence[str], timeout: float, environment: Mapping[str, str] | None = None) -> str:
    """Runs ``command`` to its end; returns an empty string, or why it failed. It and its children are ended after
    ``timeout`` (s), and when this process ends.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env=environment,
    )
    try:
        said = process.communicate(timeout=max(timeout, 0.0) if math.isfinite(timeout) else None)[1]
    except subprocess.TimeoutExpired:
        _end(process)
        return f"stopped after {timeout:.0f} s"
    except BaseException:
        _end(process)
        raise
    if process.returncode == 0:
        return ""
    lines = said.strip().splitlines()
    if process.returncode < 0:
        return f"ended by signal {-process.returncode} ({signal.strsignal(-process.returncode)})"
    return lines[-1] if lines else f"exit code {process.returncode}"


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


PACKAGE = "pycolmap>=4.0"  # the first with the global mapper
_HAS = "import pycolmap; pycolmap.global_mapping"
EXHAUSTIVE = 120  # frames; of more, only the sequential matches are made
SCRIPT = Path(__file__).with_name("pycolmap_mapping.py")


def colmap_python(environment: Path) -> tuple[Path | None, str]:
    """An interpreter that can import pycolmap, or None and why. pip installs ``PACKAGE`` there when it is missing or
    too old.
    """
    python = environment.absolute() / "bin" / "python"
    try:
        if not python.is_file():
            venv.create(environment, with_pip=True)
        if not _runs([str(python), "-c", _HAS]):
            done = subprocess.run(
                [str(python), "-m", "pip", "install", "--quiet", PACKAGE], capture_output=True, text=True, timeout=900
            )
            if done.returncode or not _runs([str(python), "-c", _HAS]):
                reason = (done.stderr.strip().splitlines() or ["it has no global mapping, or cannot be imported"])[-1]
                return None, f"no comparison: '{PACKAGE}' cannot be installed in '{environment}': {reason}"
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return None, f"no comparison: no environment for '{PACKAGE}' can be made in '{environment}': {error}"
    return python, ""


def _runs(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode == 0


def measure_pycolmap(
    path: Path, python: Path, *, timeout: float, limit: float = math.inf, max_frames: int | None = None
) -> list[Row]:
    """The rows of a scene, one for each mapper and matching, with a note for one that came to nothing.

    ``timeout`` (s) ends all of them: those that are missing then have no row. ``limit`` (s) ends one. Raises
    ``InputError`` for a scene that cannot be read, ``BackendError`` when nothing came of any.
    """
    scene = read_scene(path)
    found = run_mappings(path, python, timeout=timeout, limit=min(limit, timeout), max_frames=max_frames)
    same: Row = {"unit": "m" if scene.metric else "", "data": fingerprint(path), "limit": max_frames or 0}
    same |= {"frames": found["images"], "version": found["version"]}
    rows = []
    for name, method in found["methods"].items():
        row = names_of(path, f"{COLMAP} {name}") | same
        if "note" in method:
            rows.append(row | {"note": method["note"]})
            continue
        row |= {name: round(method[name], 3) for name in ("seconds", "processor_seconds")}
        row |= {"frames_per_second": round(found["images"] / method["seconds"], 3)}
        row |= {"peak_memory_mb": method["peak_memory_mb"]}
        camera = method["camera"] or {"focal": 0.0, "width": 0}
        row |= pose_figures(scene, poses_of(path, method), found["images"], camera["focal"], camera["width"])
        rows.append(row)
    return rows


def run_mappings(
    path: Path, python: Path, *, timeout: float, limit: float, max_frames: int | None = None
) -> dict[str, Any]:
    """The output of ``pycolmap_mapping.py`` for the images of the scene in ``path``, as far as it came in ``timeout``
    (s). Raises ``BackendError`` where it came to nothing.
    """
    stamps = stamps_by_name(path)
    frames = min(len(stamps), max_frames or len(stamps))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "models.json"
        command = [str(python), str(SCRIPT), str((path / "rgb").resolve()), str(out), "--max-frames", str(frames)]
        failure = finish([*command, "--exhaustive", str(EXHAUSTIVE), "--limit", f"{limit:g}"], timeout)
        if not out.is_file():
            raise BackendError(failure or "it left no model")
        models: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return models


def poses_of(path: Path, model: dict[str, Any]) -> list[StampedPose]:
    """Registered images of a method's model, with the stamps of rgb.txt."""
    stamps = stamps_by_name(path)
    return [
        StampedPose(stamps[name], "camera", np.vstack([np.reshape(matrix, (3, 4)), [0, 0, 0, 1]]))
        for name, matrix in sorted(model["poses"].items())
    ]


def stamps_by_name(scene: Path) -> dict[str, int]:
    """{file name: stamp in ns} of rgb.txt."""
    rows = [row.split() for row in (scene / "rgb.txt").read_text(encoding="utf-8").splitlines()]
    stamps = {Path(row[1]).name: stamp_from_text(row[0]) for row in rows if len(row) == 2 and row[0] != "#"}
    return {name: stamp for name, stamp in stamps.items() if stamp is not None}
