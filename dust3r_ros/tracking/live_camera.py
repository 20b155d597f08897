"""One camera of a robot: its front end, and a bridge over images in which the front end loses track."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from dust3r_ros.config import MapperConfig
from dust3r_ros.sensors.gravity_filter import Turning
from dust3r_ros.tracking.bridge import Bridge, Carried
from dust3r_ros.tracking.exchange import FollowedPose, MapSnapshot
from dust3r_ros.tracking.front_end import FrontEnd, Tracked
from dust3r_ros.types import Array, Frame, MapUpdate, TrackingState

_MISSED = 256  # most images kept from before the map, which may get their poses later
# On a busy machine the first calibration is late, and a focal that is off by a fifth bends the path by a hundredth of
# its length: without one, the first poses wait so many times as long.
_PRESUMED_WAIT = 2


@dataclass(frozen=True, eq=False)
class Whereabouts:
    """What is known about an image immediately: ``w_T_c`` (4, 4) and ``covariance`` (6, 6), tracked or bridged.

    ``state`` None: the back end decides; initialising: the pose is kept, but depends on a guess. ``tracked``: the
    front end's own result.
    """

    tracked: Tracked
    state: TrackingState | None = None
    w_T_c: Array | None = None
    covariance: Array | None = None


class LiveCamera:
    """Tracks the images of one camera, and extends its pose where tracking fails. For one thread."""

    def __init__(self, config: MapperConfig, bridge_s: float, focal_wait_s: float) -> None:
        """``bridge_s``: longest extension of a pose; ``focal_wait_s``: how long the first poses wait for a focal."""
        self._wait_ns = round(1e9 * focal_wait_s)
        self.front = FrontEnd(config)
        self._bridge = Bridge(bridge_s)
        self._heard = False  # whether any odometry or gyroscope data has come
        self._missed: deque[int] = deque(maxlen=_MISSED)  # stamps
        self._begin()

    def _begin(self) -> None:
        self.held = self._wait_ns > 0  # poses are not published yet
        self._known: MapSnapshot | None = None
        self._newest_ns = 0

    def forget(self) -> None:
        """Another map, or another time: forget everything known."""
        self.front.forget()
        self._bridge.forget()
        self._missed.clear()
        self._begin()

    def take(self, snapshot: MapSnapshot, covariance: Array | None = None) -> None:
        """Take the current map; ``covariance`` (6, 6) is that of the snapshot's own pose, if it was just found."""
        self.front.take(snapshot)
        self._known = snapshot
        self._wait_no_longer()
        self._bridge.take(snapshot, covariance)

    def miss(self, stamp_ns: int) -> None:
        """Note that the back end will not get an image that has no pose."""
        if not self.front.knows_map:
            self._missed.append(stamp_ns)

    def look_back(self) -> tuple[FollowedPose | None, bool]:
        """The pose of a missed image from before the first pose, if found; and whether there may be more."""
        if not self._missed:
            return None, False
        found, more = self.front.look_back()
        if found is None or found.stamp_ns not in self._missed:
            return None, more
        self._missed.remove(found.stamp_ns)
        return found, more

    def shown(self, update: MapUpdate) -> MapUpdate:
        """What may be published about an image that the back end has processed."""
        hidden = self.held and update.state is TrackingState.TRACKING
        return replace(update, state=TrackingState.INITIALISING, w_T_c=None, covariance=None) if hidden else update

    def track(self, frame: Frame, turning: Turning | None, metric: bool) -> Whereabouts:
        """Track the next image; ``turning``: the camera's axes by a gyroscope, ``metric``: the map is in metres."""
        carried = self._carried(frame, turning, metric)
        self._newest_ns = frame.stamp_ns
        self._wait_no_longer()
        self.front.expect(None if carried is None else carried.w_T_c)
        tracked = self.front.track(frame.stamp_ns, frame.image, frame.mask)
        found = self._found(tracked)
        if found is not None:
            return found
        if not (self.front.knows_map and tracked.usable):
            return Whereabouts(tracked)
        if self.held:
            return Whereabouts(tracked, TrackingState.INITIALISING)
        if carried is None:
            return Whereabouts(tracked, TrackingState.LOST)
        return Whereabouts(tracked, TrackingState.BRIDGED, carried.w_T_c, carried.covariance)

    def _wait_no_longer(self) -> None:
        """Publish poses from now on if the focal is found or they waited long enough, also without another image."""
        if self._known is not None:
            since, longest = self._known.guessing_since, _PRESUMED_WAIT if self._known.presumed else 1
            self.held = self.held and since is not None and self._newest_ns - since <= self._wait_ns * longest

    def _carried(self, frame: Frame, turning: Turning | None, metric: bool) -> Carried | None:
        """The image's pose by odometry or gyroscope, None without either."""
        self._heard = self._heard or frame.o_T_c is not None or turning is not None
        if not self._heard:
            return None
        self._bridge.hear(frame.stamp_ns, frame.o_T_c, turning)
        return self._bridge.carry(frame.stamp_ns, metric)

    def track_again(self) -> Whereabouts | None:
        """Locate the newest image in a snapshot that came after it, if possible."""
        return self._found(self.front.track_again())

    def _found(self, tracked: Tracked) -> Whereabouts | None:
        """What may be published about a pose, None without one."""
        if tracked.w_T_c is not None and tracked.covariance is not None and tracked.followed is not None:
            if self._heard:
                self._bridge.found(tracked.w_T_c, tracked.covariance, tracked.followed)
            if self.held:
                return Whereabouts(tracked, TrackingState.INITIALISING)
            return Whereabouts(tracked, TrackingState.TRACKING, tracked.w_T_c, tracked.covariance)
        return None
