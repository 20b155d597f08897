"""dust3r-eval: measure the mapper on data with ground truth."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dust3r_ros.cli import command, eval_run, eval_suite

_NAME = "dust3r-eval"
_PARTS = (
    eval_suite.add_suite,
    eval_suite.add_backends,
    eval_suite.add_sequences,
    eval_run.add_where,
    eval_run.add_run,
    eval_run.add_compare,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 measured, 1 a scene failed (or, if asked, a metric got worse), 2 usage or input, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    return command.guarded(_NAME, lambda: arguments.body(arguments), arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(prog=_NAME, description="Evaluate the mapper on data with ground truth.")
    tables = parser.add_subparsers(title="commands", dest="table", required=True, metavar="COMMAND")
    for add in _PARTS:
        add(tables)
    parser.add_argument("--version", action="version", version=f"dust3r_ros {command.__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
