"""Maps that grow on disk: a mapper with a journal, fed frames of a walk; as a program it waits to be killed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from sequences import SMALL

from dust3r_ros.config import MapperConfig
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.storage.journal import MapJournal
from dust3r_ros.storage.loading import load_state
from dust3r_ros.types import MapUpdate

# Nearly every frame a keyframe, whose depth takes little time.
DENSE = replace(SMALL, working_size=96, keyframe_motion=0.02, keyframe_motion_young=0.02)
LATER_NS = 3600 * 10**9


def grow(
    mapper: Mapper, journal: MapJournal | None, sequence: RenderedSequence, frames: Iterable[int], later_ns: int = 0
) -> list[MapUpdate]:
    """Feed frames of a sequence, ``later_ns`` after they were taken; each update is written."""
    updates = []
    for frame in frames:
        updates.append(mapper.process(int(sequence.stamps_ns[frame]) + later_ns, "camera", sequence.images[frame]))
        if journal is not None:
            journal.update(mapper.live)
    return updates


def resumed(path: Path, config: MapperConfig = DENSE, **more: object) -> Mapper:
    """A mapper of another session that continues a map."""
    mapper = Mapper(config, **more)  # type: ignore[arg-type]
    mapper.resume(load_state(path))
    return mapper


def main(images: str, path: str, begin: int) -> None:
    """Map images of a file from frame ``begin`` on, over and over; says each keyframe that is on the disk."""
    frames, fresh = np.load(images), not Path(path).exists()
    config = replace(DENSE, focal=float(frames["focal"]))
    mapper = Mapper(config) if fresh else resumed(Path(path), config)
    journal = MapJournal(path, fresh=fresh)
    for frame in range(begin, len(frames["images"])):
        update = mapper.process(frame * 10**8 + 1, "camera", frames["images"][frame])
        journal.update(mapper.live)
        name = "none" if update.keyframe is None else update.keyframe
        print(f"{frame} {name}", flush=True)  # in one write: killed in between, half a line would be said
    print("end", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
