"""The sheet of training pairs that docs show."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from scripts import script

TOOL = Path(__file__).resolve().parents[2] / "tools" / "training_pairs.py"


def test_a_sheet_is_a_small_picture_of_pairs_above_their_depth() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    tool = script(TOOL, "training_pairs_tool")
    data = tool.make_sheet(columns=2, rows=1)
    assert len(data) <= tool.LARGE
    with Image.open(BytesIO(data)) as picture:
        assert picture.format == "JPEG" and picture.size == (2 * (2 * 112 + 6), 2 * 112 + 6)
        assert picture.convert("L").getextrema()[1] > 150
