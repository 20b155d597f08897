"""The results of sfm.py with their targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from targets import target

from dust3r_ros.io.files import atomic_path

Figures = dict[str, Any]

TARGETS = {"ate": 1.0, "focal_error": 1.0, "seconds": 0.1}  # ours / theirs
# Scenes whose truth is not an accuracy reference, or not judged: the target is a complete trajectory.
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


def judged(row: Figures) -> list[Figures]:
    """Rows of the common table for one scene."""
    ours, dense, theirs, ratios, met = (row[key] for key in ("ours", "dense", "theirs", "ratios", "met"))
    name, why = row["scene"], "; ".join(dict.fromkeys(run["note"] for run in (ours, theirs) if run.get("note")))

    def quotient(key: str, shown: str, what: str, form: str) -> Figures:
        pair = " / ".join("–" if run.get(shown) is None else format(run[shown], form) for run in (ours, theirs))
        ratio = "–" if ratios[key] is None else f"{ratios[key]:.2f} x"
        return target(f"{name}: {what}", f"{ratio} ({pair})", f"<= {TARGETS[key]:g}", met[key], why)

    rows = []
    if "complete" in met:
        count = f"{ours.get('registered', 0)} of {ours.get('frames', '–')}"
        others = f"pycolmap {theirs['registered']}" if "registered" in theirs else ""
        rows.append(target(f"{name}: frames with a pose", count, "all", met["complete"], why or others))
    else:
        rows += [quotient("ate", "ate_percent", "ATE, % of the path", ".3f"),
                 quotient("focal_error", "focal_error", "focal error, %", "+.1f")]  # fmt: skip
    rows.append(quotient("seconds", "seconds", "seconds, poses only", ".1f"))
    if dense.get("seconds") is not None:
        rows[-1]["note"] = "; ".join(filter(None, (why, f"with dense depth {dense['seconds']:.1f} s")))
    return rows


LEGEND = (
    "Ours / pycolmap. ATE: root mean square after Sim3, % of the path. Ratios ours / pycolmap; targets: ATE at most "
    f"{TARGETS['ate']:g}, focal error at most {TARGETS['focal_error']:g}, time at most {TARGETS['seconds']:g}; "
    f"on {' and '.join(COMPLETE)} every frame has a pose. Both map poses, calibration and sparse points; with dense "
    "depth of every keyframe ours takes what stands in brackets. Where the truth was made by COLMAP itself, a note "
    "says so. A dash: not measured."
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
        for who in ("ours", "dense", "theirs")
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
        f"{number('seconds', 1)(row['ours'])} ({number('seconds', 1)(row['dense'])}) / "
        f"{number('seconds', 1)(row['theirs'])}",
        number("seconds", 3)(ratios),
        missed or ("–" if None in met.values() else "none"),
    )
    return "| " + " | ".join(cells) + " |"


def plot(rows: Sequence[Figures], path: Path) -> None:
    """ATE, focal error and time of every scene, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(11, 4), layout="constrained")
    names = {"ours": "poses only", "dense": "with dense depth", "theirs": "pycolmap"}
    titles = {"ate_percent": "ATE, % of the path", "focal_error": "focal error, %", "seconds": "seconds"}
    at = np.arange(len(rows))
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for shift, (who, label) in enumerate(names.items()):
            values = [abs(row[who].get(key) or np.nan) for row in rows]
            axes.bar(at + 0.27 * (shift - 1), values, 0.25, label=label)
        axes.set(title=title, yscale="log")
        axes.set_xticks(at, [row["scene"] for row in rows], rotation=30, ha="right", fontsize="small")
    panels[0].legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
