"""A run of an evaluation, written row by row, and what its command line says of when and of what."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dust3r_ros.config import MapperConfig


def add_when(parser: argparse.ArgumentParser) -> None:
    """--date and --commit, which nothing here finds out by itself."""
    parser.add_argument(
        "--date",
        default=os.environ.get("DUST3R_EVAL_DATE", ""),
        metavar="TEXT",
        help="when (or $DUST3R_EVAL_DATE)",
    )
    parser.add_argument(
        "--commit", default=os.environ.get("DUST3R_EVAL_COMMIT", ""), metavar="TEXT",
        help="of what (or $DUST3R_EVAL_COMMIT)",
    )  # fmt: skip


class RunLog:
    """Writes ``run``, all rows so far, after each of them, so that one that is stopped leaves what it has."""

    def __init__(self, path: Path, arguments: argparse.Namespace, config: MapperConfig) -> None:
        """``arguments`` are those of ``add_when``. Time counts from here."""
        from dust3r_ros.evaluation.report.machine import Machine
        from dust3r_ros.evaluation.report.run_file import RunFile

        self._path, self._arguments, self._config = path, arguments, config
        self._machine, self._start = Machine(), perf_counter()
        self.run = RunFile({})

    def add(self, row: dict[str, Any]) -> None:
        """One more row, in place of one with the same names. Raises ``OutputError``."""
        from dust3r_ros.config import as_mapping
        from dust3r_ros.evaluation.report.run_file import RunFile, about, key_of, write_run

        head = about(
            commit=self._arguments.commit,
            date=self._arguments.date,
            configuration=as_mapping(self._config),
            hardware=self._machine.about(),
            seconds=perf_counter() - self._start,
        )
        self.run = RunFile(head, list({key_of(one): one for one in (*self.run.rows, row)}.values()))
        write_run(self._path, self.run)
