"""Refinement of a sparse map with its lenses: which terms the images determine, and centers far from the middle;
what no lens explains: a focal that changes, pixels that are not square.

A map hardly distinguishes radial distortion from focal length: both stretch the image, and poses and landmarks absorb
most of the difference. So both are free together, with priors of ordinary lenses, and observations count as what they
are worth: by their scatter, and by how many in one image are independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.sparse.bundle_adjustment import Solution, adjust
from dust3r_ros.sparse.bundle_problem import BundleProblem
from dust3r_ros.sparse.landmarks import CENTER_PRIOR, TAIL
from dust3r_ros.sparse.refinement import place_landmarks, problem_of, refine, scatter_of, thin, weighed
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import no_tracks
from dust3r_ros.types import Array

ENOUGH_VIEWS = 5
_DETERMINED = 0.25  # of the prior's deviation
_NOTICED_PX = 0.1  # by which a term moves what is seen at half the long edge


def refine_lenses(
    sparse: SparseMap, *, rounds: int = 3, iterations: int = 30, fewest_views: int = ENOUGH_VIEWS
) -> Solution | None:
    """``refine`` the whole map, sharp, with free focals and the free lenses of cameras that are not calibrated.

    Lenses have priors, so that what a map does not determine stays near a plain one; those of cameras with fewer
    than ``fewest_views`` posed views are held. The radial terms, or the center, are set to 0 if the observations
    determine them, within a deviation of 0 (many images are rectified or rendered), or if they hardly move a pixel.
    Returns the last solution, None if there was nothing to adjust.
    """
    free = _uncalibrated(sparse, fewest_views)
    solution = refine(sparse, free_focal=True, free_lens=free, rounds=rounds, iterations=iterations, sharp=True)
    while solution is not None and (held := _nothing(sparse, solution) & free).any():
        scatter = scatter_of(sparse, problem_of(sparse))  # now: without these terms errors are larger at first
        for camera in np.flatnonzero(held.any(axis=1)):
            lens = sparse.intrinsics[camera].lens
            radial, second, third = (0.0, 0.0, 0.0) if held[camera, 0] else lens.radials
            center = (0.0, 0.0) if held[camera, -1] else lens.center
            sparse.intrinsics[camera].lens = Lens(lens.radius, radial, center, second, third)
        free &= ~held
        solution = refine(sparse, free_focal=True, free_lens=free, rounds=1, iterations=iterations, scatter=scatter)
    return solution


def _uncalibrated(sparse: SparseMap, fewest: int) -> np.ndarray:
    """(F, 5) the lenses of cameras that are not calibrated and have at least so many posed views."""
    views = np.bincount([sparse.views[v].camera for v in sparse.posed()], minlength=len(sparse.intrinsics))
    free = [views[k] >= fewest and not intrinsics.lens_known for k, intrinsics in enumerate(sparse.intrinsics)]
    return np.repeat(np.array(free, bool)[:, None], 5, axis=1)


def _nothing(sparse: SparseMap, solution: Solution) -> np.ndarray:
    """(F, 5) radial terms together, and centers, that are 0 within their deviations, or as good as 0."""
    value = np.array([intrinsics.lens.terms for intrinsics in sparse.intrinsics])
    prior = np.array([intrinsics.lens_prior for intrinsics in sparse.intrinsics])
    radius = np.array([[intrinsics.lens.radius] for intrinsics in sparse.intrinsics])
    nothing = (np.abs(value) < solution.lens_std) & (solution.lens_std < _DETERMINED * prior)
    nothing |= np.abs(value) * radius < _NOTICED_PX
    radial, center = nothing[:, :3].all(axis=1), nothing[:, 3:].all(axis=1)
    return np.column_stack([radial, radial, radial, center, center])


_OBSERVATIONS, _LEAST = 3000, 100  # from all views together; at least from each
_VAGUE = 0.75  # of the prior's deviation: a map that determines a center no better
_ANYWHERE = 0.3  # standard deviation of the center, radii, where it may be far off the middle
_FAR_OFF = 0.05  # radii, by which it is to move
_BETTER = 2.0  # log likelihood that is no accident
_CLEARLY = 0.97  # of what is unlikely: errors of one image are not independent


def look_off_center(sparse: SparseMap, solution: Solution | None, farthest: float = math.inf) -> bool:
    """Adjust the whole map with a principal point far from the middle, if that explains more; returns whether it does.

    ``solution``: what ``refine_lenses`` returned for the map as it is; ``farthest`` (radii): as far off it is taken.

    Most lenses are centered within a few percent, those of cropped images are not. Where a map shows the center weakly,
    its prior holds it, and a focal, poses and distortion that absorb the rest are a local optimum. So a sample of the
    map is adjusted as usual and with centers that may be anywhere, and the second is taken if its likelihood times the
    prior, Cauchy's, is higher.
    """
    if solution is None or solution.lens_std[:, 3:].max() < _VAGUE * CENTER_PRIOR:
        return False
    before, centers = sparse.snapshot(), _centers(sparse)
    likelier = _refine_sample(sparse)
    moved = np.linalg.norm(_centers(sparse) - centers, axis=1)
    poses, found = [v.w_T_c for v in sparse.views], [(f.focal, f.lens) for f in sparse.intrinsics]
    sparse.restore(before)
    if not likelier or moved.max() < _FAR_OFF:
        return False
    for view, w_T_c in zip(sparse.views, poses, strict=True):
        view.w_T_c = w_T_c
    for known, (focal, lens) in zip(sparse.intrinsics, found, strict=True):
        known.focal, known.lens = focal, lens
    sparse.unprune()
    place_landmarks(sparse)
    refine_lenses(sparse)
    if np.linalg.norm(_centers(sparse), axis=1).max() > farthest:
        sparse.restore(before)
        return False
    return True


def _refine_sample(sparse: SparseMap) -> bool:
    """Adjust a sample of the map, from its own centers and from any, and keep what is likelier.

    Returns whether it is also clearly likelier than with the centers as they are: fewer observations hold them less.
    """
    _sample(sparse, sparse.posed())
    sampled, free = sparse.snapshot(), _uncalibrated(sparse, ENOUGH_VIEWS)
    refine(sparse, free_focal=True, free_lens=free & [True, True, True, False, False], rounds=2, sharp=True)
    held = sparse.snapshot()
    sparse.restore(sampled)
    refine_lenses(sparse, rounds=2)
    scatter, usual = scatter_of(sparse, problem_of(sparse)), sparse.snapshot()
    cost = _unlikelihood(sparse, scatter)
    sparse.restore(held)
    as_it_was = _unlikelihood(sparse, scatter)
    sparse.restore(sampled)
    for intrinsics in sparse.intrinsics:
        intrinsics.center_prior = _ANYWHERE
    refine(sparse, free_focal=True, free_lens=free, rounds=1, iterations=30, sharp=True)
    for intrinsics in sparse.intrinsics:
        intrinsics.center_prior = CENTER_PRIOR
    refine_lenses(sparse, rounds=2)
    anywhere = _unlikelihood(sparse, scatter)
    if not anywhere < cost - _BETTER:
        sparse.restore(usual)
    return min(anywhere, cost) < min(as_it_was - _BETTER, _CLEARLY * as_it_was)


def _centers(sparse: SparseMap) -> Array:
    """(F, 2) radii."""
    return np.array([intrinsics.lens.terms[-2:] for intrinsics in sparse.intrinsics])


def _unlikelihood(sparse: SparseMap, scatter: float) -> float:
    """Minus the log likelihood of all that is seen with errors of ``scatter`` pixels, and of the centers."""
    built = problem_of(sparse)
    if built is None:
        return math.inf
    problem, huber_px = weighed(built[0], scatter)
    unusual = np.log1p((TAIL * _centers(sparse) / CENTER_PRIOR) ** 2)
    return adjust(problem, huber_px=huber_px, iterations=0).cost + float(unusual.sum())


def _sample(sparse: SparseMap, views: Sequence[int]) -> None:
    """Keep a few thousand observations of ``views``."""
    thin(sparse, views, max(_LEAST, _OBSERVATIONS // len(views)))


def sampled(
    sparse: SparseMap, free: Sequence[int] | None = None, half: int | None = None
) -> tuple[BundleProblem, float, list[int]] | None:
    """The adjustment of a sample of the landmarks, with all focals and lenses free, even those that were held.

    Of the ``free`` views, None: all posed ones; of one ``half`` of the landmarks, 0 or 1, None: of all. With the pixels
    at which errors stand out, and the problem's views; None if there is next to nothing to adjust.
    """
    before = sparse.snapshot()
    for view in sparse.views if half is not None else ():
        view.seen, view.pruned = (tracks.select(tracks.ids % 2 == half) for tracks in (view.seen, view.pruned))
    _sample(sparse, sparse.posed() if free is None else free)
    built = problem_of(sparse, free, True, _uncalibrated(sparse, 1))
    sparse.restore(before)
    return None if built is None else (*weighed(built[0], scatter_of(sparse, built)), built[1])


def consider_lenses(sparse: SparseMap) -> None:
    """Set the deviations of focals that are not held, with all else free, lenses too, even if those were.

    A map hardly distinguishes radial distortion from focal length. Computed on a sample of the landmarks.
    """
    built = sampled(sparse) if len(sparse.posed()) >= 2 else None
    if built is None:
        return
    problem, huber_px, _ = built
    solution = adjust(problem, huber_px=huber_px, iterations=0)
    for k, std in zip(np.flatnonzero(problem.free_focal), solution.focal_std, strict=True):
        sparse.intrinsics[k].std = float(std)


_FEWEST, _MOST_ZOOMING = 10, 150  # views: more would take minutes
_WALKS = 0.01, 0.03  # of the log focal from view to view, as standard deviations: a lens that breathes, a zoom
# Log likelihood that is no accident, its share of all that is unlikely, and the log focal, root mean square, also as a
# share of its deviation, that make sure; with a shutter that rolls, of which something is always left; and of a camera
# that has been seen to zoom.
_SURELY, _ROLLING, _FURTHER = (8.0, 0.025, 0.004, 0.1), (8.0, 0.08, 0.006, 0.1), (2.0, 0.0, 0.001, 0.0)
_LEAP, _WEIGHED = 3.0, 3  # deviations of a step that is a leap, and has its own; how often steps are weighed, at most
_STEPS, _MORE_STEPS, _PLACING, _CLOSELY = 30, 100, 6, 1e-5


@dataclass(frozen=True, eq=False)
class Zoom:
    """Focals that change: by how much longer (log) than ``focal`` each of a camera's views has it, 0 on average.

    ``w_T_c``: (4, 4) by view; ``std``: relative standard deviation of a focal.
    """

    focal: float
    logs: Mapping[int, float]
    w_T_c: Mapping[int, Array]
    std: float


def measure_zoom(sparse: SparseMap, camera: int, when: Sequence[tuple[int, int]], again: bool = False) -> Zoom | None:
    """How the focal of a camera changes; None if it does not as far as images say. The map is unchanged.

    A sample of half of the landmarks is adjusted with a focal for each view, that walks at random. The other half must
    agree: adjusted as if seen with these focals, it is explained clearly better than with one. ``when``: as of
    ``consider_images``; ``again``: it was measured before, and taken out.
    """
    learned, asked = (sampled(sparse, half=half) if _may_zoom(sparse, camera) else None for half in (0, 1))
    if learned is None or asked is None:
        return None
    begun, _ = _settled(*learned[:2])
    there, _ = _settled(*asked[:2])
    gain, share, changes, of_std = _FURTHER if again else _first(sparse, camera)
    best, least = None, math.inf
    for walk in _WALKS:
        zoom = _zoom(begun, *learned[1:], camera, when, walk)
        if np.std([*zoom.logs.values()]) > max(changes, of_std * zoom.std):
            # With one focal it may be better there, too.
            cost, one = [_cost_of(each, there, *asked[1:], camera) for each in (zoom, replace(zoom, logs={}))]
            if cost < min(one - max(gain, share * one), least):
                best, least = zoom, cost
    return best


def _may_zoom(sparse: SparseMap, camera: int) -> bool:
    own = sum(sparse.views[view].camera == camera for view in sparse.posed())
    return not sparse.intrinsics[camera].given and own >= _FEWEST and len(sparse.posed()) <= _MOST_ZOOMING


def _first(sparse: SparseMap, camera: int) -> tuple[float, float, float, float]:
    return _ROLLING if any(sparse.intrinsics[camera].rolling) else _SURELY


def _settled(problem: BundleProblem, huber_px: float) -> tuple[BundleProblem, float]:
    """A problem that begins where this one ends, and the cost there."""
    end = adjust(problem, huber_px=huber_px, iterations=_STEPS, tolerance=_CLOSELY)
    return replace(problem, w_T_c=end.w_T_c, focals=end.focals, lenses=end.lenses, points=end.points), end.cost


def _zoom(
    problem: BundleProblem, huber_px: float, views: list[int], camera: int, when: Sequence[tuple[int, int]], walk: float
) -> Zoom:
    """The focals of a camera's views that explain a problem best; they differ by ``walk`` from one to the next, and
    leap where the lens is changed.
    """
    mine = sorted(np.flatnonzero(problem.camera == camera).tolist(), key=lambda k: when[views[k]])
    own, F, K = problem.camera.copy(), len(problem.focals), len(mine)
    own[mine] = F + np.arange(K)

    def each(values: Array, factor: float = 1.0) -> Array:
        return np.append(values, np.full(K, factor * values[camera]))

    free, walks = each(problem.free_focal).astype(bool), np.full(F + K, walk)
    free[camera], walks[: F + 1] = False, np.inf
    sigma = each(np.broadcast_to(problem.focal_prior_sigma, F), math.sqrt(K))  # all of them have one prior
    changing = replace(
        problem, camera=own, focals=each(problem.focals), free_focal=free, focal_prior=each(problem.focal_prior),
        focal_prior_sigma=sigma, focal_walk=walks, lenses=[*problem.lenses, *[problem.lenses[camera]] * K],
        free_lens=None, lens_prior_sigma=None,
    )  # fmt: skip
    for _ in range(_WEIGHED):
        found = adjust(changing, huber_px=huber_px, iterations=_MORE_STEPS, tolerance=1e-6)
        steps = np.abs(np.diff(np.log(found.focals[F:])))
        leaps = steps > _LEAP * walk
        if not leaps.any():
            break
        walks = np.append(walks[: F + 1], np.where(leaps, steps, walk))
        changing = replace(changing, w_T_c=found.w_T_c, focals=found.focals, points=found.points, focal_walk=walks)
    logs = np.log(found.focals[F:])
    changes = {views[k]: float(log) for k, log in zip(mine, logs - logs.mean(), strict=True)}
    poses, std = dict(zip(views, found.w_T_c, strict=True)), found.focal_std[-K:]
    return Zoom(math.exp(logs.mean()), changes, poses, float(np.median(std)))


def _cost_of(zoom: Zoom, problem: BundleProblem, huber_px: float, views: list[int], camera: int) -> float:
    """The least cost of a problem as if seen with the focals of a zoom, begun where it is and where the zoom has it."""
    scale = np.exp([-zoom.logs.get(view, 0.0) for view in views])
    shown = replace(problem, offset=problem.offset * scale[problem.view, None])
    poses = np.stack([zoom.w_T_c.get(view, w_T_c) for view, w_T_c in zip(views, problem.w_T_c, strict=True)])
    focals = np.where(np.arange(len(problem.focals)) == camera, zoom.focal, problem.focals)
    there = replace(shown, w_T_c=poses, focals=focals)
    held = replace(there, free=np.zeros_like(there.free), free_focal=np.zeros_like(there.free_focal), free_lens=None)
    there = replace(there, points=adjust(held, huber_px=huber_px, iterations=_PLACING).points)
    return min(_settled(begun, huber_px)[1] for begun in (shown, there))


_SHORT, _STRETCH, _LONGEST, _MOST_STRETCHES = 5, 10, 12, 8  # keyframes of a stretch; at most; how many stretches
_SAMPLE_OF_STRETCH, _SETTLING_PX = 100, (10.0, 4.0, 4.0)  # landmarks of each view; errors at most
_TRIED, _FARTHEST, _TRIALS = 0.02, 0.1, 5  # of the logarithm: a trial, a step; how many steps
_DENIED, _SURE = 6.0, 4.5  # log likelihoods that are no accident: of one of many stretches; of all together
_NO_LENS = 1.0  # log: further off, no focal explains what a stretch sees, such as edges that slide along a wall
_NOTABLY = 0.01  # of all that is unlikely: what is left of a lens, and of a shutter that rolls, is squeezed a little
_UNUSUAL = 0.03  # by which a focal, or a pixel, is off
_LEAST_OFF = 0.003  # log: what is gained by less says nothing of how certain a focal is
_PLAINLY = 0.07  # log: what errors make of pixels that need not be square would show as well, if not even this shows
_MOST_VIEWS = 120  # that are adjusted: in more, a sample would take minutes


def consider_images(sparse: SparseMap, when: Sequence[tuple[int, int]]) -> None:
    """Set by how much focals change, and how far pixels are from square, for cameras that are not calibrated.

    ``when`` (V,) each view was taken: in which session, and its stamp. The map is unchanged otherwise.
    """
    views = sorted(sparse.posed(), key=when.__getitem__)
    for camera, intrinsics in enumerate(sparse.intrinsics):
        own = [view for view in views if sparse.views[view].camera == camera]
        unknown = not intrinsics.given
        parts = {min(max(2, len(own) // count), _MOST_STRETCHES) for count in (_SHORT, _STRETCH)}
        intrinsics.zoom = max(_variation(sparse, camera, own, count) for count in parts) if unknown else 0.0
        intrinsics.squeeze = _squeeze(sparse, camera, own) if unknown and not intrinsics.zoom else 0.0


def _variation(sparse: SparseMap, camera: int, views: Sequence[int], count: int) -> float:
    """By how much (root mean square, log) the focals of ``count`` stretches of views are off, 0 if not for sure.

    The map of a camera that zooms is bent until all it sees fits one focal. So each stretch is adjusted as a map of its
    own: that of a camera that does not has no other focal, as far as it determines one.
    """
    parts = [part.tolist() for part in np.array_split(np.array(views, int), count)]
    if len(parts[-1]) < ENOUGH_VIEWS:
        return 0.0
    found = [_alone(sparse, camera, part[max(len(part) - _LONGEST, 0) // 2 :][:_LONGEST]) for part in parts]
    off, gain = np.array(found).T
    sure = gain > _DENIED
    # Each also counts by how well it determines its focal, as if its cost were a parabola: one that hardly does finds
    # any, and the others know better.
    certain = float((gain / np.maximum(off**2, _LEAST_OFF**2)).sum())
    spread = math.sqrt(min(float((sure * off**2).mean()), float(gain[sure].sum()) / max(certain, 1e-9)))
    return spread if spread > _UNUSUAL else 0.0


def _alone(sparse: SparseMap, camera: int, views: Sequence[int]) -> tuple[float, float]:
    """By how much (log) the focal is off, as a map of a few views alone has it, and the log likelihood that it gains.

    Against the best that the same observations fit with the focal as it is: deviations mean little of a focal that is
    hardly determined. They are those that fit with it, too: a focal gains whatever it makes of matches that are wrong.
    But all must fit better: what it leaves out counts. The lens is held, as it is the same in all. The map is
    unchanged.
    """
    before = sparse.snapshot()
    for index, view in enumerate(sparse.views):
        if index not in views:
            view.w_T_c, view.seen, view.pruned = None, no_tracks(), no_tracks()
    sparse.unprune()
    thin(sparse, views, _SAMPLE_OF_STRETCH)
    place_landmarks(sparse)
    misfit = sparse.misfit()
    for limit in _SETTLING_PX:
        refine(sparse, rounds=1, iterations=30, max_error_px=limit, sharp=limit == _SETTLING_PX[-1])
        sparse.extend()
    off, gain = 0.0, 0.0
    built = problem_of(sparse, None, True)
    if built is not None:
        problem, huber_px = weighed(built[0], scatter_of(sparse, built))
        problem = replace(problem, focal_prior_sigma=math.inf)
        held, cost = _settled(replace(problem, free_focal=np.zeros_like(problem.free_focal)), huber_px)
        own, least = _settled(replace(held, free_focal=problem.free_focal), huber_px)
        off = math.log(own.focals[camera] / problem.focals[camera])
        for index, w_T_c in zip(built[1], own.w_T_c, strict=True):
            sparse.views[index].w_T_c = w_T_c
        sparse.intrinsics[camera].focal = float(own.focals[camera])
        place_landmarks(sparse)
        gain = cost - least if abs(off) < _NO_LENS and sparse.misfit() < misfit else 0.0
    sparse.restore(before)
    return off, gain


def _squeeze(sparse: SparseMap, camera: int, views: Sequence[int]) -> float:
    """By how much (log) pixels of a camera are wider than high, 0 if they are square as far as images say.

    A sample of the map is adjusted to images that are somewhat narrower and wider: the cost is about a parabola.
    """
    middle = max(len(views) - _MOST_VIEWS, 0) // 2
    free = None if len(sparse.posed()) <= _MOST_VIEWS else views[middle : middle + _MOST_VIEWS]
    built = sampled(sparse, free) if len(views) >= ENOUGH_VIEWS else None
    if built is None:
        return 0.0
    problem, huber_px, _ = built
    mine = problem.camera[problem.view] == camera

    def cost(squeeze: float) -> float:
        factors = np.where(mine[:, None], np.exp([0.5 * squeeze, -0.5 * squeeze]), 1.0)
        shown = replace(problem, offset=problem.offset * factors)
        return adjust(shown, huber_px=huber_px, iterations=20, tolerance=1e-5).cost

    found, bend, now = 0.0, 0.0, cost(0.0)
    best = now
    for _ in range(_TRIALS):
        less, more = cost(found - _TRIED), cost(found + _TRIED)
        slope, bend = (less - more) / (2.0 * _TRIED), (less + more - 2.0 * best) / _TRIED**2
        step = float(np.clip(slope / max(bend, 1e-9), -_FARTHEST, _FARTHEST))
        if slope * step < 2.0 * _SURE:
            break
        found += step
        best = cost(found)
    clearly = best < now - max(_SURE, _NOTABLY * now)
    # A robot that drives on a floor and turns about the vertical sees as well a world that is higher
    clearly &= bend * _PLAINLY**2 > 2.0 * _NOTABLY * now
    certain = bend * found**2 > 2.0 * _SURE  # a map that is wrong prefers any change of images
    return found if clearly and certain and abs(found) > _UNUSUAL else 0.0
