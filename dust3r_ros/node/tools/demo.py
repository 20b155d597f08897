"""Demo of the whole node: play a camera, map it live, record the topics and compare with ground truth.

``python -m dust3r_ros.node.tools.demo --out demo_output`` renders a sequence, starts the real node and a player in
processes of their own, records what the node publishes over DDS, shuts the node down through its lifecycle so that
it writes its results, and compares these with the ground truth.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dust3r_ros import __version__
from dust3r_ros.errors import Dust3rRosError
from dust3r_ros.io.files import make_folder, write_text
from dust3r_ros.io.trajectory import write_tum
from dust3r_ros.node.tools.domains import isolate
from dust3r_ros.node.tools.verdict import (
    ESTIMATE,
    FILES,
    Score,
    judge,
    judge_live,
    missing,
    published,
    received,
    report,
    report_live,
)
from dust3r_ros.types import StampedPose

if TYPE_CHECKING:
    from dust3r_ros.node.tools.recorder import Recorder


TOPIC = "/camera/image_raw"
# Once the player has ended and no image has been waiting for this long (s), missing images count as lost.
QUIET_S = 5.0
_STARTS_S = 240.0  # at most: both processes import much, on a machine that may be slow or busy
PLAYED, VERDICT = "published.jsonl", "verdict.json"


class DemoError(Dust3rRosError):
    """The demo did not run as expected."""


@dataclass(frozen=True)
class DemoScene:
    """The sequence to render: ``frames`` images of ``width`` x ``height`` at ``rate`` Hz along the path ``kind``."""

    kind: str
    frames: int
    width: int
    height: int
    rate: float
    seed: int


def prepare(scene: DemoScene, out: Path) -> Path:
    """The bag of the scene in ``out``, rendered unless it exists from an earlier run, with truth.txt next to it."""
    bag, record = out / "sequence", out / "scene.json"
    wanted = {**vars(scene), "version": __version__}
    try:
        kept = json.loads(record.read_text())
        if {name: kept.get(name) for name in wanted} == wanted and (bag / "metadata.yaml").is_file():
            print(f"sequence: {scene.frames} frames from an earlier run ({bag})", flush=True)
            return bag
    except (OSError, ValueError):
        pass
    _render(scene, bag, out / "truth.txt", record, wanted)
    return bag


def _render(scene: DemoScene, bag: Path, truth: Path, record: Path, wanted: dict[str, Any]) -> None:
    from dust3r_ros.scenes.export import write_bag
    from dust3r_ros.scenes.sequence import render_sequence

    with progress_bar(scene.frames, "rendering") as bar:
        sequence = render_sequence(
            scene.kind, scene.frames, scene.width, scene.height, rate_hz=scene.rate, seed=scene.seed,
            progress=lambda done, _: bar.update(done - bar.n),
        )  # fmt: skip
    record.unlink(missing_ok=True)
    shutil.rmtree(bag, ignore_errors=True)
    write_bag(sequence, bag, TOPIC, encoding="rgb8")
    stamped = zip(sequence.stamps_ns, sequence.w_T_c, strict=True)
    write_tum(truth, [StampedPose(int(stamp_ns), "camera", pose) for stamp_ns, pose in stamped])
    write_text(record, json.dumps({**wanted, "focal": sequence.focal}, indent=1))  # last: marks completion
    print(f"sequence: {scene.frames} frames of {scene.width}x{scene.height} rendered ({bag})", flush=True)


def progress_bar(total: int, what: str) -> tqdm[Any]:
    """A progress bar; without a terminal, a line every few seconds."""
    return tqdm(total=total, desc=what, unit="frame", leave=False, mininterval=0.2 if sys.stderr.isatty() else 5.0)


def started(stack: ExitStack, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Python with ``arguments`` in a process of its own, which ends with the stack; output goes to ``log``."""
    output = stack.enter_context(log.open("wb"))
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=output, stderr=subprocess.STDOUT, env=environment(), start_new_session=True,
    )  # fmt: skip
    stack.callback(_end, process)
    return process


def environment() -> dict[str, str]:
    """Environment of processes started here: they import this package."""
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(bag: Path, frames: int, out: Path, seconds: float, every: bool = False) -> Recorder:
    """Run node, player and recorder until every frame is mapped and the results are written; returns the recorder.

    ``every``: as in ``demo``. Raises ``DemoError`` or ``RemoteError`` when that does not happen within ``seconds``.
    """
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    from dust3r_ros.node.tools.recorder import Recorder

    parameters: dict[str, object] = {"image_topic": TOPIC, "output_dir": str(out.resolve())}
    if every:  # also while the node, on a busy machine, takes none for a moment
        parameters |= {"backlog": "every", "image_depth": 50}
    settings = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    with ExitStack() as stack:
        recorder = stack.enter_context(Recorder(ESTIMATE))
        node = started(stack, out / "node.log", "-m", "dust3r_ros.node.main", "--ros-args", *settings)
        recorder.wait(lambda: "status" in recorder.last or node.poll() is not None, _STARTS_S, "the node starts")
        play = ("-m", "dust3r_ros.node.tools.player", str(bag.resolve()), "--log", str((out / PLAYED).resolve()))
        player = started(stack, out / "player.log", *play)
        _follow(recorder, node, player, frames, out, seconds)
        player.wait(30)  # it writes its log of published images
        _await_map(recorder)
        print("shutting down the node: final refinement, results", flush=True)
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN))
        if not recorder.call(ChangeState, "change_state", request, seconds=seconds).success:
            raise DemoError(f"the node did not shut down on request; its log is {out / 'node.log'}")
        node.wait(30)
        return recorder


def _follow(
    recorder: Recorder,
    node: subprocess.Popen[bytes],
    player: subprocess.Popen[bytes],
    frames: int,
    out: Path,
    seconds: float,
) -> None:
    """Show the progress until all frames are mapped, or no more of them arrive."""
    end, changed, before = time.monotonic() + seconds, time.monotonic(), 0
    with progress_bar(frames, "mapping") as bar:
        while True:
            status = recorder.last.get("status")
            done = _show_progress(bar, status)
            if done != before or player.poll() is None:
                changed, before = time.monotonic(), done
            idle = status is not None and not status.waiting and time.monotonic() > changed + QUIET_S
            if done >= frames or (idle and done > 0):
                return
            _check_ended(node, out / "node.log", "node")
            _check_ended(player, out / "player.log", "player")
            if time.monotonic() > end:
                raise DemoError(f"only {done} of {frames} frames were mapped within {seconds:g} s; logs are in {out}")
            time.sleep(0.1)


def _await_map(recorder: Recorder) -> None:
    """Wait for the first map, which follows poses and depth. Raises ``DemoError`` if there will be none."""

    def is_there() -> bool:
        return "map" in recorder.last and recorder.last["map"].width > 0

    def never_comes() -> bool:
        status = recorder.last["status"]
        return not (status.keyframes or status.waiting or status.backlog)

    recorder.wait(lambda: is_there() or never_comes(), 30, "a dense map is published")
    if not is_there():
        raise DemoError(f"{recorder.last['status'].frames} images are not enough for a map: none of them is a keyframe")


def _show_progress(bar: tqdm[Any], status: Any) -> int:
    """Show a status, or None before the first one; returns how many frames the node is done with."""
    if status is None:
        bar.update(-bar.n)
        return 0
    done = status.frames + status.rejected + status.dropped
    bar.update(done - bar.n)
    if status.cameras:
        bar.set_postfix_str(f"{status.keyframes} keyframes, f {status.cameras[0].focal:.0f} px", refresh=False)
    return done


def _check_ended(process: subprocess.Popen[bytes], log: Path, name: str) -> None:
    """Raises ``DemoError`` for a process that ended with an error."""
    if process.poll() not in (None, 0):
        raise DemoError(f"the {name} ended with code {process.returncode}; its log is {log}")


def demo(scene: DemoScene, out: Path, seconds: float, every: bool = False) -> Score:
    """Run the whole demo; raises ``DemoError`` with a sentence for everything missing or not good enough.

    The node keeps up with the camera, unless ``every`` image is mapped, however late: then only the map is judged.
    """
    isolate()
    make_folder(out)
    bag = prepare(scene, out)
    for name in (*FILES, PLAYED):
        (out / name).unlink(missing_ok=True)  # so that the files are from this run
    recorder = run(bag, scene.frames, out, seconds, every)
    wrong = missing(recorder, out, (scene.width, scene.height), scene.frames if every else None)
    if wrong:
        raise DemoError("; ".join(wrong) + f" (logs: {out / 'node.log'}, {out / 'player.log'})")
    score = judge(out)
    live = judge_live(published(out / PLAYED), received(recorder, TOPIC), out)
    report(recorder, score)
    if live is None:
        raise DemoError("fewer than three poses can be compared with the ground truth")
    report_live(live)
    print(f"\npictures: {out / 'preview.png'}, {out / 'report.html'}; other results are in the same folder", flush=True)
    write_text(out / VERDICT, json.dumps({"map": asdict(score), "live": live.as_mapping()}, indent=1) + "\n")
    if not score.good:
        raise DemoError("the map is not accurate enough, see above")
    if live.wrong and not every:
        raise DemoError("; ".join(live.wrong))
    return score


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for the results")
    parser.add_argument("--kind", default="orbit", help="the camera's path (default: orbit)")
    parser.add_argument("--frames", type=int, default=90)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--rate", type=float, default=15.0, help="images per second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=300.0, help="time limit for mapping in seconds")
    parser.add_argument(
        "--every", action="store_true", help="map every image, however late its pose (for a busy machine)"
    )
    options = parser.parse_args(argv)
    scene = DemoScene(options.kind, options.frames, options.width, options.height, options.rate, options.seed)
    begin = time.monotonic()
    try:
        demo(scene, options.out, options.timeout, options.every)
    except Dust3rRosError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    print(f"done in {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
