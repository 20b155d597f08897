"""The part of docs/live.md made from results/live.json: the table, and what limits each case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from live_figures import FIGURES

from dust3r_ros.evaluation.report.metrics import table_lines
from dust3r_ros.io.files import replace_between

BEGIN, END = "<!-- begin, made by benchmarks/live.py -->", "<!-- end, made by benchmarks/live.py -->"


def table(cases: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row per figure, a column per case that ran; missed targets are marked."""
    ran = [case for case in cases if "figures" in case]
    shown = {row["key"] for case in ran for row in case["figures"]}
    rows = [
        (figure.title, figure.target, *(_cell(case, figure.key) for case in ran))
        for figure in FIGURES
        if figure.key in shown
    ]
    lines = table_lines(("figure", "target", *(case["name"] for case in ran)), rows) if ran else []
    for case in cases:
        for outcome in ("skipped", "failed"):
            if outcome in case:
                lines += ["", f"{case['name']}: {outcome}: {case[outcome]}."]
    return "\n".join(lines)


def _cell(case: dict[str, Any], key: str) -> str:
    row = next((row for row in case["figures"] if row["key"] == key), None)
    if row is None:
        return ""
    if row["value"] is None:
        return "none, **missed**"
    number = f"{row['value']:.0f}" if abs(row["value"]) >= 100 else f"{row['value']:.3g}"
    shown = f"{number} {row['unit']}".strip()
    return shown if row["met"] else f"{shown}, **missed**"


def limits(case: dict[str, Any]) -> str:
    """A paragraph: what happened to a case's images, and its slowest stages."""
    counts, images = case["counts"], case["images"]
    unknown = counts["frames"] - counts["tracked"]
    went = (
        (case["poses"], "got a pose at once"),
        (counts["dropped"], "were dropped"),
        (counts["lost_in_transport"], "were lost in transport"),
        (unknown, "reached the mapper and got none, before the first map or because the camera was lost"),
        (counts["rejected"], "were refused"),
    )
    parts = [f"{number} {what}" for number, what in went if number]
    slowest = sorted(case["stages"].items(), key=lambda item: -item[1]["max_ms"])[:4]
    stages = ", ".join(f"{name} {times['p95_ms']:.0f} ms (at most {times['max_ms']:.0f})" for name, times in slowest)
    return (
        f"- **{case['name']}**, {case['title']}: of {images} images in {case['seconds']:.1f} s, {'; '.join(parts)}."
        f" {counts['keyframes']} keyframes{_more(case)}."
        f" Slowest stages, p95: {stages or 'none'}."
    )


def _more(case: dict[str, Any]) -> str:
    if "kills" in case:
        return f"; the back end was killed {case['kills']} times"
    if "passes" in case:
        keyframes, memory = ([status[name] for status in case["passes"]] for name in ("keyframes", "memory_mb"))
        rise = f"{memory[3]:.0f} to {memory[-1]:.0f} MiB"
        return f" after {len(keyframes)} passes, {keyframes[1]} after two; from the fourth to the last {rise}"
    differs = ", ".join(case.get("replay_differs", ()))
    return f"; offline took {case['offline_seconds']:.0f} s" + (f"; a replay differs in {differs}" if differs else "")


def into_page(page: Path, report: dict[str, Any]) -> None:
    """Replace the text between the markers; raises ``OutputError`` for a page without them."""
    replace_between(page, BEGIN, END, _made(report))


def _made(report: dict[str, Any]) -> str:
    about, ran = report["about"], [case for case in report["cases"] if "figures" in case]
    others = about["others_cores"]
    where = (
        f"dust3r_ros {about['version']}, {report['cores']} cores of {about['processor'] or about['machine']}, Python"
        f" {about['python']}; the player publishes {report['reliability'].replace('_', ' ')}."
    )
    if others is not None:
        where += f" Cores used by other programs meanwhile: {others:.1f}."
    return "\n".join([table(report["cases"]), "", where, "", "What limits:", "", *map(limits, ran)])
