"""What keyframes see of landmarks, as increments: the sights once, which of them count whenever that changes.

The sights of a keyframe are those of its features, then all others; each with the id that its landmark had
when it was written. Which id it has now follows from the mergers (``aliases``). So a sight that is set
aside, and a landmark that turns out to be another one, cost a few bytes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import numpy as np

from dust3r_ros.mapping.state import KeyframeState
from dust3r_ros.storage import blobs
from dust3r_ros.storage.rows import put
from dust3r_ros.tracking import Tracks, join
from dust3r_ros.types import Array

Resolve = Callable[[np.ndarray], np.ndarray]


def write_sights(base: sqlite3.Connection, number: int, k: KeyframeState, resolved: Resolve, anew: bool) -> None:
    """Write what a keyframe sees; ``anew``: the landmarks have other ids than when that was written last."""
    if k.seen is None or k.pruned is None:
        return
    known = None if anew else _read(base, number, k)
    places = None if known is None else _places(known, k, resolved)
    if places is None:
        known = _sights(k, resolved)
        put(base, "sights", _row(number, k, known))
        places = _places(known, k, resolved)
        assert places is not None, "all sights are there"
    seen, pruned = (blobs.pack_steps(place) for place in places)
    put(base, "sight_states", {"number": number, "seen": seen, "pruned": pruned})


def read_sights(
    feature_ids: bytes, ids: bytes, offsets: bytes, states: tuple[bytes, bytes], features: Array, center: Array
) -> tuple[np.ndarray, Tracks, Tracks]:
    """Ids of features, what is seen and what was set aside; ids as they were written. Raises ``ValueError``."""
    own = blobs.unpack_steps(feature_ids)
    if len(own) != len(features):
        raise ValueError(f"{len(features)} features have {len(own)} landmarks")
    sights = join(Tracks(own, features), Tracks(blobs.unpack_steps(ids), blobs.unpack_offsets(offsets, center)))
    places = [blobs.unpack_steps(state) for state in states]
    if any(len(place) and not 0 <= place.min() <= place.max() < len(sights.ids) for place in places):
        raise ValueError("it sees what it has not")
    return own, sights.select(places[0]), sights.select(places[1])


def _sights(k: KeyframeState, resolved: Resolve) -> Tracks:
    """Features, and all else that is or was seen."""
    assert k.seen is not None and k.pruned is not None
    features = Tracks(k.feature_ids, k.features.pixels)
    every = join(k.seen, k.pruned)
    return join(features, every.select(~np.isin(_named(every, resolved), _named(features, resolved))))


def _row(number: int, k: KeyframeState, sights: Tracks) -> dict[str, object]:
    more = sights.select(np.arange(len(k.feature_ids), len(sights.ids)))
    return {
        "number": number,
        "first_id": k.first_id,
        "feature_ids": blobs.pack_steps(k.feature_ids),
        "ids": blobs.pack_steps(more.ids),
        "offsets": blobs.pack_offsets(more.pixels, k.center),
    }


def _read(base: sqlite3.Connection, number: int, k: KeyframeState) -> Tracks | None:
    row = base.execute("SELECT feature_ids, ids, offsets FROM sights WHERE number = ?", (number,)).fetchone()
    if row is None:
        return None
    features = Tracks(blobs.unpack_steps(row[0]), k.features.pixels)
    return join(features, Tracks(blobs.unpack_steps(row[1]), blobs.unpack_offsets(row[2], k.center)))


def _places(sights: Tracks, k: KeyframeState, resolved: Resolve) -> tuple[np.ndarray, np.ndarray] | None:
    """Where ``seen`` and ``pruned`` are among the sights; None where one of them is not, or by another id."""
    assert k.seen is not None and k.pruned is not None
    keys = _keys(sights)
    order = np.argsort(keys, kind="stable")
    ids = resolved(sights.ids)
    found = []
    for tracks in (k.seen, k.pruned):
        wanted = _keys(tracks)
        at = np.minimum(np.searchsorted(keys[order], wanted), len(order) - 1) if len(order) else np.zeros(0, int)
        if len(at) != len(wanted):
            return None
        place = order[at]
        for _ in range(4):  # several sights at one pixel, of different landmarks
            other = (ids[place] != resolved(tracks.ids)) & (keys[place] == wanted)
            if not other.any():
                break
            at = np.where(other, np.minimum(at + 1, len(order) - 1), at)
            place = order[at]
        if not (np.array_equal(keys[place], wanted) and np.array_equal(ids[place], resolved(tracks.ids))):
            return None
        found.append(place)
    return found[0], found[1]


def _named(tracks: Tracks, resolved: Resolve) -> np.ndarray:
    """(N,) landmark and pixel as one thing each."""
    rows = np.column_stack([resolved(tracks.ids).astype(np.float64), tracks.pixels])
    return np.ascontiguousarray(rows).view("V24").ravel()


def _keys(tracks: Tracks) -> np.ndarray:
    """(N,) pixels as one number each."""
    return np.ascontiguousarray(tracks.pixels[:, 0] + 1j * tracks.pixels[:, 1])
