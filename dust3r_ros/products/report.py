"""A self-contained HTML page about a run, with picture and cloud inside and no links."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dust3r_ros.io.files import write_text

_PICTURE_BYTES = 300_000
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --muted: #778; --bar: #3b82c4; --tail: #3b82c455; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.lead { color: var(--muted); margin: .2rem 0 1.2rem; }
p.warning { border-left: 4px solid #d9822b; padding: .3rem .8rem; }
img { width: 100%; height: auto; border-radius: 6px; display: block; } summary { color: var(--muted); margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .25rem .8rem .25rem 0;
border-bottom: 1px solid var(--line); vertical-align: top; } th { font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; margin: 1.2rem 0; }
dl div { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .8rem; }
dt { color: var(--muted); font-size: .85rem; } dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.track { position: relative; height: 1rem; min-width: 14rem; } .track span { position: absolute; inset: 2px auto 2px 0;
border-radius: 3px; background: var(--tail); } .track span + span { background: var(--bar); }
code { font-size: .9em; }
"""


def write_report(
    path: Path, summary: Mapping[str, Any], picture: bytes | None, *, cloud: str = "", warning: str = ""
) -> None:
    """Write ``report`` to ``path`` atomically. Raises ``OutputError`` when it cannot be written."""
    write_text(path, report(summary, picture, cloud=cloud, warning=warning))


def report(summary: Mapping[str, Any], picture: bytes | None, *, cloud: str = "", warning: str = "") -> str:
    """The page for a ``summary`` (as in summary.json) and the preview as PNG bytes; at most 3 MB.

    ``cloud``: HTML from ``turntable``, shown in place of the picture if the browser supports it. ``warning`` is shown
    at the top.
    """
    source = escape(str(summary.get("source") or "live images"))
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>Map of {source}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        f'<h1>Map of {source}</h1><p class="lead">dust3r_ros {escape(str(summary["version"]))}, '
        f"backend {escape(str(summary['configuration'].get('backend', '')))}</p>",
        f'<p class="warning">{escape(warning)}</p>' if warning else "",
        _figures(summary),
        cloud,
        _picture(picture),
        "<h2>Cameras</h2>" + _cameras(summary["cameras"]),
        "<h2>Time per stage</h2>" + _stages(summary["stages"]),
        "<h2>Configuration</h2>" + _table(("parameter", "value"), sorted(summary["configuration"].items())),
        "<h2>Files next to this page</h2>" + _table(("file", "content"), FILES.items()),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


FILES = {
    "trajectory.txt": "pose of every tracked frame, TUM format (t tx ty tz qx qy qz qw), camera to world, z up",
    "keyframes.txt": "the same for keyframes only",
    "map.ply": "the point cloud: xyz, rgb, confidence",
    "cameras.yaml": "estimated intrinsics, ROS camera calibration format, native resolution",
    "map.db": "the saved map, to load or to localise in later",
    "summary.json": "the figures on this page",
    "preview.png": "the picture on this page",
}


def _figures(summary: Mapping[str, Any]) -> str:
    seconds, rate = summary.get("seconds"), summary.get("frames_per_second")
    figures = {
        "frames": f"{summary['frames']:,}",
        "tracked": f"{summary['tracked']:,}",
        "lost": f"{summary['lost']:,}",
        "keyframes": f"{summary['keyframes']:,}",
        "pairs": f"{summary['pairs']:,}",
        "points": f"{summary['points']:,}",
        "seconds": "–" if seconds is None else f"{seconds:.1f}",
        "frames/s": "–" if rate is None else f"{rate:.1f}",
        "peak memory": f"{summary['peak_memory_mb']:,.0f} MB",
    }
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items()) + "</dl>"


def _picture(picture: bytes | None) -> str:
    if picture is None:
        return ""
    kind, data = _compact(picture)
    text = base64.b64encode(data).decode("ascii")
    alt = "The map from above, from outside and from its first camera"
    image = f'<img alt="{alt}" src="data:image/{kind};base64,{text}">'
    return f'<details id="picture" open><summary>The picture</summary>{image}</details>'


def _compact(picture: bytes) -> tuple[str, bytes]:
    """A PNG as it is, or as JPEG if it is too large for the page."""
    if len(picture) <= _PICTURE_BYTES:
        return "png", picture
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "jpeg", data.tobytes()


def _cameras(cameras: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, camera in sorted(cameras.items()):
        spread = camera["focal_std"]
        origin = "given" if camera["fixed"] else f"from {camera['support']} pairs"
        rows.append(
            (
                name,
                f"{camera['width']} x {camera['height']}",
                f"{camera['focal']:.2f} px",
                "–" if camera["fixed"] or spread is None else f"{spread:.2f} px",
                origin,
                "({:.1f}, {:.1f})".format(*camera["principal_point"]),
                ", ".join([camera["distortion_model"], *(f"{k:.4f}" for k in camera["distortion"])])
                if camera["distortion"]
                else "none",
            )
        )
    head = ("camera", "size", "focal length", "standard deviation", "origin", "principal point", "distortion")
    return _table(head, rows)


def _stages(stages: Mapping[str, Mapping[str, float]]) -> str:
    """A bar per stage: dark to the median, light to the 95th percentile, one scale for all."""
    longest = max((stage["p95_ms"] for stage in stages.values()), default=0.0) or 1.0
    head = "".join(f'<th class="number">{name}</th>' for name in ("calls", "p50 ms", "p95 ms", "max ms"))
    rows = []
    for name, stage in stages.items():
        numbers = [f"{stage['count']:,}"] + [f"{stage[key]:,.1f}" for key in ("p50_ms", "p95_ms", "max_ms")]
        bars = "".join(f'<span style="width:{100 * stage[key] / longest:.1f}%"></span>' for key in ("p95_ms", "p50_ms"))
        cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
        rows.append(f'<tr><td>{escape(name)}</td>{cells}<td><div class="track">{bars}</div></td></tr>')
    return f"<table><tr><th>stage</th>{head}<th>median (dark), 95th percentile (light)</th></tr>{''.join(rows)}</table>"


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"
