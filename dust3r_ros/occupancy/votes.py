"""How many keyframes saw an obstacle in a cell, and how many looked through it."""

from __future__ import annotations

import numpy as np

from dust3r_ros.occupancy.grid import FREE, OCCUPIED, UNKNOWN, Grid
from dust3r_ros.occupancy.plan import Plan

MAX_CELLS = 4000  # along an edge

_HIT, _PASS = 0.85, 0.41  # log odds of 0.7 and 0.4 (Hornung et al., "OctoMap", Autonomous Robots 2013)
_LEAST_HITS = 2  # keyframes; what only one has seen may be a mistake of its depth
_CHUNK = 128  # cells by which the counts grow


class Votes:
    """Counts over a lattice that grows where plans lie, up to ``MAX_CELLS`` along an edge."""

    def __init__(self) -> None:
        self._row = self._column = 0  # of the first cell
        self._counts = np.zeros((2, 0, 0), np.int32)  # obstacles, passes
        self.truncated = False  # whether a plan was cut because the lattice may not grow further
        self._extent: tuple[int, int, int, int] | None = None  # [row, row), [column, column) of all plans so far

    def add(self, plan: Plan) -> Plan:
        """Count a plan; returns the part of it that was, to be taken out as it is."""
        if not plan.cells.size:
            return plan
        part = self._grown_for(plan)
        self._count(part, 1)
        return part

    def remove(self, part: Plan) -> None:
        """Take out what ``add`` returned."""
        if part.cells.size:
            self._count(part, -1)

    def grid(self, resolution: float) -> Grid:
        """The grid as it stands, cut to what is known; of 0 x 0 cells when nothing is."""
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
        """The part of a plan that finds room, after the lattice has grown for it."""
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
        """Rows and columns that all plans so far together would have taken."""
        r0, r1, c0, c1 = self._extent or (0, 0, 0, 0)
        return r1 - r0, c1 - c0


def _span(begin: int, length: int, wanted: int, size: int) -> tuple[int, int]:
    """[begin, begin + length) grown in chunks to hold ``size`` cells from ``wanted`` on, as far as it may."""
    if not length:
        begin = wanted
    end, spare = begin + length, MAX_CELLS - length
    low = max(min(begin, wanted - wanted % _CHUNK), begin - spare)
    spare -= begin - low
    last = wanted + size
    return low, min(max(end, last + -last % _CHUNK), end + spare)
