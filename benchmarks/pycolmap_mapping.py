"""pycolmap's incremental mapping of a folder of images; runs in an environment of its own (see sfm.py).

python pycolmap_mapping.py IMAGES OUT.json [--sequential] [--max-frames N]

SIFT, exhaustive matching (sequential on demand), one SIMPLE_PINHOLE camera of unknown focal for
all images. OUT.json: seconds per stage, images given, registered images of the largest model with
their pose (camera to world, row by row), the camera's focal and width, pycolmap's version.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sequential", action="store_true")
    parser.add_argument("--max-frames", type=int)
    options = parser.parse_args()
    names = sorted(path.name for path in options.images.iterdir())[: options.max_frames]
    import pycolmap  # noqa: F401  (not in the time it takes)

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = reconstruct(options.images, names, Path(folder), options.sequential)
    result["seconds"] = time.perf_counter() - start
    temporary = options.out.with_suffix(".part")
    temporary.write_text(json.dumps(result))
    os.replace(temporary, options.out)
    return 0


def reconstruct(images: Path, names: list[str], folder: Path, sequential: bool) -> dict:
    """The largest model of ``names`` in ``images``; ``folder`` takes the database."""
    import pycolmap

    pycolmap.set_random_seed(0)
    database = folder / "database.db"
    stages, start = {}, time.perf_counter()

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
    poses, camera = {}, {}
    if models:
        model = max(models.values(), key=lambda model: model.num_reg_images())
        for image in model.images.values():
            if image.has_pose:
                pose = image.cam_from_world
                matrix = (pose() if callable(pose) else pose).inverse().matrix()  # a method from 3.12 on
                poses[image.name] = [float(value) for value in matrix.ravel()]
        found = next(iter(model.cameras.values()))
        camera = {"focal": float(found.params[0]), "width": int(found.width)}
    return {
        "images": len(names),
        "models": len(models),
        "stages": stages,
        "poses": poses,
        "camera": camera,
        "version": pycolmap.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
