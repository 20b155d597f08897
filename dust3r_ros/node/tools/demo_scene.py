"""The demo's input: a rendered sequence as a bag of an uncalibrated camera, with ground truth."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dust3r_ros import __version__
from dust3r_ros.io.files import write_text
from dust3r_ros.io.trajectory import write_tum
from dust3r_ros.types import StampedPose

TOPIC = "/camera/image_raw"


@dataclass(frozen=True)
class DemoScene:
    """The sequence to render: ``frames`` images of ``width`` x ``height`` at ``rate`` Hz along the path ``kind``."""

    kind: str
    frames: int
    width: int
    height: int
    rate: float
    seed: int


def prepare(scene: DemoScene, out: Path) -> Path:
    """The bag of the scene in ``out``, rendered unless it exists from an earlier run, with truth.txt next to it."""
    bag, record = out / "sequence", out / "scene.json"
    wanted = {**vars(scene), "version": __version__}
    try:
        kept = json.loads(record.read_text())
        if {name: kept.get(name) for name in wanted} == wanted and (bag / "metadata.yaml").is_file():
            print(f"sequence: {scene.frames} frames from an earlier run ({bag})", flush=True)
            return bag
    except (OSError, ValueError):
        pass
    _render(scene, bag, out / "truth.txt", record, wanted)
    return bag


def _render(scene: DemoScene, bag: Path, truth: Path, record: Path, wanted: dict[str, Any]) -> None:
    from dust3r_ros.scenes.export import write_bag
    from dust3r_ros.scenes.sequence import render_sequence

    with progress_bar(scene.frames, "rendering") as bar:
        sequence = render_sequence(
            scene.kind, scene.frames, scene.width, scene.height, rate_hz=scene.rate, seed=scene.seed,
            progress=lambda done, _: bar.update(done - bar.n),
        )  # fmt: skip
    record.unlink(missing_ok=True)
    shutil.rmtree(bag, ignore_errors=True)
    write_bag(sequence, bag, TOPIC, encoding="rgb8")
    stamped = zip(sequence.stamps_ns, sequence.w_T_c, strict=True)
    write_tum(truth, [StampedPose(int(stamp_ns), "camera", pose) for stamp_ns, pose in stamped])
    write_text(record, json.dumps({**wanted, "focal": sequence.focal}, indent=1))  # last: marks completion
    print(f"sequence: {scene.frames} frames of {scene.width}x{scene.height} rendered ({bag})", flush=True)


def progress_bar(total: int, what: str) -> tqdm[Any]:
    """A progress bar; without a terminal, a line every few seconds."""
    return tqdm(total=total, desc=what, unit="frame", leave=False, mininterval=0.2 if sys.stderr.isatty() else 5.0)
