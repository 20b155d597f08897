"""dust3r-weights: convert a checkpoint for deployment: half precision, or graphs for ONNX Runtime."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dust3r_ros.cli import command
from dust3r_ros.errors import ConfigError, OutputError

_NAME = "dust3r-weights"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 written, 1 it could not be written, 2 usage or input."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["join"]:
        return command.run(_NAME, _join_parser(), _join, given[1:])
    return command.run(_NAME, _parser(), _run, given)


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(
        prog=_NAME,
        description="Convert weights. Each output is a folder that can be given as --checkpoint.",
        epilog="'dust3r-weights join DIR' joins weights that were split into pieces for transfer.",
    )
    parser.add_argument(
        "checkpoint", nargs="?", metavar="CHECKPOINT",
        help="name of shipped weights, .pth file or folder; without it, list the names",
    )  # fmt: skip
    parser.add_argument("--half", metavar="DIR", help="write config.json and model.safetensors in float16")
    parser.add_argument("--onnx", metavar="DIR", help="write encoder.onnx and decoder.onnx for the CPU (extra: onnx)")
    parser.add_argument(
        "--int8", action="store_true", help="with --onnx: quantize to 8 bits; faster, points differ by 1 to 2 percent"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    command.add_common(parser)
    return parser


def _join_parser() -> argparse.ArgumentParser:
    parser = command.Parser(prog=f"{_NAME} join", description="Join split weights into one checkpoint folder.")
    parser.add_argument("pieces", type=Path, metavar="DIR", help="folder with pieces.json and weights.00, …")
    parser.add_argument("--out", type=Path, metavar="DIR", help="checkpoint folder to write (default: DIR/model)")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    command.add_common(parser)
    return parser


def _join(arguments: argparse.Namespace) -> int:
    _check_torch()
    from dust3r_ros.training.run_folder import join_weights

    folder = join_weights(arguments.pieces, arguments.out or arguments.pieces / "model")
    _say(arguments, str(folder))
    return 0


def _check_torch() -> None:
    from dust3r_ros.backends.dust3r import check_torch

    check_torch(_NAME)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.checkpoint is None and not (arguments.half or arguments.onnx or arguments.int8):
        return _list()
    _check(arguments)
    _check_torch()
    from dust3r_ros.network.checkpoint import load_checkpoint, save_checkpoint

    model = load_checkpoint(arguments.checkpoint)
    if arguments.half:
        save_checkpoint(model, arguments.half, half=True)
        _say(arguments, arguments.half)
    if arguments.onnx:
        from dust3r_ros.network.onnx import export_onnx

        export_onnx(model, arguments.onnx, int8=arguments.int8)
        _say(arguments, arguments.onnx)
    return 0


def _list() -> int:
    """Print name and folder of the shipped weights."""
    _check_torch()
    from dust3r_ros.network.checkpoint import shipped

    for name, folder in shipped().items():
        print(f"{name}  {folder}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Check the options before the weights are read. Raises ``ConfigError`` or ``OutputError``."""
    if arguments.checkpoint is None:
        raise ConfigError("no CHECKPOINT to convert; name one, as in: dust3r-weights mini --half DIR")
    if not (arguments.half or arguments.onnx):
        raise ConfigError("nothing to write; give at least one of --half, --onnx")
    if arguments.int8 and not arguments.onnx:
        raise ConfigError("--int8 quantizes the ONNX graphs; it needs --onnx DIR")
    for folder in (arguments.half, arguments.onnx):
        if folder and Path(folder).exists() and not Path(folder).is_dir():
            raise OutputError(f"'{folder}' is a file; it must be a folder or not exist yet")


def _say(arguments: argparse.Namespace, folder: str) -> None:
    if not arguments.quiet:
        size = sum(path.stat().st_size for path in Path(folder).iterdir() if path.is_file())
        print(f"{folder}  {size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
