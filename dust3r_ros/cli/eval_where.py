"""dust3r-eval where: what to fetch of a data set, from whom, and how it must lie."""

from __future__ import annotations

import argparse
from typing import Any

from dust3r_ros.cli import command


def add(tables: Any) -> None:
    """The subcommand's parser, added to the subparsers ``tables``."""
    where = tables.add_parser(
        "where",
        help="what to fetch of a data set, and how it must lie",
        description="Say what to fetch of a data set, from whom, under which licence, and how it must lie. Nothing is"
        " downloaded.",
    )
    where.add_argument("name", nargs="?", metavar="NAME", help="of the data set; without one: all of them, a line each")
    where.add_argument("--check", metavar="PATH", help="read what lies there, images left out, and count it")
    where.set_defaults(body=_where)
    command.add_common(where)


def _where(arguments: argparse.Namespace) -> int:
    from dust3r_ros.errors import InputError
    from dust3r_ros.evaluation.datasets import DATASETS, named
    from dust3r_ros.evaluation.protocols.registry import JUDGED

    if arguments.name is None:
        if arguments.check:
            raise InputError(f"--check '{arguments.check}' needs the name of a data set: {', '.join(DATASETS)}")
        width = max(map(len, DATASETS))
        for dataset in DATASETS.values():
            print(f"{dataset.name:{width}}  {dataset.title}, {dataset.licence}")
        return 0
    dataset = named(arguments.name)
    if not arguments.check:
        print(dataset.where(), end="")
        print(f"\nProtocols of 'dust3r-eval run {dataset.name} PATH': {', '.join(JUDGED[dataset.name])}")
        return 0
    for recording in dataset.open(arguments.check):
        points = _measured_points(recording)
        posed = sum(view.w_T_c is not None for view in recording.views)
        deep = sum(view.read_depth is not None for view in recording.views)
        split = f", {recording.split}" if recording.split else ""
        print(f"{recording.name}: {len(recording.views)} images, {posed} with a pose, {deep} with depth{points}{split}")
    return 0


def _measured_points(recording: Any) -> str:
    """What a protocol compares with that is no view: how many points, for the line of the recording."""
    from dust3r_ros.errors import InputError
    from dust3r_ros.evaluation.protocols.dtu import reference_of

    if "points" not in recording.truth:
        return ""
    try:
        return f", {len(reference_of(recording).points)} measured points"
    except InputError as error:
        name = recording.dataset
        raise InputError(f"{error} ('dust3r-eval where {name}' says how it must lie)") from error
