"""The picture of a finished map: from above, from outside, and from its first camera."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dust3r_ros.errors import OutputError
from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.io.files import write_bytes
from dust3r_ros.products import splat
from dust3r_ros.products.splat import Surfels, Viewpoint, render, surfels
from dust3r_ros.types import Array, Image, Keyframe, StampedPose

Color = tuple[int, int, int]

_FACE = cv2.FONT_HERSHEY_SIMPLEX
_SHIFT = 4  # OpenCV draws with 2**-4 pixel precision


def polyline(image: Image, pixels: Array, color: Color, thickness: int) -> None:
    """Draw a polyline through ``pixels`` (N, 2) in place; a NaN or far-off pixel interrupts it."""
    usable = np.all(np.isfinite(pixels) & (np.abs(np.nan_to_num(pixels)) < 1e4), axis=1)
    for run in np.split(np.arange(len(pixels)), np.flatnonzero(~usable)):
        run = run[usable[run]]
        if len(run) > 1:
            fixed = np.round(pixels[run] * 2**_SHIFT).astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(image, [fixed], False, color, thickness, cv2.LINE_AA, _SHIFT)


def cased(image: Image, pixels: Array, color: Color, thickness: int) -> None:
    """``polyline`` with a dark rim, visible on any background."""
    polyline(image, pixels, (12, 14, 18), thickness + 2)
    polyline(image, pixels, color, thickness)


def disc(image: Image, pixel: Array, radius: float, color: Color) -> None:
    """Draw a filled circle with a dark rim in place; nothing for a NaN or far-off pixel."""
    if np.all(np.isfinite(pixel)) and np.abs(pixel).max() < 1e4:
        center = tuple(round(float(value) * 2**_SHIFT) for value in pixel)
        cv2.circle(image, center, int((radius + 1.5) * 2**_SHIFT), (12, 14, 18), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(image, center, int(radius * 2**_SHIFT), color, -1, cv2.LINE_AA, _SHIFT)


def text(image: Image, at: tuple[float, float], words: str, size: int, color: Color, anchor: str = "lt") -> Image:
    """The picture with ``words`` written at pixel ``at``; ``anchor`` as Pillow's (l/m/r, then t/m/b).

    Without Pillow, in OpenCV's line font.
    """
    try:
        from PIL import Image as Pillow
        from PIL import ImageDraw
    except ImportError:
        return _line_text(image, at, words, size, color, anchor)
    picture = Pillow.fromarray(image)
    font = _font(size)
    try:
        ImageDraw.Draw(picture).text(at, words, fill=color, font=font, anchor=anchor)
    except (ValueError, UnicodeEncodeError):  # Pillow's small bitmap font knows neither anchors nor all of Unicode
        plain = words.encode("ascii", "replace").decode()
        ImageDraw.Draw(picture).text(at, plain, fill=color, font=font)
    return np.array(picture)


def shade(image: Image, box: tuple[int, int, int, int], ground: Color) -> None:
    """Blend a box (left, top, right, bottom) with three parts of ``ground`` in place, so that text on it is legible."""
    left, top, right, bottom = box
    strip = image[max(top, 0) : bottom, max(left, 0) : right]
    strip[:] = (0.25 * strip + 0.75 * np.array(ground)).astype(np.uint8)


def label(image: Image, words: str, size: int, color: Color, ground: Color) -> Image:
    """The picture with ``words`` on a strip of ``ground`` in its top left corner."""
    right, bottom = _extent(words, size)
    image = image.copy()
    shade(image, (0, 0, right + 20, bottom + 14), ground)
    return text(image, (10, 7), words, size, color)


def _extent(words: str, size: int) -> tuple[int, int]:
    """Width and height of ``text`` in pixels."""
    try:
        from PIL import Image as Pillow
        from PIL import ImageDraw
    except ImportError:
        (width, height), below = cv2.getTextSize(_plain(words), _FACE, _scale(size), 1)
        return width, height + below
    right, bottom = ImageDraw.Draw(Pillow.new("RGB", (1, 1))).textbbox((0, 0), words, font=_font(size))[2:]
    return int(right), int(bottom)


def _line_text(image: Image, at: tuple[float, float], words: str, size: int, color: Color, anchor: str) -> Image:
    width, height = _extent(words, size)
    left = at[0] - {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * width
    bottom = at[1] + {"t": 0.8, "m": 0.3, "b": -0.2}[anchor[1]] * height  # a fifth is below the baseline
    picture = np.ascontiguousarray(image).copy()
    where = (round(left), round(bottom))
    return cv2.putText(picture, _plain(words), where, _FACE, _scale(size), color, 1, cv2.LINE_AA)


def _scale(size: int) -> float:
    """OpenCV's font scale for capitals as high as those of a font of ``size``."""
    return cv2.getFontScaleFromHeight(_FACE, round(0.65 * size), 1)


def _plain(words: str) -> str:
    return words.replace("·", "-").encode("ascii", "replace").decode()


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size=size)
    except TypeError:  # Pillow before 10.1 has only the bitmap font
        return ImageFont.load_default()


def time_colors(count: int) -> list[Color]:
    """``count`` colours from early (blue) to late (yellow)."""
    values = np.linspace(70, 250, max(count, 1)).astype(np.uint8).reshape(-1, 1)
    table = cv2.applyColorMap(values, cv2.COLORMAP_PLASMA)[:, 0, ::-1]
    return [(int(red), int(green), int(blue)) for red, green, blue in table]


def colored_depth(depth: Array, background: Color) -> Image:
    """Depth (H, W) in colour, near warm and far cold, from the 2nd to the 98th percentile; ``background`` where 0."""
    known = depth > 0
    image = np.empty((*depth.shape, 3), np.uint8)
    image[:] = background
    if known.any():
        inverse = 1.0 / depth[known]
        low, high = np.percentile(inverse, [2, 98])
        level = np.clip((inverse - low) / max(high - low, 1e-12), 0, 1)
        table = cv2.applyColorMap((255 * level).astype(np.uint8).reshape(-1, 1), cv2.COLORMAP_TURBO)
        image[known] = table[:, 0, ::-1]
    return image


def fitted(image: Image, width: int, height: int, background: Color) -> Image:
    """The picture scaled to fit ``width`` x ``height`` at its aspect ratio, padded with ``background``."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    result = np.empty((height, width, 3), np.uint8)
    result[:] = background
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    result[top : top + size[1], left : left + size[0]] = scaled
    return result


BACKGROUND = (13, 16, 22)
PANEL = (22, 26, 34)
TEXT = (236, 239, 244)
MUTED = (150, 160, 175)
KEYFRAME = (90, 200, 250)

_WIDTH, _HEADER, _GAP, _UPPER, _LOWER = 1200, 74, 10, 560, 300
_MAX_POINTS = 1_500_000
_MAX_PYRAMIDS = 80  # of a long path, only every n-th is drawn


def write_preview(
    path: Path,
    keyframes: Sequence[Keyframe],
    trajectory: Sequence[StampedPose],
    *,
    title: str,
    subtitle: str,
    min_confidence: float,
    metric: bool = False,
) -> None:
    """``render_preview`` as a PNG. Raises ``OutputError`` when it cannot be written."""
    image = render_preview(
        keyframes, trajectory, title=title, subtitle=subtitle, min_confidence=min_confidence, metric=metric
    )
    good, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    if not good:
        raise OutputError(f"preview '{path}' cannot be encoded as PNG")
    write_bytes(path, data.tobytes())


def render_preview(
    keyframes: Sequence[Keyframe],
    trajectory: Sequence[StampedPose],
    *,
    title: str,
    subtitle: str,
    min_confidence: float,
    metric: bool = False,
) -> Image:
    """(H, 1200, 3) uint8 RGB picture of the map of ``keyframes``, under ``title`` and ``subtitle``.

    ``metric``: its unit is the metre. An empty map gives a picture that says so.
    """
    height = _HEADER + _UPPER + _LOWER + 2 * _GAP
    page = np.empty((height, _WIDTH, 3), np.uint8)
    page[:] = BACKGROUND
    page = text(page, (_GAP + 6, 12), title, 26, TEXT)
    page = text(page, (_GAP + 6, 46), subtitle, 16, MUTED)
    points = surfels(keyframes, min_confidence, _stride(keyframes))
    half, third = (_WIDTH - 3 * _GAP) // 2, (_WIDTH - 4 * _GAP) // 3
    above = _from_above(points, keyframes, trajectory, half, _UPPER, "m" if metric else "map units")
    outside = _from_outside(points, keyframes, trajectory, half, _UPPER)
    _paste(page, above, _GAP, _HEADER)
    _paste(page, outside, _WIDTH - _GAP - half, _HEADER)
    for column, panel in enumerate(_first_camera(points, keyframes, third, _LOWER)):
        _paste(page, panel, _GAP + column * (third + _GAP), _HEADER + _UPPER + _GAP)
    return page


def _paste(page: Image, panel: Image, left: int, top: int) -> None:
    page[top : top + panel.shape[0], left : left + panel.shape[1]] = panel


def _stride(keyframes: Sequence[Keyframe]) -> int:
    """Row and column step that limits the points to what one picture can show."""
    pixels = sum(keyframe.depth.size for keyframe in keyframes)
    return max(1, int(np.ceil(np.sqrt(pixels / _MAX_POINTS))))


def _empty(width: int, height: int, caption: str) -> Image:
    panel = np.empty((height, width, 3), np.uint8)
    panel[:] = PANEL
    panel = text(panel, (width / 2, height / 2), "nothing mapped", 18, MUTED, "mm")
    return _caption(panel, caption)


def _caption(panel: Image, words: str) -> Image:
    return label(panel, words, 15, TEXT, PANEL)


def _from_above(
    points: Surfels,
    keyframes: Sequence[Keyframe],
    trajectory: Sequence[StampedPose],
    width: int,
    height: int,
    unit: str,
) -> Image:
    if not len(points):
        return _empty(width, height, "From above")
    view = splat.above(points, _positions(trajectory), width, height)
    panel, _ = render(points.facing(view.w_T_c[:3, 2]), view, PANEL)
    draw_cameras(panel, view, keyframes, trajectory)
    panel = _scale_bar(panel, view.focal, unit)
    return _caption(panel, "From above: path dark (start) to bright (end), keyframes blue")


def _from_outside(
    points: Surfels, keyframes: Sequence[Keyframe], trajectory: Sequence[StampedPose], width: int, height: int
) -> Image:
    if not len(points):
        return _empty(width, height, "From outside")
    view = splat.outside(points, keyframes, _positions(trajectory), width, height)
    panel, _ = render(points.facing(view.w_T_c[:3, 2]), view, PANEL)
    draw_cameras(panel, view, keyframes, trajectory)
    return _caption(panel, "From outside")


def _first_camera(points: Surfels, keyframes: Sequence[Keyframe], width: int, height: int) -> list[Image]:
    """Three panels: the first keyframe's image, the map seen by its camera, and that view's depth."""
    captions = ("First image", "The map seen by the first camera", "Its depth: near red, far blue")
    if not keyframes:
        return [_empty(width, height, caption) for caption in captions]
    first = keyframes[0]
    scale = min(width / first.image.shape[1], height / first.image.shape[0])
    size = (max(1, round(first.image.shape[1] * scale)), max(1, round(first.image.shape[0] * scale)))
    view = Viewpoint(first.w_T_c, first.focal * scale, *size)
    picture, depth = render(points, view, PANEL)
    finite = np.where(np.isfinite(depth), depth, 0.0)
    panels = (first.image, picture, colored_depth(finite, PANEL))
    return [_caption(fitted(panel, width, height, PANEL), words) for panel, words in zip(panels, captions, strict=True)]


def _positions(trajectory: Sequence[StampedPose]) -> Array:
    return np.array([pose.w_T_c[:3, 3] for pose in trajectory]).reshape(-1, 3)


def pyramid(keyframe: Keyframe, length: float) -> Array:
    """(4, 3) corners of the base of a keyframe's pyramid, map frame; ``length`` is its height in map units."""
    height, width = keyframe.depth.shape
    pixels = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
    return transform(keyframe.w_T_c, rays(pixels, keyframe.focal, (width / 2, height / 2)) * length)


def draw_cameras(
    panel: Image, view: Viewpoint, keyframes: Sequence[Keyframe], trajectory: Sequence[StampedPose]
) -> None:
    """Draw the keyframes' pyramids (14 pixels long) and the path on top of everything."""
    for keyframe in keyframes[:: 1 + len(keyframes) // _MAX_PYRAMIDS]:
        apex, depth = view.project(keyframe.w_T_c[None, :3, 3])
        length = 14.0 / view.focal * (1.0 if view.orthographic else max(float(depth[0]), 1e-6))
        rim, _ = view.project(pyramid(keyframe, length))
        # In one stroke: apex, first corner, around, with a visit to the apex from each corner.
        stroke = np.concatenate([np.stack([apex[0], rim[i], rim[(i + 1) % 4]]) for i in range(4)])
        cased(panel, stroke, KEYFRAME, 1)
    if not len(trajectory):
        return
    path, _ = view.project(_positions(trajectory))
    polyline(panel, path, (12, 14, 18), 4)
    for start, end, color in zip(path[:-1], path[1:], time_colors(len(path) - 1), strict=False):
        polyline(panel, np.stack([start, end]), color, 2)
    disc(panel, path[0], 5, time_colors(2)[0])
    disc(panel, path[-1], 5, time_colors(2)[1])


def _scale_bar(panel: Image, pixels_per_unit: float, unit: str) -> Image:
    """The panel with a scale bar of a round number of units at its bottom left."""
    wanted = 0.2 * panel.shape[1] / pixels_per_unit
    power = 10.0 ** np.floor(np.log10(wanted))
    length = power * max(step for step in (1, 2, 5) if step * power <= wanted)
    left, bottom = 16.0, panel.shape[0] - 18.0
    right = left + length * pixels_per_unit
    shade(panel, (0, int(bottom) - 34, int(max(right, left + 96)) + 16, panel.shape[0]), PANEL)
    bar = [[left, bottom - 5], [left, bottom], [right, bottom], [right, bottom - 5]]
    cased(panel, np.array(bar), TEXT, 2)
    return text(panel, (left, bottom - 8), f"{length:g} {unit}", 14, TEXT, "lb")
