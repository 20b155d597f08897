"""report.html: complete in itself, honest, and safe against odd names."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from run_summary import summary
from true_map import room_walk, true_keyframes

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.products.report import MAX_POINTS, report, turntable

PNG = b"\x89PNG\r\n\x1a\n not really"


class Page(HTMLParser):
    """Tags with attributes, text and open tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


@pytest.mark.parametrize("cloud", [False, True])
def test_every_tag_is_closed_and_nothing_is_loaded_from_elsewhere(cloud: bool) -> None:
    keyframes = true_keyframes(room_walk())[:2]
    page = Page(report(summary(), PNG, cloud=turntable(keyframes, [], min_confidence=1.5) if cloud else ""))
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe", "object", "a"})
    assert [tag for tag, _ in page.tags].count("script") == (2 if cloud else 0)
    sources = [attributes["src"] or "" for _, attributes in page.tags if "src" in attributes]
    assert len(sources) == 1
    assert base64.b64decode(sources[0].removeprefix("data:image/png;base64,")) == PNG
    text = "".join(page.text)
    assert not [word for word in ("url(", "@import", "://", "fetch(", "XMLHttpRequest", "import(") if word in text]


def test_the_numbers_stand_on_the_page() -> None:
    text = Page(report(summary(), PNG)).text
    for number in ("1,234", "1,200", "33", "99", "456,789", "523.25 px", "1.50 px", "12.3", "346 MB", "31.5", "320"):
        assert number in text
    for lens in ("(321.2, 240.0)", "plumb_bob, 0.0512, -0.0030, 0.0000, 0.0000, 0.0000", "(31.5, 23.5)", "none"):
        assert lens in text
    assert "from 42 pairs" in text
    assert "given" in text


def test_the_bars_share_one_scale() -> None:
    page = Page(report(summary(), None))
    bars = [attributes["style"] for tag, attributes in page.tags if tag == "span"]
    # p95 then p50 of track, then of align, against the longest p95 (20 ms).
    assert bars == ["width:25.0%", "width:10.0%", "width:100.0%", "width:50.0%"]


def test_names_cannot_break_out_of_the_page() -> None:
    nasty = '<script>alert(1)</script>&"'
    page = Page(
        report(
            summary(source=nasty, cameras={nasty: summary()["cameras"]["camera"]}, configuration={"backend": nasty}),
            None,
            warning=nasty,
        )
    )
    assert page.open == []
    assert all(tag != "script" for tag, _ in page.tags)
    assert nasty in page.text


def test_an_empty_run_warns_and_shows_what_it_has() -> None:
    page = Page(
        report(
            summary(points=0, cameras={}, stages={}, seconds=None, frames_per_second=None, source=""),
            None,
            warning="Nothing could be mapped.",
        )
    )
    assert ("p", {"class": "warning"}) in page.tags
    assert "Nothing could be mapped." in page.text
    assert "Map of live images" in page.text


def test_the_largest_page_is_below_3_mb() -> None:
    # Points everywhere and a picture of noise: nothing is larger.
    rng = np.random.default_rng(0)
    n = 400_000
    cloud = Cloud(rng.random((n, 3)).astype(np.float32), rng.integers(0, 256, (n, 3), np.uint8), np.ones(n, np.float32))
    shown = turntable(true_keyframes(room_walk()) * 20, [], min_confidence=1.5, landmarks=cloud)
    picture = cv2.imencode(".png", rng.integers(0, 256, (944, 1200, 3), np.uint8))[1].tobytes()
    page = report(summary(), picture, cloud=shown)
    assert len(shown) > 0.6 * 16 * MAX_POINTS
    assert "data:image/jpeg;base64," in page
    assert len(page.encode()) < 3_000_000
