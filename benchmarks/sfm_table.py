"""What sfm.py measured, beside its targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Figures = dict[str, Any]

TARGETS = {"ate": 1.0, "focal_error": 1.0, "seconds": 0.1}  # ours / theirs
# Where the truth is no accuracy reference, or none is asked for: the whole trajectory is the target.
COMPLETE = ("kitti_01", "tum_fr3_cabinet")


def compare(name: str, ours: Figures, theirs: Figures) -> Figures:
    """Ratios ours / theirs (None where one is missing) and which targets are met."""

    def ratio(key: str) -> float | None:
        a, b = ours.get(key), theirs.get(key)
        return None if a is None or not b else abs(a) / abs(b)

    ratios = {"ate": ratio("ate"), "focal_error": ratio("focal_error"), "seconds": ratio("seconds")}
    met: dict[str, bool | None] = {"seconds": _at_most(ratios["seconds"], TARGETS["seconds"])}
    if any(part in name for part in COMPLETE):
        met["complete"] = "frames" in ours and ours["registered"] == ours["frames"]
    else:
        met["ate"] = _at_most(ratios["ate"], TARGETS["ate"])
        met["focal_error"] = _at_most(ratios["focal_error"], TARGETS["focal_error"])
    return {"ratios": ratios, "met": met}


def _at_most(value: float | None, limit: float) -> bool | None:
    return None if value is None else value <= limit


LEGEND = (
    "Ours / pycolmap. ATE: root mean square after Sim3, % of the path. Ratios ours / pycolmap; targets: ATE at most "
    f"{TARGETS['ate']:g}, focal error at most {TARGETS['focal_error']:g}, time at most {TARGETS['seconds']:g}; "
    f"on {' and '.join(COMPLETE)} every frame has a pose. Our time includes dense depth of every keyframe, pycolmap's "
    "is sparse. Where the truth was made by COLMAP itself, a note says so. A dash: not measured."
)
_HEAD = (
    "scene", "frames", "registered", "ATE % of path", "ATE ratio", "focal error %", "focal ratio", "s", "time ratio",
    "missed",
)  # fmt: skip


def table(rows: list[Figures]) -> str:
    """Markdown, notes below."""
    lines = ["| " + " | ".join(_HEAD) + " |", "| --- |" + " ---: |" * (len(_HEAD) - 2) + " --- |"]
    lines += [line(row) for row in rows]
    notes = [
        f"- {row['scene']}, {who}: {row[who]['note']}"
        for row in rows
        for who in ("ours", "theirs")
        if row[who].get("note")
    ]
    notes += [
        f"- {row['scene']}: truth from {row['truth']}" for row in rows if "colmap" in row.get("truth", "").lower()
    ]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def line(row: Figures) -> str:
    """One scene."""

    def both(show: Callable[[Figures], str]) -> str:
        return f"{show(row['ours'])} / {show(row['theirs'])}"

    def number(key: str, digits: int, sign: str = "") -> Callable[[Figures], str]:
        return lambda figures: "–" if figures.get(key) is None else f"{figures[key]:{sign}.{digits}f}"

    ratios, met = row["ratios"], row["met"]
    missed = ", ".join(name.replace("_", " ") for name, good in met.items() if good is False)
    cells = (
        row["scene"],
        number("frames", 0)(row["ours"] if "frames" in row["ours"] else row["theirs"]),
        both(number("registered", 0)),
        both(number("ate_percent", 3)),
        number("ate", 2)(ratios),
        both(number("focal_error", 1, "+")),
        number("focal_error", 2)(ratios),
        both(number("seconds", 1)),
        number("seconds", 3)(ratios),
        missed or ("–" if None in met.values() else "none"),
    )
    return "| " + " | ".join(cells) + " |"
