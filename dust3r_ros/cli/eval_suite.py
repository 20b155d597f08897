"""dust3r-eval suite, backends and sequences: map all available scenes with the mapper and its peers."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dust3r_ros.cli import command

if TYPE_CHECKING:
    from dust3r_ros.config import MapperConfig
    from dust3r_ros.evaluation.report.run_file import RunFile


def add_when(parser: argparse.ArgumentParser) -> None:
    """--date and --commit, which are not determined automatically."""
    parser.add_argument(
        "--date",
        default=os.environ.get("DUST3R_EVAL_DATE", ""),
        metavar="TEXT",
        help="date to print (default: $DUST3R_EVAL_DATE)",
    )
    parser.add_argument(
        "--commit", default=os.environ.get("DUST3R_EVAL_COMMIT", ""), metavar="TEXT",
        help="commit to print (default: $DUST3R_EVAL_COMMIT)",
    )  # fmt: skip


class RunLog:
    """Writes ``run``, all rows so far, after each row, so that an interrupted run keeps its results."""

    def __init__(self, path: Path, arguments: argparse.Namespace, config: MapperConfig, shared: str = "") -> None:
        """``arguments``: with those of ``add_when``. ``shared``: on what tasks ran at the same time, if they did. Time
        counts from here."""
        from dust3r_ros.evaluation.report.run_file import Machine, RunFile

        self._path, self._arguments, self._config = path, arguments, config
        self._shared = {"shared": shared} if shared else {}
        self._machine, self._start = Machine(), perf_counter()
        self.run = RunFile({})

    def add(self, row: dict[str, Any]) -> None:
        """Add a row; it replaces one with the same names. Raises ``OutputError``."""
        from dust3r_ros.config import as_mapping
        from dust3r_ros.evaluation.report.run_file import RunFile, about, key_of, write_run

        head = about(
            commit=self._arguments.commit,
            date=self._arguments.date,
            configuration=as_mapping(self._config),
            hardware={**self._machine.about(), **self._shared},
            seconds=perf_counter() - self._start,
        )
        self.run = RunFile(head, list({key_of(one): one for one in (*self.run.rows, row)}.values()))
        write_run(self._path, self.run)


_MAKER = "make backends"


def add_backends(tables: Any) -> None:
    """The subcommand's parser, added to the subparsers ``tables``."""
    parser = command.subcommand(
        tables, "backends", _backends,
        help="compare all backends on all scenes",
        description="Map recorded scenes and rendered worlds with two_view, with the network of --checkpoint, and with "
        "both, and compare them.",
    )  # fmt: skip
    add_scenes(parser, "results/backends")
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="time limit per process in seconds (default: 600)"
    )
    add_when(parser)
    command.add_mapper(parser)


def _backends(arguments: argparse.Namespace) -> int:
    from dust3r_ros.errors import ConfigError
    from dust3r_ros.evaluation.report.compare import backend_tables
    from dust3r_ros.evaluation.report.page import into_page, measured_by
    from dust3r_ros.evaluation.report.published import BACKENDS
    from dust3r_ros.evaluation.suite.suite import Plan, measured
    from dust3r_ros.io.files import write_text

    if not arguments.checkpoint:
        raise ConfigError("--checkpoint is not set; it must name the weights to compare with two_view")
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


def add_sequences(tables: Any) -> None:
    """The subcommand's parser, added to the subparsers ``tables``."""
    parser = command.subcommand(
        tables, "sequences", _sequences,
        help="trajectory, focal and depth errors on recorded scenes",
        description="Run the mapper on each scene and print its errors as a Markdown table.",
    )  # fmt: skip
    parser.add_argument("scenes", nargs="+", metavar="DIR", help="scene folder, or folder of scene folders")
    parser.add_argument("--out", metavar="DIR", help="write sequences.json and sequences.md there")
    parser.add_argument("--plots", metavar="DIR", help="write plots (<scene>.png) and the map's files there")
    parser.add_argument("--max-frames", type=command.positive, metavar="N", help="only the first frames of each scene")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    command.add_mapper(parser)


def _sequences(arguments: argparse.Namespace) -> int:
    from dust3r_ros.evaluation.run import markdown, write_tables
    from dust3r_ros.evaluation.scene import find_scenes

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


def add_suite(tables: Any) -> None:
    """The subcommands' parsers, added to the subparsers ``tables``."""
    parser = command.subcommand(
        tables, "suite", _suite,
        help="compare recorded and rendered scenes with other programs, and write a report",
        description="Map every scene and rendered world, run other programs on the same frames, write a report.",
    )  # fmt: skip
    add_scenes(parser, "results/eval")
    parser.add_argument("--no-poses", action="store_true", help="skip the second run without dense depth")
    parser.add_argument("--no-protocols", action="store_true", help="skip the published protocols")
    parser.add_argument("--no-opencv", action="store_true", help="skip the OpenCV baseline")
    parser.add_argument(
        "--pycolmap",
        type=Path,
        metavar="DIR",
        help="environment for pycolmap, which is installed there if missing or too old",
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="S", help="time limit per process in seconds (default: 300)"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=1770.0,
        metavar="S",
        help="time limit for the whole suite in seconds (default: 1770)",
    )
    parser.add_argument("--against", type=Path, metavar="JSON", help="compare with an earlier run")
    add_when(parser)
    command.add_cluster(parser, "scene and system", default="one scene after the other, without Ray")
    parser.add_argument("--again", action="store_true", help="with Ray: measure everything, finished or not")
    command.add_mapper(parser)
    _add_job(tables)


def add_scenes(parser: argparse.ArgumentParser, out: str) -> None:
    """The options that choose the scenes and what is written, by default into the folder ``out``."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="recorded scenes (default: rendered worlds only)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="only scenes whose name contains one of these"
    )
    parser.add_argument("--no-worlds", action="store_true", help="skip rendered worlds")
    parser.add_argument("--max-frames", type=command.positive, metavar="N", help="only the first frames of each scene")
    parser.add_argument(
        "--out", type=Path, default=Path(out), metavar="DIR", help="output folder (default: %(default)s)"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="Markdown page in which to replace the table")


def scenes_of(arguments: argparse.Namespace) -> list[Path]:
    """The scenes chosen by ``add_scenes``; worlds are rendered to --out. Raises ``InputError`` if there is none."""
    from dust3r_ros.errors import InputError
    from dust3r_ros.evaluation.suite.suite import scenes_at

    if arguments.data is None:
        say("no recorded scenes are measured: --data is not set")
    scenes = scenes_at(arguments.data, None if arguments.no_worlds else arguments.out / "worlds", arguments.only, say)
    if not scenes:
        raise InputError(
            "there is no scene to measure; give --data DIR with scenes, or leave out --only and --no-worlds"
        )
    return scenes


def _add_job(tables: Any) -> None:
    """The command that the suite starts for each scene; not for users, so the help does not list it."""
    parser = command.subcommand(tables, "job", _job)
    parser.add_argument("scene", type=Path)
    parser.add_argument("system")
    parser.add_argument("row", type=Path)
    parser.add_argument("--max-frames", type=command.positive)
    parser.add_argument("--protocols", nargs="+", default=[])
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--one-thread", action="store_true")
    command.add_mapper(parser)


def _job(arguments: argparse.Namespace) -> int:
    """Writes the rows after each protocol, so that an interrupted job keeps those before."""
    from dust3r_ros.evaluation.suite.job import measure, measure_protocol
    from dust3r_ros.geometry.processes import end_with_parent, use_one_thread
    from dust3r_ros.io.files import write_text

    end_with_parent()  # which cannot end it when it is killed itself
    if arguments.one_thread:
        use_one_thread()
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
    from dust3r_ros.errors import ConfigError
    from dust3r_ros.evaluation.report.run_file import read_run
    from dust3r_ros.evaluation.suite.suite import measured

    config = command.mapper_config(arguments)
    before = read_run(arguments.against) if arguments.against else None
    if arguments.address or arguments.workers:
        return _suite_on_cluster(arguments, config, before)
    for name in ("memory", "gpus", "again"):
        if getattr(arguments, name):
            raise ConfigError(f"--{name} is given, but the suite runs without Ray; give --address or --workers too")
    start = perf_counter()
    plan = _plan(arguments)
    log = RunLog(arguments.out / "run.json", arguments, config)
    for row in measured(plan, say, start):
        log.add(row)
    _write(arguments, log.run, before)
    return _failed(log.run)


def _suite_on_cluster(arguments: argparse.Namespace, config: MapperConfig, before: RunFile | None) -> int:
    """The same by tasks of Ray; what an earlier request finished is not measured again."""
    from dust3r_ros.config import as_mapping
    from dust3r_ros.evaluation.suite.suite import measured_on
    from dust3r_ros.fleet.cluster import need_ray
    from dust3r_ros.fleet.recordings import fingerprint
    from dust3r_ros.io.files import FileLock, make_folder

    cluster = command.cluster_of(arguments)
    need_ray(cluster)  # said before scenes are rendered
    whole = command.with_full_paths(arguments, "config", "checkpoint")
    named = [Path(given) for given in (whole.config, whole.checkpoint) if given]
    depends = {**as_mapping(config), "files": [fingerprint(path)[0] for path in named if path.exists()]}
    plan = replace(_plan(arguments), options=forwarded(whole))
    where = "a Ray cluster" if arguments.address else f"{arguments.workers} processes"
    log = RunLog(arguments.out / "run.json", arguments, config, where)
    tasks = make_folder(arguments.out / "tasks")
    lock = FileLock(tasks)
    try:
        with command.stop_on_signal() as stop:
            rows = measured_on(
                cluster, plan, tasks, depends, again=arguments.again, stopped=lambda: bool(stop), say=say
            )
    finally:
        lock.release()
    for row in rows:
        log.add(row)
    if stop.signal is not None:
        say("dust3r-eval: interrupted; the same command continues with what is missing")
        return 128 + stop.signal
    _write(arguments, log.run, before)
    return _failed(log.run)


def _failed(run: RunFile) -> int:
    """The exit code: whether one of our own scenes failed."""
    return int(any(str(row.get("note", "")).startswith("failed") and row["system"] == "two_view" for row in run.rows))


def say(line: str) -> None:
    """A line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def _plan(arguments: argparse.Namespace) -> Any:
    from dust3r_ros.evaluation.suite.peers import colmap_python
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
    """The mapper's options as given, without the backend, which the system chooses."""
    options = []
    for name in ("checkpoint", "config", "focal"):
        if getattr(arguments, name) is not None:
            options += [f"--{name}", str(getattr(arguments, name))]
    for setting in arguments.set:
        options += ["--set", setting]
    return options


def _command(arguments: argparse.Namespace) -> str:
    """The command that was run, with the options for scenes and mapper."""
    options = ["--only", *arguments.only] if arguments.only else []
    options += ["--max-frames", str(arguments.max_frames)] if arguments.max_frames else []
    options += ["--address", "..."] if arguments.address else []
    options += ["--workers", str(arguments.workers)] if arguments.workers else []
    options += [*forwarded(arguments)]
    return f'make eval ARGS="{" ".join(options)}"' if options else "make eval"


def _write(arguments: argparse.Namespace, run: Any, before: Any) -> None:
    from dust3r_ros.evaluation.report.compare import compare, text
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
