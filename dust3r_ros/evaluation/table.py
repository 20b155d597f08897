"""Scene results as a Markdown table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dust3r_ros.io.files import make_folder, write_text

Result = Mapping[str, Any]


def _number(name: str, digits: int, sign: str = "") -> Callable[[Result], str]:
    return lambda result: "–" if result.get(name) is None else f"{result[name]:{sign}.{digits}f}"


def _ate(result: Result) -> str:
    if result.get("ate") is None:
        return "–"
    return f"{result['ate']:.4f}" if result["metric"] else "no scale"


COLUMNS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("scene", lambda result: str(result["scene"])),
    ("frames", _number("frames", 0)),
    ("tracked %", _number("tracked", 0)),
    ("keyframes", _number("keyframes", 0)),
    ("ATE m", _ate),
    ("ATE % of path", _number("ate_percent", 2)),
    ("focal error %", _number("focal_error", 1, "+")),
    ("depth Rel %", _number("depth_rel", 1)),
    ("δ1.25 %", _number("depth_delta", 1)),
    ("Rel % (median)", _number("depth_rel_median", 1)),
    ("δ1.25 % (median)", _number("depth_delta_median", 1)),
    ("density %", _number("density", 0)),
    ("s", _number("seconds", 1)),
    ("frames/s", _number("frames_per_second", 1)),
)

LEGEND = (
    "ATE is the root mean square position error after a Sim3 alignment. Depth Rel and δ1.25 compare keyframe depth "
    "with sensor depth, scaled once by the trajectory's Sim3; the columns with (median) scale each image by its "
    "median. Density is the share of keyframe pixels that have depth. A dash: no truth, or nothing to measure."
)


def markdown(results: Sequence[Result]) -> str:
    """The table, one row per result, notes below.

    A result is ``SceneResult.to_json()``, or scene, metric and note of one that failed.
    """
    names = [name for name, _ in COLUMNS]
    lines = ["| " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) - 1)]
    lines += ["| " + " | ".join(show(result) for _, show in COLUMNS) + " |" for result in results]
    notes = [f"- {result['scene']}: {result['note']}" for result in results if result.get("note")]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def write_tables(directory: Path, results: Sequence[Result]) -> tuple[Path, Path]:
    """``sequences.json`` and ``sequences.md`` in ``directory`` (made when missing)."""
    directory = make_folder(directory)
    data, page = directory / "sequences.json", directory / "sequences.md"
    write_text(data, json.dumps(list(results), indent=1) + "\n")
    write_text(page, markdown(results) + "\n" + LEGEND + "\n")
    return data, page
