"""Maps of a fleet that show the same place as one map each, beside those of the recordings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from dust3r_ros.config import MapperConfig
from dust3r_ros.fleet import places
from dust3r_ros.fleet.recordings import MAPPED, RECORD, Job, Record, is_done, request_of
from dust3r_ros.io.files import make_folder, write_text
from dust3r_ros.io.trajectory import path_length, write_trajectories

REQUESTS = "joined.json"  # which maps were joined, and where
FOLDER = "joined"
TRAJECTORIES = "trajectories"


@dataclass(frozen=True)
class _Request:
    """An entry of ``REQUESTS``: the names that were asked for, and the members of each joined map by its folder.

    ``request`` is a digest of what became of them; empty once a later request has replaced some of the joined maps.
    """

    request: str
    asked: list[str]
    joined: dict[str, list[str]]


def join_all(
    out: Path, records: dict[str, Record], names: list[str], config: MapperConfig, version: str, again: bool = False
) -> list[list[str]]:
    """Join the maps ``names`` below ``out`` that show the same place, and enter the joined ones into ``records``.

    Each gets a folder of results; earlier joined maps with any of ``names`` among their members are removed. If the
    same maps were joined before, nothing is done. Returns the names of what became one. Raises ``Dust3rRosError`` for
    maps that cannot be read.
    """
    names = sorted(name for name in names if not records[name].members)  # a joined map is not joined again
    request = request_of("join", {name: [records[name].request, records[name].state] for name in names}, version)
    before = _read(out)
    for entry in before:
        if not again and entry.request == request and _is_whole(entry, out, records):
            return list(entry.joined.values())
    kept = _make_room(out, records, names, before)
    mapped = [name for name in names if records[name].state == MAPPED]
    joined: dict[str, list[str]] = {}
    for folder, record in _joined(out, mapped, config, request, _free_names(records)):
        records[folder] = record
        joined[folder] = record.members
    _write(out, [*kept, _Request(request, names, joined)])
    return list(joined.values())


def _read(out: Path) -> list[_Request]:
    try:
        return [_Request(**entry) for entry in json.loads((out / REQUESTS).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _write(out: Path, entries: Iterable[_Request]) -> None:
    write_text(out / REQUESTS, json.dumps([asdict(entry) for entry in entries], indent=1) + "\n")


def _is_whole(entry: _Request, out: Path, records: Mapping[str, Record]) -> bool:
    """Whether all that the request gave is still there."""
    return all(is_done(Job(name, "", str(out / name), entry.request, 0), records.get(name)) for name in entry.joined)


def _make_room(out: Path, records: dict[str, Record], names: list[str], before: list[_Request]) -> list[_Request]:
    """Remove the joined maps that have any of ``names`` among their members; returns what is left of the entries.

    Joined maps are known by their records: one of a request that was killed has no entry.
    """
    old = [name for name, record in records.items() if not set(names).isdisjoint(record.members)]
    for name in old:
        del records[name]
    kept = list(_left(before, records, names))
    _write(out, kept)  # first, so that it never lists a map that is no longer there
    for name in old:
        places.remove(out / name / RECORD)
    return kept


def _left(entries: list[_Request], records: Mapping[str, Record], names: list[str]) -> Iterator[_Request]:
    """The entries with those joined maps that still have a record.

    One that joined nothing stays unless it asked for any of ``names``, which are joined anew now.
    """
    for entry in entries:
        joined = {
            name: members
            for name, members in entry.joined.items()
            if name in records and records[name].members == members
        }
        if joined == entry.joined and (joined or set(names).isdisjoint(entry.asked)):
            yield entry
        elif joined:
            yield replace(entry, request="", joined=joined)


def _free_names(taken: Mapping[str, Record]) -> Iterator[str]:
    every = (FOLDER if number == 1 else f"{FOLDER}-{number}" for number in count(1))
    return (name for name in every if name not in taken)


def _joined(
    out: Path, names: list[str], config: MapperConfig, request: str, free: Iterator[str]
) -> Iterator[tuple[str, Record]]:
    """Name of the folder and record of each joined map."""
    from dust3r_ros.products.results import write_results
    from dust3r_ros.session.joined import join_maps

    if len(names) < 2:
        return
    start = perf_counter()
    for joined in join_maps({name: out / name / "map.db" for name in names}, config):
        folder, what = make_folder(out / next(free)), " + ".join(joined.names)
        shutil.rmtree(folder / TRAJECTORIES, ignore_errors=True)  # of maps that were joined before
        trajectories = make_folder(folder / TRAJECTORIES)
        for name in joined.names:
            write_trajectories(trajectories / f"{name}.txt", joined.trajectory(name))
        summary = write_results(
            folder,
            joined.mapper,
            config=config,
            source=what,
            wall_seconds=perf_counter() - start,
            **joined.for_files(),
        )
        figures = {
            **figures_of(summary),
            "length": round(sum(path_length(joined.trajectory(name)) for name in joined.names), 4),
            "unit": "m" if joined.metric else "map units",
            "joined": list(joined.names),
        }
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        record = Record(
            what, request, MAPPED, "", figures, list(joined.warnings), [name for name in files if name != RECORD],
            summary["frames"],
        )  # fmt: skip
        record.write(folder)
        yield folder.name, record
        start = perf_counter()


def figures_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the index shows of a map, from its summary."""
    return {
        **{name: summary[name] for name in ("frames", "keyframes", "points", "seconds", "peak_memory_mb", "version")},
        "poses": summary["tracked"],
        "focal": {name: (camera["focal"], camera["focal_std"]) for name, camera in summary["cameras"].items()},
    }
