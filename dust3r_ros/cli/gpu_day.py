"""python -m dust3r_ros.cli.gpu_day: check, measure, train and pack, in legs that each resume where the last ended.

Repeat the same command until the minutes are used up. Exit code: 0 done or the leg is over, 1 failed, 2 usage or
input, 143 ended by SIGTERM (the state is on disk).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dust3r_ros.cli import command

_NAME = "gpu-day"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code, as above."""
    return command.run(_NAME, parser(), _run, argv)


def parser() -> argparse.ArgumentParser:
    """The command-line parser."""
    made = command.Parser(prog=_NAME, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--minutes", type=float, required=True, metavar="M", help="total minutes of all legs")
    made.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="state to resume from; results in DIR/back"
    )
    made.add_argument(
        "--leg", type=float, default=9.0, metavar="L", help="minutes after which a call ends (default: 9)"
    )
    made.add_argument("--device", default="auto", help="auto (default), cuda or cpu")
    made.add_argument("--config", metavar="NAME", help="recipe (default: mini)")
    made.add_argument("--init", metavar="CHECKPOINT", help="initial weights (default: shipped weights that fit)")
    made.add_argument("--workers", type=int, metavar="N", help="processes that render worlds (default: measured)")
    command.add_common(made)
    return made


def _run(arguments: argparse.Namespace) -> int:
    # Read when torch is loaded, see cli/train.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from dust3r_ros.training.gpu_day import Plan, run

    plan = Plan(
        minutes=arguments.minutes, out=arguments.out, leg=arguments.leg, device=arguments.device,
        config=arguments.config, init=arguments.init, workers=arguments.workers,
    )  # fmt: skip
    with command.stop_on_signal() as stop:
        run(plan, lambda: bool(stop))
    return 0 if stop.signal is None else 128 + stop.signal


if __name__ == "__main__":
    sys.exit(main())
