"""Where one map lies in another: found among wrong matches, refused where too little says so."""

from __future__ import annotations

import numpy as np
import pytest
from merging import TRUE_FIT, halves

from dust3r_ros.alignment.map_fit import fit_maps
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import angle_deg
from dust3r_ros.geometry.similarity import Similarity


def off_by(found: Similarity) -> tuple[float, float, float]:
    """Relative scale, degrees and distance at the scene's middle from the true similarity."""
    middle = TRUE_FIT.inverse().apply(np.zeros(3))
    return (
        abs(found.scale / TRUE_FIT.scale - 1),
        angle_deg(found.rotation.T @ TRUE_FIT.rotation),
        float(np.linalg.norm(found.apply(middle))),
    )


def test_without_noise_it_is_exact() -> None:
    two = halves(noise=0.0)
    fit = fit_maps(two.target, two.source, two.matches)
    assert fit.agree.all() and fit.rms_px < 1e-3
    assert max(off_by(fit.target_S_source)) < 1e-5


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.6, 0.8])
def test_wrong_matches_do_no_harm(wrong: float) -> None:
    two = halves(wrong=wrong)
    fit = fit_maps(two.target, two.source, two.matches)
    np.testing.assert_array_equal(fit.agree, two.matches[:, 0] == two.matches[:, 1])
    scale, turn, shift = off_by(fit.target_S_source)
    assert scale < 0.005 and turn < 0.3 and shift < 0.02
    assert 0.2 < fit.rms_px < 1.5
    assert 0 < fit.scale_std < 0.005 and 0 < fit.rotation_std_deg < 0.3


def test_the_same_matches_give_the_same_answer() -> None:
    two = halves(wrong=0.5)
    a, b = (fit_maps(two.target, two.source, two.matches, seed=3) for _ in range(2))
    assert a.target_S_source.matrix.tobytes() == b.target_S_source.matrix.tobytes()


@pytest.mark.parametrize("count", [40, 400])
def test_maps_of_different_places_are_refused(count: int) -> None:
    two = halves(points=count, wrong=1.0)
    with pytest.raises(GeometryError, match=rf"^\d+ of {count} matches .* agree .* at least {max(20, count // 10)}"):
        fit_maps(two.target, two.source, two.matches)


def test_few_matches_are_refused() -> None:
    two = halves()
    with pytest.raises(GeometryError, match="19 of 19 matches between the maps have a position in both; at least 20"):
        fit_maps(two.target, two.source, two.matches[:19])
    assert fit_maps(two.target, two.source, two.matches[:19], min_matches=15).agree.all()
    with pytest.raises(GeometryError, match="0 of 0"):
        fit_maps(two.target, two.source, np.zeros((0, 2), int))


def test_a_match_found_in_many_keyframes_counts_once() -> None:
    two = halves()
    again = np.tile(two.matches[:15], (10, 1))
    with pytest.raises(GeometryError, match="15 of 15"):
        fit_maps(two.target, two.source, again)
    fit = fit_maps(two.target, two.source, np.concatenate([again, two.matches]))
    assert len(fit.agree) == len(again) + len(two.matches) and fit.agree.all()


def test_points_on_a_line_are_refused() -> None:
    """Nothing says how the maps are turned about the line."""
    along = np.linspace(-1, 1, 60)[:, None] * np.array([0.3, 0.6, 0.8])
    two = halves(points=along)
    with pytest.raises(GeometryError, match=r"open by .* deg; .*one line"):
        fit_maps(two.target, two.source, two.matches, threshold_px=50.0)


def test_points_all_close_together_are_refused() -> None:
    """A finger seen from four metres tells where the other map is, not how large and how turned."""
    close = 0.006 * np.random.default_rng(0).standard_normal((60, 3))
    two = halves(points=close, noise=0.5)
    with pytest.raises(GeometryError, match=r"leave the scale .* open by"):
        fit_maps(two.target, two.source, two.matches)


def test_a_landmark_placed_in_one_map_only_is_judged_there() -> None:
    two = halves(wrong=0.2)
    two.source.points[two.matches[:, 1][::5]] = np.nan
    two.target.points[two.matches[:, 0][2::5]] = np.nan
    fit = fit_maps(two.target, two.source, two.matches)
    np.testing.assert_array_equal(fit.agree, two.matches[:, 0] == two.matches[:, 1])
    two.source.points[two.matches[4, 1]] = two.target.points[two.matches[4, 0]] = np.nan
    assert not fit_maps(two.target, two.source, two.matches).agree[4], "nobody can say"


def test_what_two_views_placed_is_not_enough() -> None:
    """Two views may place everything at a wrong depth that both like; the answer has to wait for more views."""
    two = halves()
    poses = [view.w_T_c for view in two.source.views]
    for view in two.source.views[2:]:
        view.w_T_c = None
    with pytest.raises(GeometryError, match=r"seen from 2 views of the source map; at least 3"):
        fit_maps(two.target, two.source, two.matches)
    two.source.views[4].w_T_c = poses[4]
    assert fit_maps(two.target, two.source, two.matches).agree.all()
