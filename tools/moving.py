"""The animation of the README: a rendered room being mapped, the camera's image beside the map so far."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np

from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.products import preview, splat
from dust3r_ros.scenes.sequence import render_sequence
from dust3r_ros.types import Image

_FRAMES, _LAPS, _EVERY = 200, 1.1, 10
_LEFT, _WIDTH, _HEIGHT = 280, 510, 306  # of the panels
_MS, _LAST_MS = 200, 3000  # each picture is shown, the last one
_STRIDE, _QUALITY = 2, 50
_DARK, _TEXT = (22, 26, 34), (236, 239, 244)


def moving_picture() -> bytes:
    """An animated WebP."""
    from PIL import Image as Pillow
    from tqdm import tqdm

    with tqdm(total=_FRAMES, desc="rendering") as bar:
        walk = render_sequence("orbit", _FRAMES, laps=_LAPS, progress=lambda done, _: bar.update(done - bar.n))
    mapper, moments = Mapper(), []
    frames = enumerate(zip(walk.stamps_ns, walk.images, strict=True))
    for index, (stamp_ns, image) in tqdm(frames, total=_FRAMES, desc="mapping"):
        mapper.process(int(stamp_ns), "camera", image)
        if index % _EVERY == _EVERY - 1:
            moments.append((image, list(mapper.keyframes), list(mapper.trajectory()), mapper.cameras))
    confidence = mapper.config.min_confidence
    _, keyframes, trajectory, _ = moments[-1]
    way = np.array([pose.w_T_c[:3, 3] for pose in trajectory])
    view = splat.outside(splat.surfels(keyframes, confidence, _STRIDE), keyframes, way, _WIDTH, _HEIGHT)
    pictures = [Pillow.fromarray(_picture(view, confidence, *moment)) for moment in tqdm(moments, desc="drawing")]
    data = BytesIO()
    times = [_MS] * (len(pictures) - 1) + [_LAST_MS]
    pictures[0].save(
        data, "WEBP", save_all=True, append_images=pictures[1:], duration=times, loop=0, quality=_QUALITY, method=4
    )
    return data.getvalue()


def _picture(view: Any, confidence: float, image: Image, keyframes: Any, trajectory: Any, cameras: Any) -> Image:
    page = np.empty((_HEIGHT, _LEFT + _WIDTH + 10, 3), np.uint8)
    page[:] = _DARK
    points = splat.surfels(keyframes, confidence, _STRIDE)
    panel = np.empty((_HEIGHT, _WIDTH, 3), np.uint8)
    panel[:] = preview.PANEL
    if len(points):
        panel, _ = splat.render(points.facing(view.w_T_c[:3, 2]), view, preview.PANEL)
    preview.draw_cameras(panel, view, keyframes, trajectory)
    page[:, _LEFT + 10 :] = preview.label(panel, "the map so far", 14, _TEXT, preview.PANEL)
    seen = preview.fitted(image, _LEFT, round(_LEFT * image.shape[0] / image.shape[1]), _DARK)
    page[: seen.shape[0], :_LEFT] = preview.label(seen, "the camera, uncalibrated", 14, _TEXT, _DARK)
    lines = [f"{len(keyframes)} keyframes"]
    for camera in cameras.values():
        known = np.isfinite(camera.focal_std) and camera.support
        lines.append(
            f"focal length {camera.focal:.1f}" + (f" ± {camera.focal_std:.1f} px" if known else " px, a guess")
        )
    for row, words in enumerate(lines):
        page = preview.text(page, (8, seen.shape[0] + 24 + 30 * row), words, 16, _TEXT)
    return page
