"""Maps of a fleet that show the same place as one map each, beside those of the recordings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from dust3r_ros.config import MapperConfig
from dust3r_ros.fleet.recordings import MAPPED, RECORD, Job, Record, is_done, read_record, request_of
from dust3r_ros.io.files import make_folder, write_text
from dust3r_ros.io.trajectory import path_length, write_tum

GROUPS = "joined.json"  # which maps were joined, and where
FOLDER = "joined"
TRAJECTORIES = "trajectories"


def join_all(
    out: Path, records: dict[str, Record], names: list[str], config: MapperConfig, version: str, again: bool = False
) -> list[list[str]]:
    """Join the maps ``names`` below ``out`` that show the same place, and enter the joined ones into ``records``.

    Each gets a folder of results. If the same maps were joined before, nothing is done. Returns the names of what
    became one. Raises ``Dust3rRosError`` for maps that cannot be read.
    """
    names = sorted(name for name in names if records[name].state == MAPPED)
    request = request_of("join", {name: records[name].request for name in names}, version)
    before = _read(out)
    kept = [Job(name, "", str(out / name), request, 0) for name in before.get("folders", [])]
    if not again and before.get("request") == request and all(is_done(job, read_record(job.folder)) for job in kept):
        return [list(group) for group in before["groups"]]
    for job in kept:  # of maps as they were
        (Path(job.folder) / RECORD).unlink(missing_ok=True)
        records.pop(job.name, None)
    (out / GROUPS).unlink(missing_ok=True)
    groups: list[list[str]] = []
    folders: list[str] = []
    free = _free_names(records)
    for group, record in _joined(out, names, config, request, free):
        groups.append(group)
        folders.append(record[0])
        records[record[0]] = record[1]
    write_text(out / GROUPS, json.dumps({"request": request, "groups": groups, "folders": folders}, indent=1) + "\n")
    return groups


def _read(out: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((out / GROUPS).read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return {}


def _free_names(taken: Mapping[str, Record]) -> Iterator[str]:
    every = (FOLDER if number == 1 else f"{FOLDER}-{number}" for number in count(1))
    return (name for name in every if name not in taken)


def _joined(
    out: Path, names: list[str], config: MapperConfig, request: str, free: Iterator[str]
) -> Iterator[tuple[list[str], tuple[str, Record]]]:
    """Each group of maps, with the name of its folder and its record."""
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
            write_tum(trajectories / f"{name}.txt", joined.trajectory(name))
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
        yield list(joined.names), (folder.name, record)
        start = perf_counter()


def figures_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the index shows of a map, from its summary."""
    return {
        **{name: summary[name] for name in ("frames", "keyframes", "points", "seconds", "peak_memory_mb", "version")},
        "poses": summary["tracked"],
        "focal": {name: (camera["focal"], camera["focal_std"]) for name, camera in summary["cameras"].items()},
    }
