"""Maps a fixed set of inputs and prints a digest of each product, to show that a change leaves the maps the same.

python benchmarks/digests.py [--only NAME ...] [--out FILE] [--against FILE] [--modules]

Digests are comparable only on one machine: sums differ on another processor, or with more threads.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tools")]

from live_cases import RECORDINGS, prepare  # noqa: E402
from products import differing, digest, digests  # noqa: E402
from way import Way  # noqa: E402

from dust3r_ros.cli import map as map_command  # noqa: E402
from dust3r_ros.io.files import write_text  # noqa: E402
from dust3r_ros.node.tools.demo import environment  # noqa: E402
from dust3r_ros.session.session import Session  # noqa: E402

_IMAGES = 60  # per camera
_EXPORTS = {"--tum": "poses.txt", "--colmap": "colmap", "--nerfstudio": "nerfstudio", "--grid": "grid"}


@dataclass(frozen=True)
class Case:
    """A run of ``dust3r-map`` with ``options``, on a rendered recording or a recorded scene.

    ``after``: the case whose map it continues. ``exported``: the map is also exported for other programs.
    """

    name: str
    source: str
    options: Sequence[str] = ()
    after: str = ""
    exported: bool = False


CASES = (
    Case("walk", "walk", exported=True),
    Case("loop", "loop", ("--set", "fusion=true")),
    Case("pair", "pair", ("--topic", "/left/image_raw", "--topic", "/right/image_raw")),
    Case("kitchen", "7scenes_redkitchen", ("--max-frames", str(_IMAGES))),
    Case("cabinet", "tum_fr3_cabinet", ("--max-frames", str(_IMAGES))),
    Case("continued", "7scenes_redkitchen", ("--every", "3", "--max-frames", str(_IMAGES)), after="kitchen"),
    Case("located", "walk", ("--localize-only",), after="walk"),
    Case("network", "walk", ("--backend", "dust3r", "--checkpoint", "mini", "--every", "4")),
    Case("both", "walk", ("--backend", "both", "--checkpoint", "mini", "--every", "4")),
)


def main() -> int:
    """Exit code: 1 when a digest differs from that in the file to compare with, or a run failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data", help="folder of recorded scenes")
    parser.add_argument("--recordings", type=Path, default=ROOT / "results/live/recordings", help="rendered walks")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of " + ", ".join(case.name for case in CASES))
    parser.add_argument("--out", type=Path, default=ROOT / "results/digests.txt", help="file to write")
    parser.add_argument("--against", type=Path, metavar="FILE", help="file of another run to compare with")
    parser.add_argument("--modules", action="store_true", help="count the modules that an image passes through instead")
    arguments = parser.parse_args()
    before = _read(arguments.against) if arguments.against else None
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.modules:
            return _count_modules(arguments, Path(scratch))
        found = _map_all(arguments, Path(scratch))
    write_text(arguments.out, "".join(f"{value}  {name}\n" for name, value in found.items()))
    return 0 if before is None else _compare(before, found, arguments.only)


def _map_all(arguments: argparse.Namespace, scratch: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for case in CASES:
        if arguments.only and case.name not in arguments.only:
            continue
        begin = time.monotonic()
        words = _words(case, arguments, scratch)
        if words is None:
            print(f"{case.name}: skipped, {case.source} is not there")
            continue
        _start("map", *words)
        folder = scratch / case.name
        if case.exported:
            (folder / "exported").mkdir()
            for option, name in _EXPORTS.items():
                _start("export", str(folder / "map.db"), "--quiet", option, str(folder / "exported" / name))
        exported = sorted(path for path in (folder / "exported").rglob("*") if path.is_file())
        products = digests(folder) | {str(path.relative_to(folder)): digest(path.read_bytes()) for path in exported}
        told = {f"{case.name}/{name}": value for name, value in products.items()}
        found |= told
        print(f"{case.name}: {len(told)} products in {time.monotonic() - begin:.0f} s")
        print("".join(f"  {value}  {name}\n" for name, value in told.items()), end="", flush=True)
    return found


def _words(case: Case, arguments: argparse.Namespace, scratch: Path) -> list[str] | None:
    """The arguments of ``dust3r-map``; None where the case cannot run."""
    if case.source in RECORDINGS:
        made = prepare(case.source, arguments.recordings, arguments.data, _IMAGES)
        path = made.bag if made else None
    else:
        path = arguments.data / case.source
    if path is None or not path.is_dir():
        return None
    options = list(case.options)
    if case.after:
        options += ["--load", str(scratch / case.after / "map.db")]
    return [str(path), "--out", str(scratch / case.name), "--quiet", *options]


def _start(program: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", f"dust3r_ros.cli.{program}", *words], check=True, env=environment())


def _count_modules(arguments: argparse.Namespace, scratch: Path) -> int:
    """Count the modules that an image passes through, in this process."""
    words = _words(CASES[0], arguments, scratch)
    assert words is not None, "rendered walks are always available"
    counts: dict[str, list[int]] = {"tracked frame": [], "keyframe": []}
    longest: dict[str, set[str]] = {kind: set() for kind in counts}
    way, process = Way(), Session.process

    def watched(session: Session, *values: Any, **more: Any) -> Any:
        before = session.mapper.counts
        way.modules.clear()
        update = process(session, *values, **more)
        seen, after = set(way.modules), session.mapper.counts
        kind = "keyframe" if after.keyframes > before.keyframes else "tracked frame"
        if before.keyframes and after.tracked > before.tracked:
            counts[kind].append(len(seen))
            longest[kind] = max(longest[kind], seen, key=len)
        return update

    Session.process = watched  # type: ignore[method-assign]
    way.start()
    try:
        code = map_command.main(words)
    finally:
        way.stop()
    for kind, found in counts.items():
        print(f"a {kind} passes through {median(found):.0f} modules, at most {max(found)} ({len(found)} seen)")
        print("".join(f"  {name}\n" for name in sorted(longest[kind])), end="")
    return code


def _read(path: Path) -> dict[str, str]:
    pairs = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: digest for digest, name in pairs}


def _compare(before: dict[str, str], found: dict[str, str], only: Sequence[str] | None) -> int:
    wanted = {name: value for name, value in before.items() if not only or name.split("/")[0] in only}
    other = differing(wanted, found)
    print("not the same:" if other else f"{len(found)} products are the same")
    print("".join(f"  {name}: {before.get(name, 'none')} before, {found.get(name, 'none')} now\n" for name in other))
    return int(bool(other))


if __name__ == "__main__":
    sys.exit(main())
