"""Images that the pairs leave in several parts: one alignment and one world for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dust3r_ros.alignment import align
from dust3r_ros.alignment.batch.problem import given_focals
from dust3r_ros.alignment.objective import Alignment
from dust3r_ros.errors import InputError
from dust3r_ros.types import PairPrediction

_PER_IMAGE = ("cameras", "focals", "focal_std", "poses", "pose_covariance", "depths", "depth_std")
_SHAPE_OF_ONE = {"focal_std": (), "pose_covariance": (6, 6), "depth_std": ()}  # of a value that holds for all images


@dataclass(frozen=True, eq=False)
class Part:
    """``images`` (K,), ascending: their numbers in the given pairs; image k of ``alignment`` is ``images[k]``.
    ``pairs``: positions of its pairs among the given ones, in the order of ``alignment.edges``.
    """

    images: tuple[int, ...]
    pairs: tuple[int, ...]
    alignment: Alignment


def align_parts(pairs: Sequence[PairPrediction], **known: Any) -> list[Part]:
    """Align every connected part of the pair graph in its own world and scale; the largest comes first.

    ``known``: arguments of ``alignment.align``, by image number. An image in no pair is in no part. Raises what
    ``align`` raises for a part, and ``InputError`` for no pairs.
    """
    if not pairs:
        raise InputError("an alignment needs at least one pair, not 0")
    known, found = _shared(known), []
    for own in _connected(pairs):
        number = {image: k for k, image in enumerate(own)}
        its = [position for position, pair in enumerate(pairs) if pair.first in number]
        renamed = [replace(p, first=number[p.first], second=number[p.second]) for p in (pairs[i] for i in its)]
        found.append(Part(tuple(own), tuple(its), align(renamed, **_of_images(known, own))))
    return found


def _connected(pairs: Sequence[PairPrediction]) -> list[list[int]]:
    """Images of every connected part, ascending; the largest part first."""
    first, second = (np.array([getattr(pair, name) for pair in pairs]) for name in ("first", "second"))
    images, index = np.unique(np.concatenate([first, second]), return_inverse=True)
    graph = coo_array((np.ones(len(pairs)), tuple(index.reshape(2, -1))), shape=(len(images),) * 2)
    count, label = connected_components(graph, directed=False)
    members = [images[label == part].tolist() for part in range(count)]
    return sorted(members, key=lambda images: (-len(images), images))


def _shared(known: dict[str, Any]) -> dict[str, Any]:
    """The arguments with each given focal at all images of its camera, which may be in several parts."""
    focals, cameras = known.get("focals"), known.get("cameras")
    if focals is None or cameras is None or np.shape(focals) != np.shape(cameras):
        return known
    return known | {"focals": given_focals(focals, np.asarray(cameras), len(focals))}


def _of_images(known: dict[str, Any], images: list[int]) -> dict[str, Any]:
    """The arguments restricted to some of the images."""
    chosen = {}
    for name, value in known.items():
        if name in _PER_IMAGE and value is not None and not _is_one(name, value):
            if len(value) <= max(images):
                raise InputError(f"'{name}' has {len(value)} entries; the pairs name image {max(images)}")
            value = [value[image] for image in images]
        chosen[name] = value
    return chosen


def _is_one(name: str, value: Any) -> bool:
    """Whether one value holds for all images."""
    return name in _SHAPE_OF_ONE and not isinstance(value, list | tuple) and np.shape(value) == _SHAPE_OF_ONE[name]
