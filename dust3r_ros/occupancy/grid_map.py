"""An occupancy grid that follows the keyframes of a map."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from dust3r_ros.geometry.ground import Ground
from dust3r_ros.geometry.rigid import angle_deg
from dust3r_ros.occupancy.grid import Grid, GridOptions
from dust3r_ros.occupancy.plan import Plan, plan_of
from dust3r_ros.occupancy.scan import Scan, scan_of
from dust3r_ros.occupancy.slab import Slab, differ, resolution_of, slab_of
from dust3r_ros.occupancy.votes import Votes
from dust3r_ros.types import Array, Keyframe

_CELLS_OF_RANGE = 200
_LEAST_POINTS = 20


@dataclass(frozen=True, eq=False)
class _Entry:
    """What a keyframe added: the pose it had, and its votes, compressed."""

    w_T_c: Array
    row: int
    column: int
    shape: tuple[int, ...]
    packed: bytes

    @property
    def plan(self) -> Plan:
        cells = np.frombuffer(zlib.decompress(self.packed), np.int8).reshape(self.shape)
        return Plan(self.row, self.column, cells)


class OccupancyGridMap:
    """An occupancy grid that is kept up to date from what changes in a map.

    Every keyframe votes once per cell: obstacle, or looked through. What it added is kept (some 2 kB, and
    40 kB of depth), so that one that moved by more than a quarter of a cell is taken out and added
    again, and no other is touched. A cell is occupied when two keyframes or more saw an obstacle there
    and the log odds of all votes are above 0, free when they are below.
    """

    def __init__(self, options: GridOptions | None = None) -> None:
        self._options = options or GridOptions()
        self._scans: dict[int, Scan] = {}
        self._entries: dict[int, _Entry] = {}
        self._waiting: dict[int, None] = {}  # keyframes to be added (again), in order
        self._votes = Votes()
        self._slab: Slab | None = None
        self._resolution = self._options.resolution or 0.0
        self._before: Grid | None = None  # what is shown while everything is added anew
        self._asked = 0  # keyframes when the ground was last looked for
        self._moved = 0  # since then

    @property
    def indices(self) -> AbstractSet[int]:
        """The keyframes that are known."""
        return self._scans.keys() | self._waiting.keys()

    @property
    def pending(self) -> int:
        """Keyframes that the grid does not follow yet (see ``update``)."""
        return len(self._waiting)

    @property
    def truncated(self) -> bool:
        """Whether something lies outside of the largest grid (4000 x 4000 cells) and is left out."""
        return self._votes.truncated

    @property
    def wanted(self) -> tuple[int, int]:
        """Rows and columns that everything seen so far would take."""
        return self._votes.wanted

    @property
    def ground(self) -> Ground | None:
        """The ground as it is taken to be, None before the first depth."""
        return self._slab.ground if self._slab else None

    @property
    def heights(self) -> tuple[float, float] | None:
        """From where to where above the ground obstacles lie, map units; None before the first depth."""
        return (self._slab.low, self._slab.high) if self._slab else None

    def update(self, changed: Sequence[Keyframe], removed: Iterable[int] = (), limit: int | None = None) -> None:
        """Follow a change of the map: keyframes that are new or changed, indices of those that left.

        ``limit`` bounds the keyframes added in this call, so that a loop that moves the whole map holds
        nobody up; what is left waits for the next calls (``update((), limit=n)`` will do). The ground is
        looked for again when the map has grown by a half or half of it has moved; where that finds
        another one, all keyframes wait to be added anew, and until none waits the grid stays as it was.
        """
        for index in removed:
            self._scans.pop(index, None)
            self._waiting.pop(index, None)
            self._take_out(index)
        for keyframe in changed:
            self._note(keyframe)
        self._look_for_ground()
        if self._slab is None:
            return
        for index in list(self._waiting)[:limit]:
            del self._waiting[index]
            self._take_out(index)
            self._add(index, self._slab)
        if not self._waiting:
            self._before = None

    def grid(self) -> Grid:
        """The grid as it stands, cut to what is known; of 0 x 0 cells when nothing is."""
        return self._before or self._votes.grid(self._resolution or 1.0)

    def _note(self, keyframe: Keyframe) -> None:
        scan = scan_of(keyframe, self._options.min_confidence)
        before = self._scans.get(keyframe.index)
        self._scans[keyframe.index] = scan
        if before is not None and self._stays(keyframe.index, before, scan):
            return
        self._moved += before is not None
        self._waiting[keyframe.index] = None

    def _stays(self, index: int, before: Scan, now: Scan) -> bool:
        """Whether a keyframe is where it was when it was added, with the same depth."""
        entry = self._entries.get(index)
        if entry is None or before.focal != now.focal or before.unit != now.unit:
            return False
        if not np.array_equal(before.depth, now.depth):
            return False
        moved = float(np.linalg.norm(entry.w_T_c[:3, 3] - now.w_T_c[:3, 3]))
        turned = np.radians(angle_deg(entry.w_T_c[:3, :3].T @ now.w_T_c[:3, :3]))
        return moved + turned * now.unit < 0.25 * self._resolution

    def _look_for_ground(self) -> None:
        """Resolution and slab when it is time, and everything anew where they are others."""
        due = len(self._scans) >= 1.5 * self._asked + 1 or self._moved > 0.5 * self._asked
        if self._asked and not due:
            return
        scans = [scan for scan in self._scans.values() if scan.depth.any()]
        if sum(np.count_nonzero(scan.depth) for scan in scans[:_LEAST_POINTS]) < _LEAST_POINTS:
            return
        self._asked, self._moved = len(self._scans), 0
        resolution = resolution_of(self._options, scans)
        other_unit = abs(resolution - self._resolution) > 0.3 * self._resolution
        slab = slab_of(self._options, scans, resolution if other_unit else self._resolution)
        if self._slab is None or other_unit or differ(self._slab, slab, scans):
            self._before = self.grid() if self._entries else self._before
            self._slab = slab
            self._resolution = resolution if other_unit else self._resolution
            self._entries.clear()
            self._votes = Votes()
            self._waiting = dict.fromkeys(self._scans)

    def _add(self, index: int, slab: Slab) -> None:
        scan = self._scans[index]
        max_range = self._options.max_range or _CELLS_OF_RANGE * self._resolution
        part = self._votes.add(plan_of(scan, slab, self._resolution, max_range))
        packed = zlib.compress(part.cells.tobytes(), 1)
        self._entries[index] = _Entry(scan.w_T_c, part.row, part.column, part.cells.shape, packed)

    def _take_out(self, index: int) -> None:
        entry = self._entries.pop(index, None)
        if entry is not None:
            self._votes.remove(entry.plan)
