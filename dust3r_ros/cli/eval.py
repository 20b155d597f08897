"""dust3r-eval: measure the mapper on data with ground truth: on published data sets by their protocols, here; on scenes
beside peers, in ``eval_suite``. And what changed between two runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dust3r_ros.cli import command, eval_suite
from dust3r_ros.cli.eval_suite import RunLog, add_when

if TYPE_CHECKING:
    from dust3r_ros.evaluation.datasets import Recording
    from dust3r_ros.evaluation.protocols.registry import Protocol

_NAME = "dust3r-eval"


def add_where(tables: Any) -> None:
    """The subcommand's parser, added to the subparsers ``tables``."""
    where = command.subcommand(
        tables, "where", _where,
        help="show where to get a data set and the expected directory layout",
        description="Show where to get a data set, under which licence, and the expected directory layout. Nothing is"
        " downloaded.",
    )  # fmt: skip
    where.add_argument("name", nargs="?", metavar="NAME", help="data set (default: list all)")
    where.add_argument("--check", metavar="PATH", help="check a local copy: read everything except images and count it")


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
    """The number of ground-truth points beside the views, for the recording's line; "" without any."""
    from dust3r_ros.errors import InputError
    from dust3r_ros.evaluation.protocols.reconstruction import reference_of

    if "points" not in recording.truth:
        return ""
    try:
        return f", {len(reference_of(recording).points)} measured points"
    except InputError as error:
        name = recording.dataset
        raise InputError(f"{error} ('dust3r-eval where {name}' prints the expected directory layout)") from error


def add_run(tables: Any) -> None:
    """The subcommand's parser, added to the subparsers ``tables``."""
    parser = command.subcommand(
        tables, "run", _run,
        help="run published evaluation protocols on a data set",
        description="Run evaluation protocols on the data set at PATH. 'dust3r-eval where NAME' prints the expected"
        " directory layout and the protocols for it.",
    )  # fmt: skip
    parser.add_argument("name", metavar="NAME", help="name of the data set")
    parser.add_argument("path", metavar="PATH", help="path to the data set")
    parser.add_argument(
        "--protocol", nargs="+", default=["map"], metavar="P",
        help="protocols listed by 'dust3r-eval where NAME', or 'all' (default: map)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write an HTML page, next to published figures")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PART", help="only recordings whose name contains one of these"
    )
    parser.add_argument(
        "--scenes", type=command.positive, metavar="N",
        help="maximum number of recordings; localisation: of scenes with train and test recordings",
    )  # fmt: skip
    parser.add_argument(
        "--size",
        type=command.positive,
        default=512,
        metavar="PX",
        help="long edge of the images for pair protocols (default: 512)",
    )
    parser.add_argument(
        "--every", type=command.positive, default=1, metavar="N", help="monocular protocols: use every n-th image"
    )
    parser.add_argument("--max-frames", type=command.positive, metavar="N", help="map protocol: only the first frames")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_when(parser)
    command.add_mapper(parser)


def _run(arguments: argparse.Namespace) -> int:
    from dust3r_ros.backends import make_backend
    from dust3r_ros.evaluation.datasets import named
    from dust3r_ros.evaluation.protocols.registry import Asked
    from dust3r_ros.evaluation.report.page import html, protocol_tables
    from dust3r_ros.io.files import write_text

    if arguments.checkpoint and arguments.backend is None:
        # Otherwise two_view would be measured, without the weights
        arguments.backend = "mono" if arguments.checkpoint.endswith(".onnx") else "dust3r"
    config = command.mapper_config(arguments)
    dataset = named(arguments.name)
    protocols = _protocols(arguments.protocol, dataset.name)
    dataset.open(arguments.path)  # a bad path is reported before weights are loaded
    log, backend = RunLog(arguments.out, arguments, config), make_backend(config)
    for protocol in protocols:
        with _Progress(protocol.name, arguments.quiet) as progress:
            chosen = progress.watched(_recordings(arguments, dataset.open(arguments.path)))
            asked = Asked(
                chosen, config, backend, arguments.size, arguments.every, arguments.max_frames, arguments.scenes
            )
            for row in protocol.run(asked):
                log.add(row)
                progress.say(f"{row['scene']}, {row['protocol']}: {row.get('note') or 'measured'}")
    print("\n".join(table.markdown() for table in protocol_tables(log.run.rows)))
    if arguments.page:
        write_text(arguments.page, html(log.run))
    print(f"written: {', '.join(str(path) for path in (arguments.out, arguments.page) if path)}", file=sys.stderr)
    return 0


def _protocols(names: Iterable[str], dataset: str) -> list[Protocol]:
    """The protocols with these names, each once; "all" means all that the data set's ground truth allows."""
    from dust3r_ros.evaluation.protocols.registry import JUDGED, protocol_named

    found: dict[str, Protocol] = {}
    for name in names:
        for one in JUDGED[dataset] if name == "all" else (name,):
            found[one] = protocol_named(one)
    return list(found.values())


def _recordings(arguments: argparse.Namespace, found: Iterable[Recording]) -> Iterator[Recording]:
    """The chosen recordings, read one after the other. Raises ``InputError`` if there is none."""
    from dust3r_ros.errors import InputError

    names: list[str] = []
    count = 0
    for recording in _called(found, arguments.only, names):
        count += 1
        yield recording
    if not names:
        raise InputError(f"'{arguments.path}' has no recording")
    if not count:
        raise InputError(
            f"no recording in '{arguments.path}' has {' or '.join(arguments.only)} in its name; "
            f"there are {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
        )


def _called(found: Iterable[Recording], parts: list[str], names: list[str]) -> Iterator[Recording]:
    for recording in found:
        names.append(recording.name)
        if not parts or any(part in recording.name for part in parts):
            yield recording


class _Progress:
    """A bar that counts the images that a protocol reads; messages appear above it."""

    def __init__(self, title: str, quiet: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit="image", desc=title, disable=quiet or not sys.stderr.isatty(), leave=False)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def say(self, line: str) -> None:
        """A line on stderr."""
        self._bar.write(line, file=sys.stderr)

    def watched(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        """The recordings, with each image counted when it is read."""
        for recording in recordings:
            self._bar.set_postfix_str(recording.name)
            views = tuple(replace(view, read_image=self._counting(view.read_image)) for view in recording.views)
            yield replace(recording, views=views)

    def _counting(self, read: Any) -> Any:
        def counted() -> Any:
            image = read()
            self._bar.update()
            return image

        return counted


def add_compare(tables: Any) -> None:
    """The subcommands' parsers, added to the subparsers ``tables``."""
    compare = command.subcommand(
        tables, "compare", _compare,
        help="compare two runs and report significant changes",
        description="Compare two runs of the same scenes, metric by metric, paired over scenes.",
    )  # fmt: skip
    compare.add_argument("before", metavar="A.json", help="JSON file of the first run")
    compare.add_argument("after", metavar="B.json", help="JSON file of the second run")
    compare.add_argument("--html", type=Path, metavar="FILE", help="also write the comparison as an HTML page")
    compare.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the bootstrap (default: 0)")
    compare.add_argument(
        "--resamples",
        type=command.positive,
        default=10_000,
        metavar="N",
        help="resamples of the bootstrap (default: 10000)",
    )
    compare.add_argument("--fail-on-worse", action="store_true", help="exit with 1 if a metric got worse or is missing")
    report = command.subcommand(
        tables, "report", _report,
        help="write an HTML page of runs, next to published figures",
        description="Write runs as one HTML page, next to published figures. Later runs replace earlier ones.",
    )  # fmt: skip
    report.add_argument("runs", nargs="+", metavar="RUN.json", help="JSON files of runs")
    report.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page to write")


def _compare(arguments: argparse.Namespace) -> int:
    from dust3r_ros.evaluation.report.compare import compare, text
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


_PARTS = (
    eval_suite.add_suite,
    eval_suite.add_backends,
    eval_suite.add_sequences,
    add_where,
    add_run,
    add_compare,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 measured, 1 a scene failed (or, if asked, a metric got worse), 2 usage or input, 130 interrupted."""
    return command.run(_NAME, _parser(), lambda arguments: arguments.body(arguments), argv)


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(prog=_NAME, description="Evaluate the mapper on data with ground truth.")
    tables = parser.add_subparsers(title="commands", dest="table", required=True, metavar="COMMAND")
    for add in _PARTS:
        add(tables)
    for added in tables.choices.values():
        command.add_common(added)
    parser.add_argument("--version", action="version", version=f"dust3r_ros {command.__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
