"""What keyframes say together: points that stay, points that go, and how far the rest is from the truth."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from scipy.spatial import cKDTree
from sequences import walk

from dust3r_ros.cloud import fusion
from dust3r_ros.cloud.cloud import Cloud, map_cloud
from dust3r_ros.cloud.fusion import agreed, fuse_map, overlapping, pixel_size
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.scenes.solids import Box, Lamp
from dust3r_ros.scenes.textures import fabric
from dust3r_ros.scenes.world import build
from dust3r_ros.types import Keyframe

HEIGHT, WIDTH, FOCAL = 48, 64, 60.0


def keyframe(index: int, position: list[float], target: list[float], depth: float = 4.0) -> Keyframe:
    """A camera that sees a plane at ``depth``."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    full = np.full((HEIGHT, WIDTH), depth, np.float32)
    w_T_c = look_at(np.array(position), np.array(target))
    return Keyframe(index, 1, index, "camera", w_T_c, FOCAL, image, full, np.full_like(full, 5.0))


def test_a_moved_view_tells_more_than_a_repeated_one_and_one_that_looks_away_nothing() -> None:
    reference = keyframe(0, [-4, 0, 0], [0, 0, 0])
    same = keyframe(1, [-4, 0.01, 0], [0, 0, 0])
    moved = keyframe(2, [-4, 0.4, 0], [0, 0, 0])
    turned = keyframe(3, [-4, 0.4, 0], [-8, 0, 0])
    aside = keyframe(4, [-4, 1.0, 0], [0, 2.2, 0])
    found = overlapping(reference, [reference, same, moved, turned, aside], 10)
    assert [other.index for other in found] == [2, 4, 1]
    assert [other.index for other in overlapping(reference, [turned, aside, moved], 1)] == [2]


def test_equal_ones_keep_their_order_whatever_is_around_them() -> None:
    reference = keyframe(0, [-4, 0, 0], [0, 0, 0])
    twins = [keyframe(i, [-4, 0.5, 0], [0, 0, 0]) for i in (5, 3, 9)]
    assert [other.index for other in overlapping(reference, twins, 2)] == [5, 3]


def test_a_point_in_the_plane_of_another_camera_is_not_in_its_image() -> None:
    reference = keyframe(0, [-4, 0, 0], [0, 0, 0])
    within = Keyframe(1, 1, 1, "camera", pose(reference.w_T_c[:3, :3], [0, 0, 0]), FOCAL, reference.image,
                      reference.depth, reference.confidence)  # fmt: skip
    assert overlapping(reference, [within], 3) == []


def test_no_depth_is_no_overlap() -> None:
    empty = keyframe(0, [-4, 0, 0], [0, 0, 0], depth=0.0)
    other = keyframe(1, [-4, 0.4, 0], [0, 0, 0])
    assert overlapping(empty, [other], 3) == [] and overlapping(other, [], 3) == []
    assert [k.index for k in overlapping(other, [empty], 3)] == [0]


CONFIDENCE = 3.0
BOX = np.array([-0.15, -0.15, 0.75]), np.array([0.15, 0.15, 1.25])


@lru_cache(maxsize=4)
def keyframes(noise: float = 0.0, wrong: float = 0.0, seed: int = 0) -> tuple[Keyframe, ...]:
    """Every second frame of a rendered walk, true depth with relative noise; a share ``wrong`` is at half of it."""
    sequence = walk("orbit")
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(0, len(sequence), 2):
        depth = sequence.depths[index] * (1 + noise * rng.standard_normal(sequence.depths[index].shape))
        blot = np.kron(rng.random((depth.shape[0] // 8, depth.shape[1] // 8)) < wrong, np.ones((8, 8), bool))
        depth = np.where(blot, 0.5 * depth, depth).astype(np.float32)
        frames.append(
            Keyframe(
                index,
                1,
                int(sequence.stamps_ns[index]),
                "camera",
                sequence.w_T_c[index],
                sequence.focal,
                sequence.images[index],
                depth,
                np.where(depth > 0, CONFIDENCE, 1.0).astype(np.float32),
            )
        )
    return tuple(frames)


def relative_errors(found: Keyframe, truth: Keyframe) -> np.ndarray:
    known = (found.depth > 0) & (truth.depth > 0)
    return np.abs(found.depth[known] / truth.depth[known] - 1)


def surface() -> tuple[cKDTree, np.ndarray]:
    """All true points and how far each is from its camera."""
    cloud = map_cloud(keyframes())
    distances = np.concatenate([k.depth[k.depth > 0] for k in keyframes()])
    return cKDTree(cloud.points), distances


def share_near(cloud: Cloud, tolerance: float) -> tuple[float, float]:
    """(accuracy, completeness): shares of the cloud and of the true points with a neighbour within ``tolerance``."""
    tree, distances = surface()
    chosen = np.random.default_rng(0).permutation(len(cloud))[:20_000]
    gap, nearest = tree.query(cloud.points[chosen])
    true = np.random.default_rng(1).permutation(tree.n)[:20_000]
    back, _ = cKDTree(cloud.points).query(tree.data[true])
    return float(np.mean(gap < tolerance * distances[nearest])), float(np.mean(back < tolerance * distances[true]))


def test_true_depth_stays_as_it_is() -> None:
    frames = keyframes()
    for frame in frames[::4]:
        found = agreed(frame, overlapping(frame, frames, 8))
        inside = ~fusion.depth_edges(frame.depth, 0.15) & (frame.depth > 0)
        assert (found.depth[inside] > 0).mean() > 0.95
        assert np.percentile(relative_errors(found, frame), 95) < 0.01  # the nearest pixel is half a pixel off
        assert np.median(found.confidence[found.depth > 0]) > 1 + 4 * (CONFIDENCE - 1)


def test_noise_goes_down_and_confidence_up_with_the_number_of_views() -> None:
    truth, noisy = keyframes(), keyframes(noise=0.01)
    for index in (2, 7):
        others = overlapping(noisy[index], noisy, 8)
        few, many = agreed(noisy[index], others[:2]), agreed(noisy[index], others)
        single = np.median(relative_errors(noisy[index], truth[index]))
        assert np.median(relative_errors(few, truth[index])) < 0.8 * single
        assert np.median(relative_errors(many, truth[index])) < 0.55 * single
        assert np.median(many.confidence) > np.median(few.confidence) > CONFIDENCE


def test_what_two_others_see_through_goes_unless_as_many_confirm_it() -> None:
    clean, blotted = keyframes(), keyframes(wrong=0.03)
    for index in (3, 8):
        frame = replace(clean[index], depth=blotted[index].depth)
        blots = (frame.depth < 0.6 * clean[index].depth) & (frame.depth > 0)
        others = overlapping(clean[index], clean, 8)
        kept = agreed(frame, others).depth > 0
        assert blots.sum() > 300 and kept[blots].mean() < 0.06  # a few lie where no other looks
        assert (agreed(frame, others[:1], edges=False).depth > 0)[blots].mean() > 0.95  # one other alone is no proof
    # Something there that most see: the few that look through it do not win.
    wall = [replace(k, depth=np.full_like(k.depth, 1.0), w_T_c=clean[0].w_T_c) for k in clean[:6]]
    behind = [replace(k, depth=np.full_like(k.depth, 2.0), w_T_c=clean[0].w_T_c) for k in clean[6:9]]
    assert (agreed(wall[0], [*wall[1:], *behind]).depth > 0).all()
    assert not (agreed(wall[0], [*wall[1:3], *behind]).depth > 0).any()
    assert (agreed(wall[0], [*wall[1:3], *behind], see_through=False).depth > 0).all()


def test_a_point_nobody_confirms_goes_only_where_others_look() -> None:
    frames = keyframes()
    frame = replace(frames[3], depth=(1.5 * frames[3].depth).astype(np.float32))  # behind what is really there
    assert (agreed(frame, overlapping(frames[3], frames, 8)).depth > 0).mean() < 0.1
    apart = replace(frame, w_T_c=frame.w_T_c + np.array([[0, 0, 0, 100.0]] * 3 + [[0, 0, 0, 0]]))
    alone = agreed(apart, list(frames), edges=False)
    np.testing.assert_array_equal(alone.depth, apart.depth)
    np.testing.assert_array_equal(alone.confidence, apart.confidence)


def test_confidence_of_several_counts_together() -> None:
    weak = [replace(k, confidence=np.where(k.depth > 0, 1.3, 1.0).astype(np.float32)) for k in keyframes()]
    found = agreed(weak[4], overlapping(weak[4], weak, 8), min_confidence=1.5)
    assert (found.depth > 0).mean() > 0.8 and found.confidence[found.depth > 0].min() > 1.5
    assert not agreed(weak[4], [], min_confidence=1.5).depth.any()


def test_the_map_gains_accuracy_and_loses_hardly_any_surface() -> None:
    frames = keyframes(noise=0.01, wrong=0.05)
    before, after = map_cloud(frames, 1.5), fuse_map(frames, voxel=0)
    (accurate, complete), (better, still) = share_near(before, 0.01), share_near(after, 0.01)
    assert 1 - better < 0.35 * (1 - accurate)
    assert still > complete - 0.02 > 0.9
    assert after.confidence.min() > 1.5


def test_cubes_make_it_smaller_not_worse_and_nobody_is_counted_twice() -> None:
    frames = keyframes(noise=0.01, wrong=0.05)
    points, cubes = fuse_map(frames, voxel=0), fuse_map(frames)
    assert len(cubes) < 0.5 * len(points) and cubes.confidence.min() > 1.5
    assert share_near(cubes, 0.01)[0] > share_near(map_cloud(frames, 1.5), 0.01)[0]
    size = pixel_size(frames)
    assert 0.5 < size * frames[0].focal / np.median(frames[0].depth) < 2
    # Confidence is what all the views that took part gain, each once.
    gained = (CONFIDENCE - 1) * len(frames)
    assert np.percentile(fuse_map(frames, voxel=20 * size).confidence, 1) > 1.5
    still = [replace(k, depth=frames[0].depth, w_T_c=frames[0].w_T_c, image=frames[0].image) for k in frames]
    together = fuse_map(still, voxel=size / 8, edges=False)
    assert np.median(together.confidence) == pytest.approx(1 + gained, rel=0.01)


def test_the_same_map_again_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = keyframes(noise=0.01)
    first, second = fuse_map(frames), fuse_map(frames)
    for name in ("points", "colors", "confidence"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    monkeypatch.setattr(fusion, "_BLOCK", 50_000)
    blocks = fuse_map(frames)
    np.testing.assert_allclose(blocks.points, first.points, atol=1e-4)
    np.testing.assert_allclose(blocks.confidence, first.confidence, rtol=1e-3)


def with_a_box(frame: Keyframe) -> Keyframe:
    """The frame as it would be if a box stood on the middle of the table."""
    low, high = BOX
    box = build([], [Box(low, high, fabric, fabric)], Lamp(np.array([0.4, -0.3, 2.55])), seed=0)
    height, width = frame.depth.shape
    view = box.render(frame.w_T_c, width, height, frame.focal, supersample=1)
    seen = (view.depth > 0) & (view.depth < frame.depth)
    return replace(
        frame,
        depth=np.where(seen, view.depth, frame.depth),
        image=np.where(seen[..., None], view.image, frame.image),
    )


def test_the_ghost_of_a_thing_that_was_taken_away_goes() -> None:
    """It stood there while the first keyframes were taken; the others see what is behind it."""
    frames = [with_a_box(frame) if at < 4 else frame for at, frame in enumerate(keyframes(noise=0.01))]

    def in_box(cloud: Cloud) -> int:
        low, high = BOX
        return int(np.all((cloud.points > low - 0.03) & (cloud.points < high + 0.03), axis=1).sum())

    without = in_box(map_cloud(keyframes(noise=0.01), 1.5))
    before, after = map_cloud(frames, 1.5), fuse_map(frames, voxel=0)
    ghost = in_box(before) - without
    assert ghost > 3000
    assert in_box(after) - without < 0.05 * ghost
    assert share_near(after, 0.03)[1] > 0.93, "what the box hid and all around it is there"
    stays = fuse_map([with_a_box(frame) for frame in keyframes(noise=0.01)], voxel=0)
    assert in_box(stays) > 2 * ghost, "a thing that stood there all the time is no ghost"


def test_degenerate_input_has_an_answer() -> None:
    frame = keyframes()[0]
    empty = replace(frame, depth=np.zeros_like(frame.depth), confidence=np.ones_like(frame.confidence))
    assert len(fuse_map([])) == len(fuse_map([empty])) == len(fuse_map([empty, replace(empty, index=9)])) == 0
    broken = frame.depth.copy()
    broken[::2], broken[1::4] = np.nan, np.inf
    cloud = fuse_map([replace(frame, depth=broken, index=50), *keyframes()[1:4]], voxel=0)
    assert np.isfinite(cloud.points).all() and len(cloud) > 1000
    endless = replace(frame, depth=np.where(np.arange(frame.depth.size).reshape(frame.depth.shape) % 9, np.inf, 2.0))
    assert np.isfinite(fuse_map([endless], edges=False).points).all() and pixel_size([endless]) > 0
    facing_away = replace(frame, index=70, w_T_c=frame.w_T_c @ np.diag([-1.0, 1.0, -1.0, 1.0]))
    np.testing.assert_array_equal(
        agreed(frame, [facing_away], edges=False).depth, np.where(frame.depth > 0, frame.depth, 0)
    )
    tiny = replace(frame, index=80, depth=np.ones((2, 3), np.float32), confidence=np.full((2, 3), 2.0, np.float32))
    assert agreed(frame, [tiny]).depth.shape == frame.depth.shape
    for voxel in (-0.1, float("nan"), float("inf")):
        with pytest.raises(GeometryError, match="voxel is"):
            fuse_map([frame], voxel)
