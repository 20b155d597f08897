"""A sheet of training pairs from rendered worlds: python tools/training_pairs.py [--out FILE] [--seed N].

Every two columns are one training pair: both pictures, and below them their depth (near red, far blue, none black).
"""

from __future__ import annotations

import argparse
import sys
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LARGE = 150_000  # bytes
_SIDE = 112  # pixels of a picture on the sheet
_COLUMNS, _ROWS = 5, 5  # pairs


def make_sheet(seed: int = 0, columns: int = _COLUMNS, rows: int = _ROWS) -> bytes:
    """The sheet as JPEG, at most 150 KB; every pair is from a different world."""
    import numpy as np
    from PIL import Image

    from dust3r_ros.training.sources import RenderedPairs

    source = RenderedPairs(seed=seed, batch=1, per_world=1, lanes=1, mixed=1, short_side=2 * _SIDE)
    pairs = [source.pair(index, np.random.default_rng(index)) for index in range(rows * columns)]
    lines = []
    for row in range(rows):
        cells = [_cell(pair) for pair in pairs[row * columns : (row + 1) * columns]]
        lines.append(np.hstack(cells))
    picture = Image.fromarray(np.vstack(lines))
    for quality in range(90, 20, -5):
        data = BytesIO()
        picture.save(data, "JPEG", quality=quality, optimize=True)
        if data.tell() <= LARGE:
            break
    return data.getvalue()


def _cell(pair):
    import cv2
    import numpy as np

    from dust3r_ros.products import preview

    views = []
    for view in (pair.first, pair.second):
        height, width = view.depth.shape
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = view.image[top : top + side, left : left + side]
        depth = view.depth[top : top + side, left : left + side]
        colored = preview.colored_depth(depth.astype(np.float64), (0, 0, 0))
        parts = [cv2.resize(part, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for part in (image, colored)]
        views.append(np.vstack(parts))
    return np.pad(np.hstack(views), ((0, 6), (0, 6), (0, 0)))


def main() -> None:
    from dust3r_ros.io.files import write_bytes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "training_pairs.jpg")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = make_sheet(options.seed)
    write_bytes(options.out, data)
    print(f"{options.out}: {len(data) / 1000:.0f} KB")


if __name__ == "__main__":
    main()
