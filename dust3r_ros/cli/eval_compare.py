"""dust3r-eval compare and report: what changed between runs; a page of what runs left."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dust3r_ros.cli import command


def add(tables: Any) -> None:
    """The subcommands' parsers, added to the subparsers ``tables``."""
    compare = tables.add_parser(
        "compare",
        help="what got better or worse between two runs, beyond noise",
        description="Compare two runs of the same scenes, metric by metric, paired over scenes.",
    )
    compare.add_argument("before", metavar="A.json", help="JSON file of the first run")
    compare.add_argument("after", metavar="B.json", help="JSON file of the second run")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a page, too")
    compare.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers (0)")
    compare.add_argument(
        "--resamples", type=command.positive, default=10_000, metavar="N", help="draws of the bootstrap (10000)"
    )
    compare.add_argument(
        "--fail-on-worse", action="store_true", help="exit code 1 where a metric got worse or a figure is gone"
    )
    compare.set_defaults(body=_compare)
    command.add_common(compare)
    report = tables.add_parser(
        "report",
        help="runs as one page beside the published figures",
        description="Write runs as one HTML page, beside the published figures. Later runs win over earlier ones.",
    )
    report.add_argument("runs", nargs="+", metavar="RUN.json", help="JSON files of runs")
    report.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page to write")
    report.set_defaults(body=_report)
    command.add_common(report)


def _compare(arguments: argparse.Namespace) -> int:
    from dust3r_ros.evaluation.report.changes import text
    from dust3r_ros.evaluation.report.compare import compare
    from dust3r_ros.evaluation.report.page import html
    from dust3r_ros.evaluation.report.run_file import read_run
    from dust3r_ros.io.files import write_text

    before, after = read_run(arguments.before), read_run(arguments.after)
    found = compare(before, after, seed=arguments.seed, resamples=arguments.resamples)
    print(text(found, before.about, after.about), end="")
    if arguments.html:
        write_text(arguments.html, html(after, comparison=found))
        print(f"written: {arguments.html}", file=sys.stderr)
    return int(arguments.fail_on_worse and found.is_worse)


def _report(arguments: argparse.Namespace) -> int:
    from dust3r_ros.evaluation.report.page import html
    from dust3r_ros.evaluation.report.run_file import merged, read_run
    from dust3r_ros.io.files import write_text

    write_text(arguments.out, html(merged([read_run(path) for path in arguments.runs])))
    print(f"written: {arguments.out}", file=sys.stderr)
    return 0
