"""Compares our mapper with pycolmap's incremental mapping, on the same frames in the same run.

    python benchmarks/sfm.py [--data DIR] [--only NAME ...] [--environment DIR] [--out results/sfm.json]
                             [-- options of dust3r-eval]

Each scene and program runs in its own process, one after the other. The focal length is unknown to both.
pycolmap maps poses, calibration and sparse points, so our run without dense depth (dense: false) is
compared; a second one measures the time of dense depth. pycolmap is installed into its own virtual
environment (--environment); if that fails, only our half is measured and the table says so. Writes the
JSON file, and a Markdown table and a plot beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dust3r_ros import __version__  # noqa: E402
from dust3r_ros.errors import Dust3rRosError, GeometryError  # noqa: E402
from dust3r_ros.evaluation.errors import trajectory_errors  # noqa: E402
from dust3r_ros.evaluation.scene import Scene, find_scenes, read_scene  # noqa: E402
from dust3r_ros.evaluation.suite.peers import PACKAGE, colmap_python, poses_of, run_mapping  # noqa: E402
from dust3r_ros.io.files import make_folder, write_text  # noqa: E402
from dust3r_ros.types import StampedPose  # noqa: E402

if str(ROOT / "benchmarks") not in sys.path:
    sys.path.insert(0, str(ROOT / "benchmarks"))
from sfm_table import LEGEND, TARGETS, Figures, compare, judged, line, plot, table  # noqa: E402
from targets import Machine  # noqa: E402

SCENES = (
    "7scenes_redkitchen", "princeton_shelfbox", "lund_door", "middlebury_templering", "kitti_01", "tum_fr3_cabinet",
)  # fmt: skip


def main() -> int:
    """Exit code: 0 when our mapper ran on every scene, 1 otherwise, 2 for usage."""
    options, machine = _options(), Machine()
    try:
        scenes = [read_scene(path) for path in find_scenes([options.data]) if _wanted(path.name, options.only)]
    except Dust3rRosError as error:
        print(f"sfm: error: {error}", file=sys.stderr)
        return 2
    python, missing = colmap_python(options.environment, options.package)
    if missing:
        print(missing, file=sys.stderr)
    rows = []
    for scene in scenes:
        row = {"scene": scene.name, "ours": ours(scene, options, False), "dense": ours(scene, options, True)}
        row["theirs"] = theirs(scene, python, options) if python else {"note": missing}
        row["truth"] = json.loads((scene.path / "intrinsics.json").read_text()).get("pose_source", "")
        rows.append(row | compare(scene.name, row["ours"], row["theirs"]))
        print(line(rows[-1]), flush=True)
    write(options.out, rows, missing, machine.about())
    return int(any("frames" not in row[run] for row in rows for run in ("ours", "dense")))


def _wanted(name: str, only: list[str] | None) -> bool:
    return name in SCENES if only is None else any(part in name for part in only)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data", help="folder of scenes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="scenes whose name contains one of these")
    parser.add_argument("--out", type=Path, default=ROOT / "results/sfm.json")
    parser.add_argument("--environment", type=Path, default=ROOT / "results/pycolmap", help="pycolmap's environment")
    parser.add_argument("--package", default=PACKAGE, help="what pip installs into it")
    parser.add_argument("--max-frames", type=int, metavar="N", help="only the first frames of each scene")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds one program may take on one scene")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="after --: options of 'dust3r-eval sequences'")
    return parser.parse_args()


def ours(scene: Scene, options: argparse.Namespace, dense: bool) -> Figures:
    """Our figures, with or without dense depth; only a note when the run failed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dust3r_ros.cli.eval", "sequences", str(scene.path.resolve()), "--quiet"]
        command += ["--out", folder, *(option for option in options.options if option != "--")]
        command += ["--set", f"dense={str(dense).lower()}"]
        if options.max_frames:
            command += ["--max-frames", str(options.max_frames)]
        failure = _finishes(command, options.timeout)
        if failure:
            return {"note": failure}
        result = json.loads((Path(folder) / "sequences.json").read_text())[0]
    registered = round(result["tracked"] * result["frames"] / 100)
    names = ("frames", "keyframes", "ate", "ate_percent", "focal", "focal_error", "density", "seconds", "note")
    return {name: result[name] for name in names} | {"registered": registered}


def theirs(scene: Scene, python: Path, options: argparse.Namespace) -> Figures:
    """pycolmap's figures; only a note when it failed."""
    try:
        model = run_mapping(scene.path, python, timeout=options.timeout, max_frames=options.max_frames)
    except Dust3rRosError as error:
        return {"note": f"failed: {error}"}
    poses = poses_of(scene.path, model)
    return {
        "frames": model["images"],
        "registered": len(poses),
        "models": model["models"],
        "seconds": model["seconds"],
        "stages": model["stages"],
        "version": model["version"],
    } | _errors(scene, poses, model["camera"])


def _errors(scene: Scene, poses: list[StampedPose], camera: Figures) -> Figures:
    if not camera:
        return {"ate": None, "focal": None, "focal_error": None, "note": "no model"}
    native = camera["focal"] * scene.width / camera["width"]
    found = {"focal": native, "focal_error": 100 * (native / scene.focal - 1), "note": ""}
    try:
        errors = trajectory_errors(scene.truth, poses)
    except GeometryError as error:
        return found | {"ate": None, "note": str(error)}
    return found | {"ate": errors.ate, "ate_percent": errors.ate_percent}


def _finishes(command: list[str], timeout: float) -> str:
    """Runs it from the root; returns why it failed, empty on success."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return f"failed: stopped after {timeout:.0f} s"
    if done.returncode == 0:
        return ""
    return f"failed: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]}"


def write(out: Path, rows: list[Figures], missing: str, about: Figures) -> None:
    """The JSON file, the table and the plot beside it."""
    theirs = ", ".join(sorted({row["theirs"]["version"] for row in rows if "version" in row["theirs"]})) or missing
    facts = {"about": about, "pycolmap": theirs, "limits": TARGETS, "targets": [t for row in rows for t in judged(row)]}
    make_folder(out.parent)
    write_text(out, json.dumps(facts | {"rows": rows}, indent=1) + "\n")
    page = f"{table(rows)}\n{LEGEND}\n\ndust3r_ros {__version__}, pycolmap {theirs}, {about['cores']} cores.\n"
    write_text(out.with_suffix(".md"), page)
    plot(rows, out.with_suffix(".png"))
    print("\n" + page + f"written: {out}")


if __name__ == "__main__":
    sys.exit(main())
