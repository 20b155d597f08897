"""The cloud of the report and the viewer in a real browser: what is drawn, and what hands and keys do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from run_summary import summary
from true_map import room_walk, true_keyframes

from dust3r_ros.geometry.rigid import pose
from dust3r_ros.products.preview import write_preview
from dust3r_ros.products.report import report, turntable
from dust3r_ros.products.splat import Viewpoint, render, surfels
from dust3r_ros.products.viewer import Viewer
from dust3r_ros.types import Image, Keyframe, StampedPose

LIGHT, DARK = (0xEE, 0xF0, 0xF3), (0x0D, 0x10, 0x16)
SHIFT = 8


@pytest.fixture(scope="module")
def keyframes() -> list[Keyframe]:
    return true_keyframes(room_walk())[::4]


@pytest.fixture(scope="module")
def path(keyframes: list[Keyframe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on the disk."""
    folder = tmp_path_factory.mktemp("report")
    trajectory = [StampedPose(k.stamp_ns, k.camera, k.w_T_c) for k in keyframes]
    picture = folder / "preview.png"
    write_preview(picture, keyframes, trajectory, title="", subtitle="", min_confidence=1.5)
    cloud = turntable(keyframes, trajectory, min_confidence=1.5)
    (folder / "report.html").write_text(report(summary(), picture.read_bytes(), cloud=cloud))
    return folder / "report.html"


class Shown:
    """A report in a browser; its rounded corners are left out."""

    rim = 8

    def __init__(self, page: Any, path: Path, width: int = 1000, height: int = 900) -> None:
        self.page = page
        page.resize(width, height)
        page.prefer("light")
        page.open(path.as_uri())
        self.box = page.evaluate(
            "(() => { const { x, y, width, height } = document.querySelector('canvas').getBoundingClientRect();"
            " return { x, y, width, height }; })()"
        )
        self.middle = self.box["x"] + self.box["width"] / 2, self.box["y"] + self.box["height"] / 2

    def image(self) -> Image:
        """What the canvas shows, once it is drawn: RGB."""
        drawn = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
        self.page.evaluate(drawn)
        png = np.frombuffer(self.page.picture(self.box), np.uint8)
        return cv2.imdecode(png, cv2.IMREAD_COLOR)[self.rim : -self.rim, self.rim : -self.rim, ::-1]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A place so far from the middle of the canvas."""
        return self.middle[0] + x, self.middle[1] + y


@pytest.fixture(scope="module")
def page(browse) -> Any:
    return browse()


@pytest.fixture
def shown(page, path: Path) -> Shown:
    return Shown(page, path)


def drawn(image: Image, ground: tuple[int, int, int] = LIGHT) -> np.ndarray:
    """Where there is something on the background."""
    return np.abs(image.astype(int) - ground).max(axis=2) > 8


def middle_of(image: Image) -> np.ndarray:
    """Of what is drawn: (x, y)."""
    return np.argwhere(drawn(image)).mean(axis=0)[::-1]


def test_the_cloud_is_drawn_where_it_is(shown: Shown, path: Path, keyframes: list[Keyframe]) -> None:
    found = shown.image()
    data = re.findall(r'id="cloud-data">(.*?)</script>', path.read_text(), re.S)[0]
    view = json.loads(data)["view"]
    (ca, sa), (ce, se) = ((np.cos(a), np.sin(a)) for a in (view["azimuth"], view["elevation"]))
    back, right = np.array([ce * ca, ce * sa, se]), np.array([-sa, ca, 0.0])
    eye = np.array(view["target"]) + view["distance"] * back
    height, width = (size + 2 * Shown.rim for size in found.shape[:2])
    focal = 0.5 * height / np.tan(view["fov"] / 2) * min(1.0, width / height / (16 / 9))
    points = surfels(keyframes, 1.5)
    looks = points.cloud.points - eye
    front = np.einsum("ij,ij->i", points.ray, looks / np.linalg.norm(looks, axis=1)[:, None]) > -0.15
    rotation = np.stack([right, np.cross(-back, right), -back], axis=1)
    wanted, depth = render(points.select(front), Viewpoint(pose(rotation, eye), focal, width, height), LIGHT)
    inner = slice(Shown.rim, -Shown.rim), slice(Shown.rim, -Shown.rim)
    wanted, depth = wanted[inner], depth[inner]
    here, there = drawn(found), np.isfinite(depth)
    assert np.count_nonzero(here & there) > 0.9 * np.count_nonzero(here | there)
    difference = np.abs(found.astype(int) - wanted)[here & there].max(axis=1)
    assert np.median(difference) < 25  # points are squares of other sizes; elsewhere in the map it is 60


def test_the_page_needs_nothing_else_and_complains_of_nothing(shown: Shown, path: Path) -> None:
    shown.image()
    assert shown.page.requests == [path.as_uri()]
    assert shown.page.messages == []
    assert not shown.page.evaluate("document.getElementById('cloud').hidden")
    assert not shown.page.evaluate("document.getElementById('picture').open")  # it is there, folded up


def test_the_mouse_turns_moves_and_zooms(shown: Shown) -> None:
    first = shown.image()
    shown.page.drag(shown.at(0, 0), shown.at(150, 0))
    turned = shown.image()
    assert np.mean(drawn(first) != drawn(turned)) > 0.05
    shown.page.drag(shown.at(0, 0), shown.at(-150, 0))
    assert np.mean(shown.image() != first) < 0.01
    shown.page.drag(shown.at(0, 0), shown.at(60, 40), button="right")
    assert middle_of(shown.image()) - middle_of(first) == pytest.approx([60, 40], abs=25)
    shown.page.wheel(shown.at(0, 0), 700)
    assert np.count_nonzero(drawn(shown.image())) < 0.4 * np.count_nonzero(drawn(first))
    shown.page.evaluate("document.querySelector('canvas').dispatchEvent(new MouseEvent('dblclick'))")
    assert np.array_equal(shown.image(), first)


def test_the_wheel_zooms_where_the_cloud_was_clicked_and_scrolls_the_page_where_not(page, path: Path) -> None:
    shown = Shown(page, path, width=700, height=1100)
    first = shown.image()
    page.drag(shown.middle, shown.middle)
    page.wheel(shown.middle, 100)
    zoomed = shown.image()
    assert not np.array_equal(zoomed, first) and page.evaluate("scrollY") == 0
    page.evaluate("document.activeElement.blur()")
    page.wheel(shown.middle, 100)
    page.wait_for("scrollY === 100", "the page scrolls")
    page.evaluate("scrollTo(0, 0)")
    assert np.mean(shown.image() != zoomed) < 0.01  # but for the line around what has the keys


def test_keys_do_the_same(shown: Shown) -> None:
    first = shown.image()
    shown.page.press("Tab")
    assert shown.page.evaluate("document.activeElement.tagName") == "CANVAS"
    first_focused = shown.image()  # with a line around it
    scrolled = shown.page.evaluate("scrollY")
    for key in ("ArrowLeft", "ArrowUp", "+"):
        before = shown.image()
        shown.page.press(key)
        assert np.mean(shown.image() != before) > 0.01, key
    shown.page.press("0")
    assert np.array_equal(shown.image(), first_focused)
    shown.page.press("ArrowRight", modifiers=SHIFT)
    assert middle_of(shown.image())[0] < middle_of(first)[0] - 15
    for _ in range(4):
        shown.page.press("-")
    assert np.count_nonzero(drawn(shown.image())) < 0.5 * np.count_nonzero(drawn(first))
    assert shown.page.evaluate("scrollY") == scrolled


def test_one_finger_turns_and_two_zoom(shown: Shown) -> None:
    first = shown.image()
    shown.page.touch([shown.at(0, 0)], [shown.at(80, 0)], [shown.at(160, 0)])
    assert np.mean(drawn(shown.image()) != drawn(first)) > 0.05
    shown.page.evaluate("document.querySelector('canvas').dispatchEvent(new MouseEvent('dblclick'))")
    wide = [[shown.at(-size, 0), shown.at(size, 0)] for size in (160, 120, 80)]
    shown.page.touch(*wide)
    assert np.count_nonzero(drawn(shown.image())) < 0.5 * np.count_nonzero(drawn(first))


def test_the_ground_is_light_or_dark_as_the_user_prefers(shown: Shown) -> None:
    assert tuple(shown.image()[0, 0]) == LIGHT
    shown.page.prefer("dark")
    dark = shown.image()
    assert tuple(dark[0, 0]) == DARK
    assert np.count_nonzero(drawn(dark, DARK)) > 0.2 * dark[..., 0].size


def test_a_narrow_page_shows_as_much(page, path: Path) -> None:
    wide, narrow = Shown(page, path).image(), Shown(page, path, width=420, height=1600).image()
    assert narrow.shape[1] < narrow.shape[0] < wide.shape[1]
    assert drawn(narrow).any(axis=0).mean() == pytest.approx(drawn(wide).any(axis=0).mean(), abs=0.03)
    assert drawn(narrow).any(axis=1).mean() < 0.8 * drawn(wide).any(axis=1).mean()


def test_without_webgl_the_picture_stays(browse, path: Path) -> None:
    page = browse("--disable-3d-apis")
    page.open(path.as_uri())
    assert page.evaluate("document.getElementById('cloud').hidden")
    assert page.evaluate("document.querySelector('#picture img').getBoundingClientRect().height") > 300


def test_the_viewer_shows_the_map(page, keyframes: list[Keyframe]) -> None:
    pytest.importorskip("viser", reason="viser (extra viewer) is not installed")
    page.resize(800, 600)
    with Viewer("127.0.0.1:0") as viewer:
        viewer.begin(keyframes)
        page.open(viewer.url)
        page.wait_for("document.querySelector('canvas') && document.body.innerText.includes('pair graph')", "the page")

        def colored() -> float:
            image = cv2.imdecode(np.frombuffer(page.picture(), np.uint8), cv2.IMREAD_COLOR)
            return float(np.mean(np.ptp(image[200:, :550], axis=2) > 20))

        page.wait_until(lambda: colored() > 0.05, "points")
        assert {address.removeprefix(viewer.url) for address in page.requests} <= {"/"}
    assert colored() > 0.05  # after the end, too
