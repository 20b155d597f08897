"""The ground plan of a map, where a robot may go: a grid that follows the keyframes, which vote for obstacles and free
cells. Needs no ROS; ``products.exports`` writes it for map_server.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from dust3r_ros.geometry.rigid import angle_deg
from dust3r_ros.occupancy.plan import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    Grid,
    GridOptions,
    Plan,
    Scan,
    Slab,
    differ,
    plan_of,
    resolution_of,
    scan_of,
    slab_of,
)
from dust3r_ros.types import Array, Keyframe

__all__ = ["FREE", "MAX_CELLS", "OCCUPIED", "UNKNOWN", "Grid", "GridOptions", "OccupancyGridMap"]

MAX_CELLS = 4000  # along an edge

_HIT, _PASS = 0.85, 0.41  # log odds of 0.7 and 0.4 (Hornung et al., "OctoMap", Autonomous Robots 2013)
_LEAST_HITS = 2  # keyframes; an obstacle that only one has seen may be a depth error
_CHUNK = 128  # cells by which the lattice grows


class Votes:
    """Counts on a lattice that grows to cover the plans, up to ``MAX_CELLS`` along an edge."""

    def __init__(self) -> None:
        self._row = self._column = 0  # row and column of the first cell
        self._counts = np.zeros((2, 0, 0), np.int32)  # obstacles, passes
        self.truncated = False  # whether a plan was cropped because the lattice may not grow further
        self._extent: tuple[int, int, int, int] | None = None  # [row, row), [column, column) of all plans so far

    def add(self, plan: Plan) -> Plan:
        """Count a plan; returns the part that was counted, for ``remove``."""
        if not plan.cells.size:
            return plan
        part = self._grown_for(plan)
        self._count(part, 1)
        return part

    def remove(self, part: Plan) -> None:
        """Remove what ``add`` returned."""
        if part.cells.size:
            self._count(part, -1)

    def grid(self, resolution: float) -> Grid:
        """The current grid, cropped to its known cells; 0 x 0 cells if there are none."""
        hits, passes = self._counts
        odds = _HIT * hits - _PASS * passes
        data = np.full(hits.shape, UNKNOWN, np.int8)
        data[odds < 0] = FREE
        data[(hits >= _LEAST_HITS) & (odds > 0)] = OCCUPIED
        known = data != UNKNOWN
        rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
        if not len(rows):
            return Grid(resolution, (0.0, 0.0, 0.0), np.zeros((0, 0), np.int8))
        x, y = (self._column + int(columns[0])) * resolution, (self._row + int(rows[0])) * resolution
        data = data[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return Grid(resolution, (x, y, 0.0), np.ascontiguousarray(data))

    def _count(self, part: Plan, sign: int) -> None:
        row, column = part.row - self._row, part.column - self._column
        window = np.s_[row : row + part.cells.shape[0], column : column + part.cells.shape[1]]
        self._counts[0][window] += np.int32(sign) * (part.cells > 0)
        self._counts[1][window] += np.int32(sign) * (part.cells < 0)

    def _grown_for(self, plan: Plan) -> Plan:
        """The part of a plan that fits, after the lattice has grown for it."""
        height, width = self._counts.shape[1:]
        rows = _span(self._row, height, plan.row, plan.cells.shape[0])
        columns = _span(self._column, width, plan.column, plan.cells.shape[1])
        self._note_extent(plan)
        if (rows, columns) != ((self._row, self._row + height), (self._column, self._column + width)):
            counts = np.zeros((2, rows[1] - rows[0], columns[1] - columns[0]), np.int32)
            if height and width:
                r, c = self._row - rows[0], self._column - columns[0]
                counts[:, r : r + height, c : c + width] = self._counts
            self._counts, self._row, self._column = counts, rows[0], columns[0]
        r0, r1 = np.clip((plan.row, plan.row + plan.cells.shape[0]), *rows)
        c0, c1 = np.clip((plan.column, plan.column + plan.cells.shape[1]), *columns)
        cells = plan.cells[r0 - plan.row : r1 - plan.row, c0 - plan.column : c1 - plan.column]
        self.truncated |= cells.shape != plan.cells.shape
        return Plan(int(r0), int(c0), cells)

    def _note_extent(self, plan: Plan) -> None:
        rows, columns = plan.cells.shape
        r0, r1, c0, c1 = self._extent or (plan.row, plan.row, plan.column, plan.column)
        self._extent = (
            min(r0, plan.row), max(r1, plan.row + rows), min(c0, plan.column), max(c1, plan.column + columns)
        )  # fmt: skip

    @property
    def wanted(self) -> tuple[int, int]:
        """Rows and columns that all plans so far would need."""
        r0, r1, c0, c1 = self._extent or (0, 0, 0, 0)
        return r1 - r0, c1 - c0


def _span(begin: int, length: int, wanted: int, size: int) -> tuple[int, int]:
    """[begin, begin + length) grown in chunks to hold ``size`` cells from ``wanted`` on, within ``MAX_CELLS``."""
    if not length:
        begin = wanted
    end, spare = begin + length, MAX_CELLS - length
    low = max(min(begin, wanted - wanted % _CHUNK), begin - spare)
    spare -= begin - low
    last = wanted + size
    return low, min(max(end, last + -last % _CHUNK), end + spare)


_CELLS_OF_RANGE = 200
_LEAST_POINTS = 20


@dataclass(frozen=True, eq=False)
class _Entry:
    """What a keyframe added: its pose at the time and its votes, compressed."""

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
    """An occupancy grid kept up to date with the changes of a map.

    Every keyframe votes once per cell: obstacle, or seen through. What it added is kept (about 2 kB, and
    40 kB of depth), so that a keyframe that moved by more than a quarter of a cell is removed and added
    again, and no other is touched. A cell is occupied if at least two keyframes saw an obstacle there
    and the log odds of all votes are above 0, free if they are below.
    """

    def __init__(self, options: GridOptions | None = None) -> None:
        self._options = options or GridOptions()
        self._scans: dict[int, Scan] = {}
        self._entries: dict[int, _Entry] = {}
        self._waiting: dict[int, None] = {}  # keyframes to add (again), in order
        self._votes = Votes()
        self._slab: Slab | None = None
        self._resolution = self._options.resolution or 0.0
        self._before: Grid | None = None  # shown while all keyframes are added again
        self._asked = 0  # number of keyframes when the ground was last searched for
        self._moved = 0  # since then

    @property
    def indices(self) -> AbstractSet[int]:
        """Indices of the known keyframes."""
        return self._scans.keys() | self._waiting.keys()

    @property
    def pending(self) -> int:
        """Number of keyframes not yet in the grid (see ``update``)."""
        return len(self._waiting)

    @property
    def truncated(self) -> bool:
        """Whether something lies outside the largest grid (4000 x 4000 cells) and is left out."""
        return self._votes.truncated

    @property
    def excess(self) -> str:
        """What is too much for the largest grid, and the resolution that fits; "" if nothing is left out."""
        if not self.truncated:
            return ""
        (rows, columns), resolution = self._votes.wanted, self.grid().resolution
        return (
            f"{columns} x {rows} cells of {resolution:.4g}, at most {MAX_CELLS} x {MAX_CELLS} are made; a resolution of"
            f" {resolution * 1.05 * max(rows, columns) / MAX_CELLS:.2g} fits"
        )

    @property
    def tilt_deg(self) -> float:
        """Tilt of the ground in the map, degrees; the grid, in x and y of the map, is shorter up its slope."""
        return 0.0 if self._slab is None else self._slab.ground.tilt_deg

    def update(self, changed: Sequence[Keyframe], removed: Iterable[int] = (), limit: int | None = None) -> None:
        """Follow a change of the map: new or changed keyframes, and the indices of removed ones.

        ``limit`` bounds the keyframes added in this call, so that a loop that moves the whole map does not
        block the caller; the rest waits for the next calls (``update((), limit=n)`` will do). The ground is
        searched for again when the map has grown by half or half of it has moved; if that finds another
        ground, all keyframes are queued again, and the grid stays as it was until the queue is empty.
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
        """The current grid, cropped to its known cells; 0 x 0 cells if there are none."""
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
        """Whether a keyframe has not moved since it was added and has the same depth."""
        entry = self._entries.get(index)
        if entry is None or before.focal != now.focal or before.unit != now.unit:
            return False
        if not np.array_equal(before.depth, now.depth):
            return False
        moved = float(np.linalg.norm(entry.w_T_c[:3, 3] - now.w_T_c[:3, 3]))
        turned = np.radians(angle_deg(entry.w_T_c[:3, :3].T @ now.w_T_c[:3, :3]))
        return moved + turned * now.unit < 0.25 * self._resolution

    def _look_for_ground(self) -> None:
        """Find resolution and slab again when due, and start again if they changed."""
        if not self._due:
            return
        scans = [scan for scan in self._scans.values() if scan.depth.any()]
        if sum(np.count_nonzero(scan.depth) for scan in scans[:_LEAST_POINTS]) < _LEAST_POINTS:
            return
        self._asked, self._moved = len(self._scans), 0
        resolution = resolution_of(self._options, scans)
        other_unit = abs(resolution - self._resolution) > 0.3 * self._resolution
        if not other_unit:
            resolution = self._resolution
        slab = slab_of(self._options, scans, resolution)
        if self._slab is None or other_unit or differ(self._slab, slab, scans):
            self._start_anew(slab, resolution)

    @property
    def _due(self) -> bool:
        """Whether the ground was never searched for, or much of the map is new or has moved since."""
        grown = len(self._scans) >= 1.5 * self._asked + 1
        return self._asked == 0 or grown or self._moved > 0.5 * self._asked

    def _start_anew(self, slab: Slab, resolution: float) -> None:
        """Queue all keyframes to be added with another slab; the old grid is shown until they are."""
        self._before = self.grid() if self._entries else self._before
        self._slab, self._resolution = slab, resolution
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
