"""dust3r-eval run: a protocol of the literature on a data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from dust3r_ros.cli import command
from dust3r_ros.cli.run_log import RunLog, add_when


def add(tables: Any) -> None:
    """The subcommand's parser, added to the subparsers ``tables``."""
    parser = tables.add_parser(
        "run",
        help="protocols of the literature on a data set",
        description="Measure protocols on a data set that lies at PATH ('dust3r-eval where NAME' says how).",
    )
    parser.add_argument("name", metavar="NAME", help="of the data set")
    parser.add_argument("path", metavar="PATH", help="where it lies")
    parser.add_argument(
        "--protocol", nargs="+", default=["map"], metavar="P",
        help="map (default), localisation, multiview_pose_pnp, multiview_pose_alignment, monocular_depth, "
        "multi_view_depth, reconstruction, speed",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="recordings whose name contains one")
    parser.add_argument("--scenes", type=command.positive, metavar="N", help="only so many recordings")
    parser.add_argument("--size", type=command.positive, default=512, metavar="PX", help="long edge for pairs (512)")
    parser.add_argument("--every", type=command.positive, default=1, metavar="N", help="monocular: every n-th image")
    parser.add_argument("--max-frames", type=command.positive, metavar="N", help="map: only the first frames")
    add_when(parser)
    parser.set_defaults(body=_run)
    command.add_mapper(parser)
    command.add_common(parser)


def _run(arguments: argparse.Namespace) -> int:
    from dust3r_ros.evaluation.report.page import protocol_tables
    from dust3r_ros.evaluation.suite.protocol_runs import Asked, run_protocol

    config = command.mapper_config(arguments)
    log = RunLog(arguments.out, arguments, config)
    for protocol in arguments.protocol:
        recordings = _recordings(arguments)
        asked = Asked(recordings, config, arguments.size, arguments.every, arguments.max_frames)
        for row in run_protocol(protocol, asked):
            log.add(row)
            print(f"{row['scene']}, {row['protocol']}: {row.get('note') or 'measured'}", file=sys.stderr, flush=True)
    print("\n".join(table.markdown() for table in protocol_tables(log.run.rows)))
    print(f"written: {arguments.out}", file=sys.stderr)
    return 0


def _recordings(arguments: argparse.Namespace) -> Iterator[Any]:
    """Those asked for, read one after the other. Raises ``InputError`` where none is left."""
    from dust3r_ros.errors import InputError
    from dust3r_ros.evaluation.datasets import named

    found = named(arguments.name).open(arguments.path)
    chosen = (r for r in found if not arguments.only or any(part in r.name for part in arguments.only))
    count = 0
    for recording in islice(chosen, arguments.scenes):
        count += 1
        yield recording
    if not count:
        raise InputError(f"no recording in '{arguments.path}' is called like {' or '.join(arguments.only)}")
