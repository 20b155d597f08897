"""The index of many maps: a table for programs, and a page with their pictures."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dust3r_ros.fleet.places import joined, write_text
from dust3r_ros.fleet.recordings import DONE, MAPPED, Record
from dust3r_ros.products.report import html_page

TABLE, PAGE = "index.csv", "index.html"
COLUMNS = (
    "name", "state", "frames", "poses", "keyframes", "points", "focal_px", "focal_std_px", "length", "unit", "seconds",
    "peak_memory_mb", "tries", "host", "version", "warnings", "message", "recording",
)  # fmt: skip
_STYLE = """
p.lead { margin: .2rem 0 1.2rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1rem; }
article { border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem; overflow-wrap: anywhere; }
article.bad { border-left: 4px solid #d9822b; } h2 { font-size: 1.05rem; margin: 0 0 .4rem; }
img { border-radius: 4px; display: block; } p { margin: .4rem 0 0; } .path { color: var(--muted); font-size: .85rem; }
"""


def write_index(out: str | Path, records: Mapping[str, Record]) -> None:
    """Write table and page about all ``records``, by the names of their folders in ``out``. Raises ``OutputError``."""
    records = dict(sorted(records.items()))
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(_row(name, record) for name, record in records.items())
    write_text(joined(out, TABLE), text.getvalue())
    write_text(joined(out, PAGE), page(records))


def _row(name: str, record: Record) -> dict[str, Any]:
    """A row of the table. With several cameras, focal lengths are ``camera=value``, apart by semicolons."""
    figures = record.figures
    row = {
        "name": name,
        "state": record.state,
        **{column: figures.get(column, "") for column in COLUMNS if column not in ("name", "state")},
        "tries": record.tries,
        "host": record.host,
        "warnings": "; ".join(record.warnings),
        "message": record.message,
        "recording": record.recording,
    }
    for column, number in (("focal_px", 0), ("focal_std_px", 1)):
        values = {camera: pair[number] for camera, pair in figures.get("focal", {}).items()}
        shown = {camera: "" if value is None else str(value) for camera, value in values.items()}
        row[column] = (
            "; ".join(f"{camera}={value}" for camera, value in shown.items())
            if len(shown) > 1
            else next(iter(shown.values()), "")
        )
    return row


def page(records: Mapping[str, Record]) -> str:
    """The page: what ended badly first, then the maps with their pictures."""
    recordings = [record for record in records.values() if not record.members]  # their poses are in joined maps again
    counts = Counter(record.state for record in recordings)
    poses, seconds = (sum(r.figures.get(name) or 0 for r in recordings) for name in ("poses", "seconds"))
    title = _count(len(recordings), "recording")
    if len(records) > len(recordings):
        title += f", {_count(len(records) - len(recordings), 'joined map')}"
    lead = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    order = sorted(records.items(), key=lambda item: item[1].state == MAPPED)
    parts = [
        f'<h1>{title}</h1><p class="lead">{escape(lead)} · {poses:,} poses in '
        f'{seconds / 3600:.2f} hours of mapping · <a href="{TABLE}">{TABLE}</a></p><main>',
        *(_article(name, record) for name, record in order),
        "</main>",
    ]
    return html_page(title, _STYLE, parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _article(name: str, record: Record) -> str:
    """One recording; a map has its picture, which leads to the report."""
    bad = record.state != MAPPED
    lines = [f"<article{' class=bad' if bad else ''}><h2>{escape(name)}{f': {record.state}' if bad else ''}</h2>"]
    if record.state in DONE:
        folder = quote(name)
        lines.append(
            f'<a href="{folder}/report.html"><img src="{folder}/preview.png" loading="lazy" alt="Map of '
            f'{escape(name)}"></a><p>{escape(_figures(record.figures))}</p>'
        )
    sentences = [record.message, *record.warnings]
    lines += [f"<p>{escape(words)}</p>" for words in sentences if words]
    return "".join([*lines, f'<p class="path">{escape(record.recording)}</p></article>'])


def _figures(figures: Mapping[str, Any]) -> str:
    """The figures of a map, in a line."""
    parts = [f"{figures['poses']} poses of {figures['frames']} frames", f"{figures['keyframes']} keyframes"]
    for camera, (focal, deviation) in figures["focal"].items():
        parts.append(f"{camera}: focal {focal:.1f}{'' if deviation is None else f' ± {deviation:.1f}'} px")
    parts.append(f"path of {figures['length']:.2f} {figures['unit']}")
    parts.append(f"{figures['seconds']:.1f} s, {figures['peak_memory_mb']:.0f} MB")
    return " · ".join(parts)
