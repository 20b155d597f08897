"""dust3r-eval suite: all scenes at hand through the mapper and its peers, into a report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from dust3r_ros.cli import command
from dust3r_ros.cli.run_log import RunLog, add_when


def add(tables: Any) -> None:
    """The subcommands' parsers, added to the subparsers ``tables``."""
    parser = tables.add_parser(
        "suite",
        help="recorded scenes and rendered worlds, beside peers, into a report",
        description="Map every scene and rendered world, measure, run peers on the same frames, write the report.",
    )
    add_scenes(parser)
    parser.add_argument("--out", type=Path, default=Path("results/eval"), metavar="DIR", help="default: results/eval")
    parser.add_argument("--page", type=Path, metavar="FILE", help="Markdown page whose table is replaced")
    parser.add_argument("--no-poses", action="store_true", help="not the default backend without dense depth as well")
    parser.add_argument("--no-protocols", action="store_true", help="not the literature's protocols on these scenes")
    parser.add_argument("--no-opencv", action="store_true", help="without the floor, OpenCV's chain")
    parser.add_argument(
        "--pycolmap",
        type=Path,
        metavar="DIR",
        help="environment that has pycolmap; pip installs it there if missing",
    )
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="seconds for one process (300)")
    parser.add_argument("--budget", type=float, default=1170.0, metavar="S", help="seconds for all of them (1170)")
    parser.add_argument("--against", type=Path, metavar="JSON", help="an earlier run to compare with")
    add_when(parser)
    parser.set_defaults(body=_suite)
    command.add_mapper(parser)
    command.add_common(parser)
    _add_job(tables)


def add_scenes(parser: argparse.ArgumentParser) -> None:
    """The options of what is measured."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="recorded scenes (default: rendered worlds only)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="scenes whose name contains one of these")
    parser.add_argument("--no-worlds", action="store_true", help="no rendered worlds")
    parser.add_argument("--max-frames", type=command.positive, metavar="N", help="only the first frames of each scene")


def scenes_of(arguments: argparse.Namespace) -> list[Path]:
    """The scenes that the options of ``add_scenes`` choose, worlds made in --out. Raises ``InputError`` for none."""
    from dust3r_ros.errors import InputError
    from dust3r_ros.evaluation.suite.suite import scenes_at

    if arguments.data is None:
        say("no recorded scenes are measured: --data names no folder")
    scenes = scenes_at(arguments.data, None if arguments.no_worlds else arguments.out / "worlds", arguments.only, say)
    if not scenes:
        raise InputError(
            "there is no scene to measure: give --data DIR with scenes, or leave out --only and --no-worlds"
        )
    return scenes


def _add_job(tables: Any) -> None:
    """What the suite starts for each scene; not for people, so it has no line in the help."""
    parser = tables.add_parser("job")
    parser.add_argument("scene", type=Path)
    parser.add_argument("system")
    parser.add_argument("row", type=Path)
    parser.add_argument("--max-frames", type=command.positive)
    parser.add_argument("--protocols", nargs="+", default=[])
    parser.add_argument("--pictures", type=Path)
    parser.set_defaults(body=_job)
    command.add_mapper(parser)
    command.add_common(parser)


def _job(arguments: argparse.Namespace) -> int:
    """Writes the rows after each of them: one that is stopped leaves those before."""
    from dust3r_ros.evaluation.suite.job import measure
    from dust3r_ros.evaluation.suite.protocol_job import measure_protocol
    from dust3r_ros.io.files import write_text

    config = command.mapper_config(arguments)
    scene, limit, rows = arguments.scene, arguments.max_frames, []
    for protocol in arguments.protocols:
        rows += measure_protocol(scene, protocol, config, limit)
        write_text(arguments.row, json.dumps(rows, allow_nan=False))
    if not arguments.protocols:
        rows = [measure(scene, arguments.system, config, max_frames=limit, pictures=arguments.pictures)]
        write_text(arguments.row, json.dumps(rows, allow_nan=False))
    return 0


def _suite(arguments: argparse.Namespace) -> int:
    from dust3r_ros.evaluation.report.run_file import read_run
    from dust3r_ros.evaluation.suite.suite import measured

    config = command.mapper_config(arguments)
    before = read_run(arguments.against) if arguments.against else None
    start = perf_counter()
    plan = _plan(arguments)
    log = RunLog(arguments.out / "run.json", arguments, config)
    for row in measured(plan, say, start):
        log.add(row)
    _write(arguments, log.run, before)
    return int(
        any(str(row.get("note", "")).startswith("failed") and row["system"] == "two_view" for row in log.run.rows)
    )


def say(line: str) -> None:
    """A line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def _plan(arguments: argparse.Namespace) -> Any:
    from dust3r_ros.evaluation.suite.pycolmap_peer import colmap_python
    from dust3r_ros.evaluation.suite.suite import Plan, systems_of

    scenes = scenes_of(arguments)
    python, missing = None, ""
    if arguments.pycolmap is not None:
        python, missing = colmap_python(arguments.pycolmap)
        if missing:
            say(missing)
    return Plan(
        scenes,
        systems_of(
            checkpoint=bool(arguments.checkpoint),
            poses=not arguments.no_poses,
            opencv=not arguments.no_opencv,
            pycolmap=arguments.pycolmap is not None,
        ),
        timeout=arguments.timeout,
        budget=arguments.budget,
        max_frames=arguments.max_frames,
        protocols=not arguments.no_protocols,
        options=forwarded(arguments),
        pictures=arguments.out / "pictures",
        pycolmap=python,
    )


def forwarded(arguments: argparse.Namespace) -> Sequence[str]:
    """The mapper's options as they were given; the backend is the system's."""
    options = []
    for name in ("checkpoint", "config", "focal"):
        if getattr(arguments, name) is not None:
            options += [f"--{name}", str(getattr(arguments, name))]
    for setting in arguments.set:
        options += ["--set", setting]
    return options


def _command(arguments: argparse.Namespace) -> str:
    """What was run, as far as it says which scenes and how much of them."""
    options = ["--only", *arguments.only] if arguments.only else []
    options += ["--max-frames", str(arguments.max_frames)] if arguments.max_frames else []
    options += [*forwarded(arguments)]
    return f'make eval ARGS="{" ".join(options)}"' if options else "make eval"


def _write(arguments: argparse.Namespace, run: Any, before: Any) -> None:
    from dust3r_ros.evaluation.report.changes import text
    from dust3r_ros.evaluation.report.compare import compare
    from dust3r_ros.evaluation.report.page import html, into_page, markdown
    from dust3r_ros.evaluation.suite.suite import pictures_of
    from dust3r_ros.io.files import write_text

    comparison = compare(before, run) if before else None
    if comparison:
        print(text(comparison, before.about, run.about))
    page = arguments.out / "report.html"
    write_text(page, html(run, pictures_of(arguments.out / "pictures", run.rows), comparison))
    table = markdown(run, _command(arguments))
    write_text(arguments.out / "report.md", table)
    print(table)
    written = [arguments.out / "run.json", page, arguments.out / "report.md"]
    if arguments.page is not None:
        into_page(arguments.page, table)
        written.append(arguments.page)
    say(f"written: {', '.join(map(str, written))}")
