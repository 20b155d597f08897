"""Kinds of worlds: where things stand, where light comes from, where cameras may go."""

from __future__ import annotations

from collections.abc import Callable

from dust3r_ros.scenes.endless.arrangements import jumble, still_life
from dust3r_ros.scenes.endless.exteriors import park, street
from dust3r_ros.scenes.endless.interiors import corridor, room, works
from dust3r_ros.scenes.endless.monuments import monument
from dust3r_ros.scenes.endless.site import Site
from dust3r_ros.scenes.endless.stage import Stage

LAYOUTS: dict[Callable[[Site], Stage], float] = {
    room: 0.26,
    corridor: 0.08,
    street: 0.14,
    park: 0.1,
    monument: 0.1,
    still_life: 0.15,
    jumble: 0.12,
    works: 0.06,
}  # with the share of worlds each makes
