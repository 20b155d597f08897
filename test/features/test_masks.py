"""What a mask leaves out of images stays out of poses, focal and cloud."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from oracle import Oracle
from scoring import trajectory_error
from sequences import SMALL, cut, walk

from dust3r_ros.config import MapperConfig
from dust3r_ros.depth.depth_maps import DepthMaps
from dust3r_ros.errors import InputError
from dust3r_ros.features.features import extract
from dust3r_ros.features.junctions import find_junctions
from dust3r_ros.features.masks import (
    MARGIN_PX,
    NOTHING,
    DarkBorder,
    EgoMask,
    ImageMask,
    check_image,
    check_mask,
    grown,
    without,
)
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.resize import Resize
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import PairPrediction, TrackingState

WIDTH, HEIGHT = 240, 176


def noise(seed: int = 0) -> np.ndarray:
    """A picture (H, W, 3) full of corners."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)


def left_half() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, : WIDTH // 2] = 1
    return mask


def made(config: MapperConfig = SMALL) -> CameraStream:
    return CameraStream("camera", 0, WIDTH, HEIGHT, config)


def seen(stream: CameraStream, image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The tracked image, which becomes the last one."""
    gray = stream.gray(image)
    stream.see(gray, mask)
    return gray


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((HEIGHT, WIDTH + 1), np.uint8), f"{WIDTH + 1}x{HEIGHT}"),
        (np.zeros((HEIGHT, WIDTH), bool), "bool"),
        (np.zeros((HEIGHT, WIDTH, 1), np.uint8), r"\(176, 240, 1\)"),
        ([[0]], "list"),
    ],
)
def test_a_mask_of_another_size_or_type_is_refused(mask: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_mask(mask, noise(), "front")
    mapper = Mapper(SMALL)
    with pytest.raises(InputError, match="front"):
        mapper.process(1, "front", noise(), mask)  # type: ignore[arg-type]
    assert mapper.counts.frames == 0 and mapper.cameras == {}


def test_an_empty_mask_is_none() -> None:
    assert ImageMask.of(np.zeros((HEIGHT, WIDTH), np.uint8), (WIDTH, HEIGHT), Resize.fit(WIDTH, HEIGHT, 160)) is None


def test_distances_and_working_pixels_follow_the_mask_through_both_resizings() -> None:
    mask = ImageMask.of(left_half(), (WIDTH // 2, HEIGHT // 2), Resize.fit(WIDTH, HEIGHT, 160))
    assert mask is not None
    assert mask.distance.shape == (HEIGHT // 2, WIDTH // 2)
    assert mask.clear(np.array([[59.0, 3.0], [68.0, 3.0], [72.0, 3.0], [500.0, 3.0]])).tolist() == [0, 0, 1, 1]
    assert mask.working.shape == (112, 160)
    share = mask.working.mean(axis=0)
    assert share[:80].min() == 1.0 and share[84:].max() == 0.0


def test_features_come_closer_to_where_an_image_shows_nothing() -> None:
    """As beside a thing that is cut out: whatever else is hidden keeps its distance."""
    image, size, resize = noise(), (WIDTH, HEIGHT), Resize.fit(WIDTH, HEIGHT, 160)
    mask = left_half()
    hidden = ImageMask.of(mask, size, resize)
    mask = np.where(mask != 0, np.uint8(NOTHING), np.uint8(0))
    image[mask != 0] = np.median(image)
    cut_out = ImageMask.of(mask, size, resize)
    mask[:20] = 255
    both = ImageMask.of(mask, size, resize)
    assert hidden is not None and cut_out is not None and both is not None
    near = np.array([[WIDTH / 2 + 3, 150.0], [WIDTH / 2 + 3, 10.0], [WIDTH - 20.0, 25.0], [WIDTH - 20.0, 35.0]])
    assert cut_out.clear(near).tolist() == [1, 1, 1, 1] and both.clear(near).tolist() == [1, 0, 0, 1]
    assert np.array_equal(hidden.working, cut_out.working)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    nearest = [extract(gray, 2000, one).pixels[:, 0].min() - WIDTH / 2 for one in (hidden, cut_out)]
    assert nearest[0] > MARGIN_PX - 2 and 1 < nearest[1] < MARGIN_PX / 2


def test_a_mask_grows_by_the_part_asked_for() -> None:
    mask = np.zeros((50, 100), bool)
    mask[25, 50] = True
    assert grown(mask, 0.05)[25, 45:56].all() and grown(mask, 0.05).sum() < 11**2


def test_no_feature_no_corner_and_no_junction_comes_from_under_a_mask() -> None:
    stream = made(replace(SMALL, tracking_size=640))
    gray = seen(stream, noise(), left_half())
    edge = WIDTH // 2 + MARGIN_PX - 3  # corners are refined by a pixel or two
    center = (WIDTH - 1) / 2
    features = stream.features(gray)
    assert len(features.pixels) > 100 and len(features.pixels) == len(features.descriptors)
    assert features.pixels[:, 0].min() + center > edge
    stream.follow(gray)
    corners = stream.corners(300, np.zeros((0, 2)))
    assert len(corners) > 50 and corners[:, 0].min() + center > edge


def test_selected_junctions_keep_their_arms() -> None:
    picture = np.full((HEIGHT, WIDTH), 60, np.uint8)
    for at in (20, 90, 160):
        cv2.rectangle(picture, (at, 40), (at + 45, 120), (at, 0, 0), -1)
    found = find_junctions(picture)
    kept = found.select(found.pixels[:, 0] > 100)
    assert 0 < len(kept.pixels) < len(found.pixels)
    for k in range(len(kept.pixels)):
        old = int(np.flatnonzero((found.pixels == kept.pixels[k]).all(axis=1))[0])
        np.testing.assert_array_equal(kept.heading[kept.owner == k], found.heading[found.owner == old])


def test_a_mask_is_made_up_for_by_weaker_features_elsewhere() -> None:
    plain, half = noise(), made(replace(SMALL, tracking_size=640))
    gray = seen(half, plain, left_half())
    assert len(extract(gray, 100).pixels) > 60
    mask = ImageMask.of(left_half(), (WIDTH, HEIGHT), half.resize)
    assert len(extract(gray, 100, mask).pixels) > 60


def test_corners_that_come_under_the_mask_of_a_later_image_are_dropped() -> None:
    stream, image = made(), noise()
    stream.follow(seen(stream, image))
    corners = stream.corners(200, np.zeros((0, 2)))
    stream.anchor(0, Tracks(np.arange(len(corners)), corners))
    moved = np.roll(image, 4, axis=1)
    followed = stream.follow(seen(stream, moved, left_half()))
    assert 20 < len(followed.ids) < len(corners)
    assert followed.pixels[:, 0].min() > MARGIN_PX - 1
    again = stream.follow(seen(stream, np.roll(image, 6, axis=1)))
    assert set(again.ids) <= set(followed.ids), "what was dropped does not come back"


def test_masks_follow_the_lens_there_and_back() -> None:
    stream = made()
    lens = Lens(120.0, -0.05, (2.0, -3.0))
    mask = np.zeros((stream.resize.height, stream.resize.width), bool)
    mask[20:60, 10:50] = True
    straight = stream.rectify_mask(mask, lens)
    picture = np.repeat((255 * mask.astype(np.uint8))[..., None], 3, axis=2)
    shown, inside = stream.rectified(picture, lens)
    assert inside is not None
    differ = (shown[..., 0] > 127) != straight
    assert straight.any() and (straight != mask).any() and differ[inside].mean() < 0.003
    assert (stream.distort_mask(straight, lens) != mask).mean() < 0.01
    assert stream.rectify_mask(mask, Lens(120.0)) is mask and stream.distort_mask(mask, Lens(120.0)) is mask


def test_predictions_know_nothing_under_masks() -> None:
    ones = np.full((2, 3), 5, np.float32)
    mask = np.array([[True, False, False], [False, False, True]])
    points = np.ones((2, 3, 3), np.float32)
    pair = without(PairPrediction(4, 7, points, ones, points, ones), {7: mask, 4: None})
    assert pair.confidence_first is ones
    np.testing.assert_array_equal(pair.confidence_second == 1, mask)


def test_depth_that_is_left_out_can_come_back() -> None:
    """Also after the keyframe was frozen: what seemed to move may turn out to stand still."""
    maps, shape = DepthMaps(), (8, 12)
    points = np.ones((*shape, 3), np.float32)
    sure = np.full(shape, 5, np.float32)
    maps.absorb(PairPrediction(0, 1, points, sure, points, sure), np.eye(4), 1.0)
    mask = np.zeros(shape, bool)
    mask[2:5, 3:7] = True
    maps[0].leave_out(mask)
    for _ in range(2):
        depth, confidence = maps[0].shown or (np.zeros(shape), sure)
        np.testing.assert_array_equal(depth == 0, mask)
        np.testing.assert_array_equal(confidence == 1, mask)
        maps[0].freeze()
        maps.rescale(0, 2.0)
    assert (maps[1].shown or (np.zeros(shape), sure))[0].min() == 1.0, "the other keyframe keeps its depth"
    before = maps[0].pixels
    maps[0].leave_out(~mask)
    assert maps[0].pixels is not before, "a saved map must be told"
    np.testing.assert_array_equal((maps[0].shown or (np.zeros(shape), sure))[0] > 0, mask)
    maps.clear(0)
    maps.absorb(PairPrediction(0, 1, points, sure, points, sure), np.eye(4), 1.0)
    assert (maps[0].shown or (np.zeros(shape), sure))[0].min() == 1.0, "a new map begins without masks of the old one"


def painted(sequence: RenderedSequence) -> tuple[RenderedSequence, np.ndarray]:
    """The walk with a poster that hangs before the lens, the same in each image, and masks (N, H, W) of it."""
    images, masks = sequence.images.copy(), np.zeros(sequence.images.shape[:3], np.uint8)
    height, width = masks.shape[1:]
    poster = np.random.default_rng(3).integers(0, 255, (height, width // 2, 3)).astype(np.uint8)
    images[:, :, width // 4 : width // 4 + width // 2] = cv2.blur(poster, (3, 3))
    masks[:, :, width // 4 : width // 4 + width // 2] = 255
    return replace(sequence, images=images), masks


def run(sequence: RenderedSequence, masks: np.ndarray, config: MapperConfig, backend: Oracle | None = None) -> Mapper:
    mapper = Mapper(config, backend=backend)
    for stamp, image, mask in zip(sequence.stamps_ns.tolist(), sequence.images, masks, strict=True):
        mapper.process(stamp, "camera", image, mask)
    mapper.finish()
    return mapper


def depth_under(mapper: Mapper, masks: np.ndarray, sequence: RenderedSequence) -> tuple[int, int]:
    """How many pixels have depth or confidence under the masks, and how many have depth elsewhere."""
    resize = Resize.fit(sequence.width, sequence.height, SMALL.working_size)
    under, apart = 0, 0
    for keyframe in mapper.keyframes:
        at = int(np.flatnonzero(sequence.stamps_ns == keyframe.stamp_ns)[0])
        mask = resize.apply(masks[at]) > 127
        under += int(((keyframe.depth > 0) | (keyframe.confidence > 1))[mask].sum())
        apart += int((keyframe.depth > 0)[~mask].sum())
    return under, apart


def test_half_the_image_that_goes_along_with_the_camera_does_no_harm_under_a_mask() -> None:
    sequence, masks = painted(cut(walk("orbit", 24), 14))
    mapper = run(sequence, masks, replace(SMALL, focal=sequence.focal))
    assert len(mapper.keyframes) >= 5
    assert trajectory_error(mapper, sequence) < 0.01
    under, apart = depth_under(mapper, masks, sequence)
    assert under == 0 and apart > 5000


def test_a_network_is_not_believed_under_masks() -> None:
    sequence = cut(walk("orbit", 24), 10)
    masks = np.zeros(sequence.images.shape[:3], np.uint8)
    masks[:, 40:120, 30:130] = 1
    mapper = run(sequence, 255 * masks, SMALL, Oracle(sequence, SMALL.working_size))
    assert len(mapper.keyframes) >= 3
    under, apart = depth_under(mapper, 255 * masks, sequence)
    assert under == 0 and apart > 5000


def test_a_camera_that_is_covered_is_lost_and_found_again() -> None:
    sequence = cut(walk("orbit", 24), 14)
    masks = np.zeros(sequence.images.shape[:3], np.uint8)
    masks[8:10] = 1
    mapper = Mapper(replace(SMALL, focal=sequence.focal))
    states = [
        mapper.process(stamp, "camera", image, mask).state
        for stamp, image, mask in zip(sequence.stamps_ns.tolist(), sequence.images, masks, strict=True)
    ]
    assert states[7] == TrackingState.TRACKING and states[-1] == TrackingState.TRACKING
    assert states[8:10] == [TrackingState.LOST] * 2


@pytest.mark.parametrize("network", [False, True])
def test_nothing_but_covered_images_makes_no_map(network: bool) -> None:
    sequence = cut(walk("orbit", 24), 4)
    masks = np.full(sequence.images.shape[:3], 255, np.uint8)
    backend = Oracle(sequence, SMALL.working_size) if network else None
    mapper = run(sequence, masks, SMALL, backend)
    assert mapper.keyframes == () and mapper.trajectory() == []


def circle() -> np.ndarray:
    """(H, W) outside the circle of a wide lens."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray(np.hypot(row - HEIGHT / 2, column - WIDTH / 2) > 0.42 * WIDTH)


def test_a_black_border_is_what_stays_black_from_the_edge_inwards() -> None:
    border, outside = DarkBorder(), circle()
    rng = np.random.default_rng(1)
    for k in range(4):
        image = np.maximum(noise(k)[..., 0], 30)
        image[60:90, 100:130] = 0  # black, but inside
        image[80:90, 20 + 20 * k : 40 + 20 * k] = 0  # touches the border in the first images only
        image[outside] = rng.integers(0, 6, outside.sum())
        found = border.update(image)
    assert found is not None
    assert (found & outside).sum() > 0.95 * outside.sum() and (found & ~outside).sum() < 0.01 * outside.sum()
    covered = border.update(np.zeros((HEIGHT, WIDTH), np.uint8))
    assert np.array_equal(covered, found), "a covered lens says nothing"


def test_images_without_a_border_have_none() -> None:
    border = DarkBorder()
    image = np.maximum(noise()[..., 0], 30)
    image[: HEIGHT // 2] = 0  # a dark wall, for now
    assert border.update(image) is not None
    assert border.update(np.maximum(noise(1)[..., 0], 30)) is None
    assert border.update(image) is None, "it was seen that there is none"


def test_the_outline_of_a_black_border_does_no_harm() -> None:
    sequence = cut(walk("orbit", 24), 14)
    images = sequence.images.copy()
    images[:, circle()] = 0
    nothing = np.zeros(images.shape[:3], np.uint8)
    mapper = run(replace(sequence, images=images), nothing, replace(SMALL, focal=sequence.focal))
    assert len(mapper.trajectory()) == 14 and trajectory_error(mapper, sequence) < 0.01
    under, apart = depth_under(mapper, np.repeat(255 * circle()[None].astype(np.uint8), 14, axis=0), sequence)
    assert under == 0 and apart > 5000


def passing(k: int, step: int = 9) -> np.ndarray:
    """(H, W) image k of a camera that moves sideways along a picture."""
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 255, (HEIGHT // 4, 200)).astype(np.uint8)
    wide = np.asarray(cv2.resize(coarse, (800, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)
    return wide[:, step * k : step * k + WIDTH].copy()


def hood() -> np.ndarray:
    """(H, W) the lowest quarter of the image."""
    row, _ = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray(row >= 3 * HEIGHT // 4)


def with_hood(image: np.ndarray, k: int) -> np.ndarray:
    shown = image.copy()
    shown[hood()] = noise(7)[..., 1][hood()]
    return np.clip(shown + np.random.default_rng(k).normal(0, 2, shown.shape), 0, 255).astype(np.uint8)


def test_what_stays_while_the_world_moves_is_carried_along() -> None:
    ego = EgoMask()
    found = [ego.update(with_hood(passing(k), k)) for k in range(16)]
    assert found[3] is None, "not at once"
    assert found[-1] is not None
    assert (found[-1] & hood()).sum() > 0.9 * hood().sum() and (found[-1] & ~hood()).mean() < 0.05


def test_thin_text_before_a_world_that_shows_between_its_letters_is_carried_along() -> None:
    text = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.putText(text, "CAMERA 01 FRONT", (8, 160), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 2, cv2.LINE_AA)
    ego = EgoMask()
    for k in range(10):
        found = ego.update(np.maximum(passing(k) // 2, text))
    assert found is not None and found[text > 0].mean() > 0.95
    assert (found & ~grown(text > 0, 1 / 15)).mean() < 0.01


def test_text_stays_carried_before_a_world_of_changing_contrast() -> None:
    """It is strong on a plain wall and weak on anything else, so little of it remains the same."""
    text = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.putText(text, "camera 01 front", (8, 160), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 220, 1, cv2.LINE_AA)
    ego = EgoMask()
    for k in range(64):
        contrast = 0.15 if k % 32 < 8 else 0.9
        found = ego.update(np.maximum((110 + contrast * (passing(k, 6) - 128.0)).clip(0, 255).astype(np.uint8), text))
        assert k < 8 or (found is not None and found[text > 0].mean() > 0.9), k
    assert found is not None and (found & ~grown(text > 0, 1 / 15)).mean() < 0.01


def test_a_world_with_fewer_corners_than_what_is_carried_counts() -> None:
    """It does where all of it moves, between parts that moved: not a visitor who passes by."""
    ego = EgoMask()
    for k in range(10):
        image = np.full((HEIGHT, WIDTH), 110, np.uint8)
        for row in (8, 70, 108):
            at = (slice(row, row + 16), slice(0, WIDTH))
            image[at] = passing(k)[at]
        found = ego.update(with_hood(image, k))
    assert found is not None and (found & hood()).sum() > 0.9 * hood().sum() and (found & ~hood()).mean() < 0.05


def test_what_a_camera_carried_may_go() -> None:
    ego = EgoMask()
    for k in range(12):
        ego.update(with_hood(passing(k), k))
    assert ego.update(with_hood(passing(12), 12)) is not None
    left = [ego.update(passing(k)) for k in range(13, 33)]
    assert left[-1] is None


def reflection(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W) grey levels that shine through everywhere, faintly."""
    coarse = np.random.default_rng(11).normal(0, 12, (height // 8, width // 8)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def veiled(image: np.ndarray, k: int, veil: np.ndarray) -> np.ndarray:
    """An image of a world that is plain below, as seen through something that reflects ``veil``."""
    contrast = np.where(np.arange(len(image)) < len(image) // 2, 0.5, 0.1)[:, None]
    noisy = contrast * (image - 128.0) + 128 + veil + np.random.default_rng(k).normal(0, 2, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_what_shines_through_everywhere_is_taken_off() -> None:
    """It has no mask: once it is known, tracked images are without it."""
    stream, veil = made(), reflection()
    for k in range(48):
        image = veiled(passing(k), k, veil)
        clear = seen(stream, np.repeat(image[..., None], 3, axis=2))
        assert stream.carries_more == (k == 31), "the map is begun anew once"
        assert k > 31 or clear is stream._shown[1], "not at once"  # type: ignore[index]
    size = clear.shape[::-1]
    shown, world = cv2.resize(image, size), cv2.resize(veiled(passing(47), 47, 0 * veil), size)
    assert likeness(shown - clear.astype(np.float32), cv2.resize(veil, size)) > 0.8
    assert likeness(clear, world) > likeness(shown, world) + 0.04


@pytest.mark.parametrize("what", ["world", "traffic"])
def test_the_world_does_not_shine_through(what: str) -> None:
    """Neither one that moves, nor one that rests while others pass by, again and again."""
    ego, still = EgoMask(), noise(3)[..., 0]
    for k in range(45):
        image, first = passing(k), 80 * (k % 3)
        if what == "traffic":
            image, others = still.copy(), image
            image[:, first : first + 80] = others[:, first : first + 80]
        ego.update(np.clip(image + np.random.default_rng(k).normal(0, 2, image.shape), 0, 255).astype(np.uint8))
        assert ego.still is None


def test_a_young_map_is_begun_anew_without_what_shines_through() -> None:
    sequence = cut(walk("orbit", 24), 8)
    mapper = run(sequence, np.zeros(sequence.images.shape[:3], np.uint8), SMALL)
    record = mapper.submap.state.records[0]
    assert record.gray is not None
    before, ego = record.gray.copy(), record.stream._ego
    ego.still, ego.appeared = np.full(before.shape, 5, np.float32), True
    assert mapper.submap.mask_own(record.stream)
    np.testing.assert_array_equal(record.gray, np.maximum(before, 5) - 5)


@pytest.mark.parametrize("what", ["world", "rest", "dusk", "visitor", "ahead", "straight", "plain"])
def test_nothing_else_is_carried_along(what: str) -> None:
    """Not a world that moves, nor one that stands still, even if something passes by; nor what lies straight ahead."""
    ego, still = EgoMask(), noise(3)[..., 0]
    for k in range(24):
        image = still.copy()
        if what == "world":
            image = passing(k)
        elif what == "dusk":  # in most of it, noise changes more than a motion would
            image = np.where(np.arange(WIDTH) < 0.6 * WIDTH, 20 + still // 40, still // 12)
        elif what == "visitor":
            image[30:150, 6 * k : 6 * k + 60] = passing(k)[30:150, :60]
        elif what == "ahead":
            closer = cv2.getRotationMatrix2D((WIDTH / 2 + 2 * np.sin(k), HEIGHT / 2), 0, 1.03**k)
            image = np.asarray(cv2.warpAffine(noise(3)[..., 0], closer, (WIDTH, HEIGHT)), np.uint8)
        elif what == "straight":  # slowly: the middle hardly moves
            closer = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 0, 1 + 0.02 * k)
            image = np.asarray(cv2.warpAffine(still, closer, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC), np.uint8)
        elif what == "plain":
            image[:] = 90 + 5 * k
        noisy = image + np.random.default_rng(k).normal(0, 2, image.shape)
        assert ego.update(np.clip(noisy, 0, 255).astype(np.uint8)) is None


def dashcam() -> tuple[RenderedSequence, np.ndarray]:
    """A walk with a hood in the lowest quarter of each image, and masks (N, H, W) of it."""
    sequence = cut(walk("orbit", 24), 24)
    images, masks = sequence.images.copy(), np.zeros(sequence.images.shape[:3], np.uint8)
    below = 3 * sequence.height // 4
    paint = np.random.default_rng(3).integers(0, 255, (sequence.height - below, sequence.width, 3)).astype(np.uint8)
    images[:, below:], masks[:, below:] = cv2.blur(paint, (3, 3)), 255
    return replace(sequence, images=images), masks


def test_a_hood_in_every_image_is_left_out_of_the_map() -> None:
    """Also of the images from before it was known to be one."""
    sequence, masks = dashcam()
    mapper = run(sequence, np.zeros_like(masks), SMALL)
    assert len(mapper.trajectory()) == len(sequence.images)
    assert trajectory_error(mapper, sequence) < 0.01
    assert abs(mapper.cameras["camera"].focal / sequence.focal - 1) < 0.02
    under, apart = depth_under(mapper, masks, sequence)
    assert under < 0.02 * apart


@pytest.mark.parametrize(("images", "young"), [(10, True), (14, False)])
def test_a_map_loses_what_it_has_of_the_camera_itself(images: int, young: bool) -> None:
    """A young one, too: where it sleeps, it is not begun anew."""
    sequence = cut(walk("orbit", 24), images)
    mapper = run(sequence, np.zeros(sequence.images.shape[:3], np.uint8), SMALL)
    state, stream = mapper.submap.state, mapper.submap.state.records[0].stream
    own = ImageMask.of(dashcam()[1][0], stream._tracking_size, stream.resize)
    assert own is not None
    stream._own = own

    def under() -> int:
        known = [state.sparse.known(state.sparse.resolved(view.seen)).pixels for view in state.sparse.views]
        return sum(int((~own.clear(stream.pixels(pixels), 0.0)).sum()) for pixels in known)

    assert under() > 200
    assert mapper.submap.mask_own(stream) == young
    assert under() < 20, "but at the outline, which is rounded"


def test_images_beside_the_sequence_teach_a_camera_nothing() -> None:
    """One that is refused, and one that is only located: the black border, and what is carried along, stay known."""
    stream, black = made(), np.repeat(circle()[..., None], 3, axis=2)
    seen(stream, np.where(black, 0, np.maximum(noise(), 30)))
    known = stream.mask
    with stream.aside():
        stream.gray(np.maximum(noise(1), 30))
    assert known is not None and stream.mask is known
    seen(stream, np.where(black, 0, np.maximum(noise(2), 30)))
    assert stream.mask is not None and (stream.mask.working & known.working).sum() > 0.95 * known.working.sum()


@pytest.mark.parametrize(
    "image, found",
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "4x0"),
        (None, "NoneType"),
        ([[1, 2, 3]], "list"),
        ("image.png", "str"),
    ],
)
def test_what_is_no_image(image: object, found: str) -> None:
    with pytest.raises(InputError, match=found):
        check_image(image, "front")


def test_an_image_passes_as_it_is() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    assert check_image(image, "front") is image
