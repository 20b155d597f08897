"""dust3r-eval backends: which backend should be the default, by measurement."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

from dust3r_ros.cli import command
from dust3r_ros.cli.eval_suite import add_scenes, forwarded, say, scenes_of
from dust3r_ros.cli.run_log import RunLog, add_when

_MAKER = "make backends"


def add(tables: Any) -> None:
    """The subcommand's parser, added to the subparsers ``tables``."""
    parser = tables.add_parser(
        "backends",
        help="every backend on every scene, and which should be the default",
        description="Map recorded scenes and rendered worlds with two_view, with the network of --checkpoint, and with "
        "both, and compare them.",
    )
    add_scenes(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("results/backends"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="Markdown page whose table is replaced")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds for one process (600)")
    add_when(parser)
    parser.set_defaults(body=_backends)
    command.add_mapper(parser)
    command.add_common(parser)


def _backends(arguments: argparse.Namespace) -> int:
    from dust3r_ros.errors import ConfigError
    from dust3r_ros.evaluation.report.backends import backend_tables
    from dust3r_ros.evaluation.report.page import into_page, measured_by
    from dust3r_ros.evaluation.report.scenes import BACKENDS
    from dust3r_ros.evaluation.suite.suite import Plan, measured
    from dust3r_ros.io.files import write_text

    if not arguments.checkpoint:
        raise ConfigError("no weights to measure two_view against: give --checkpoint, a name or a path")
    config = command.mapper_config(arguments)
    start = perf_counter()
    plan = Plan(
        scenes_of(arguments),
        BACKENDS,
        timeout=arguments.timeout,
        budget=float("inf"),
        max_frames=arguments.max_frames,
        options=forwarded(arguments),
        pictures=arguments.out / "pictures",
    )
    log = RunLog(arguments.out / "run.json", arguments, config)
    for row in measured(plan, say, start):
        log.add(row)
    text = measured_by(_MAKER, log.run, f"weights `{config.checkpoint}`", backend_tables(log.run.rows))
    write_text(arguments.out / "report.md", text)
    print(text)
    if arguments.page is not None:
        into_page(arguments.page, text, _MAKER, "Which backend")
    return int(any(str(row.get("note", "")).startswith("failed") for row in log.run.rows))
