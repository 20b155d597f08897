"""The report of runs: one self-contained HTML page, and a Markdown table for the docs."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from dust3r_ros.evaluation.protocols.registry import PROTOCOLS
from dust3r_ros.evaluation.report.compare import Comparison, changes_table, run_line
from dust3r_ros.evaluation.report.metrics import FACTS, METRICS, TIMES, Table
from dust3r_ros.evaluation.report.peers import kind_target_table, method_tables, peer_table, target_table
from dust3r_ros.evaluation.report.published import (
    NOT_RUN,
    OURS,
    PROTOCOL,
    SUBSET,
    WEIGHTS,
    beside_published,
    scene_table,
)
from dust3r_ros.evaluation.report.run_file import Row, RunFile
from dust3r_ros.io.files import replace_between, write_text
from dust3r_ros.products.report import html_page

_WIDEST = 1000  # pixels of a picture on the page
_BEGIN, END = "<!-- evaluation: begin, made by {} -->", "<!-- evaluation: end -->"
_STYLE = """
body { max-width: 1300px; } .wide { overflow-x: auto; }
td, th { white-space: nowrap; } th.number { white-space: normal; vertical-align: bottom; }
"""


def tables_of(run: RunFile) -> list[Table]:
    """Targets, peers and scenes where the run has sequences; other protocols; the published figures last."""
    rows = run.rows
    tables = []
    if any(row["protocol"] == PROTOCOL for row in rows):
        timed = [_untimed(row) for row in rows] if shared(run) else rows
        tables += [
            target_table(timed),
            kind_target_table(timed),
            *method_tables(timed),
            peer_table(timed),
            scene_table(rows),
        ]
        if not any(row["system"] == WEIGHTS for row in rows):
            note = f"dust3r, official weights: {NOT_RUN}; give them with --checkpoint PATH"
            tables[-1] = Table(**{**vars(tables[-1]), "notes": [*tables[-1].notes, note]})
    return [*tables, *protocol_tables(rows), *beside_published(rows)]


def shared(run: RunFile) -> str:
    """On what processes ran at the same time, so that times do not compare methods; "" where each had the machine."""
    return str((run.about.get("hardware") or {}).get("shared") or "")


def _untimed(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in TIMES}


def protocol_tables(rows: Sequence[Row]) -> list[Table]:
    """One table per protocol, except the suite's, which has tables of its own."""
    names = dict.fromkeys(row["protocol"] for row in rows if row["protocol"] != PROTOCOL)
    return [_protocol_table(name, [row for row in rows if row["protocol"] == name]) for name in names]


def _protocol_table(name: str, rows: Sequence[Row]) -> Table:
    held = {key for row in rows for key in row} - FACTS
    metrics = [metric for key, metric in METRICS.items() if key in held]
    rest = sorted(held - METRICS.keys())
    head = ["data set", "scene", "system", *(f"{metric.title} {metric.unit}".strip() for metric in metrics), *rest]
    body = [
        [row["dataset"], row["scene"], row["system"], *(metric.shown(row.get(metric.name)) for metric in metrics)]
        + [str(row.get(key, "–")) for key in rest]
        for row in rows
    ]
    return Table(name.replace("_", " ").capitalize(), head, body, lead=_lead(name), notes=_notes(rows), texts=3)


def _lead(name: str) -> str:
    """A protocol's description as a sentence; empty for an unknown one."""
    about = PROTOCOLS[name].about if name in PROTOCOLS else ""
    return f"{about[:1].upper()}{about[1:]}." if about else ""


def _notes(rows: Sequence[Row]) -> list[str]:
    """The rows that are subsets, then the notes of the rows."""
    notes = [f"{row['scene']}: a subset of {row['of']}, {row[SUBSET]}" for row in rows if row.get(SUBSET)]
    notes += [f"{row['dataset']} / {row['scene']}, {row['system']}: {row['note']}" for row in rows if row.get("note")]
    return notes


def html(run: RunFile, pictures: Mapping[str, Path] | None = None, comparison: Comparison | None = None) -> str:
    """The page: no scripts or links; pictures (title: file) are embedded, unreadable ones named instead."""
    tables = [changes_table(comparison)] if comparison else []
    tables += tables_of(run)
    parts = [
        f'<h1>Evaluation of dust3r_ros</h1><p class="lead">{escape(run_line(run.about))}</p>',
        *(_bold(table.html()) for table in tables),
        *(_picture(title, path) for title, path in (pictures or {}).items()),
        Table("Configuration", ("parameter", "value"), _pairs(run.about.get("configuration")), texts=2).html(),
        Table("Hardware", ("what", "value"), _pairs(run.about.get("hardware")), texts=2).html(),
    ]
    return html_page("Evaluation of dust3r_ros", _STYLE, parts)


def _bold(text: str) -> str:
    """**x** of Markdown as HTML; the texts are escaped already."""
    return re.sub(r"\*\*([^*<>]+)\*\*", r"<b>\1</b>", text)


def _pairs(values: Any) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in sorted((values or {}).items())]


def _picture(title: str, path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError):
        return f"<p>{escape(title)}: '{escape(path.name)}' cannot be shown</p>"
    if picture.width > _WIDEST:
        picture = picture.resize((_WIDEST, round(picture.height * _WIDEST / picture.width)), Image.Resampling.LANCZOS)
    data = BytesIO()
    picture.save(data, "JPEG", quality=82)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return f'<h2>{escape(title)}</h2><img alt="{escape(title)}" src="data:image/jpeg;base64,{text}">'


def markdown(run: RunFile, command: str) -> str:
    """The docs' section on a run: where it ran, targets, peers, scenes, published figures."""
    backend = run.about.get("configuration", {}).get("backend", OURS)
    return measured_by(command, run, f"backend `{backend}`", tables_of(run))


def measured_by(command: str, run: RunFile, what: str, tables: Sequence[Table]) -> str:
    """``tables`` below a line on how they were measured; ``what``: our system under test."""
    hardware = run.about.get("hardware") or {}
    how = "one after the other"
    if where := shared(run):
        how = f"ours with one thread, several at a time on {where}: times depend on the others and compare no methods"
    lines = [
        f"Measured by `{command}`: {run_line(run.about)}; Python {hardware.get('python', '?')}, {what}. "
        f"Cameras uncalibrated: no focal is given. Every scene and program in its own process, {how}.",
        "",
    ]
    return "\n".join([*lines, *(table.markdown() for table in tables)]).rstrip() + "\n"


def begin_of(maker: str = "make eval") -> str:
    """The marker line: what ``maker`` writes lies between it and the line ``END``."""
    return _BEGIN.format(maker)


def into_page(page: Path, text: str, maker: str = "make eval", title: str = "Results") -> None:
    """Replace the text between the markers of ``page``, which name its ``maker``; a missing page is created.

    Raises ``OutputError`` for a page without markers, so that nothing hand-written is overwritten.
    """
    start = begin_of(maker)
    if not page.is_file():
        write_text(page, f"# {title}\n\n{start}\n\n{text.strip()}\n\n{END}\n")
    else:
        replace_between(page, start, END, text)
