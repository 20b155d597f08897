"""Folders of images: order, stamps, and files that are broken. Video files: frames, stamps, files that break off."""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from small_recordings import write_video

from dust3r_ros.errors import InputError
from dust3r_ros.features.masks import NOTHING
from dust3r_ros.io.image_sources import VideoFile, open_source, sizes_of
from dust3r_ros.scenes.export import write_bag, write_folder
from dust3r_ros.scenes.sequence import RenderedSequence


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def photograph(path: Path, size: tuple[int, int], millimetres: int) -> None:
    """A JPEG whose EXIF has a focal length, as its equivalent on 35 mm film."""
    exif = PIL.Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = millimetres
    PIL.Image.new("RGB", size, (90, 120, 40)).save(path, exif=exif)


def test_names_sort_as_people_count(sequence: RenderedSequence, tmp_path: Path) -> None:
    for index, name in enumerate(["img2.png", "img10.PNG", "img9.bmp", "Img1.png"]):
        save(tmp_path / name, sequence.images[index])
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    frames = list(open_source(tmp_path, camera="left"))
    order = [3, 0, 2, 1]
    assert all(np.array_equal(f.image, sequence.images[i]) for f, i in zip(frames, order, strict=True))
    assert [frame.stamp_ns for frame in frames] == [0, 33_333_333, 66_666_666, 100_000_000]
    assert {frame.camera for frame in frames} == {"left"}


def test_images_of_another_size_are_of_another_camera(sequence: RenderedSequence, tmp_path: Path) -> None:
    """A phone held upright now and then; all others are of the same camera, cropped a little differently each."""
    large = [cv2.resize(image, None, fx=4, fy=4) for image in sequence.images[:5]]
    height, width = large[0].shape[:2]
    taller = np.pad(large[3], ((0, 1), (0, 0), (0, 0)), mode="edge")
    images = [large[0], np.rot90(large[1]), large[2][:, :-1], taller, np.rot90(large[4])]
    for index, image in enumerate(images):
        save(tmp_path / f"{index}.png", image)
    for _ in range(2):
        frames = list(open_source(tmp_path, camera="left"))
        assert [frame.camera for frame in frames] == ["left", other := f"left_{height}x{width}", "left", "left", other]
        assert {frame.image.shape[:2] for frame in frames if frame.camera == "left"} == {(height, width)}
        assert np.array_equal(frames[2].image[:, :-1], large[2][:, :-1]), "continued on the right"
        assert np.array_equal(frames[3].image, large[3]), "cropped at the bottom"
        assert np.array_equal(frames[4].image, np.rot90(large[4]))


def test_what_is_transparent_is_left_out(sequence: RenderedSequence, tmp_path: Path) -> None:
    """Also of an image that is cropped to the size of the others."""
    height, width = sequence.images[0].shape[:2]
    large = [cv2.resize(image, (4 * width, 4 * height)) for image in sequence.images[:3]]
    alpha = np.full(large[0].shape[:2], 255, np.uint8)
    alpha[:, :50] = 0
    save(tmp_path / "0.png", large[0])
    for index, more in ((1, 0), (2, 1)):
        cut = np.pad(np.dstack([large[index][..., ::-1], alpha]), ((0, more), (0, 0), (0, 0)), mode="edge")
        assert cv2.imwrite(str(tmp_path / f"{index}.png"), cut)
    source = open_source(tmp_path)
    first, *others = source
    assert first.mask is None
    for frame, image in zip(others, large[1:], strict=True):
        assert frame.mask is not None and np.array_equal(frame.mask, NOTHING * (alpha == 0))
        assert np.array_equal(frame.image[frame.mask == 0], image[frame.mask == 0])
    shots = [shot for shot in source.shots() if not isinstance(shot, InputError)]
    assert [shot.kind for shot in shots] == ["image", "mask", "image", "mask", "image"], "a manifest finds both again"
    assert np.array_equal(shots[1].load(), NOTHING * (alpha == 0))


def test_cameras_that_are_known_keep_their_sizes(sequence: RenderedSequence, tmp_path: Path) -> None:
    """As of a map that goes on, or of the manifest of such a run; but one of another name is not meant."""
    height, width = sequence.images[0].shape[:2]
    for index in range(2):
        save(tmp_path / f"{index}.png", sequence.images[index] if index else np.rot90(sequence.images[index]))

    def cameras(sizes: dict[str, tuple[int, int]]) -> list[str]:
        source = open_source(tmp_path)
        source.sizes.update(sizes)
        return [frame.camera for frame in source]

    usual, upright = f"camera_{width}x{height}", f"camera_{height}x{width}"
    assert cameras({}) == cameras({"front": (width, height)}) == ["camera", usual]
    assert cameras({"camera": (9, 9)}) == [upright, usual]
    assert cameras({"camera": (height, width)}) == [upright, "camera"]
    assert cameras(sizes_of(["camera", upright, "camera_9"])) == [upright, "camera"]


@pytest.mark.parametrize(
    ("size", "millimetres", "focal"),
    [
        ((400, 300), 26, (26 / 43.267 * 500, 0.08)),
        ((300, 400), 26, (26 / 43.267 * 500, 0.08)),
        ((600, 401), 50, (50 / 43.267 * 721.7, 0.08)),
        ((400, 225), 20, (20 / 43.267 * 490.3, 0.12)),  # of 4:3 or 3:2, cropped above and below
        ((400, 400), 46, (46 / 43.267 * 693.4, 0.12)),  # left and right
        ((400, 300), 0, None),
        ((400, 300), 60_000, None),
    ],
)
def test_photographs_say_their_focal_length(
    tmp_path: Path, size: tuple[int, int], millimetres: int, focal: tuple[float, float] | None
) -> None:
    for index in range(2):
        photograph(tmp_path / f"{index}.jpg", size, millimetres)
    frames = list(open_source(tmp_path))
    assert [frame.focal for frame in frames] == [None if focal is None else pytest.approx(focal, rel=1e-3)] * 2


@pytest.mark.parametrize(
    ("pixels", "density", "unit", "focal"),
    [
        ((4608, 3456), (4608 / 0.243, 3456 / 0.182), 2, 4.3 / 7.711 * 500),  # a sensor of 6.17 by 4.62 mm
        ((2304, 1728), (4608 / 0.243, 3456 / 0.182), 2, None),  # made smaller by a program
        ((3456, 4608), (4608 / 0.243, 3456 / 0.182), 2, None),  # turned by one
        ((4608, 3456), (4608 / 0.243, 3456 / 0.182), 3, None),  # per centimetre, as no camera says it
        ((4608, 0), (4608 / 0.243, 3456 / 0.182), 2, None),
        ((4608, 3456), (0, 0), 2, None),
    ],
)
def test_photographs_say_their_focal_length_by_their_sensor(
    tmp_path: Path, pixels: tuple[int, int], density: tuple[float, float], unit: int, focal: float | None
) -> None:
    """As cameras of Canon do, which say no equivalent."""
    exif = PIL.Image.Exif()
    exif.get_ifd(0x8769).update({0x920A: 4.3, 0xA210: unit})
    exif.get_ifd(0x8769).update(dict(zip((0xA002, 0xA003, 0xA20E, 0xA20F), pixels + density, strict=True)))
    PIL.Image.new("RGB", (400, 300)).save(tmp_path / "0.jpg", exif=exif)
    (frame,) = open_source(tmp_path)
    assert frame.focal == (None if focal is None else pytest.approx((focal, 0.08), rel=1e-3))


def test_photographs_of_several_lenses_are_of_several_cameras(tmp_path: Path) -> None:
    """A phone's; one that says nothing is of the first; a zoom in small steps is few cameras."""
    upright = (300, 400)
    for name, millimetres in enumerate([26, 13, 26, 26, 52, 52, 100, 101], start=1):
        photograph(tmp_path / f"{name}.jpg", upright if name in (4, 6) else (400, 300), millimetres)
    PIL.Image.new("RGB", (400, 300)).save(tmp_path / "0.jpg")
    usual = ["left", "left", "left_13mm", "left", "left_300x400", "left_52mm", "left_52mm_300x400", *["left_100mm"] * 2]
    source = open_source(tmp_path, camera="left")
    frames = list(source)
    assert [frame.camera for frame in frames] == usual
    assert [frame.focal and round(frame.focal[0] / 500 * 43.267) for frame in frames] == [
        None, None, 13, None, 26, 52, 52, 100, 100,
    ]  # fmt: skip
    source.between = frames[2].stamp_ns, frames[6].stamp_ns  # as a piece has it
    assert [frame.camera for frame in source] == usual[2:6]


@pytest.mark.parametrize(
    ("focal", "cameras"),
    [(590, ["camera_26mm", "camera"]), (320, ["camera", "camera_52mm"]), (1500, ["camera_26mm", "camera_52mm"])],
)
def test_a_known_camera_keeps_its_lens(tmp_path: Path, focal: float, cameras: list[str]) -> None:
    """That of a map that goes on, whatever lens is the first."""
    for name, millimetres in enumerate([26, 52]):
        photograph(tmp_path / f"{name}.jpg", (400, 300), millimetres)
    source = open_source(tmp_path)
    source.sizes["camera"], source.focals["camera"] = (300, 400), focal
    assert [frame.camera for frame in source] == cameras


def test_depth_images_beside_the_images_are_left_out(sequence: RenderedSequence, tmp_path: Path) -> None:
    """As 7-Scenes has them; where there is nothing else, or they have colour, they are images."""
    grey = np.zeros((48, 64), np.uint16)
    for index in range(3):
        save(tmp_path / f"frame-{index}.color.png", sequence.images[index])
        cv2.imwrite(str(tmp_path / f"frame-{index}.depth.png"), grey)
        cv2.imwrite(str(tmp_path / "alone" / f"{index}.depth.png"), grey) if index else (tmp_path / "alone").mkdir()
    save(tmp_path / "depth_painted.png", sequence.images[3])
    source = open_source(tmp_path)
    assert len(source) == len(list(source)) == 4
    assert source.remarks == (f"3 depth images in '{tmp_path}' are left out",)
    assert len(open_source(tmp_path / "alone")) == 2 and not open_source(tmp_path / "alone").remarks


def test_photographs_that_cannot_be_read_are_said_to_be_left_out(sequence: RenderedSequence, tmp_path: Path) -> None:
    """But not the raw file beside a JPEG."""
    for name in ("IMG_1.HEIC", "IMG_2.heic", "IMG_3.DNG"):
        (tmp_path / name).write_bytes(b"x")
    for index in (3, 4):
        save(tmp_path / f"IMG_{index}.jpg", sequence.images[index])
    source = open_source(tmp_path)
    assert len(source) == 2
    assert source.remarks == (
        f"2 photographs in '{tmp_path}' are left out, as .HEIC, .heic is not read; make them JPEG",
    )


def test_photographs_that_were_turned_say_where_up_is(sequence: RenderedSequence, tmp_path: Path) -> None:
    """In their pixels as stored; the part of a picture with the highest row, upright, is up."""
    photograph(tmp_path / "0.jpg", (400, 300), 26)
    upright = PIL.Image.fromarray(np.repeat(np.uint8([[[255]], [[0]]]), 8, 0).repeat(16, 1).repeat(3, 2))
    turned = {3: PIL.Image.Transpose.ROTATE_180, 6: PIL.Image.Transpose.ROTATE_90, 8: PIL.Image.Transpose.ROTATE_270}
    for orientation, how in turned.items():
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        upright.transpose(how).save(tmp_path / f"{orientation}.png", exif=exif)
    first, *others = open_source(tmp_path)
    assert first.up is None
    for frame in others:
        rows, columns = np.nonzero(frame.image[..., 0])
        height, width = frame.image.shape[:2]
        bright = [columns.mean() - (width - 1) / 2, rows.mean() - (height - 1) / 2, 0.0]
        assert frame.up is not None and np.allclose(frame.up, np.array(bright) / np.linalg.norm(bright))
    source = open_source(tmp_path)
    source.levels = False
    assert all(frame.up is None for frame in source)


def test_exif_that_is_damaged_says_nothing(tmp_path: Path) -> None:
    photograph(tmp_path / "whole.jpg", (400, 300), 26)
    data = (tmp_path / "whole.jpg").read_bytes()
    begin, end = data.index(b"Exif"), data.index(b"\xff\xdb")
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data)
        for at in rng.integers(begin, end, 4):
            damaged[at] = rng.integers(256)
        (tmp_path / "whole.jpg").write_bytes(bytes(damaged))
        (found,) = open_source(tmp_path)
        assert found.focal is None or found.focal[0] > 0


@pytest.mark.parametrize("given", ["scene", "scene/rgb"])
def test_stamps_come_from_rgb_txt(sequence: RenderedSequence, tmp_path: Path, given: str) -> None:
    write_folder(sequence, tmp_path / "scene")
    source = open_source(tmp_path / given)
    assert len(source) == 6
    assert [frame.stamp_ns for frame in source] == sequence.stamps_ns.tolist()


def test_listing_beside_the_images(sequence: RenderedSequence, tmp_path: Path) -> None:
    for name, image in zip("abc", sequence.images, strict=False):
        save(tmp_path / f"{name}.png", image)
    (tmp_path / "rgb.txt").write_text("# t file\n\n2.5 c.png\n 0.000000001 a.png \n# 1 b.png\n")
    frames = list(open_source(tmp_path))
    assert [frame.stamp_ns for frame in frames] == [1, 2_500_000_000]
    assert np.array_equal(frames[1].image, sequence.images[2])


def test_links_to_images_keep_the_stamps_of_the_listing(sequence: RenderedSequence, tmp_path: Path) -> None:
    save(tmp_path / "disk/a.png", sequence.images[0])
    (tmp_path / "scene/rgb").mkdir(parents=True)
    (tmp_path / "scene/rgb/a.png").symlink_to(tmp_path / "disk/a.png")
    (tmp_path / "scene/rgb.txt").write_text("2.5 rgb/a.png\n")
    assert [frame.stamp_ns for frame in open_source(tmp_path / "scene/rgb")] == [2_500_000_000]


@pytest.mark.parametrize(
    "names",
    [
        ["102.0", "102.033", "102.067", "102.1", "102.133"],
        ["1.8", "1.9", "1.10"],
        ["frame9", "frame10"],
        ["IMG", "IMg", "ImG", "Img", "iMG", "img"],
    ],
)
def test_names_are_ordered_by_their_numbers(sequence: RenderedSequence, tmp_path: Path, names: list[str]) -> None:
    """Seconds, of which some have fewer digits, too; whatever the order in which the disk has them."""
    for name, image in zip(names, sequence.images, strict=False):
        save(tmp_path / f"{name}.png", image)
    for frame, image in zip(open_source(tmp_path), sequence.images, strict=False):
        np.testing.assert_array_equal(frame.image, image)


def test_a_listing_of_other_images_in_the_parent_is_not_ours(sequence: RenderedSequence, tmp_path: Path) -> None:
    save(tmp_path / "walk" / "a.png", sequence.images[0])
    (tmp_path / "rgb.txt").write_text("5.0 other/a.png\n")
    assert [frame.stamp_ns for frame in open_source(tmp_path / "walk")] == [0]


def test_images_in_rgb_without_a_listing(sequence: RenderedSequence, tmp_path: Path) -> None:
    save(tmp_path / "rgb" / "0.png", sequence.images[0])
    assert len(list(open_source(tmp_path))) == 1


@pytest.mark.parametrize("line", ["abc a.png", "1.0", "-1 a.png", "nan a.png", "1e99 a.png"])
def test_a_wrong_line_is_named(sequence: RenderedSequence, tmp_path: Path, line: str) -> None:
    save(tmp_path / "a.png", sequence.images[0])
    (tmp_path / "rgb.txt").write_text(f"# stamps\n{line}\n")
    with pytest.raises(InputError, match=r"rgb\.txt' line 2"):
        open_source(tmp_path)


def test_a_listed_name_that_no_file_has_is_skipped(sequence: RenderedSequence, tmp_path: Path) -> None:
    save(tmp_path / "a.png", sequence.images[0])
    (tmp_path / "rgb.txt").write_text("1.0 a.png\n2.0 a\0b.png\n3.0 gone.png\n", encoding="utf-8")
    source = open_source(tmp_path)
    assert len(list(source)) == 1 and source.skipped == 2


def test_broken_files_in_the_middle_are_skipped(sequence: RenderedSequence, tmp_path: Path) -> None:
    for index, image in enumerate(sequence.images):
        save(tmp_path / f"{index}.jpg", image)
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "2.jpg").write_bytes(b"")
    (tmp_path / "3.jpg").write_bytes(b"not an image")
    source = open_source(tmp_path)
    assert [frame.stamp_ns for frame in source] == [0, 133_333_333, 166_666_666]
    assert source.skipped == 3 and len(source) == 6


def test_missing_files_of_a_listing_are_skipped(sequence: RenderedSequence, tmp_path: Path) -> None:
    save(tmp_path / "a.png", sequence.images[0])
    (tmp_path / "rgb.txt").write_text("1 a.png\n2 gone.png\n")
    source = open_source(tmp_path)
    assert [frame.stamp_ns for frame in source] == [1_000_000_000] and source.skipped == 1


@pytest.mark.parametrize("name", ["video.mp4", "run.mcap", "images"])
def test_an_input_that_may_not_be_read_is_said_to_be(tmp_path: Path, name: str, monkeypatch) -> None:
    """Not to be damaged. (Tests may run as a user who may read everything.)"""
    path = tmp_path / name
    path.touch() if path.suffix else path.mkdir()
    monkeypatch.setattr(os, "access", lambda asked, mode: not (asked == path and mode & os.R_OK))
    with pytest.raises(InputError, match=rf"{name}.*permissions"):
        open_source(path)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    with pytest.raises(InputError, match="no readable frame"):
        list(open_source(tmp_path))


def test_real_scenes_open(shared: Path) -> None:
    source = open_source(shared / "data" / "tum_fr3_cabinet")
    first = next(iter(source))
    assert len(source) == 58 and first.stamp_ns == 1341841278_842700000 and first.image.shape == (480, 640, 3)


@pytest.mark.parametrize("name, codec", [("walk.avi", "MJPG"), ("walk.mp4", "mp4v")])
def test_frames_and_stamps_of_a_video(sequence: RenderedSequence, tmp_path: Path, name: str, codec: str) -> None:
    source = open_source(write_video(tmp_path / name, sequence.images, codec))
    assert isinstance(source, VideoFile) and len(source) == 6
    frames = list(source)
    assert [frame.stamp_ns for frame in frames] == [index * 100_000_000 for index in range(6)]
    for frame, image in zip(frames, sequence.images, strict=True):
        error, swapped = (np.abs(colors.astype(int) - image).mean() for colors in (frame.image, frame.image[..., ::-1]))
        assert error < 12 and error < swapped
    assert len(list(source)) == 6 and source.skipped == 0


def test_a_truncated_video_gives_what_is_there(sequence: RenderedSequence, tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.avi", np.concatenate([sequence.images] * 5))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = open_source(path)
    read = len(list(source))
    assert 5 < read < 25
    assert source.skipped == max(len(source) - read, 0)


@pytest.mark.parametrize("claimed", [2**24, 2**31 - 1, 2**32 - 1])
def test_a_container_that_claims_millions_of_frames(sequence: RenderedSequence, tmp_path: Path, claimed: int) -> None:
    """It is not believed: neither are millions reported missing, nor is room made for them."""
    path = write_video(tmp_path / "video.avi", sequence.images)
    raw = bytearray(path.read_bytes())
    for place in (raw.index(b"avih") + 24, raw.index(b"strh") + 40):
        raw[place : place + 4] = claimed.to_bytes(4, "little")
    path.write_bytes(raw)
    source = open_source(path)
    assert len(list(source)) == len(sequence.images) and source.skipped < 1000 and len(source) < 1000


def test_a_rate_that_varies_is_not_taken_for_missing_frames(sequence: RenderedSequence, tmp_path: Path) -> None:
    """As in recordings of a browser: Matroska has no count of frames. Its end, cut off, is missing all the same."""
    path = write_video(tmp_path / "walk.mkv", np.concatenate([sequence.images] * 5))
    raw = bytearray(path.read_bytes())
    frames = [
        found.start() for found in re.finditer(rb"\xa3[\x08-\xff][^\x81]{0,7}?\x81..\x80\xff\xd8", raw, re.DOTALL)
    ]
    assert len(frames) == 30
    for at in frames[1:-1]:
        if at not in frames[::3]:
            raw[at] = 0xEC  # an element without meaning
    path.write_bytes(raw)
    source = open_source(path)
    assert len(list(source)) == 11 and source.skipped == 0
    path.write_bytes(raw[: frames[15]])
    assert len(list(source := open_source(path))) == 5 and source.skipped > 5


def test_a_name_with_a_colon_is_no_protocol(
    sequence: RenderedSequence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "walk.avi", sequence.images).rename(tmp_path / "10:30.avi")
    monkeypatch.chdir(tmp_path)
    assert len(list(open_source("10:30.avi"))) == 6


@pytest.mark.parametrize("data", [b"", b"no video", bytes(5000)])
def test_what_is_no_video_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "walk.mp4").write_bytes(data)
    with pytest.raises(InputError, match=r"walk\.mp4"):
        open_source(tmp_path / "walk.mp4")


@pytest.mark.parametrize("kind", ["folder", "video", "bag"])
def test_only_a_part_is_read_where_only_that_is_wanted(kind: str, sequence: RenderedSequence, tmp_path: Path) -> None:
    if kind == "folder":
        write_folder(sequence, tmp_path / kind)
    elif kind == "bag":
        write_bag(sequence, tmp_path / kind)
    path = tmp_path / kind if kind != "video" else write_video(tmp_path / "a.avi", sequence.images)
    whole, source = list(open_source(path)), open_source(path)
    source.between = whole[2].stamp_ns, whole[4].stamp_ns
    part = list(source)
    assert [frame.stamp_ns for frame in part] == [frame.stamp_ns for frame in whole[2:4]]
    for one, other in zip(part, whole[2:4], strict=True):
        np.testing.assert_array_equal(one.image, other.image)
    assert source.skipped == 0


@pytest.mark.parametrize("kind", ["folder", "video", "bag"])
def test_images_that_are_not_needed_are_not_decoded(kind: str, sequence: RenderedSequence, tmp_path: Path) -> None:
    """Their frames come all the same, with the same stamps; it can be said before each."""
    if kind == "folder":
        write_folder(sequence, tmp_path / "walk")
    elif kind == "bag":
        write_bag(sequence, tmp_path / "walk")
    path = write_video(tmp_path / "walk.avi", sequence.images) if kind == "video" else tmp_path / "walk"
    source = open_source(path)
    whole = [(frame.camera, frame.stamp_ns, frame.image.tobytes()) for frame in source]
    asked: list[str] = []

    def third(camera: str) -> bool:
        asked.append(camera)
        return len(asked) % 3 == 0

    source.needs = third
    part = [(frame.camera, frame.stamp_ns, frame.image.tobytes()) for frame in source]
    assert [frame[:2] for frame in part] == [frame[:2] for frame in whole] and len(whole) == len(asked) == 6
    wanted = [image if number % 3 == 2 else b"" for number, (*_, image) in enumerate(whole)]
    assert [image for *_, image in part] == wanted
