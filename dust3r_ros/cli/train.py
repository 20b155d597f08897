"""dust3r-train: train the network on rendered worlds or on training sets."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dust3r_ros.cli import command
from dust3r_ros.errors import ConfigError

if TYPE_CHECKING:
    from dust3r_ros.training.log import Progress
    from dust3r_ros.training.session import Options, Outcome

_NAME = "dust3r-train"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 trained, 1 the run failed, 2 usage or input, 130 or 143 interrupted (the state is saved)."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["where"]:
        asked = _where_parser().parse_args(given[1:])
        return command.guarded(_NAME, lambda: _where(asked.name), debug=False)
    return command.run(_NAME, _parser(), lambda arguments: _run(arguments, shlex.join([_NAME, *given])), given)


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(
        prog=_NAME,
        description="Train the network, by default on worlds rendered on the fly.",
        epilog="'dust3r-train where' lists the supported training sets, 'where NAME' shows the layout of one. "
        "Several processes: torchrun --nproc-per-node N --no-python dust3r-train …",
    )
    parser.add_argument(
        "--config",
        metavar="NAME",
        help="tiny (default), micro, mini, small, base, large, or a YAML file in the same format",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="run folder, created if missing")
    parser.add_argument("--resume", action="store_true", help="resume the run in --out exactly where it stopped")
    long = parser.add_mutually_exclusive_group()
    long.add_argument(
        "--minutes", type=float, metavar="M", help="total training time over all sessions (default: the recipe's steps)"
    )
    long.add_argument("--steps", type=command.positive, metavar="N", help="total number of steps")
    parser.add_argument(
        "--data", action="append", default=[], metavar="NAME=PATH",
        help="training set on disk, or 'worlds' (default); several contribute equally many pairs",
    )  # fmt: skip
    parser.add_argument(
        "--task", choices=("pairs", "completion"), help="task: pointmap pairs (default) or pretraining by completion"
    )
    parser.add_argument("--init", metavar="CHECKPOINT", help="initial weights: .pth file or folder")
    parser.add_argument(
        "--encoder", metavar="FILE", help="start the encoder from a vision transformer: a file, or timm:NAME"
    )
    _add_machine(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="override the recipe; pairs, rate, steps and head apply to every stage",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", help="the same as --set seed=N")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    command.add_common(parser)
    return parser


def _add_machine(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    machine.add_argument("--workers", type=int, metavar="N", help="data loader processes (default: the recipe's)")
    machine.add_argument(
        "--cache", type=Path, metavar="DIR", help="cache folder for data set indices (default: ~/.cache)"
    )
    machine.add_argument(
        "--threads", type=command.positive, metavar="N", help="CPU threads (default: those not used by workers)"
    )


def _where_parser() -> argparse.ArgumentParser:
    parser = command.Parser(
        prog=f"{_NAME} where", description="List training sets, or show the expected directory layout of one."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="training set (default: list all)")
    return parser


def _where(name: str | None) -> int:
    from dust3r_ros.training.datasets import summary, where

    print((summary() if name is None else where(name)).rstrip())
    return 0


def _options(arguments: argparse.Namespace, line: str) -> Options:
    changes = command.settings(arguments.set)
    if arguments.seed is not None:
        changes["seed"] = arguments.seed
    if arguments.workers is not None and arguments.workers < 0:
        raise ConfigError(f"--workers is {arguments.workers}; it must be at least 0")
    # Read when torch is loaded: threads that spin while they wait for each other take time from the processes that
    # make batches, and from everything else; on a busy machine a step then takes ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Heavy imports only now, so that bad arguments are reported at once.
    try:
        from dust3r_ros.training.session import Options
    except ImportError as error:
        raise ConfigError(f"training needs torch ({error}); install the extra 'train'") from error

    names = ("config", "minutes", "steps", "resume", "task", "init", "encoder", "device", "workers", "threads", "cache")
    return Options(
        out=Path(arguments.out),
        data=tuple(arguments.data),
        changes=changes,
        command=line,
        **{name: getattr(arguments, name) for name in names},
    )


def _run(arguments: argparse.Namespace, line: str) -> int:
    options = _options(arguments, line)
    from dust3r_ros.training.log import warn
    from dust3r_ros.training.session import train

    with command.stop_on_signal() as stop, _Bar(arguments.quiet) as bar:
        outcome = train(options, lambda: bool(stop), bar.report, warn)
    if stop.signal is not None and not outcome.finished:
        print(f"{_NAME}: interrupted at step {outcome.progress.step}; continue with --resume", file=sys.stderr)
        return 128 + stop.signal
    if not arguments.quiet and bar.reported:
        print(_summary(outcome, options.out), flush=True)
    return 0


def _summary(outcome: Outcome, folder: Path) -> str:
    progress = outcome.progress
    name = "regression" if "regression" in outcome.figures else "loss"
    before, now = outcome.first_figures.get(name, float("nan")), outcome.figures.get(name, float("nan"))
    words = [
        f"{progress.step} steps, {progress.position} pairs, {progress.seconds / 60:.1f} minutes",
        f"held-out {name} {before:.4f} -> {now:.4f}" + (f" (x {now / before:.2f})" if before > 0 else ""),
    ]
    if progress.skipped:
        words.append(f"{progress.skipped} samples could not be used")
    if progress.bad:
        words.append(f"{progress.bad} batches had no finite gradient and were skipped")
    return "; ".join(words) + f"\nweights in {folder / 'model'}, model card in {folder / 'MODEL_CARD.md'}"


class _Bar:
    """The progress bar of the first process."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self.reported = quiet, False
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def report(self, progress: Progress, step: Any, figures: dict[str, float]) -> None:
        """Called after each step and evaluation."""
        self.reported = True
        if self._quiet:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=progress.total, initial=progress.step, unit="step", dynamic_ncols=True)
        self._bar.total, self._bar.n = progress.total, progress.step
        shown: dict[str, object] = {"stage": min(progress.stage + 1, len(progress.plan))}
        if step is not None:
            shown["loss"] = f"{step.loss:.3f}"
        for name in ("regression", "loss"):
            if name in figures:
                shown["held_out"] = f"{figures[name]:.3f}"
                break
        shown["waiting"] = f"{100 * progress.waiting / max(progress.seconds, 1e-9):.0f}%"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.refresh() if step is None else self._bar.update(0)


if __name__ == "__main__":
    sys.exit(main())
