"""Maps the real sequences beside the checkout, each in its own process, into results/sequences.md.

The table of the docs is made by `make eval`, which also runs rendered worlds and peers.

python benchmarks/sequences.py [--data DIR] [--plots DIR] [--only NAME ...] [-- options of dust3r-eval]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dust3r_ros import __version__  # noqa: E402
from dust3r_ros.errors import Dust3rRosError  # noqa: E402
from dust3r_ros.evaluation.run import LEGEND, markdown  # noqa: E402
from dust3r_ros.evaluation.scene import find_scenes  # noqa: E402
from dust3r_ros.io.files import write_text  # noqa: E402


def main() -> int:
    """Exit code: 0 when every scene was completed, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data", help="folder of scenes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only scenes whose name contains one of these")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="plots and map files of every scene")
    parser.add_argument("--out", type=Path, default=ROOT / "results/sequences.md", help="page; '-' writes none")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds one scene may take")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="after --: options of 'dust3r-eval sequences'")
    arguments = parser.parse_args()
    try:
        scenes = find_scenes([arguments.data])
    except Dust3rRosError as error:
        print(f"sequences: error: {error}", file=sys.stderr)
        return 2
    if arguments.only:
        scenes = [path for path in scenes if any(part in path.name for part in arguments.only)]
    options = [option for option in arguments.options if option != "--"]
    if arguments.plots:
        options += ["--plots", str(arguments.plots.resolve())]
    results = [_run(path, options, arguments.timeout) for path in scenes]
    print(markdown(results))
    if str(arguments.out) != "-":
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(arguments.out, _page(results, [option for option in arguments.options if option != "--"]))
        print(f"written: {arguments.out}")
    return int(any("frames" not in result for result in results))


def _run(scene: Path, options: list[str], timeout: float) -> dict[str, Any]:
    """One scene in its own process, so that memory is measured separately and a crash becomes a row with a note."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dust3r_ros.cli.eval", "sequences", str(scene), "--out", folder, "--quiet"]
        try:
            done = subprocess.run(
                command + options, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
            )
            failure = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            table = Path(folder) / "sequences.json"
            result = json.loads(table.read_text())[0] if done.returncode == 0 and table.is_file() else None
        except subprocess.TimeoutExpired:
            result, failure = None, [f"stopped after {timeout:.0f} s"]
    if result is None:
        result = {"scene": scene.name, "metric": True, "note": f"failed: {failure[0]}"}
    print(f"{scene.name}: {time.perf_counter() - start:.1f} s", result["note"], flush=True)
    return result


def _page(results: list[dict[str, Any]], options: list[str]) -> str:
    backend = next((result["backend"] for result in results if "backend" in result), "none")
    how = f"`python benchmarks/sequences.py{' -- ' + ' '.join(options) if options else ''}`"
    return (
        "# Results on real sequences\n\n"
        f"Measured by {how} with dust3r_ros {__version__}, backend `{backend}`, "
        f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}. "
        "Cameras uncalibrated: no focal is given.\n\n"
        f"{markdown(results)}\n{LEGEND}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
