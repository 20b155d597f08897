"""Listing, cache and choice of partners, with a layout that lies in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.errors import InputError, OutputError
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.training.datasets import layout
from dust3r_ros.training.datasets.layout import FrameRow, Layout, Part, spread
from dust3r_ros.training.datasets.pairs import PairFolder
from dust3r_ros.types import Array32, Image

K = np.array([[100.0, 0, 63.5], [0, 100, 47.5], [0, 0, 1]])
STEP = 0.256  # metres; of a wall 2.56 m wide


class Walls(Layout):
    """Every part is a file that says how many groups it holds, of how many frames along a wall."""

    def __init__(self) -> None:
        self.listed = self.read = 0
        self.broken: set[str] = set()

    def parts(self, root: Path, split: str) -> list[Part]:
        return [Part(f"{split}/{file.stem}", file, (file,)) for file in sorted(root.glob(f"{split}*.txt"))]

    def frames(self, root: Path, part: Part, most: int) -> Iterable[FrameRow]:
        self.listed += 1
        groups, count = map(int, part.folder.read_text().split())
        for group in range(groups):
            for place in range(count):
                T = pose(np.eye(3), [STEP * place, 0, 0])
                yield FrameRow(f"{part.name}/{group}", f"{place}.jpg", f"{place}.png", K, T, extra=(float(place),))

    def image(self, root: Path, frame: FrameRow) -> Image:
        return np.full((96, 128, 3), int(frame.extra[0]), np.uint8)

    def depth(self, root: Path, frame: FrameRow) -> Array32:
        self.read += 1
        if frame.depth in self.broken:
            raise InputError(f"depth '{frame.depth}' is broken")
        return np.full((96, 128), 2.0, np.float32)


def opened(root: Path, layout: Layout, overlap: tuple[float, float] = (0.15, 0.95), most: int = 64) -> PairFolder:
    return PairFolder("walls", layout, root, "train", root / "cache", overlap, most)


def places(source: PairFolder, index: int, seed: int = 0) -> tuple[int, int]:
    pair = source.pair(index, np.random.default_rng(seed))
    return int(pair.first.image[0, 0, 0]), int(pair.second.image[0, 0, 0])


def test_every_frame_comes_first_once_and_partners_spread_over_the_range(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("2 12")
    source = opened(tmp_path, Walls())
    assert len(source) == 24 and source.groups().tolist() == [0, 12, 24]
    assert [places(source, index)[0] for index in range(24)] == [*range(12)] * 2
    apart = np.array([abs(int(np.subtract(*places(source, 0, seed)))) for seed in range(200)])
    # A step takes a tenth of the view away: from 15 to 95 percent are 1 to 8 steps, each as often as another.
    assert set(apart) == set(range(1, 9))
    assert np.bincount(apart)[2:8].min() > 10
    with pytest.raises(IndexError, match="pair 24 of walls does not exist; it has 24"):
        source.pair(24, np.random.default_rng(0))


def test_the_range_is_kept(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1 12")
    source = opened(tmp_path, Walls(), (0.45, 0.75))
    assert {abs(int(np.subtract(*places(source, 5, seed)))) for seed in range(60)} == {3, 4, 5}


def test_no_more_frames_than_asked_for_evenly(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1 12")
    source = opened(tmp_path, Walls(), most=4)
    assert [places(source, index)[0] for index in range(4)] == [0, 4, 7, 11]
    assert spread([1, 2, 3], 3) == [1, 2, 3] and spread(list(range(100)), 2) == [0, 99]


def test_what_is_known_is_not_found_out_again(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1 5")
    first = Walls()
    assert places(opened(tmp_path, first), 0) and first.listed == 1 and first.read == 5 + 2
    again = Walls()
    # Another range of overlaps asks for no other measurement.
    assert places(opened(tmp_path, again, (0.5, 0.95)), 0) and again.listed == 0 and again.read == 2
    (tmp_path / "train.txt").write_text("1 3")
    assert len(opened(tmp_path, again)) == 3 and again.listed == 1
    opened(tmp_path, again, most=2).prepare()
    assert again.listed == 2  # another choice of frames is another listing


def test_a_broken_cache_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1 5")
    expected = places(opened(tmp_path, Walls()), 0)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == 3
    for file in files:
        for broken in (b"", file.read_bytes()[:100], b"no array of NumPy"):
            file.write_bytes(broken)
            assert places(opened(tmp_path, Walls()), 0) == expected


def test_prepare_measures_all_and_goes_on_where_a_group_is_broken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "train1.txt").write_text("2 5")
    (tmp_path / "train2.txt").write_text("1 0")
    layout, said = Walls(), []
    layout.broken = {f"{place}.png" for place in range(4)}
    source = opened(tmp_path, layout)
    with caplog.at_level(logging.WARNING):
        assert source.prepare(lambda done, of: said.append((done, of))) == 10
    assert said == [(1, 2), (2, 2)] and caplog.text.count("depth '0.png' is broken") == 2
    assert source.prepare() == 10 and layout.read == 10  # what is refused is not read again
    layout.broken = set()
    assert opened(tmp_path, layout).prepare() == 10 and layout.read == 20
    assert opened(tmp_path, layout).prepare() == 10 and layout.read == 20


def test_one_broken_depth_costs_its_pairs_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "train.txt").write_text("1 5")
    layout = Walls()
    layout.broken = {"2.png"}
    source = opened(tmp_path, layout)
    with caplog.at_level(logging.WARNING):
        found = {places(source, index, seed) for index in range(5) for seed in range(20)}
    assert "walls leaves a frame out: depth '2.png' is broken" in caplog.text
    assert all(2 not in pair for pair in found) and {first for first, _ in found} == {0, 1, 3, 4}
    layout.broken = set()
    assert places(opened(tmp_path, layout), 2)[0] == 2, "it may have been on its way"


def test_a_part_without_frames_is_listed_again(tmp_path: Path) -> None:
    (tmp_path / "train1.txt").write_text("1 5")
    (tmp_path / "train2.txt").write_text("1 0")
    layout = Walls()
    assert len(opened(tmp_path, layout)) == 5 and layout.listed == 2
    assert len(opened(tmp_path, layout)) == 5 and layout.listed == 3


def test_a_digest_tells_sets_apart(tmp_path: Path) -> None:
    digests = []
    for content in ("1 5", "1 4", "2 5", "1 5"):
        (tmp_path / "train.txt").write_text(content)
        digests.append(opened(tmp_path, Walls()).digest())
    assert len(set(digests[:3])) == 3 and digests[3] == digests[0] and len(digests[0]) == 8


def test_a_file_that_breaks_later_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1 2")
    layout = Walls()
    source = opened(tmp_path, layout)
    assert places(source, 0) == (0, 1)
    layout.broken = {"1.png"}
    with pytest.raises(InputError, match=r"1\.png"):
        source.pair(0, np.random.default_rng(0))


def test_frames_that_share_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1 1")
    with pytest.raises(InputError, match=rf"train/train/0' of walls in '{tmp_path}' share between 15% and 95%"):
        opened(tmp_path, Walls()).pair(0, np.random.default_rng(0))
    (tmp_path / "train.txt").write_text("1 0")
    with pytest.raises(InputError, match=f"'{tmp_path}' holds no frame of walls"):
        len(opened(tmp_path, Walls()))


def test_an_image_of_another_size_than_its_camera_is_refused(tmp_path: Path) -> None:
    class Small(Walls):
        def frames(self, root: Path, part: Part, most: int) -> Iterable[FrameRow]:
            for frame in super().frames(root, part, most):
                yield FrameRow(**{**frame.__dict__, "size": (256, 192)})

    (tmp_path / "train.txt").write_text("1 3")
    with pytest.raises(InputError, match=r"0\.jpg' is 128x96; its camera is 256x192"):
        opened(tmp_path, Small()).pair(0, np.random.default_rng(0))


def test_what_is_held_out_is_another_source(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1 5")
    assert opened(tmp_path, Walls()).held_out() is None
    (tmp_path / "val.txt").write_text("1 3")
    apart = opened(tmp_path, Walls()).held_out()
    assert apart is not None and len(apart) == 3 and apart.held_out() is None


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1 5")
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(OutputError, match="cache"):
        len(opened(tmp_path, Walls()))


def test_training_goes_on_where_overlaps_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "train.txt").write_text("2 5")
    source = opened(tmp_path, Walls())
    assert len(source) == 10
    (file,) = (tmp_path / "cache/walls").glob("*.starts.npy")
    Path(str(file).replace(".starts.npy", "")).write_text("a file in the way")
    with caplog.at_level(logging.WARNING):
        assert places(source, 0)[0] == 0 and places(source, 7)[0] == 2
    assert caplog.text.count("the next run measures overlaps again") == 1


def test_rows_keep_every_digit_and_letter(tmp_path: Path) -> None:
    T = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    frame = FrameRow(
        "größe", "a b/ü.jpg", "", K * np.pi, pose(T, [1e7, np.pi, -1e-9]), "m.png", (3, 4), (1e15 + 1, 0.1)
    )
    other = FrameRow("x", "y", "z", K, np.eye(4), "", (0, 0), (0.0, 0.0))
    found = layout.listed(tmp_path / "a.npy", lambda: [frame, other], 10)
    (first,), (second,) = found.group(0), found.group(1)
    for one, two in ((first, frame), (second, other)):
        assert (one.group, one.image, one.depth, one.mask, one.size, one.extra) == (
            two.group, two.image, two.depth, two.mask, two.size, two.extra,
        )  # fmt: skip
        np.testing.assert_array_equal(one.w_T_c, two.w_T_c)
    np.testing.assert_array_equal(first.K[:2], (K * np.pi)[:2])
    assert found.groups == 2 and [found.group_of(row) for row in (0, 1)] == [0, 1]
