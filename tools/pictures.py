"""The pictures of the docs, from rendered rooms only: python tools/docs.py --pictures."""

from __future__ import annotations

import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test/support")]

from dust3r_ros.io.files import make_folder, write_bytes  # noqa: E402

if TYPE_CHECKING:
    from browser import Page

    from dust3r_ros.mapping.mapper import Mapper
    from dust3r_ros.types import Image

PICTURES = ROOT / "docs" / "pictures"
LARGE = 50_000  # bytes of a picture
_DARK, _TEXT = (22, 26, 34), (236, 239, 244)


def make_pictures() -> None:
    """All pictures of the docs, from rendered rooms only; takes some minutes."""
    from moving import moving_picture
    from way import way_picture

    write_bytes(make_folder(PICTURES) / "mapping.webp", moving_picture())
    _save("way.png", way_picture())
    demo = _mapped("mapping the demo's sequence", frames=90)
    with tempfile.TemporaryDirectory() as folder:
        _save("demo.png", _preview(demo, Path(folder)))
    _save("keyframe.png", _keyframe_picture(demo))
    _save("rolling_shutter.png", _rolling_picture())
    make_browser_pictures(demo)
    _save("pair_graph.png", _graph_picture(_mapped("mapping a whole round", frames=200, laps=1.1)))


def make_browser_pictures(mapper: Mapper) -> None:
    """The browser's view of a map; without a browser the pictures are left as they are."""
    import browser

    if browser.program() is None:
        print(f"viewer.png, report.png: not made, none of {', '.join(browser.PROGRAMS)} is installed")
        return
    with browser.Page(width=1000, height=600) as page:
        _save("viewer.png", _viewer_picture(mapper, page))
        with tempfile.TemporaryDirectory() as folder:
            _preview(mapper, Path(folder))
            page.resize(1000, 900)
            page.open((Path(folder) / "report.html").as_uri())
            _save("report.png", _settled(page))


def _viewer_picture(mapper: Mapper, page: Page) -> Image:
    """The viewer at the end of a run."""
    from dataclasses import replace

    from dust3r_ros.products.viewer import Viewer

    last = mapper.keyframes[-1]
    with Viewer("127.0.0.1:0") as viewer:
        viewer.begin(mapper.keyframes)
        viewer.show(replace(mapper.news(), camera=last.camera, w_T_c=last.w_T_c), mapper, last.image)
        page.open(viewer.url)
        page.wait_for("document.body.innerText.includes('keyframes,')", "what the viewer says")
        # It warns of slow rendering, which does not matter here.
        page.wait_for("document.querySelectorAll('[class*=Notification-closeButton]').forEach(b => b.click()) || true")
        return _settled(page)


def _settled(page: Page) -> Image:
    """The page once it has stopped changing."""
    import cv2
    import numpy as np

    before, now = b"", page.picture()
    while now != before:
        time.sleep(3.0)
        before, now = now, page.picture()
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(now, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])


def _mapped(title: str, *, frames: int, laps: float | None = None) -> Mapper:
    """A mapper after a rendered walk around the table of the room."""
    from tqdm import tqdm

    from dust3r_ros.mapping.mapper import Mapper
    from dust3r_ros.scenes.sequence import render_sequence

    mapper = Mapper()
    with tqdm(total=frames, desc="rendering") as bar:
        walk = render_sequence("orbit", frames, laps=laps, progress=lambda done, _: bar.update(done - bar.n))
    for stamp_ns, image in tqdm(zip(walk.stamps_ns, walk.images, strict=True), total=frames, desc=title):
        mapper.process(int(stamp_ns), "camera", image)
    mapper.finish()
    return mapper


def _preview(mapper: Mapper, folder: Path) -> Image:
    """The preview.png that every run writes, 1000 pixels wide."""
    import cv2
    import numpy as np

    from dust3r_ros.products.results import write_results
    from dust3r_ros.timing import Stopwatch

    write_results(folder, mapper, config=mapper.config, stopwatch=Stopwatch())
    picture = cv2.imread(str(folder / "preview.png"))[..., ::-1]
    size = (1000, round(1000 * picture.shape[0] / picture.shape[1]))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _keyframe_picture(mapper: Mapper) -> Image:
    """Image, depth and confidence of the middle keyframe, side by side."""
    import cv2
    import numpy as np

    from dust3r_ros.products import preview

    keyframe = mapper.keyframes[len(mapper.keyframes) // 2]
    level = np.log(keyframe.confidence) / np.log(keyframe.confidence.max())
    table = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    sure = np.where((keyframe.confidence > 1.0)[..., None], table, np.array(_DARK, np.uint8))
    words = f"keyframe {keyframe.index}", "depth: near red, far blue", "confidence: low violet, high yellow"
    depth = preview.colored_depth(keyframe.depth.astype(np.float64), _DARK)
    panels = zip((keyframe.image, depth, sure), words, strict=True)
    return np.hstack([preview.label(np.ascontiguousarray(p), w, 15, _TEXT, _DARK) for p, w in panels])


def _rolling_picture() -> Image:
    """A keyframe of a camera whose shutter rolls, and how far it is from one read at once, before and after."""
    import numpy as np
    from rolling import rolling_walk

    from dust3r_ros.config import MapperConfig
    from dust3r_ros.mapping.mapper import Mapper
    from dust3r_ros.products import preview

    taken, at_once, mapper = rolling_walk(0.03), rolling_walk(0.0), Mapper(MapperConfig(dense=False))
    for stamp_ns, image in zip(taken.stamps_ns.tolist(), taken.images, strict=True):
        mapper.process(stamp_ns, "camera", image)
    mapper.finish()
    record = mapper.submap.state.records[1]
    index = taken.stamps_ns.tolist().index(record.stamp_ns)
    before, after, true = taken.images[index], np.asarray(record.image), at_once.images[index]
    off = [np.abs(image.astype(np.int16) - true).astype(np.uint8) for image in (before, after)]
    words = "taken in 30 ms", "minus one read at once", "after it is taken out"
    panels = zip((before, *off), words, strict=True)
    return np.hstack([preview.label(np.ascontiguousarray(p), w, 15, _TEXT, _DARK) for p, w in panels])


def _graph_picture(mapper: Mapper) -> Image:
    """Keyframes from above with the pairs that gave depth, and the same pairs as a matrix."""
    import cv2
    import numpy as np

    from dust3r_ros.products import preview

    size, centers = 480, np.array([keyframe.w_T_c[:2, 3] for keyframe in mapper.keyframes])
    at = {keyframe.index: place for place, keyframe in enumerate(mapper.keyframes)}
    scale = (size - 90) / np.ptp(centers, axis=0).max()
    # x of the map points up in the picture, y to the left
    pixels = (size / 2 - scale * (centers - (centers.min(axis=0) + centers.max(axis=0)) / 2))[:, ::-1]
    above, matrix = np.full((2, size, size, 3), _DARK, np.uint8)
    top = max(weight for _, _, weight in mapper.edges)
    cell = (size - 60) / len(centers)
    for first, second, weight in mapper.edges:
        a, b = at[first], at[second]
        color = preview.time_colors(101)[round(100 * float(np.clip(weight / top, 0, 1)))]
        preview.polyline(above, pixels[[a, b]], color, 2)
        for row, column in ((a, b), (b, a)):
            corner = 30 + cell * np.array([column, row])
            cv2.rectangle(matrix, np.round(corner).astype(int), np.round(corner + cell - 1).astype(int), color, -1)
    for pixel in pixels:
        preview.disc(above, pixel, 3.5, (90, 200, 250))
    above = preview.label(above, "keyframes and pairs from above", 15, _TEXT, _DARK)
    return np.hstack([above, preview.label(matrix, "the same pairs, keyframe by keyframe", 15, _TEXT, _DARK)])


def _save(name: str, picture: Image) -> None:
    """Write a PNG; a large one is reduced to 256 colours, a third of the size."""
    from PIL import Image as Pillow

    image, data = Pillow.fromarray(picture), BytesIO()
    image.save(data, "PNG", optimize=True)
    if len(data.getvalue()) > LARGE:
        data = BytesIO()
        palette = image.quantize(256, method=Pillow.Quantize.MAXCOVERAGE)
        image.quantize(palette=palette, dither=Pillow.Dither.FLOYDSTEINBERG).save(data, "PNG", optimize=True)
    write_bytes(make_folder(PICTURES) / name, data.getvalue())
    print(f"written: {PICTURES / name} ({len(data.getvalue()) / 1000:.0f} kB)")
