"""A mapper as a journal reads it, and how it takes a saved map back."""

from __future__ import annotations

from dataclasses import dataclass

from dust3r_ros.appearance import Appearance
from dust3r_ros.atlas import Atlas
from dust3r_ros.cameras import Cameras
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError
from dust3r_ros.map_state import MapState
from dust3r_ros.types import Camera, MapCounts


@dataclass(frozen=True, eq=False)
class LiveMap:
    """The parts of a mapper that are saved: references, not copies."""

    atlas: Atlas
    streams: Cameras
    appearance: Appearance
    config: MapperConfig
    cameras: dict[str, Camera]
    counts: MapCounts
    revision: int


def resume(live: LiveMap, state: MapState) -> None:
    """Go on with a saved map in place of an empty one; cameras are nowhere until a frame is found.

    Raises ``InputError``, and changes nothing, where images were processed already, or where the map was
    made with another kind of backend or other image sizes.
    """
    if list(live.streams):
        raise InputError("a map is gone on with before the first image; reset or start again to load one")
    config, kind = live.config, live.atlas.active.submap.saving.kind
    if not state.submaps:  # the session ended before its first image
        live.atlas.restore(state, {})
        return
    for what, saved, own in (
        ("working_size", state.working_size, config.working_size),
        ("tracking_size", state.tracking_size, config.tracking_size),
    ):
        if saved != own:
            raise InputError(f"the map was made with {what} {saved}, this session has {own}; set {what} to {saved}")
    for submap in state.submaps:
        if submap.kind != kind:
            raise InputError(
                f"the map is carried by {submap.kind}, which the backend '{config.backend}' does not go on with, since "
                f"it makes {kind}; choose the backend that the map was made with"
            )
    streams = {}
    for camera in state.cameras:
        streams[camera.name] = live.streams.open(camera.name, camera.width, camera.height)[0]
    live.appearance.restore(state.appearance)
    live.atlas.restore(state, streams)
