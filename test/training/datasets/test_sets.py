"""What holds for every training set, read from a tree in its layout that was written from a rendered walk."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from training_trees import TREES, Opener

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.training.datasets import TRAINING_SETS, default_cache, named, open_set, summary, where
from dust3r_ros.training.datasets.layout import Layout
from dust3r_ros.training.views import TrainingView, ViewPair

NAMES = tuple(TREES)
PAGE = Path(__file__).resolve().parents[3] / "docs" / "training-data.md"
# Sets whose views have another focal than the walk, as a lens was taken out, or hold what a lidar saw of it.
LENSES = ("scannetpp", "waymo")


def test_all_of_them_are_there() -> None:
    assert set(TRAINING_SETS) == set(NAMES) and len(NAMES) == 8
    assert all(one.name == name for name, one in TRAINING_SETS.items())
    assert all(f"\n{name} " in f"\n{summary()}" for name in NAMES)


def reprojected(first: TrainingView, second: TrainingView) -> tuple[np.ndarray, np.ndarray]:
    """Of the first view's points that the second image holds and has depth for: how far apart both depths are
    (relative), and both images (of 255).
    """
    known = first.depth > 0
    camera = transform(invert(second.w_T_c) @ first.w_T_c, first.points_c()[known])
    projected = camera @ second.K.T
    u, v = np.rint(projected[:, :2] / projected[:, 2:]).astype(int).T
    height, width = second.depth.shape
    inside = (camera[:, 2] > 0) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
    u, v, z, colors = u[inside], v[inside], camera[inside, 2], first.image[known][inside]
    depth = second.depth[v, u]
    both = depth > 0
    difference = np.abs(colors[both].astype(int) - second.image[v, u][both]).mean(axis=1)
    return np.abs(z[both] - depth[both]) / depth[both], difference


@pytest.mark.parametrize("name", NAMES)
def test_what_one_view_shows_the_other_shows_where_it_is(name: str, opened: Opener) -> None:
    source = opened(name)
    for index in range(len(source)):
        pair = source.pair(index, np.random.default_rng(index))
        pair.check()
        assert name in pair.source
        for first, second in ((pair.first, pair.second), (pair.second, pair.first)):
            apart, colors = reprojected(first, second)
            same = apart < 0.03
            # The rest is hidden by something nearer.
            assert len(apart) > 300 and same.mean() > 0.5 and np.median(apart[same]) < 0.006
            assert np.median(colors[same]) < 16


def of_walk(view: TrainingView, walk: RenderedSequence) -> int:
    """The frame that a view is."""
    return int(np.abs(walk.images.astype(int) - view.image.astype(int)).mean(axis=(1, 2, 3)).argmin())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LENSES])
def test_views_are_those_of_the_walk(name: str, opened: Opener, walk: RenderedSequence) -> None:
    source, seen = opened(name), set()
    assert len(source) == len(walk)
    for index in range(len(walk)):
        pair = source.pair(index, np.random.default_rng(0))
        i, j = (of_walk(view, walk) for view in (pair.first, pair.second))
        seen.add(i)
        assert i != j
        for k, view in ((i, pair.first), (j, pair.second)):
            np.testing.assert_allclose(view.K, [[walk.focal, 0, 63.5], [0, walk.focal, 47.5], [0, 0, 1]], atol=1e-3)
            np.testing.assert_allclose(view.depth, walk.depths[k], rtol=2e-3)
        truth = invert(walk.w_T_c[i]) @ walk.w_T_c[j]
        np.testing.assert_allclose(invert(pair.first.w_T_c) @ pair.second.w_T_c, truth, atol=1e-4)
    assert len(seen) >= 4  # each frame that has a partner comes first in its turn


def equal(one: ViewPair, other: ViewPair) -> bool:
    views = ((one.first, other.first), (one.second, other.second))
    return one.source == other.source and all(
        np.array_equal(getattr(a, what), getattr(b, what))
        for a, b in views
        for what in ("image", "depth", "K", "w_T_c")
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_follows_from_index_and_generator_and_the_cache_is_used(
    name: str, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(name)
    tree = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    first = source.pair(1, np.random.default_rng(7))
    assert equal(first, source.pair(1, np.random.default_rng(7)))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == tree
    assert not list((tmp_path / "cache").rglob(".*"))  # nothing temporary is left

    def never(*_: object) -> None:
        raise AssertionError("what is in the cache is found out again")

    kind = type(TRAINING_SETS[name].reader)
    monkeypatch.setattr(kind, "frames", never)
    monkeypatch.setattr(kind, "shared", never)
    assert equal(first, opened(name).pair(1, np.random.default_rng(7)))
    assert equal(first, pickle.loads(pickle.dumps(source)).pair(1, np.random.default_rng(7)))


@pytest.mark.parametrize("name", NAMES)
def test_damage_costs_a_pair_or_is_refused_by_name(
    name: str, opened: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every kind of file damaged in turn: pairs still come, or an error says which file it is."""
    opened(name)
    caplog.set_level(logging.CRITICAL)
    kinds: dict[tuple[str, str], Path] = {}
    for file in sorted(path for path in (tmp_path / "data").rglob("*") if path.is_file()):
        kinds.setdefault((file.suffix, file.parent.name), file)
    refused = 0
    for file in kinds.values():
        whole = file.read_bytes()
        for number, broken in enumerate((b"", whole[: len(whole) // 2], np.random.default_rng(1).bytes(200), b"1 2\n")):
            file.write_bytes(broken)
            try:
                source = TRAINING_SETS[name].open(tmp_path / "data", tmp_path / f"{file.name}-{number}")
                for index in range(len(source)):
                    source.pair(index, np.random.default_rng(index))
            except InputError as error:
                assert str(tmp_path / "data") in str(error)
                refused += 1
        file.write_bytes(whole)
    assert refused >= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_it_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"'{tmp_path}/gone' is not a folder.*where {name}'"):
        TRAINING_SETS[name].open(tmp_path / "gone", tmp_path / "cache")
    (tmp_path / "something").mkdir()
    (tmp_path / "readme.md").write_text("else")
    with pytest.raises(InputError, match=f"'{tmp_path}' holds nothing of {name} to train with.*where {name}'"):
        TRAINING_SETS[name].open(tmp_path, tmp_path / "cache")


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    one = TRAINING_SETS["habitat"]
    with pytest.raises(InputError, match=r"split 'all'.*train and val"):
        one.open(tmp_path, tmp_path, split="all")
    for overlap in ((0.5, 0.5), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(InputError, match="between 0 and 1"):
            one.open(tmp_path, tmp_path, overlap=overlap)
    with pytest.raises(InputError, match=r"1 frames.*2 to 65535"):
        one.open(tmp_path, tmp_path, most_frames=1)


def test_names_and_the_usual_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named("CO3D") is TRAINING_SETS["co3d"] and where("waymo").startswith("Waymo Open Dataset")
    with pytest.raises(InputError, match=r"'imagenet'.*habitat"):
        open_set("imagenet", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine/dust3r_ros/training"


def test_layouts_say_what_they_cost() -> None:
    for one in TRAINING_SETS.values():
        assert isinstance(one.reader, Layout) and 2 <= one.reader.most_frames <= 512
        assert 0 <= one.reader.overlap[0] < one.reader.overlap[1] <= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_page_describes_it_as_the_command_does(name: str) -> None:
    page, one = PAGE.read_text(encoding="utf-8"), TRAINING_SETS[name]
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    assert one.title in row and one.licence in row
    assert " ".join(one.notes.split()) in " ".join(page.split())
    for line in one.layout.strip().splitlines():
        assert line in page
