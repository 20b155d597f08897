"""How a topic fares: how often something comes, when the last came, what was wrong with it. No ROS."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dust3r_ros.node.stamp_losses import StampLosses

# Without messages for this long, a topic is taken for silent: a camera is unplugged, a driver has ended.
SILENT_S = 3.0


@dataclass(frozen=True)
class TopicHealth:
    """One input at one moment. ``silent_s`` is how long nothing came, None: nothing came yet.

    ``kind``: image, camera_info, mask, depth, odometry, imu. ``bad`` messages were refused, the last for ``reason``.
    ``returns`` counts how often it came back after a silence. ``lost`` counts images that were stamped and never came.
    """

    topic: str
    kind: str
    camera: str = ""
    count: int = 0
    rate_hz: float = 0.0
    silent_s: float | None = None
    bad: int = 0
    reason: str = ""
    returns: int = 0
    lost: int = 0

    @property
    def silent(self) -> bool:
        """Whether nothing came, for as long as ``SILENT_S`` at least."""
        return self.silent_s is None or self.silent_s > SILENT_S


class TopicMonitor:
    """Counts what comes on a topic; times are seconds of a steady clock."""

    def __init__(self, topic: str, kind: str, camera: str = "") -> None:
        self.topic, self.kind, self.camera = topic, kind, camera
        self._count = self._bad = self._returns = 0
        self._times: deque[float] = deque(maxlen=20)
        self._reason = ""
        self._losses = StampLosses()

    def stamped(self, stamp_ns: int) -> None:
        """The stamp of the message that came, of a topic whose losses count."""
        self._losses.stamped(stamp_ns)

    def restart(self, *, forget: bool = False) -> None:
        """What comes next follows nothing; ``forget``: what was lost so far counts no more, either."""
        if forget:
            self._losses = StampLosses()
        self._losses.restart()

    @property
    def lost(self) -> int:
        """Images that were stamped and never came."""
        return self._losses.lost

    @property
    def lost_share(self) -> float:
        """Part of the images that never came."""
        return self._losses.lost / max(1, self._losses.lost + self._losses.seen)

    def heard(self, now: float) -> float | None:
        """A message came; returns the silence (s) that it ended, None where there was none."""
        silence = now - self._times[-1] if self._times else 0.0
        self._count += 1
        self._times.append(now)
        if silence <= SILENT_S:
            return None
        self._times.clear()
        self._times.append(now)
        self._returns += 1
        return silence

    def refuse(self, reason: str) -> None:
        """The last message cannot be used."""
        self._bad += 1
        self._reason = reason

    def health(self, now: float) -> TopicHealth:
        """How it stands."""
        times = list(self._times)
        silent_s = now - times[-1] if times else None
        lively = len(times) > 1 and times[-1] > times[0] and now - times[-1] <= SILENT_S
        return TopicHealth(
            self.topic,
            self.kind,
            self.camera,
            self._count,
            (len(times) - 1) / (times[-1] - times[0]) if lively else 0.0,
            silent_s,
            self._bad,
            self._reason,
            self._returns,
            self.lost,
        )
