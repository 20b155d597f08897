"""The grid of rendered rooms is that of the truth, and follows a map that moves."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scoring import alignment, play
from sequences import SMALL, walk
from true_map import cells_of, moved, room_walk, true_keyframes, true_points

from dust3r_ros.errors import ConfigError
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.occupancy import FREE, MAX_CELLS, OCCUPIED, UNKNOWN, Grid, GridOptions, OccupancyGridMap, Votes
from dust3r_ros.occupancy.plan import Plan, Slab, resolution_of, scan_of, slab_of
from dust3r_ros.scenes.rooms import CORRIDOR_SIZE, ROOM_SIZE


def plan(row: int, column: int, rows: list[list[int]]) -> Plan:
    return Plan(row, column, np.array(rows, np.int8))


def test_the_votes_decide() -> None:
    votes = Votes()
    obstacle, through, nothing = plan(5, -3, [[1]]), plan(5, -3, [[-1]]), plan(5, -3, [[0]])
    expected = {(): None, ("o",): None, ("t",): FREE, ("o", "o"): OCCUPIED, ("o", "t"): None}
    expected |= {("o", "t", "t", "t"): FREE, ("o", "o", "t", "t", "t"): OCCUPIED, ("o",) * 2 + ("t",) * 5: FREE}
    for ballots, result in expected.items():
        votes = Votes()
        for ballot in (*ballots, "n"):
            votes.add({"o": obstacle, "t": through, "n": nothing}[ballot])
        grid = votes.grid(0.5)
        assert grid.data.tolist() == ([] if result is None else [[result]]), ballots
        if result is not None:
            assert grid.origin == (-1.5, 2.5, 0.0) and grid.resolution == 0.5


def test_plans_far_apart_share_one_grid_and_leave_no_trace() -> None:
    votes, kept = Votes(), []
    rng = np.random.default_rng(0)
    plans = [
        Plan(int(r), int(c), rng.integers(-1, 2, (9, 14)).astype(np.int8)) for r, c in rng.integers(-700, 700, (30, 2))
    ]
    truth = np.zeros((2, 1500, 1500), int)
    for item in plans:
        kept.append(votes.add(item))
        window = np.s_[item.row + 750 : item.row + 759, item.column + 750 : item.column + 764]
        truth[0][window] += item.cells > 0
        truth[1][window] += item.cells < 0
    grid = votes.grid(1.0)
    free = np.argwhere(0.41 * truth[1] > 0.85 * truth[0])
    x, y = (int(value) for value in grid.origin[:2])
    assert np.array_equal(np.argwhere(grid.data == FREE) + np.array([y + 750, x + 750]), free)
    assert not votes.truncated
    for part in kept:
        votes.remove(part)
    assert votes.grid(1.0).data.shape == (0, 0)


def test_it_stops_growing_and_says_so() -> None:
    votes = Votes()
    votes.add(plan(0, 0, [[-1]]))
    part = votes.add(plan(MAX_CELLS + 500, 3, [[-1]]))
    assert votes.truncated and part.cells.size == 0
    assert votes.wanted == (MAX_CELLS + 501, 4)
    votes.remove(part)
    long = votes.add(Plan(-2, 0, np.full((MAX_CELLS + 100, 1), -1, np.int8)))
    assert 0 < len(long.cells) <= MAX_CELLS
    grid = votes.grid(1.0)
    assert grid.data.shape[0] <= MAX_CELLS and (grid.data != UNKNOWN).all()
    votes.remove(long)
    assert votes.grid(1.0).data.shape == (1, 1)


@pytest.mark.parametrize("row", [-MAX_CELLS, -1, 0, 1, MAX_CELLS - 1, 3 * MAX_CELLS])
def test_any_place_can_be_the_first(row: int) -> None:
    votes = Votes()
    votes.add(plan(row, -row, [[-1, -1]]))
    assert votes.grid(1.0).origin == (-row, row, 0.0) and not votes.truncated


FIXED = GridOptions(resolution=0.1, min_height=0.15, max_height=1.5)


def grown(mask: np.ndarray, cells: int = 1) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * cells + 1,) * 2, np.uint8)) > 0


def middles(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """x and y (H, W) of the cells' middles."""
    row, column = np.mgrid[: grid.data.shape[0], : grid.data.shape[1]] + 0.5
    return grid.origin[0] + column * grid.resolution, grid.origin[1] + row * grid.resolution


def same(a: Grid, b: Grid) -> bool:
    return a.origin == b.origin and np.array_equal(a.data, b.data)


def made(keyframes, options: GridOptions = FIXED) -> tuple[Grid, OccupancyGridMap]:
    grids = OccupancyGridMap(options)
    grids.update(keyframes)
    assert grids.pending == 0 and not grids.truncated
    return grids.grid(), grids


def slab_seen(keyframes, options: GridOptions = FIXED) -> Slab:
    """Ground and obstacle heights, as the map of these keyframes has them."""
    scans = [scan_of(keyframe, options.min_confidence) for keyframe in keyframes]
    return slab_of(options, scans, resolution_of(options, scans))


@pytest.mark.parametrize(("kind", "size"), [("orbit", ROOM_SIZE), ("sweep", ROOM_SIZE), ("corridor", CORRIDOR_SIZE)])
def test_walls_and_furniture_are_occupied_the_floor_is_free_the_outside_unknown(kind, size) -> None:
    sequence = room_walk(kind)
    keyframes = true_keyframes(sequence)
    grid, _ = made(keyframes)
    ground = slab_seen(keyframes).ground
    assert ground.normal[2] > 0.9998 and abs(ground.offset) < 0.01
    points = true_points(sequence)
    in_slab = points[(points[:, 2] > 0.15) & (points[:, 2] < 1.5)]
    truth = cells_of(in_slab, grid.origin, grid.resolution, grid.data.shape) >= 15
    occupied, free = grid.data == OCCUPIED, grid.data == FREE
    assert (occupied & grown(truth)).sum() / occupied.sum() > 0.99
    assert (truth & grown(occupied)).sum() / truth.sum() > 0.9
    assert (free & truth).sum() < 0.05 * truth.sum()  # walls seen along them
    x, y = middles(grid)
    outside = (np.abs(x) > size[0] / 2 + 0.1) | (np.abs(y) > size[1] / 2 + 0.1)
    assert not (free & outside).any() and not (occupied & outside).any()
    floor = cells_of(points[np.abs(points[:, 2]) < 0.01], grid.origin, grid.resolution, grid.data.shape) >= 15
    assert (floor & ~grown(truth) & free).sum() / (floor & ~grown(truth)).sum() > 0.97


def test_the_table_stands_where_it_stands() -> None:
    """Its top is 1.1 x 0.76 m, centred in the room; an orbit looks at it from all sides."""
    grid, _ = made(true_keyframes(room_walk("orbit")))
    x, y = middles(grid)
    table = (np.abs(x) < 0.5) & (np.abs(y) < 0.33)
    around = (np.abs(x) < 0.85) & (np.abs(y) < 0.68) & ~((np.abs(x) < 0.65) & (np.abs(y) < 0.48))
    assert (grid.data[table] == OCCUPIED).mean() > 0.9
    assert (grid.data[around] == FREE).mean() > 0.95


def test_lengths_that_are_not_given_follow_the_map() -> None:
    keyframes = true_keyframes(room_walk())
    metric, _ = made(keyframes, GridOptions())
    slab = slab_seen(keyframes, GridOptions())
    assert (slab.low, slab.high) == pytest.approx((0.14, 1.54), rel=0.05)  # the walk is 1.4 m above the floor
    shrunk = moved(keyframes, Similarity(0.02, np.eye(3), np.zeros(3)))
    tiny, _ = made(shrunk, GridOptions())
    assert tiny.resolution == pytest.approx(0.02 * metric.resolution, rel=1e-3)
    assert np.abs(np.subtract(tiny.data.shape, metric.data.shape)).max() <= 1
    assert (tiny.data == OCCUPIED).sum() == pytest.approx((metric.data == OCCUPIED).sum(), rel=0.05)
    assert slab_seen(shrunk, GridOptions()).high == pytest.approx(0.02 * slab.high, rel=1e-2)


def test_a_map_that_is_not_level_gives_the_same_rooms() -> None:
    """As with a first camera that looked down: walls stay thin, points drop along the ground's normal."""
    sequence = room_walk()
    turn = Rotation.from_euler("y", 18, degrees=True).as_matrix()
    keyframes = moved(true_keyframes(sequence), Similarity(1.0, turn, np.zeros(3)))
    grid, grids = made(keyframes)
    assert grids.tilt_deg == pytest.approx(18.0, abs=0.5)
    assert np.degrees(np.arccos(slab_seen(keyframes).ground.normal @ turn[:, 2])) < 0.5
    points = true_points(sequence)
    feet = points[(points[:, 2] > 0.15) & (points[:, 2] < 1.5)] * [1, 1, 0]
    truth = cells_of(feet @ turn.T, grid.origin, grid.resolution, grid.data.shape) >= 15
    occupied = grid.data == OCCUPIED
    assert (occupied & grown(truth)).sum() / occupied.sum() > 0.99
    assert (truth & grown(occupied)).sum() / truth.sum() > 0.9


def test_the_height_of_the_camera_can_be_given() -> None:
    keyframes, options = true_keyframes(room_walk()), replace(FIXED, camera_height=1.4)
    grid, _ = made(keyframes, options)
    ground = slab_seen(keyframes, options).ground
    assert ground.normal.tolist() == [0, 0, 1] and abs(ground.offset) < 0.1
    assert (grid.data == OCCUPIED).sum() > 100


def test_growing_bit_by_bit_is_the_same_as_at_once() -> None:
    keyframes = true_keyframes(room_walk())
    at_once, _ = made(keyframes)
    grids = OccupancyGridMap(FIXED)
    grids.update(keyframes[:3])
    for keyframe in keyframes[3:]:
        grids.update([keyframe])
    # The ground was found from fewer keyframes, so borders of the slab may differ a little
    grid = grids.grid()
    assert grid.origin == at_once.origin and grid.data.shape == at_once.data.shape
    assert (grid.data == at_once.data).mean() > 0.97


def test_removed_and_moved_keyframes_leave_no_trace() -> None:
    keyframes = true_keyframes(room_walk())
    options = replace(FIXED, camera_height=1.4)  # the ground does not depend on which keyframes there are
    rest, _ = made(keyframes[:12], options)
    grids = OccupancyGridMap(options)
    far = moved(keyframes[12:], Similarity(1.0, np.eye(3), np.array([3.0, 1.0, 0.0])))
    grids.update([*keyframes[:12], *far])
    assert not same(grids.grid(), rest)
    grids.update(keyframes[12:])
    assert same(grids.grid(), made(keyframes, options)[0])
    grids.update([], [keyframe.index for keyframe in keyframes[12:]] + [99])
    assert same(grids.grid(), rest)
    grids.update([], range(12))
    assert grids.grid().data.shape == (0, 0)


def test_only_what_moved_is_added_again(monkeypatch: pytest.MonkeyPatch) -> None:
    keyframes = true_keyframes(room_walk())
    _, grids = made(keyframes)
    from dust3r_ros import occupancy

    added = []
    plan_of = occupancy.plan_of
    monkeypatch.setattr(occupancy, "plan_of", lambda scan, *rest: added.append(scan) or plan_of(scan, *rest))
    slightly = moved(keyframes, Similarity(1.0, np.eye(3), np.array([0.004, 0, 0])))
    grids.update(slightly[:6])
    assert added == []
    grids.update(moved(keyframes[2:4], Similarity(1.0, np.eye(3), np.array([0.05, 0, 0]))))
    assert len(added) == 2
    other = replace(keyframes[5], depth=keyframes[5].depth * np.float32(1.01))
    grids.update([other])
    assert len(added) == 3


def test_the_work_of_one_update_can_be_bounded() -> None:
    keyframes = true_keyframes(room_walk())
    grids = OccupancyGridMap(FIXED)
    grids.update(keyframes, limit=5)
    assert grids.pending == 11
    while grids.pending:
        before = grids.pending
        grids.update((), limit=5)
        assert grids.pending == max(0, before - 5)
    assert same(grids.grid(), made(keyframes)[0])


def test_the_grid_stays_while_it_is_made_anew_bit_by_bit() -> None:
    keyframes = true_keyframes(room_walk())
    grids = OccupancyGridMap()
    grids.update(keyframes)
    before = grids.grid()
    doubled = moved(keyframes, Similarity(2.0, np.eye(3), np.zeros(3)))
    grids.update(doubled, limit=4)
    while grids.pending:
        assert same(grids.grid(), before) and grids.grid().resolution == before.resolution
        grids.update((), limit=4)
    assert grids.grid().resolution == pytest.approx(2 * before.resolution)
    assert same(grids.grid(), made(doubled, GridOptions())[0])


def test_a_map_in_other_units_is_followed() -> None:
    """As when the scale becomes metric: every keyframe comes again, in another unit and turned."""
    keyframes = true_keyframes(room_walk())
    turn = Rotation.from_euler("z", 30, degrees=True).as_matrix()
    grids = OccupancyGridMap()
    grids.update(moved(keyframes, Similarity(0.3, turn, np.array([1.0, 2.0, 0.5]))))
    grids.update(keyframes)
    metric, _ = made(keyframes, GridOptions())
    assert grids.grid().resolution == pytest.approx(metric.resolution) and same(grids.grid(), metric)


def test_nothing_and_bad_depth_are_an_empty_grid() -> None:
    grids = OccupancyGridMap()
    grids.update([])
    assert grids.grid().data.shape == (0, 0)
    keyframe = true_keyframes(room_walk())[0]
    for depth in (0.0, np.nan, np.inf, -1.0):
        grids.update([replace(keyframe, depth=np.full_like(keyframe.depth, depth))])
        assert grids.grid().data.shape == (0, 0)


def test_a_point_far_away_does_not_make_the_grid_large() -> None:
    keyframes = true_keyframes(room_walk())
    keyframes[3].depth.setflags(write=True)
    depth = keyframes[3].depth.copy()
    depth[40:60, 40:60] = 5000.0
    grid, _ = made([*keyframes[:3], replace(keyframes[3], depth=depth), *keyframes[4:]])
    assert max(grid.data.shape) < 500
    assert (grid.data == UNKNOWN).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resolution": 0.0}, "resolution.*0.0"),
        ({"resolution": float("nan")}, "resolution.*nan"),
        ({"max_height": -1.0}, "max_height.*-1"),
        ({"min_height": 1.0, "max_height": 0.5}, "min_height.*1.0.*0.5"),
        ({"camera_height": float("inf")}, "camera_height.*inf"),
        ({"max_range": -2.0}, "max_range"),
    ],
)
def test_bad_lengths_are_refused_by_name(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GridOptions(**options)


def test_the_grid_of_a_map_from_images_alone_is_near_the_truth() -> None:
    """Nothing is known but the images; the map is brought to metres by its trajectory, the heights are its own."""
    sequence = walk("orbit", 24)
    mapper = Mapper(SMALL)
    play(mapper, sequence)
    mapper.finish()
    grid, _ = made(moved(mapper.keyframes, alignment(mapper.keyframes, sequence)[0]))
    points = true_points(sequence)
    in_slab = points[(points[:, 2] > 0.15) & (points[:, 2] < 1.5)]
    truth = cells_of(in_slab, grid.origin, grid.resolution, grid.data.shape) >= 15
    occupied, free = grid.data == OCCUPIED, grid.data == FREE
    precision = (occupied & grown(truth)).sum() / occupied.sum()
    # Depth is there where two keyframes see a place, so what only one saw is not asked for
    known = grown(occupied | free)
    recall = (truth & known & grown(occupied)).sum() / (truth & known).sum()
    assert precision > 0.9 and recall > 0.85
    x, y = middles(grid)
    outside = (np.abs(x) > ROOM_SIZE[0] / 2 + 0.2) | (np.abs(y) > ROOM_SIZE[1] / 2 + 0.2)
    assert (free & outside).sum() < 0.01 * free.sum()
