"""pycolmap's incremental mapping of a folder of images; runs in an environment of its own (see pycolmap_peer.py).

python pycolmap_mapping.py IMAGES OUT.json [--sequential] [--max-frames N]

SIFT, exhaustive matching (sequential on demand), one SIMPLE_PINHOLE camera of unknown focal for
all images. OUT.json: seconds per stage, images given, registered images of the largest model with
their pose (camera to world, row by row), the camera's focal and width, peak memory (MB), pycolmap's version.
Needs only pycolmap, which is not a dependency of this package and is therefore imported by name.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def _peak_memory_mb() -> float:
    # As in products/results.py, which cannot be imported here
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> int:
    """Exit code 0; an exception otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sequential", action="store_true")
    parser.add_argument("--max-frames", type=int)
    options = parser.parse_args()
    names = sorted(path.name for path in options.images.iterdir())[: options.max_frames]
    importlib.import_module("pycolmap")  # not in the time it takes

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = reconstruct(options.images, names, Path(folder), options.sequential)
    result["seconds"] = time.perf_counter() - start
    result["peak_memory_mb"] = round(_peak_memory_mb(), 1)
    temporary = options.out.with_suffix(".part")
    temporary.write_text(json.dumps(result))
    os.replace(temporary, options.out)
    return 0


def reconstruct(images: Path, names: list[str], folder: Path, sequential: bool) -> dict[str, Any]:
    """The largest model of ``names`` in ``images``; ``folder`` takes the database."""
    pycolmap = importlib.import_module("pycolmap")
    pycolmap.set_random_seed(0)
    database = folder / "database.db"
    stages: dict[str, float] = {}
    start = time.perf_counter()

    def lap(name: str) -> None:
        stages[name] = time.perf_counter() - start - sum(stages.values())

    reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE")
    device = pycolmap.Device.cpu
    pycolmap.extract_features(
        database, images, names, camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader, device=device
    )
    lap("extract")
    match = pycolmap.match_sequential if sequential else pycolmap.match_exhaustive
    match(database, device=device)
    lap("match")
    models = pycolmap.incremental_mapping(database, images, folder)
    lap("map")
    poses, camera = _largest(models)
    return {
        "images": len(names),
        "models": len(models),
        "stages": stages,
        "poses": poses,
        "camera": camera,
        "version": pycolmap.__version__,
    }


def _largest(models: dict[int, Any]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Poses and camera of the model with most images, as in OUT.json; empty without a model."""
    poses: dict[str, list[float]] = {}
    if not models:
        return poses, {}
    model = max(models.values(), key=lambda model: model.num_reg_images())
    for image in model.images.values():
        if image.has_pose:
            pose = image.cam_from_world
            matrix = (pose() if callable(pose) else pose).inverse().matrix()  # a method from 3.12 on
            poses[image.name] = [float(value) for value in matrix.ravel()]
    camera = next(iter(model.cameras.values()))
    return poses, {"focal": float(camera.params[0]), "width": int(camera.width)}


if __name__ == "__main__":
    sys.exit(main())
