"""Loop edges are believed when the map or another keyframe says the same."""

from __future__ import annotations

import numpy as np

from dust3r_ros.alignment.moments import inverse, retract
from dust3r_ros.alignment.online.loop_verification import AS_MAPPED, LoopClaim, LoopGate
from dust3r_ros.types import Array


def chain(keyframes: int = 40) -> Array:
    """(K, 4, 4) a map that walks ahead and turns, with scales."""
    steps = np.tile([0.02, 0.1, 0.01, 0.3, 0.02, 0.2, 0.03], (keyframes, 1))
    S = np.tile(np.eye(4), (keyframes, 1, 1))
    for index in range(1, keyframes):
        S[index] = retract(S[index - 1 : index], steps[index : index + 1])[0]
    return S


def claim(edge: int, young: int, old: int, w_S: Array, off: Array | None = None) -> LoopClaim:
    """That ``young`` stands where the map has it, moved by ``off`` (4, 4) in the map frame."""
    stands = w_S[young] if off is None else off @ w_S[young]
    return LoopClaim(edge, young, old, inverse(w_S[old]) @ stands)


def move(*xi: float) -> Array:
    return retract(np.eye(4)[None], np.array([xi]))[0]


def test_what_agrees_with_the_map_is_believed_at_once() -> None:
    w_S, gate = chain(), LoopGate()
    gate.claim(claim(5, 30, 2, w_S))
    gate.claim(claim(6, 30, 3, w_S, move(0.6, 0, 0, 1.0, 0, 0, 0)))
    assert gate.judge(w_S) == ([5], [])
    assert gate.judge(w_S) == ([], [])


def test_a_correction_needs_a_witness_from_another_keyframe() -> None:
    w_S, gate = chain(), LoopGate()
    drift = move(0.1, -0.05, 0.05, 0.5, 0.2, -0.3, 0.1)
    gate.claim(claim(0, 30, 2, w_S, drift))
    gate.claim(claim(1, 30, 3, w_S, drift))  # the same keyframe may be taken for another at both
    assert gate.judge(w_S) == ([], [])
    gate.claim(claim(2, 31, 9, w_S, move(-0.4, 0.3, 0.2, -1.0, 0.2, 0.3, 0.0)))
    assert gate.judge(w_S) == ([], [])
    gate.claim(claim(3, 32, 4, w_S, drift))
    agreed, witnessed = gate.judge(w_S)
    assert agreed == [] and sorted(witnessed) == [0, 1, 3]
    assert gate.expire(100) == [2]


def test_a_waiting_claim_is_believed_once_the_map_has_moved_to_it() -> None:
    w_S, gate = chain(), LoopGate()
    drift = move(0.0, 0.0, 0.2, 0.6, 0.0, 0.0, 0.0)
    gate.claim(claim(7, 30, 2, w_S, drift))
    assert gate.judge(w_S) == ([], [])
    moved = w_S.copy()
    moved[20:] = drift @ moved[20:]
    assert gate.judge(moved) == ([7], [])


def test_claims_expire() -> None:
    w_S, gate = chain(), LoopGate()
    gate.claim(claim(1, 20, 2, w_S, move(0, 0, 0.5, 0, 0, 0, 0)))
    assert gate.expire(31) == []
    assert gate.expire(32) == [1]
    assert gate.expire(32) == []


def test_tolerance_has_all_three_limits_and_refuses_nan() -> None:
    steps = [(2.9, 0, 0), (3.1, 0, 0), (0, 0.079, 0), (0, 0.081, 0), (0, 0, 0.079), (0, 0, -0.081), (np.nan, 0, 0)]
    xi = np.array([[np.radians(turn), 0, 0, 0, shift, 0, grow] for turn, shift, grow in steps])
    S = retract(np.tile(np.eye(4), (len(xi), 1, 1)), np.nan_to_num(xi))
    S[-1] = np.nan
    assert AS_MAPPED.holds(S).tolist() == [True, False, True, False, True, False, False]
