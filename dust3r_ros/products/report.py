"""A self-contained HTML page about a run, with picture and cloud inside and no links.

The rotatable cloud is thinned, packed into text, and shown by the script in turntable.html.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from math import inf
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.io.files import write_text
from dust3r_ros.products import splat
from dust3r_ros.products.preview import KEYFRAME, pyramid, time_colors
from dust3r_ros.products.splat import Surfels, surfels
from dust3r_ros.types import Array, Keyframe, StampedPose

_PICTURE_BYTES = 300_000
_OF_ALL = """
:root { color-scheme: light dark; --line: #8884; --muted: #778; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; } p.lead { color: var(--muted); }
img { width: 100%; height: auto; border-radius: 6px; } table { border-collapse: collapse; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
"""
_STYLE = """
:root { --bar: #3b82c4; --tail: #3b82c455; } p.lead { margin: .2rem 0 1.2rem; }
p.warning { border-left: 4px solid #d9822b; padding: .3rem .8rem; }
img { display: block; } summary { color: var(--muted); margin: .5rem 0; }
table { width: 100%; } td, th { padding: .25rem .8rem .25rem 0; } th { font-weight: 600; }
td.number, th.number { white-space: nowrap; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; margin: 1.2rem 0; }
dl div { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .8rem; }
dt { color: var(--muted); font-size: .85rem; } dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.track { position: relative; height: 1rem; min-width: 14rem; } .track span { position: absolute; inset: 2px auto 2px 0;
border-radius: 3px; background: var(--tail); } .track span + span { background: var(--bar); }
code { font-size: .9em; }
"""


def html_page(title: str, style: str, parts: Iterable[str]) -> str:
    """A page with the style of all pages and its own on top; ``title`` and the ``parts`` of its body are HTML."""
    head = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_OF_ALL}{style.lstrip()}</style></head><body>",
    ]
    return "\n".join([*head, *(part for part in parts if part), "</body></html>"]) + "\n"


def html_table(head: Iterable[str], rows: Iterable[Iterable[object]], texts: float = inf) -> str:
    """A table, with every text escaped; all columns after the first ``texts`` hold figures."""

    def line(tag: str, cells: Iterable[object]) -> str:
        kinds = ((' class="number"' if at >= texts else "", escape(str(cell))) for at, cell in enumerate(cells))
        return "<tr>" + "".join(f"<{tag}{kind}>{text}</{tag}>" for kind, text in kinds) + "</tr>"

    return "\n".join(["<table>" + line("th", head), *(line("td", row) for row in rows), "</table>"])


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
        f'<h1>Map of {source}</h1><p class="lead">dust3r_ros {escape(str(summary["version"]))}, '
        f"backend {escape(str(summary['configuration'].get('backend', '')))}</p>",
        f'<p class="warning">{escape(warning)}</p>' if warning else "",
        _figures(summary),
        cloud,
        _picture(picture),
        "<h2>Cameras</h2>" + _cameras(summary["cameras"]),
        "<h2>Time per stage</h2>" + _stages(summary["stages"]),
        "<h2>Configuration</h2>" + html_table(("parameter", "value"), sorted(summary["configuration"].items())),
        "<h2>Files next to this page</h2>" + html_table(("file", "content"), FILES.items()),
    ]
    return html_page(f"Map of {source}", _STYLE, parts)


FILES = {
    "trajectory.txt": "pose of every tracked frame, TUM format (t tx ty tz qx qy qz qw), camera to world, z up",
    "keyframes.txt": "the same for keyframes only",
    "map.ply": "the point cloud: xyz, rgb, confidence",
    "cameras.yaml": "estimated intrinsics, ROS camera calibration format, native resolution",
    "map.db": "the saved map, to load or to localise in later",
    "summary.json": "the figures on this page",
    "preview.png": "the picture on this page",
}


def metres(scale: Mapping[str, float]) -> str:
    """What a map unit is, in words, from a summary's ``scale``."""
    return f"{scale['metres_per_unit']:.3g} m, +-{100 * scale['relative_std']:.2g} %"


def _figures(summary: Mapping[str, Any]) -> str:
    seconds, rate = summary.get("seconds"), summary.get("frames_per_second")
    figures = {
        "frames": f"{summary['frames']:,}",
        "tracked": f"{summary['tracked']:,}",
        "lost": f"{summary['lost']:,}",
        "keyframes": f"{summary['keyframes']:,}",
        "pairs": f"{summary['pairs']:,}",
        "points": f"{summary['points']:,}",
        **({"a map unit": metres(summary["scale"])} if summary["scale"] else {}),
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
                f"{1000 * max(camera['readout'], key=abs):.0f} ms" if any(camera["readout"]) else "none",
            )
        )
    head = (
        "camera",
        "size",
        "focal length",
        "standard deviation",
        "origin",
        "principal point",
        "distortion",
        "rolling shutter",
    )
    return html_table(head, rows)


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


MAX_POINTS = 125_000  # 16 characters each
_READ = 1_500_000  # candidates for them
_WAY = 6_000  # points per path
_PYRAMIDS = 120
_ASPECT = 16 / 9  # size of the picture for which the first view is chosen
# One point, in the format of the script.
_RECORD = np.dtype([("place", "<u2", 3), ("color", "u1", 3), ("level", "u1"), ("seen", "u1", 2)])
_LEVELS = 16  # sizes per octave


def turntable(
    keyframes: Sequence[Keyframe],
    trajectory: Sequence[StampedPose],
    *,
    min_confidence: float,
    landmarks: Cloud | None = None,
) -> str:
    """HTML that shows the points of ``keyframes`` above ``min_confidence``, or ``landmarks``; "" if there are none.

    At most ``MAX_POINTS``, evenly spread, the most confident in each voxel, with the path of every camera and the
    keyframes' pyramids. About 2 MB, self-contained. Without WebGL the browser shows nothing.
    """
    points = _points(keyframes, min_confidence, landmarks)
    points = points.select(np.flatnonzero(np.isfinite(points.cloud.points).all(axis=1)))
    if not len(points):
        return ""
    points = _spread(_near(points))
    path = np.array([pose.w_T_c[:3, 3] for pose in trajectory]).reshape(-1, 3)
    view = _view(points, keyframes, path)
    size = float(np.median(points.size))
    parts = {
        "cloud": points,
        "path": _way(trajectory),
        "lines": _pyramids(keyframes, 0.03 * view["distance"]),
    }
    data = {**_packed(list(parts.values()), size), "view": view, "aspect": _ASPECT}
    data["parts"] = [[kind, len(part)] for kind, part in parts.items()]
    return _template().replace("{{data}}", json.dumps(data))


@lru_cache(maxsize=1)
def _template() -> str:
    return Path(__file__).with_name("turntable.html").read_text(encoding="utf-8")


def _points(keyframes: Sequence[Keyframe], min_confidence: float, landmarks: Cloud | None) -> Surfels:
    if landmarks is not None:
        return Surfels(landmarks, np.zeros(len(landmarks)), np.zeros((len(landmarks), 3)))
    pixels = sum(keyframe.depth.size for keyframe in keyframes)
    return surfels(keyframes, min_confidence, max(1, int(np.ceil(np.sqrt(pixels / _READ)))))


def _near(points: Surfels) -> Surfels:
    """Without far outliers, because positions are quantised over the whole extent."""
    distance = np.linalg.norm(points.cloud.points - np.median(points.cloud.points, axis=0), axis=1)
    return points.select(distance <= 4.0 * np.percentile(distance, 95.0))


def _spread(points: Surfels) -> Surfels:
    """The most confident point per cube, with cubes just large enough; the point gets the size of its cube."""
    points = points.select(np.argsort(-points.cloud.confidence, kind="stable"))
    places = points.cloud.points.astype(np.float64)
    low, extent = places.min(axis=0), float(np.ptp(places, axis=0).max())
    edge = max(float(np.median(points.size)), extent / 2**16, 1e-9)
    chosen: NDArray[Any] = np.arange(len(points))
    while True:
        cells = np.floor((places - low) / edge).astype(np.int64)
        _, first = np.unique((cells[:, 0] << 40) | (cells[:, 1] << 20) | cells[:, 2], return_index=True)
        chosen = np.sort(first)
        if len(chosen) <= MAX_POINTS:
            break
        edge *= max(1.05, (len(chosen) / MAX_POINTS) ** 0.4)
    found = points.select(chosen)
    return Surfels(found.cloud, np.maximum(found.size, edge), found.ray)


def _view(points: Surfels, keyframes: Sequence[Keyframe], path: Array) -> dict[str, Any]:
    """The first view: like the picture from outside, around the middle of the map."""
    height = 900
    view = splat.outside(points, keyframes, path, round(_ASPECT * height), height)
    eye, ahead = view.w_T_c[:3, 3], view.w_T_c[:3, 2]
    distance = float(ahead @ (np.median(points.cloud.points, axis=0) - eye))
    return {
        "target": (eye + distance * ahead).tolist(),
        "distance": distance,
        "azimuth": float(np.arctan2(-ahead[1], -ahead[0])),
        "elevation": float(np.arcsin(np.clip(-ahead[2], -1.0, 1.0))),
        "fov": float(2 * np.arctan(0.5 * height / view.focal)),
    }


def _way(trajectory: Sequence[StampedPose]) -> Surfels:
    """The paths of all cameras as rows of points, dark (early) to bright (late)."""
    of_camera: defaultdict[str, list[Array]] = defaultdict(list)
    for pose in trajectory:
        of_camera[pose.camera].append(pose.w_T_c[:3, 3])
    places, colors = [np.zeros((0, 3))], [np.zeros((0, 3), np.uint8)]
    for centers in map(np.array, of_camera.values()):
        steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
        along = np.concatenate([[0.0], np.cumsum(steps)])
        at = np.linspace(0.0, along[-1], max(2, _WAY // len(of_camera)))
        places.append(np.stack([np.interp(at, along, centers[:, axis]) for axis in range(3)], axis=1))
        colors.append(np.array(time_colors(len(at)), np.uint8))
    return _plain(np.concatenate(places), np.concatenate(colors))


def _pyramids(keyframes: Sequence[Keyframe], length: float) -> Surfels:
    """Pairs of points: the ends of the edges of the keyframes' pyramids."""
    places = [np.zeros((0, 3))]
    for keyframe in keyframes[:: 1 + len(keyframes) // _PYRAMIDS]:
        rim = pyramid(keyframe, length)
        for corner, following in zip(rim, np.roll(rim, -1, axis=0), strict=True):
            places.append(np.stack([keyframe.w_T_c[:3, 3], corner, corner, following]))
    lines = np.concatenate(places)
    return _plain(lines, np.tile(np.array(KEYFRAME, np.uint8), (len(lines), 1)))


def _plain(places: Array, colors: NDArray[np.uint8]) -> Surfels:
    """Points that are visible from every side."""
    cloud = Cloud(places.astype(np.float32), colors, np.ones(len(places), np.float32))
    return Surfels(cloud, np.zeros(len(places)), np.zeros((len(places), 3)))


def _packed(parts: Sequence[Surfels], size: float) -> dict[str, Any]:
    """``records`` of all parts (base64), and the scales of their numbers; ``size`` is a typical one."""
    places = np.concatenate([part.cloud.points for part in parts]).astype(np.float64)
    low = places.min(axis=0)
    step = max(float(np.ptp(places, axis=0).max()), 1e-9) / (2**16 - 1)
    smallest = size / 2**8
    ray = np.concatenate([part.ray for part in parts])
    records = np.zeros(len(places), _RECORD)
    records["place"] = np.rint((places - low) / step)
    records["color"] = np.concatenate([part.cloud.colors for part in parts])
    sizes = np.maximum(np.concatenate([part.size for part in parts]), smallest)
    records["level"] = np.clip(np.rint(_LEVELS * np.log2(sizes / smallest)), 0, 255)
    records["seen"][:, 0] = np.rint(np.arctan2(ray[:, 1], ray[:, 0]) % (2 * np.pi) * 255 / (2 * np.pi))
    records["seen"][:, 1] = np.rint(255 * (np.arcsin(np.clip(ray[:, 2], -1.0, 1.0)) / np.pi + 0.5))
    return {
        "records": base64.b64encode(records.tobytes()).decode("ascii"),
        "low": low.tolist(),
        "step": step,
        "smallest": smallest,
    }
