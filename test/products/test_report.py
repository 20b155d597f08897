"""report.html: complete in itself, honest, and safe against odd names."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from typing import Any

from dust3r_ros.products.report import report

PNG = b"\x89PNG\r\n\x1a\n not really"


def summary(**changes: Any) -> dict[str, Any]:
    values = {
        "source": "kitchen.mcap",
        "frames": 1234,
        "tracked": 1200,
        "lost": 7,
        "keyframes": 33,
        "pairs": 99,
        "points": 456789,
        "focal": {"camera": 523.25},
        "cameras": {
            "camera": {
                "width": 640, "height": 480, "focal": 523.25, "focal_std": 1.5, "support": 42, "fixed": False,
                "principal_point": [321.25, 240.0], "distortion": [0.0512, -0.003, 0.0],
            },
            "rear": {
                "width": 64, "height": 48, "focal": 50.0, "focal_std": None, "support": 0, "fixed": True,
                "principal_point": [31.5, 23.5], "distortion": [0.0, 0.0, 0.0],
            },
        },
        "seconds": 12.34,
        "frames_per_second": 100.0,
        "stages": {
            "track": {"count": 1234, "p50_ms": 2.0, "p95_ms": 5.0, "max_ms": 9.0},
            "align": {"count": 33, "p50_ms": 10.0, "p95_ms": 20.0, "max_ms": 31.5},
        },
        "peak_memory_mb": 345.6,
        "version": "0.1.0",
        "seed": 0,
        "configuration": {"backend": "two_view", "working_size": 320},
    }  # fmt: skip
    return {**values, **changes}


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


def test_every_tag_is_closed_and_nothing_is_loaded_from_elsewhere() -> None:
    page = Page(report(summary(), PNG))
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "a"})
    sources = [attributes["src"] or "" for _, attributes in page.tags if "src" in attributes]
    assert len(sources) == 1
    assert base64.b64decode(sources[0].removeprefix("data:image/png;base64,")) == PNG
    style = "".join(page.text)
    assert "url(" not in style and "@import" not in style


def test_the_numbers_stand_on_the_page() -> None:
    text = Page(report(summary(), PNG)).text
    for number in ("1,234", "1,200", "33", "99", "456,789", "523.25 px", "1.50 px", "12.3", "346 MB", "31.5", "320"):
        assert number in text
    for lens in ("(321.2, 240.0)", "0.0512, -0.0030, 0.0000", "(31.5, 23.5)", "none"):
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
