"""pycolmap's mappings of a folder of images; runs in an environment of its own (see peers.py).

python pycolmap_mapping.py IMAGES OUT.json [--max-frames N] [--exhaustive N] [--limit S] [--own]

Incremental and global mapping, each of exhaustive and of sequential matches, with pycolmap's own options: the same SIFT
features, one camera of unknown focal for all images, by default with one radial term; with ``--own`` one for each
image, and then incremental mapping of exhaustive matches alone. Every stage is a process of its own, so that time and
memory are its own; a method's are those of all its stages, shared or not. OUT.json, written again after each method:
version, images given, and by method either a note on why there is nothing, or seconds, processor_seconds and
peak_memory_mb, both also by stage, number of models, and of the largest one the pose of each image (camera to world,
row by row) and its focal, and the first camera's focal and width. Needs only pycolmap, which is not a dependency of
this package and is therefore imported by name.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MAPPERS = ("incremental", "global")
MATCHINGS = ("exhaustive", "sequential")
_MOST_MEMORY = "peak_memory_mb"
_TIMES = ("seconds", "processor_seconds")
_PROCESSES = multiprocessing.get_context("fork")  # nothing is imported that has threads
Figures = dict[str, Any]


class StageError(Exception):
    """A stage came to nothing; the message says why."""


def main() -> int:
    """Exit code 0; an exception otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-frames", type=int)
    parser.add_argument("--exhaustive", type=int, default=120, help="the most images that are matched exhaustively")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that a method may take")
    parser.add_argument("--own", action="store_true", help="each image has a camera of its own")
    options = parser.parse_args()
    names = sorted(path.name for path in options.images.iterdir())[: options.max_frames]
    result: Figures = {"images": len(names), "methods": {}}
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(options.images, names, Path(folder), options.limit)
        features = run.stage("features", extract, [], "PER_IMAGE" if options.own else "SINGLE")
        for matching in MATCHINGS[:1] if options.own else MATCHINGS:
            if matching == "exhaustive" and len(names) > options.exhaustive:
                why = f"not run: {len(names)} images; exhaustive matching is for at most {options.exhaustive}"
                matched: Figures = {"note": why}
            else:
                matched = run.stage("matching", match, [features], matching)
            for mapper in MAPPERS[:1] if options.own else MAPPERS:
                mapped = run.stage("mapping", reconstruct, [features, matched], matching, mapper)
                result["version"] = run.version
                result["methods"][f"{mapper}, {matching}"] = _method([features, matched, mapped])
                _write(options.out, result)
    return 0


def _write(path: Path, result: Figures) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(result))
    os.replace(temporary, path)


class _Run:
    """Stages on the images ``names`` of a folder. ``folder`` takes the databases; ``limit``: seconds of a method."""

    def __init__(self, images: Path, names: list[str], folder: Path, limit: float) -> None:
        self._images, self._names, self._folder, self._limit = images, names, folder, limit
        self.version = ""

    def stage(self, name: str, body: Callable[..., Figures], before: list[Figures], *arguments: str) -> Figures:
        """What ``body`` returns, with its time and memory; a note where it, or a stage ``before`` it, failed."""
        note = next((stage["note"] for stage in before if "note" in stage), "")
        if note:
            return {"note": note}
        left = self._limit - sum(stage["seconds"] for stage in before)
        try:
            found = _in_a_process(body, left, self._images, self._names, self._folder, *arguments)
        except TimeoutError:
            return {"note": f"failed: stopped after {self._limit:.0f} s, in {name}"}
        except StageError as error:
            return {"note": f"failed: {error}, in {name}"}
        self.version = found.pop("version")
        return found | {"stage": name}


def _in_a_process(body: Callable[..., Figures], limit: float, *arguments: Any) -> Figures:
    """Run ``body`` in a process of its own. Raises ``TimeoutError`` after ``limit`` seconds, and ``StageError``."""
    receiver, sender = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_measured, args=(sender, body, arguments))
    process.start()
    sender.close()
    try:
        if not receiver.poll(max(limit, 0.0)):
            raise TimeoutError
        found: Figures = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        why = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
        raise StageError(f"ended by {why}") from None
    finally:
        process.kill()
        process.join()
    if "error" in found:
        raise StageError(found["error"])
    return found


def _measured(sender: Connection, body: Callable[..., Figures], arguments: tuple[Any, ...]) -> None:
    try:
        pycolmap = importlib.import_module("pycolmap")  # not in the time it takes
        pycolmap.set_random_seed(0)
        start, processor = time.perf_counter(), time.process_time()
        found = body(pycolmap, *arguments)
        found |= dict(zip(_TIMES, (time.perf_counter() - start, time.process_time() - processor), strict=True))
        sender.send(found | {_MOST_MEMORY: round(_peak_memory_mb(), 1), "version": pycolmap.__version__})
    except Exception as error:  # whatever it is, it is this method's outcome
        sender.send({"error": " ".join(str(error).split()) or type(error).__name__})


def _peak_memory_mb() -> float:
    # As in products/results.py, which cannot be imported here
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _method(stages: list[Figures]) -> Figures:
    """A method's figures from those of its stages, the last of which is the mapping."""
    if "note" in stages[-1]:
        return {"note": stages[-1]["note"]}
    found = {name: value for name, value in stages[-1].items() if name != "stage"}
    found |= {name: sum(stage[name] for stage in stages) for name in _TIMES}
    found |= {_MOST_MEMORY: max(stage[_MOST_MEMORY] for stage in stages)}
    return found | {"stages": {stage["stage"]: {name: stage[name] for name in _TIMES} for stage in stages}}


def extract(pycolmap: Any, images: Path, names: list[str], folder: Path, cameras: str) -> Figures:
    """Features into features.db; ``cameras``: pycolmap's mode, one for all images or for each."""
    pycolmap.extract_features(
        folder / "features.db",
        images,
        names,
        camera_mode=getattr(pycolmap.CameraMode, cameras),
        device=pycolmap.Device.cpu,
    )
    return {}


def match(pycolmap: Any, images: Path, names: list[str], folder: Path, matching: str) -> Figures:
    """Verified matches of ``matching``, into a database of their own; sequential: no loops, which need a vocabulary."""
    database = shutil.copy(folder / "features.db", folder / f"{matching}.db")
    getattr(pycolmap, f"match_{matching}")(database, device=pycolmap.Device.cpu)
    return {}


def reconstruct(pycolmap: Any, images: Path, names: list[str], folder: Path, matching: str, mapper: str) -> Figures:
    """The largest model of ``mapper`` from the matches of ``matching``."""
    database = folder / f"{matching}.db"
    out = folder / f"{matching}_{mapper}"
    out.mkdir()
    if mapper == "incremental":
        return _largest(pycolmap.incremental_mapping(database, images, out))
    if not hasattr(pycolmap, "global_mapping"):
        raise StageError(f"pycolmap {pycolmap.__version__} has no global mapping; 4.0 and later have")
    calibrated = shutil.copy(database, out / "calibrated.db")
    # As pycolmap asks for where focals are unknown: the global mapper only refines them
    pycolmap.calibrate_view_graph(calibrated)
    return _largest(pycolmap.global_mapping(calibrated, images, out))


def _largest(models: dict[int, Any]) -> Figures:
    """Poses and camera of the model with most images, as in OUT.json; empty without a model."""
    poses: dict[str, list[float]] = {}
    focals: dict[str, float] = {}
    if not models:
        return {"models": 0, "poses": poses, "focals": focals, "camera": {}}
    model = max(models.values(), key=lambda model: model.num_reg_images())
    for image in model.images.values():
        if image.has_pose:
            pose = image.cam_from_world
            matrix = (pose() if callable(pose) else pose).inverse().matrix()  # a method from 3.12 on
            poses[image.name] = [float(value) for value in matrix.ravel()]
            focals[image.name] = float(model.cameras[image.camera_id].params[0])
    camera = next(iter(model.cameras.values()))
    camera_found = {"focal": float(camera.params[0]), "width": int(camera.width)}
    return {"models": len(models), "poses": poses, "focals": focals, "camera": camera_found}


if __name__ == "__main__":
    sys.exit(main())
