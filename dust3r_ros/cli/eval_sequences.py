"""dust3r-eval sequences: trajectory, focal and depth errors on recorded scenes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dust3r_ros.cli import command


def add(tables: Any) -> None:
    """The subcommand's parser, added to the subparsers ``tables``."""
    parser = tables.add_parser(
        "sequences",
        help="trajectory, focal and depth errors on recorded scenes",
        description="Run the mapper on each scene and print its errors as a Markdown table.",
    )
    parser.add_argument("scenes", nargs="+", metavar="DIR", help="scene folder, or folder of scene folders")
    parser.add_argument("--out", metavar="DIR", help="write sequences.json and sequences.md there")
    parser.add_argument("--plots", metavar="DIR", help="write <scene>.png with plots, and the map's files, there")
    parser.add_argument("--max-frames", type=command.positive, metavar="N", help="only the first frames of each scene")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(body=_sequences)
    command.add_mapper(parser)
    command.add_common(parser)


def _sequences(arguments: argparse.Namespace) -> int:
    from dust3r_ros.evaluation.scene import find_scenes
    from dust3r_ros.evaluation.table import markdown, write_tables

    config = command.mapper_config(arguments)
    results = [_scene(path, config, arguments) for path in find_scenes(arguments.scenes)]
    print(markdown(results), end="")
    if arguments.out:
        for path in write_tables(Path(arguments.out), results):
            print(f"written: {path}", file=sys.stderr)
    return 0


def _scene(path: Path, config: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    from tqdm import tqdm

    from dust3r_ros.evaluation.run import run_scene
    from dust3r_ros.evaluation.scene import read_scene
    from dust3r_ros.products.results import peak_memory_mb, write_results

    scene = read_scene(path)
    expected = min(len(scene.truth), arguments.max_frames or len(scene.truth))
    with tqdm(
        total=expected, unit="frame", desc=scene.name, disable=arguments.quiet or not sys.stderr.isatty(), leave=False
    ) as bar:
        run = run_scene(scene, config, max_frames=arguments.max_frames, on_update=lambda update: bar.update())
    if arguments.plots:
        from dust3r_ros.evaluation.plots import write_plots

        write_plots(Path(arguments.plots), run)
        write_results(
            Path(arguments.plots) / scene.name,
            run.mapper,
            config=config,
            stopwatch=run.stopwatch,
            source=scene.name,
            wall_seconds=run.result.seconds,
        )
    return {**run.result.to_json(), "peak_memory_mb": round(peak_memory_mb(), 1)}
