"""Views at working resolution, splits and scenes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from recorded import read, recorded, split

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import Recording
from dust3r_ros.evaluation.protocols.recordings import localisation_scenes, select, true_poses, working
from dust3r_ros.geometry.resize import Resize
from dust3r_ros.scenes.sequence import render_sequence


@pytest.fixture(scope="module")
def sequence() -> Recording:
    return recorded(render_sequence("orbit", 6, 200, 150, supersample=1))


def test_a_view_keeps_its_intrinsics_through_the_resize(sequence: Recording) -> None:
    """A world point projects to the same place in the working image, by its own focal and centre."""
    view = replace(sequence.views[0], K=np.array([[170.0, 0, 90], [0, 170, 80], [0, 0, 1]]))
    made = working(view, 96)
    assert made.image.shape == (64, 96, 3)
    assert made.focal is not None
    native = np.array([[100.0, 75.0]])
    ray = (native - [90, 80]) / 170
    assert made.focal * ray + made.center == pytest.approx(made.resize.to_working(native), abs=0.2)
    assert working(view, 96, known_focal=False).focal is None


@pytest.mark.parametrize("size", [96, 320])  # shrunk, grown
@pytest.mark.parametrize("at", [(90.0, 80.0), (110.3, 60.6)])
def test_the_crop_is_centred_on_a_known_principal_point(
    sequence: Recording, size: int, at: tuple[float, float]
) -> None:
    """Red is the column and green the row of a native pixel: the middle of the working image shows the point."""
    v, u = np.mgrid[:150, :200]
    picture = np.stack([u, v, np.zeros_like(u)], axis=-1).astype(np.uint8)
    view = replace(
        sequence.views[0], read_image=read(picture), K=np.array([[170.0, 0, at[0]], [0, 170, at[1]], [0, 0, 1]])
    )
    made = working(view, size)
    height, width = made.image.shape[:2]
    assert max(width, height) == size and width % 16 == height % 16 == 0
    assert np.abs(np.subtract(made.center, [(width - 1) / 2, (height - 1) / 2])).max() < 0.5
    corners = made.resize.to_native([[-0.5, -0.5], [width - 0.5, height - 0.5]])
    assert corners.min() >= -0.5 - 1e-9 and np.all(corners[1] <= [199.5 + 1e-9, 149.5 + 1e-9])
    middle = made.image[height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1, :2].mean(axis=(0, 1))
    assert middle == pytest.approx(at, abs=1.2)
    unknown = working(view, size, known_focal=False)
    assert unknown.resize == Resize.fit(200, 150, size) == working(sequence.views[0], size).resize
    outside = working(replace(view, K=np.array([[170.0, 0, 200], [0, 170, 80], [0, 0, 1]])), size)
    assert outside.resize == unknown.resize and outside.center == pytest.approx(unknown.resize.to_working([200, 80]))


def test_depth_goes_to_the_working_pixels_and_back(sequence: Recording) -> None:
    made = working(sequence.views[0], 96)
    truth = sequence.views[0].depth()
    small = made.depth()
    assert small is not None and small.shape == (64, 96)
    back = made.at_truth(small, truth.shape)
    assert back.shape == truth.shape
    seen = back > 0
    assert 0.8 < seen.mean() < 1.0  # 150 rows of 200 do not fit into multiples of 16
    assert not seen[0].any()
    assert np.median(np.abs(back[seen] / truth[seen] - 1)) < 0.01
    half = replace(sequence.views[0], read_depth=read(truth[::2, ::2]))
    assert np.median(np.abs(working(half, 96).depth() / small - 1)) < 0.02
    assert working(replace(sequence.views[0], read_depth=None), 96).depth() is None


def test_a_view_without_a_pose_or_with_another_kind_of_image_is_refused(sequence: Recording) -> None:
    with pytest.raises(InputError, match="no true pose"):
        _ = working(replace(sequence.views[0], w_T_c=None), 96).pose
    with pytest.raises(InputError, match="float64"):
        working(replace(sequence.views[0], read_image=read(np.zeros((8, 8, 3)))), 96)


def test_a_split_shares_nothing_and_loses_nothing(sequence: Recording) -> None:
    database, queries = split(sequence, 3)
    assert [view.stamp_ns for view in queries.views] == [sequence.views[i].stamp_ns for i in (1, 4)]
    assert {v.stamp_ns for v in database.views} | {v.stamp_ns for v in queries.views} == {
        v.stamp_ns for v in sequence.views
    }
    assert len(database.views) == 4
    assert len(true_poses(sequence)) == 6 and len(true_poses(sequence, "another")) == 0


def test_scenes_are_made_of_their_parts(sequence: Recording) -> None:
    parts = [
        replace(sequence, name=f"seq-{i}", scene="kitchen", split=name)
        for i, name in enumerate(["train", "test", "train"])
    ]
    ((database, queries),) = localisation_scenes(parts)
    assert (database.name, queries.name, queries.dataset) == ("kitchen", "kitchen", "rendered")
    assert (len(database.views), len(queries.views)) == (12, 6)
    stamps = [view.stamp_ns for view in database.views]
    assert np.all(np.diff(stamps) > 0) and stamps[6] - stamps[5] == 1_000_000_000
    assert np.array_equal(database.views[7].image(), sequence.views[1].image())
    assert database.views[7].w_T_c is sequence.views[1].w_T_c and database.views[7].K is sequence.views[1].K


def test_a_scene_without_one_of_its_parts_does_not_count(sequence: Recording) -> None:
    names = [("a", "train"), ("b", "train"), ("b", "test"), ("c", "train"), ("c", "test")]
    parts = [replace(sequence, scene=scene, split=name) for scene, name in names]
    found = [(queries.name, len(queries.views)) for _, queries in localisation_scenes(parts, 1)]
    assert found == [("a", 0), ("b", 6)]
    assert [database.name for database, _ in localisation_scenes(parts)] == ["a", "b", "c"]


def test_a_selection_keeps_everything_else(sequence: Recording) -> None:
    chosen = select(replace(sequence, split="test", scene="kitchen", metric=False), [4, 1])
    assert chosen.views == (sequence.views[4], sequence.views[1])
    assert (chosen.name, chosen.dataset, chosen.metric) == (sequence.name, "rendered", False)
    assert (chosen.split, chosen.scene, chosen.ordered) == ("test", "kitchen", True)
