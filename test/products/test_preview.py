"""The picture of a map: what is in it, for maps of every shape."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dust3r_ros.errors import OutputError
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, pose
from dust3r_ros.products.preview import KEYFRAME, PANEL, render_preview, write_preview
from dust3r_ros.types import Keyframe, StampedPose

SECOND = 1_000_000_000


def wall(index: int, side: float, height: int = 48, width: int = 64) -> Keyframe:
    """A keyframe at (0, side, 0) that sees a wall 3 units ahead: red where y > 0, which is left, green elsewhere."""
    y = side - 3.0 * (np.arange(width) - (width - 1) / 2) / 60.0
    image = np.zeros((height, width, 3), np.uint8)
    image[:, y > 0, 0] = 220
    image[:, y <= 0, 1] = 220
    w_T_c = pose(np.eye(3), [0, side, 0]) @ BODY_T_OPTICAL
    depth = np.full((height, width), 3.0, np.float32)
    return Keyframe(index, 0, index * SECOND, "camera", w_T_c, 60.0, image, depth, np.full_like(depth, 4.0))


def walk(count: int = 6) -> list[StampedPose]:
    return [StampedPose(i * SECOND, "camera", wall(i, 0.3 * i).w_T_c) for i in range(count)]


def picture(keyframes, trajectory, subtitle: str = "numbers") -> np.ndarray:
    return render_preview(keyframes, trajectory, title="Map", subtitle=subtitle, min_confidence=1.5)


def share(image: np.ndarray, color, tolerance: int = 30) -> float:
    return float(np.mean(np.all(np.abs(image.astype(int) - color) <= tolerance, axis=-1)))


def panels(page: np.ndarray) -> dict[str, np.ndarray]:
    lower = page[-310:-10]
    return {
        "above": page[74:634, 10:595],
        "outside": page[74:634, 605:1190],
        "image": lower[:, 10:396],
        "seen": lower[:, 406:792],
        "depth": lower[:, 802:1188],
    }


@pytest.fixture(scope="module")
def page() -> np.ndarray:
    return picture([wall(i, 0.3 * i) for i in range(4)], walk())


def test_the_first_camera_sees_in_the_map_what_it_saw(page: np.ndarray) -> None:
    parts = panels(page)
    middle = (slice(60, 260), slice(40, 340))
    difference = np.abs(parts["image"][middle].astype(int) - parts["seen"][middle])
    assert np.mean(difference.max(axis=-1) < 40) > 0.95
    assert share(parts["depth"], PANEL, 3) < 0.25


def test_the_path_and_the_keyframes_are_drawn_from_above_and_from_outside(page: np.ndarray) -> None:
    parts = panels(page)
    for name in ("above", "outside"):
        assert share(parts[name], KEYFRAME, 40) > 2e-4
        assert share(parts[name], (240, 249, 33), 40) > 1e-4  # the bright end of the path
    alone = panels(picture([wall(i, 0.3 * i) for i in range(4)], []))
    assert share(alone["above"], (240, 249, 33), 40) == 0


def test_walls_are_seen_from_outside(page: np.ndarray) -> None:
    outside = panels(page)["outside"]
    assert share(outside, (220, 0, 0), 60) > 0.05
    assert share(outside, (0, 220, 0), 60) > 0.05


def test_the_title_and_the_numbers_are_written(page: np.ndarray) -> None:
    bare = picture([wall(i, 0.3 * i) for i in range(4)], walk(), subtitle="")
    assert (page[:74] != bare[:74]).any()
    assert np.array_equal(page[74:], bare[74:])
    assert page[:40].max() > 200


def test_without_pillow_the_same_is_written_in_the_same_places(
    page: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    plain = picture([wall(i, 0.3 * i) for i in range(4)], walk())
    for rows in (slice(10, 44), slice(44, 70)):  # title, numbers
        left, right = (np.flatnonzero((image[rows] > 100).any(axis=(0, 2))) for image in (page, plain))
        assert left[0] == pytest.approx(right[0], abs=3) and 0.5 < right[-1] / left[-1] < 2
    above = panels(plain)["above"]
    assert (above[:24] > 150).any() and (above[-40:-20] > 150).any(), "caption and scale bar"
    assert np.array_equal(plain[100:580], page[100:580]), "the map is the same"


@pytest.mark.parametrize("size", [(194, 640), (64, 48), (1, 1), (48, 64)])
def test_any_image_shape_fits(size: tuple[int, int]) -> None:
    page = picture([wall(0, 0.0, *size)], walk(1))
    assert page.shape == (954, 1200, 3)
    assert share(panels(page)["image"], PANEL, 3) < 0.95


def test_an_empty_map_says_so() -> None:
    page = picture([], [])
    for part in panels(page).values():
        assert share(part, PANEL, 3) > 0.9
        assert part[100:300].max() > 100  # "nothing mapped"
    no_depth = wall(0, 0.0)
    no_depth.depth[:] = 0
    assert picture([no_depth], walk(1)).shape == page.shape


def test_one_far_wrong_point_does_not_shrink_the_map() -> None:
    good, bad = wall(0, 0.0), wall(0, 0.0)
    bad.depth[0, 0] = 1e5
    before, after = (panels(picture([keyframe], walk(1)))["outside"] for keyframe in (good, bad))
    assert share(after, (220, 0, 0), 60) > 0.8 * share(before, (220, 0, 0), 60)


def test_the_same_map_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_preview(tmp_path / name, [wall(0, 0.0)], walk(2), title="Map", subtitle="x", min_confidence=1.5)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    image = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    assert np.array_equal(image, render_preview([wall(0, 0.0)], walk(2), title="Map", subtitle="x", min_confidence=1.5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone/preview\.png"):
        write_preview(tmp_path / "gone/preview.png", [], [], title="", subtitle="", min_confidence=1.5)
