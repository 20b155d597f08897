"""The real node in its own process, a camera and a recorder in this one, real DDS in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from forked_node import ForkedNode
from messages import image_message

from dust3r_ros.node.tools.domains import free_domain

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")

# Before any middleware starts in this process: a domain of our own, nothing over the network.
os.environ["ROS_DOMAIN_ID"] = str(free_domain())
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.pop("ROS_LOCALHOST_ONLY", None)

from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger

from dust3r_ros.node.tools.recorder import Recorder
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence

ROOT = Path(__file__).resolve().parents[2]
MAIN = ("-m", "dust3r_ros.node.main")
PYTHONPATH = os.environ.get("PYTHONPATH")  # with another one, a node imports other things: it is not forked
PATIENCE_S = 150.0  # nobody waits that long; a machine with much else to do may

# Nothing a test sends gets lost on the way or in the queue. The first keyframes stand further apart than by default:
# a map begins some frames later then, and costs a third. Tests that ask how good the map is, or need a node that is
# slower than the camera, set 0.01 as is the default.
DEFAULTS: dict[str, Any] = {
    "image_topic": "/camera/image_raw",
    "image_reliability": "reliable",
    "image_depth": 50,
    "queue_size": 50,
    "map_period": 0.2,
    "keyframe_motion_young": 0.015,  # live, twice that
    "focal_wait": 0.0,  # walks here are shorter
}


class NodeProcess:
    """``dust3r_node``, or another ``program`` that runs it; ``log`` is what it wrote.

    Forked from a process that has imported it; test_bare.py, test_composition.py and others start it as a user does.
    """

    def __init__(
        self, folder: Path, remap: Sequence[str], parameters: Mapping[str, Any], program: Sequence[str] = MAIN
    ) -> None:
        self._path = folder / f"node_{len(list(folder.glob('node_*.log')))}.log"  # another node may write beside it
        arguments = [f"{name}:={_yaml(value)}" for name, value in parameters.items()]
        command = [sys.executable, *program, "--ros-args"]
        command += [part for argument in arguments for part in ("-p", argument)]
        command += [part for rule in remap for part in ("-r", rule)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self.process: subprocess.Popen[bytes] | ForkedNode
        if program == MAIN and os.environ.get("PYTHONPATH") == PYTHONPATH:
            self._path.touch()
            self.process = ForkedNode(command[len([sys.executable, *MAIN]) :], self._path, folder, environment)
        else:
            with self._path.open("w") as log:
                self.process = subprocess.Popen(
                    command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=environment
                )
        self._from = 0

    @property
    def log(self) -> str:
        """What was written since the start, or since ``turn_page``."""
        return self._path.read_text()[self._from :]

    def turn_page(self) -> None:
        self._from += len(self.log)

    def wait_for_log(self, text: str, seconds: float = PATIENCE_S) -> None:
        end = time.monotonic() + seconds
        while text not in self.log:
            assert time.monotonic() < end, f"no '{text}' within {seconds} s in the node's log:\n{self.log}"
            assert self.process.poll() is None, f"the node ended with {self.process.returncode}:\n{self.log}"
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT, seconds: float = PATIENCE_S) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the node did not end within {seconds} s of signal {number}:\n{self.log}") from None


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class ClearableRecorder(Recorder):
    """A recorder that one test, or one part of it, leaves empty to the next."""

    def clear(self) -> None:
        """Discard everything received so far."""
        with self._changed:
            for received in (self.counts, self.last, self.all, self.times):
                received.clear()


class Bench:
    """A node process, a recorder of its topics and a camera that publishes to it."""

    def __init__(self, node: NodeProcess, recorder: ClearableRecorder, topic: str) -> None:
        self.node, self.recorder, self.topic = node, recorder, topic
        self._domain = os.environ["ROS_DOMAIN_ID"]
        self._publishers: dict[tuple[type, str], Any] = {}

    def send(self, message: Any, topic: str | None = None) -> None:
        """Publish when the node has subscribed; reliable, so that what a test sends arrives."""
        topic = topic or self.topic
        key = type(message), topic
        if key not in self._publishers:
            publisher = self.recorder.node.create_publisher(type(message), topic, 50)
            self._publishers[key] = publisher
            self.recorder.wait(
                lambda: publisher.get_subscription_count() > 0, PATIENCE_S, f"the node subscribes to {topic}"
            )
        self._publishers[key].publish(message)

    def begin_again(self) -> None:
        """An empty map, as at the start; what came and was logged before counts no more."""
        for name in ("resume", "reset"):
            assert self.recorder.call(Trigger, name, Trigger.Request(), PATIENCE_S).success
        self.status(lambda s: (s.state, s.frames, s.waiting) == ("initialising", 0, 0), "the map begins again")
        self.recorder.clear()
        self.node.turn_page()

    @contextmanager
    def who_comes_late(self) -> Iterator[Recorder]:
        """Another recorder of a node of the default name."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ROS_DOMAIN_ID", self._domain)
            late = Recorder("/camera/estimated/camera_info")
        with late:
            yield late

    def parted(self) -> None:
        """Wait until nobody subscribes to what was sent; what is sent then waits for a subscriber again."""
        for (_, topic), publisher in self._publishers.items():
            self.recorder.wait(
                lambda publisher=publisher: publisher.get_subscription_count() == 0,
                PATIENCE_S,
                f"the node lets {topic} go",
            )
            self.recorder.node.destroy_publisher(publisher)
        self._publishers.clear()

    def play(self, sequence: RenderedSequence, first: int = 0, last: int | None = None, shift_ns: int = 0) -> None:
        """Publish frames of a sequence as fast as they go; the node's queue holds them all."""
        for index in range(first, len(sequence) if last is None else last):
            self.send(image_message(sequence.images[index], int(sequence.stamps_ns[index]) + shift_ns))

    def calibrate(self, width: int, height: int, focal: float, topic: str = "/camera/camera_info") -> None:
        """Publish a CameraInfo, again and again as drivers do, until the node has it."""
        info = CameraInfo(width=width, height=height)
        info.k[0] = info.k[4] = focal
        info.k[2], info.k[5], info.k[8] = (width - 1) / 2, (height - 1) / 2, 1.0
        end = time.monotonic() + PATIENCE_S
        while f"received: focal {focal:.1f} px" not in self.node.log:
            assert time.monotonic() < end, f"the node does not take a calibration:\n{self.node.log}"
            self.send(info, topic)
            time.sleep(0.05)

    def handled(self, frames: int, rejected: int = 0, seconds: float = PATIENCE_S) -> Any:
        """The status that says that so many images were mapped and refused, and nothing waits."""
        return self.status(
            lambda status: (status.frames, status.rejected, status.waiting, status.backlog) == (frames, rejected, 0, 0),
            f"the node maps {frames} and refuses {rejected} images",
            seconds,
        )

    def status(self, check: Any, what: str, seconds: float = PATIENCE_S) -> Any:
        """The first status for which ``check`` holds."""
        recorder = self.recorder
        recorder.wait(lambda: "status" in recorder.last and check(recorder.last["status"]), seconds, what)
        return recorder.last["status"]


@pytest.fixture
def own_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A domain that no other test uses: processes that are killed are still heard of for a while.

    By UDP: whoever is killed in shared memory leaves its locks there, on which Fast DDS of the others may abort.
    """
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")


@contextmanager
def starter(folder: Path) -> Iterator[Callable[..., Bench]]:
    """Starts nodes with the parameters given, stops them at the end.

    ``remap``: ROS remappings; ``name``, ``topic``, ``estimated``: full names that follow from them.
    """
    with ExitStack() as stack:

        def start(
            remap: Sequence[str] = (),
            name: str = "/dust3r",
            topic: str = "",
            estimated: str = "/camera/estimated/camera_info",
            program: Sequence[str] = MAIN,
            **parameters: Any,
        ) -> Bench:
            parameters = {**DEFAULTS, **parameters}
            node = NodeProcess(folder, remap, parameters, program)
            stack.callback(node.stop)
            recorder = ClearableRecorder(estimated, name)
            stack.enter_context(recorder)
            return Bench(node, recorder, topic or parameters["image_topic"])

        yield start


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """As ``starter`` has it."""
    with starter(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Bench]]:
    """As ``starter`` has it, for all tests of a module: each node in a domain that the others do not hear."""
    with starter(tmp_path_factory.mktemp("shared")) as start:

        def apart(**arguments: Any) -> Bench:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ROS_DOMAIN_ID", str(free_domain()))
                return start(**arguments)

        yield apart


@pytest.fixture
def bench(start_node: Callable[..., Bench], request: pytest.FixtureRequest) -> Bench:
    """A running node; ``@pytest.mark.parametrize("bench", [{…parameters…}], indirect=True)`` sets its parameters."""
    return start_node(**getattr(request, "param", {}))


@pytest.fixture(scope="session")
def sequence() -> RenderedSequence:
    """A short walk around a table in a textured room, small enough to be quick, rich enough to be mapped."""
    return render_sequence("orbit", frames=30, width=200, height=150, rate_hz=10.0, seed=1)
