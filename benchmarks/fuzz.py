"""Thousands of damaged files and messages, at every door. Each must give a right result or an error in a sentence.

    python benchmarks/fuzz.py [--cases 10000] [--only DOOR ...] [--seed N] [--page docs/reliability.md]

A case is a valid input, damaged as its number says (``fuzz_damage``), and read in another process. A finding is

- crash: any exception but a ``Dust3rRosError``, or an error that is not one sentence which names what is wrong;
- hang: more than a second of the processor longer than the undamaged input takes, or ten on the clock;
- memory: more than half a gigabyte;
- wrong: a result that cannot be right, by the door's judge (``fuzz_doors``);
- lost: a file that was changed or removed by reading it.

``--only map --seed 1234`` repeats one case and shows its traceback.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test/support"), str(Path(__file__).resolve().parent)]

from dust3r_ros.geometry.processes import memory_held  # noqa: E402

CASES = 10_000
SECONDS, MIB = 1.0, 512.0  # beyond the undamaged input's
KILL_S = 10.0
FAST = 8
_ADDRESSES = 4 << 30  # of memory that may be asked for: keeps the machine alive
_LONGEST = 2000  # characters of a sentence
KINDS = ("crash", "hang", "memory", "wrong", "lost")
BEGIN, END = "<!-- fuzz: begin, made by benchmarks/fuzz.py -->", "<!-- fuzz: end -->"


def doors() -> dict[str, Any]:
    """Every door by name; those that lack a package are left out."""
    import fuzz_doors as f
    import fuzz_recordings as r

    found: list[Any] = [f.Images(), f.Video(), r.Mcap(), r.Sqlite3(), r.Ros1(), r.Messages(), f.CameraYaml()]
    found += [f.Parameters(), f.Trajectory(), r.Manifest(), r.Map()]
    if find_spec("torch") and find_spec("safetensors"):
        found += [f.Checkpoint(), f.Pth()]
    else:
        print("torch or safetensors is not installed: checkpoints are left out", file=sys.stderr)
    try:
        from fuzz_node import Node

        found.append(Node())
    except ImportError:
        print("ROS is not installed: the node's messages are left out", file=sys.stderr)
    return {door.name: door for door in found}


# In the other process


@dataclass
class Outcome:
    """``kind``: read, refused or a finding; ``text``: the sentence or the traceback; ``mib``: memory it took."""

    kind: str
    text: str = ""
    seconds: float = 0.0
    mib: float = 0.0


class Worker:
    """Runs cases of one door, one after the other, in this process."""

    def __init__(self, door: Any, folder: Path) -> None:
        self._door, self._seed, self._case = door, folder / "seed", folder / "case"
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if not self._seed.is_dir():
            self._seed.mkdir(parents=True)
            door.make(self._seed)
        self._put()
        door.open(self._case)  # what is loaded and compiled once
        start = time.process_time()
        self._good = door.open(self._case)
        self.seconds = time.process_time() - start
        door.judge(self._good, self._good, set())
        most = int(memory_held("VmSize")) + _ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

    def run(self, seed: int) -> Outcome:
        """One case."""
        self._put()
        how = self._door.damage(self._case, Random(f"{self._door.name} {seed}"))
        before = _contents(self._case)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        held, start = memory_held(), time.process_time()
        outcome = self._opened(how)
        outcome.seconds = time.process_time() - start
        outcome.mib = (memory_held("VmHWM") - held) / 2**20
        if _contents(self._case) != before and outcome.kind in ("read", "refused"):
            outcome.kind, outcome.text = "lost", f"reading changed {self._case}"
        elif outcome.mib > MIB and outcome.kind in ("read", "refused"):
            outcome.kind, outcome.text = "memory", f"{outcome.mib:.0f} MiB; {outcome.text}"
        return outcome

    def _opened(self, how: set[str]) -> Outcome:
        from fuzz_doors import WrongError

        from dust3r_ros.errors import Dust3rRosError

        try:
            found = self._door.open(self._case)
        except Dust3rRosError as error:
            fault = self._fault(str(error))
            return Outcome("crash" if fault else "refused", f"{fault}: {error}" if fault else str(error))
        except Exception:
            return Outcome("crash", traceback.format_exc())
        try:
            self._door.judge(found, self._good, how)
        except WrongError as error:
            return Outcome("wrong", f"{error} ({', '.join(sorted(how))})")
        return Outcome("read", f"({', '.join(sorted(how))})")

    def _fault(self, sentence: str) -> str:
        """What is wrong with an error's message, or ""."""
        names = [path.name for path in (self._case, *self._case.rglob("*"))]
        if not any(name in sentence for name in (*names, *self._door.named)):
            return "the error does not say of what"
        if "\n" in sentence or "Traceback" in sentence or not 10 < len(sentence) < _LONGEST:
            return "the error is not a sentence"
        return "out of memory" if re.search("nsufficient memory|lloc", sentence) else ""

    def _put(self) -> None:
        shutil.rmtree(self._case, ignore_errors=True)
        shutil.copytree(self._seed, self._case)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def serve(folder: Path) -> int:
    """Run the cases that come on standard input, "DOOR NUMBER"; outcomes go to standard output, a line each."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    known, workers = doors(), {}
    for line in sys.stdin:
        name, _, seed = line.strip().partition(" ")
        if name not in workers:
            workers[name] = Worker(known[name], folder / name)
        told = vars(workers[name].run(int(seed))) if seed else workers[name].seconds
        print(json.dumps(told), file=out)
    return 0


# In this one


class Judge:
    """Gives cases to a worker, and kills it when it hangs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seconds: dict[str, float] = {}
        self._log = open(folder / "log", "w", encoding="utf-8")  # noqa: SIM115
        self._begin()

    def _begin(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ},
        )

    def open(self, name: str) -> None:
        """Have a door's valid input made, and see how long it takes to read."""
        told = self._answer(name, 300.0)
        if told is None:
            raise RuntimeError(f"'{name}' cannot be read undamaged: {Path(self._log.name).read_text(encoding='utf-8')}")
        self._seconds[name] = told

    def case(self, name: str, seed: int) -> Outcome:
        """The outcome of a case; one that took too long is tried again, since others use the machine, too."""
        tries: list[Outcome] = []
        for _ in range(3):
            tries.append(self._once(name, seed))
            if tries[-1].seconds <= self._seconds[name] + SECONDS or tries[-1].kind in ("crash", "memory"):
                return tries[-1]
        best = min(tries, key=lambda outcome: outcome.seconds)
        return Outcome("hang", f"{best.seconds:.1f} s; {best.kind}: {best.text}", best.seconds, best.mib)

    def _once(self, name: str, seed: int) -> Outcome:
        told = self._answer(f"{name} {seed}", self._seconds[name] + KILL_S)
        if told is not None:
            return Outcome(**told)
        self._process.kill()
        code = self._process.wait()
        self._begin()
        self.open(name)
        if code == -9:
            return Outcome("hang", f"killed after {KILL_S:g} s", KILL_S + self._seconds[name])
        return Outcome("crash", f"the process ended with {code}")

    def _answer(self, asked: str, wait_s: float) -> Any:
        """What the worker answers; None when it hangs or is gone."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{asked}\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], wait_s)
        line = self._process.stdout.readline() if ready else ""
        if ready and not line:
            self._process.wait()
        return json.loads(line) if line else None

    def close(self) -> None:
        """End the worker."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


@dataclass
class Tally:
    """What came of the cases of one door."""

    name: str
    kinds: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    mib: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.kinds[outcome.kind] += 1
        self.slowest, self.mib = max(self.slowest, outcome.seconds), max(self.mib, outcome.mib)

    @property
    def findings(self) -> int:
        return sum(self.kinds[kind] for kind in KINDS)


def table(tallies: list[Tally], seconds: float) -> str:
    """Markdown: a row for each door and their sum, then the machine and the day."""
    from targets import Machine, where_and_when

    from dust3r_ros.evaluation.report.metrics import table_lines

    names = ("input", "cases", "read", "refused in a sentence", *KINDS, "slowest (s)", "most memory (MiB)")
    every = Tally("all", sum((tally.kinds for tally in tallies), Counter()))
    every.slowest, every.mib = (max(getattr(tally, name) for tally in tallies) for name in ("slowest", "mib"))
    cells = []
    for tally in (*tallies, every):
        counts = [tally.kinds.total(), *(tally.kinds[kind] for kind in ("read", "refused", *KINDS))]
        cells.append((tally.name, *counts, f"{tally.slowest:.2f}", f"{tally.mib:.0f}"))
    lines = table_lines(names, cells)
    where = where_and_when(Machine().about())
    return "\n".join([*lines, "", f"{every.kinds.total()} cases in {seconds / 60:.0f} minutes; {where}."])


def main() -> int:
    """Exit code: 1 if there is a finding, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=CASES, help="of all doors together")
    parser.add_argument("--only", nargs="+", metavar="DOOR", help="only these doors")
    parser.add_argument("--seed", type=int, help="only this case of each door")
    parser.add_argument("--page", type=Path, help="page whose table is replaced")
    parser.add_argument("--worker", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return serve(arguments.worker)
    known = doors()
    unknown = set(arguments.only or ()) - known.keys()
    if unknown:
        parser.error(f"there is no door '{sorted(unknown)[0]}'; there are {', '.join(known)}")
    chosen = [door for name, door in known.items() if name in (arguments.only or known)]
    tallies = fuzz(chosen, arguments.cases, arguments.seed)
    if arguments.page and arguments.seed is None and not arguments.only:
        from dust3r_ros.io.files import replace_between

        replace_between(arguments.page, BEGIN, END, tallies[1])
    return 1 if any(tally.findings for tally in tallies[0]) else 0


def fuzz(chosen: list[Any], cases: int, only: int | None = None, fast: int = FAST) -> tuple[list[Tally], str]:
    """Run ``cases`` of all doors together, or the one with this number of each; prints findings and the table.

    A door that is fast gets ``fast`` cases for one of a slow one.
    """
    from tqdm import tqdm

    start, tallies = time.perf_counter(), []
    share = cases / sum(1 if door.slow else fast for door in chosen)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        judge = Judge(Path(folder))
        try:
            for door in chosen:
                tally = Tally(door.name)
                tallies.append(tally)
                judge.open(door.name)
                count = math.ceil(share * (1 if door.slow else fast))
                for seed in tqdm(range(count) if only is None else [only], door.name, mininterval=1.0):
                    outcome = judge.case(door.name, seed)
                    tally.add(outcome)
                    if outcome.kind in KINDS or only is not None:
                        tqdm.write(f"{outcome.kind}: --only {door.name} --seed {seed}: {outcome.text.strip()}")
        finally:
            judge.close()
    made = table(tallies, time.perf_counter() - start)
    print(made)
    return tallies, made


if __name__ == "__main__":
    sys.exit(main())
