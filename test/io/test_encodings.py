"""Masks and depth as drivers send them."""

from __future__ import annotations

import array
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dust3r_ros.errors import InputError
from dust3r_ros.features.masks import NOTHING
from dust3r_ros.io.encodings import (
    SUPPORTED,
    decode_compressed,
    decode_cutout,
    decode_depth,
    decode_depth_file,
    decode_file,
    decode_image,
    decode_mask,
    decode_mask_file,
)
from dust3r_ros.scenes.sequence import RenderedSequence

MOSAICS = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


@pytest.fixture(scope="module")
def picture(sequence: RenderedSequence) -> np.ndarray:
    return sequence.images[2]


@pytest.fixture(scope="module")
def smooth(picture: np.ndarray) -> np.ndarray:
    """A picture whose colours change slowly, so that shared or interpolated colours are nearly right."""
    return cv2.GaussianBlur(picture, (0, 0), 4)


def decode(encoding: str, pixels: np.ndarray, padding: int = 0, big: bool = False) -> np.ndarray:
    """Lays (H, W[, C]) pixels out as a message does, with padded rows."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).reshape(height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return decode_image(encoding, height, width, rows.shape[1], big, rows.tobytes())


@pytest.mark.parametrize("padding", [0, 1, 13])
def test_eight_bit_colour_is_exact(picture: np.ndarray, padding: int) -> None:
    alpha = np.full((*picture.shape[:2], 1), 9, np.uint8)
    bgr = picture[..., ::-1]
    for encoding, pixels in (
        ("rgb8", picture),
        ("bgr8", bgr),
        ("8UC3", bgr),
        ("rgba8", np.concatenate([picture, alpha], 2)),
        ("bgra8", np.concatenate([bgr, alpha], 2)),
    ):
        decoded = decode(encoding, pixels, padding)
        assert np.array_equal(decoded, picture), encoding
        assert decoded.flags.writeable and decoded.flags.c_contiguous and decoded.dtype == np.uint8


@pytest.mark.parametrize("big", [False, True])
def test_sixteen_bit_keeps_the_upper_half(picture: np.ndarray, big: bool) -> None:
    wide = picture.astype(np.uint16) * 256 + 200
    assert np.array_equal(decode("rgb16", wide, 6, big), picture)
    assert np.array_equal(decode("bgr16", wide[..., ::-1], 0, big), picture)
    grey = np.repeat(picture[..., :1], 3, 2)
    assert np.array_equal(decode("mono16", wide[..., 0], 2, big), grey)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_in_sixteen_are_the_same_image(picture: np.ndarray, bits: int) -> None:
    wide = picture.astype(np.uint16) << (bits - 8) | (1 << (bits - 8)) - 1
    assert np.array_equal(decode("rgb16", wide, 6), picture)
    grey = wide[..., 0].copy()
    grey[::60, ::60] = 65535  # dead pixels
    assert np.mean(decode("mono16", grey, 0, big=True)[..., 0] == picture[..., 0]) > 0.99
    opaque = np.dstack([wide[..., ::-1], np.full_like(wide[..., 0], 65535)])
    assert np.array_equal(decode_file(encoded(opaque, "png"), "image"), picture)


@pytest.mark.parametrize("least, most", [(20000, 24000), (7000, 8500), (29300, 30300), (3000, 3900)])
def test_a_narrow_band_far_from_zero_keeps_its_levels(picture: np.ndarray, least: int, most: int) -> None:
    """Raw counts of thermal cameras."""
    grey = cv2.normalize(picture[..., 0], None, 0, 255, cv2.NORM_MINMAX)
    wide = np.round(least + grey / 255.0 * (most - least)).astype(np.uint16)
    levels = decode("mono16", wide)[..., 0].astype(float)
    inside = (levels > 0) & (levels < 255)
    assert inside.mean() > 0.98
    slope, start = np.polyfit(wide[inside], levels[inside], 1)
    assert np.abs(levels - slope * wide - start)[inside].max() < 1.0, "grey levels are evenly spaced"
    assert slope * (most - least) > 100


def test_noise_on_a_plain_wall_stays_small() -> None:
    noise = np.random.default_rng(0).normal(0.0, 5.0, (120, 160))
    assert decode("mono16", np.round(22000 + noise).astype(np.uint16)).std() < 1.0


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_fills_all_channels(picture: np.ndarray, encoding: str) -> None:
    assert np.array_equal(decode(encoding, picture[..., 1], 5), np.repeat(picture[..., 1:2], 3, 2))


@pytest.mark.parametrize("name", MOSAICS)
def test_bayer_mosaics_give_their_colours_back(smooth: np.ndarray, name: str) -> None:
    mosaic = np.empty(smooth.shape[:2], np.uint8)
    for place, color in enumerate(MOSAICS[name]):
        area = (slice(place // 2, None, 2), slice(place % 2, None, 2))
        mosaic[area] = smooth[(*area, "RGB".index(color))]
    decoded = decode(f"bayer_{name}8", mosaic, 3)
    assert np.abs(decoded.astype(int) - smooth)[2:-2, 2:-2].mean() < 2
    assert np.abs(decoded[..., ::-1].astype(int) - smooth)[2:-2, 2:-2].mean() > 4  # the picture is colourful
    for wide in (mosaic.astype(np.uint16) << 4 | 9, mosaic.astype(np.uint16) << 8 | 200):  # 12 and 16 bits
        assert np.array_equal(decode(f"bayer_{name}16", wide, 6, big=True), decoded)


@pytest.mark.parametrize("encoding, luma_at", [("yuv422", 1), ("uyvy", 1), ("yuv422_yuy2", 0), ("yuyv", 0)])
def test_yuv_422_gives_its_colours_back(smooth: np.ndarray, encoding: str, luma_at: int) -> None:
    r, g, b = np.moveaxis(smooth.astype(float), -1, 0)  # ITU-R BT.601, studio range
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    packed = np.empty((*smooth.shape[:2], 2))
    packed[..., luma_at] = y
    packed[:, 0::2, 1 - luma_at], packed[:, 1::2, 1 - luma_at] = u[:, 0::2], v[:, 0::2]
    decoded = decode(encoding, np.round(packed).astype(np.uint8), 4)
    assert np.abs(decoded.astype(int) - smooth).mean() < 2.5


def test_every_supported_encoding_decodes() -> None:
    for encoding in SUPPORTED:
        decoded = decode_image(encoding, 8, 8, 64, 0, bytes(range(256)) * 2)
        assert decoded.shape == (8, 8, 3) and decoded.dtype == np.uint8, encoding


def test_any_buffer_will_do(picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    raw = picture.tobytes()
    for data in (raw, bytearray(raw), memoryview(raw), array.array("B", raw), picture.reshape(-1)):
        assert np.array_equal(decode_image("rgb8", height, width, 3 * width, 0, data), picture)


def test_the_result_does_not_share_the_message(picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    for encoding in ("rgb8", "bgr8"):
        data = picture.copy().reshape(-1)
        decoded = decode_image(encoding, height, width, 3 * width, 0, data)
        before = decoded.copy()
        data[:] = 0
        assert np.array_equal(decoded, before)


@pytest.mark.parametrize(
    "encoding, height, width, step, size, words",
    [
        ("32FC1", 4, 4, 16, 64, "32FC1.*not supported"),
        ("", 4, 4, 16, 64, "not supported"),
        ("rgb8", 0, 4, 12, 0, "4x0.*empty"),
        ("rgb8", 4, 0, 12, 48, "0x4.*empty"),
        ("rgb8", 4, 4, 11, 48, "step of 11.*12"),
        ("rgb8", 4, 4, 12, 47, "47 bytes.*48"),
        ("mono16", 4, 4, 4, 64, "step of 4.*8"),
        ("yuv422", 4, 5, 10, 40, "odd width"),
        ("mono8", 2**31, 2**31, 2**31, 16, "16 bytes"),
    ],
)
def test_what_is_no_image_is_refused(encoding: str, height: int, width: int, step: int, size: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        decode_image(encoding, height, width, step, 0, bytes(size))


def encoded(picture: np.ndarray, codec: str) -> bytes:
    return cv2.imencode(f".{codec}", picture)[1].tobytes()


def test_compressed_images(picture: np.ndarray) -> None:
    bgr = np.ascontiguousarray(picture[..., ::-1])
    assert np.array_equal(decode_compressed("png", encoded(bgr, "png")), picture)
    assert np.array_equal(decode_compressed("bgr8; png compressed bgr8", encoded(bgr, "png")), picture)
    assert np.array_equal(decode_compressed("rgb8; png compressed rgb8", encoded(picture, "png")), picture)
    assert np.abs(decode_compressed("rgb8; jpeg compressed bgr8", encoded(bgr, "jpg")).astype(int) - picture).mean() < 6
    grey = decode_compressed("mono8; jpeg compressed ", encoded(picture[..., 0], "jpg"))
    assert grey.shape == picture.shape and np.array_equal(grey[..., 0], grey[..., 2])
    deep = encoded(picture[..., 0].astype(np.uint16) * 256 + 99, "png")
    assert np.array_equal(decode_compressed("mono16; png compressed mono16", deep)[..., 1], picture[..., 0])
    with_alpha = np.dstack([bgr, np.zeros_like(bgr[..., 0])])
    assert np.array_equal(decode_compressed("png", encoded(with_alpha, "png")), picture)


def test_a_mosaic_that_image_transport_compressed(picture: np.ndarray) -> None:
    grey = picture[..., 0]
    coloured = decode("bayer_grbg8", grey, 1)
    assert np.array_equal(decode_compressed("bayer_grbg8; png compressed ", encoded(grey, "png")), coloured)
    deep = encoded(grey.astype(np.uint16) * 256, "png")
    assert np.array_equal(decode_compressed("bayer_grbg16; png compressed ", deep), coloured)
    bgr = np.ascontiguousarray(picture[..., ::-1])
    assert np.array_equal(decode_compressed("bayer_grbg8; png compressed bgr8", encoded(bgr, "png")), picture)


@pytest.mark.parametrize("most", [255, 65535])
def test_what_is_transparent_is_masked(picture: np.ndarray, most: int) -> None:
    """Unless all is: then alpha was never set."""
    deep = picture[..., ::-1].astype(np.uint8 if most == 255 else np.uint16) * (most // 255)
    alpha = np.full(picture.shape[:2], most, deep.dtype)

    def cutout() -> tuple[np.ndarray, np.ndarray | None]:
        return decode_cutout(encoded(np.dstack([deep, alpha]), "png"), "it")

    assert cutout()[1] is None
    alpha[:9, 5:] = most // 3
    image, mask = cutout()
    assert mask is not None and mask.dtype == np.uint8 and np.array_equal(mask, NOTHING * (alpha < most))
    assert np.array_equal(image[mask == 0], picture[mask == 0])
    assert np.array_equal(np.unique(image[mask > 0], axis=0), np.median(picture[mask == 0], axis=0)[None].astype(int))
    assert np.array_equal(decode_file(encoded(np.dstack([deep, alpha]), "png"), "it"), picture), "only alpha is dropped"
    alpha[:] = 0
    assert cutout()[1] is None and decode_cutout(encoded(deep, "png"), "it")[1] is None


@pytest.mark.parametrize("codec", ["jpg", "png"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_truncated_images_are_refused(picture: np.ndarray, codec: str, part: float) -> None:
    data = encoded(picture, codec)
    with pytest.raises(InputError, match=r"truncated|cannot be decoded"):
        decode_compressed(codec, data[: int(part * len(data))])


def test_a_thumbnail_does_not_hide_a_truncated_jpeg(picture: np.ndarray) -> None:
    thumbnail, data = encoded(picture[::4, ::4], "jpg"), encoded(picture, "jpg")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    assert decode_file(whole, "photo").shape == picture.shape
    with pytest.raises(InputError, match="truncated"):
        decode_file(whole[: len(whole) - len(data) // 2], "photo")
    assert decode_file(whole + b"\0" * 50, "photo").shape == picture.shape


@pytest.mark.parametrize("kind, data", [("jpeg", b""), ("jpeg", b"no image at all"), ("png", b"\xff\xd8\xff\xd9")])
def test_garbage_is_refused(kind: str, data: bytes) -> None:
    with pytest.raises(InputError):
        decode_compressed(kind, data)


def test_depth_transport_and_floats_are_refused() -> None:
    with pytest.raises(InputError, match="depth"):
        decode_compressed("16UC1; compressedDepth png", b"x" * 100)
    with pytest.raises(InputError, match="float32"):
        decode_file(encoded(np.ones((4, 4, 3), np.float32), "tiff"), "image 'a.tiff'")


MILLIMETRES = np.array([[0, 1000, 65535], [1, 2500, 400]], np.uint16)


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_a_mask_with_padded_rows():
    mask = np.array([[0, 1, 255], [7, 0, 0]], np.uint8)
    padded = np.hstack([mask, np.full((2, 5), 9, np.uint8)])
    decoded = decode_mask("mono8", 2, 3, 8, 0, padded.tobytes())
    np.testing.assert_array_equal(decoded, mask)
    decoded[0, 0] = 3  # it is writable memory of its own
    np.testing.assert_array_equal(decode_mask_file(png(mask)), mask)


@pytest.mark.parametrize("big", [0, 1])
def test_millimetres_become_metres(big):
    data = MILLIMETRES.astype(">u2" if big else "<u2").tobytes()
    np.testing.assert_allclose(decode_depth("16UC1", 2, 3, 6, big, data), MILLIMETRES * 1e-3, rtol=1e-6)


def test_floats_are_metres_and_nothing_is_zero():
    metres = np.array([[1.5, np.nan], [np.inf, -2.0]], np.float32)
    decoded = decode_depth("32FC1", 2, 2, 8, 0, metres.tobytes())
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, [[1.5, 0.0], [0.0, 0.0]])


def test_compressed_depth_with_and_without_its_header():
    for kind, data in (("png", png(MILLIMETRES)), ("16UC1; compressedDepth png", bytes(12) + png(MILLIMETRES))):
        np.testing.assert_allclose(decode_depth_file(kind, data), MILLIMETRES * 1e-3, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: decode_mask("rgb8", 1, 1, 3, 0, bytes(3)), "'rgb8' is not supported; supported are mono8"),
        (lambda: decode_mask("mono8", 0, 4, 4, 0, b""), "is empty"),
        (lambda: decode_mask("mono8", 2, 4, 4, 0, bytes(7)), "holds 7 bytes; it needs at least 4 and 8"),
        (lambda: decode_depth("32FC1", 2, 4, 8, 0, bytes(64)), "has a step of 8"),
        (lambda: decode_depth("64FC1", 2, 4, 32, 0, bytes(64)), "'64FC1' is not supported"),
        (lambda: decode_depth("32FC1", 2, 3, 12, 0, np.full(6, 900.0, "<f4").tobytes()), "begins 900 m away"),
        (lambda: decode_depth_file("png", b"nonsense"), "8 bytes are not a PNG"),
        (lambda: decode_depth_file("png", b""), "0 bytes"),
        (lambda: decode_depth_file("32FC1; compressedDepth png", bytes(99)), "publish 16UC1 or raw"),
        (lambda: decode_depth_file("png", png(MILLIMETRES.astype(np.uint8))), "uint8"),
        (lambda: decode_mask_file(png(MILLIMETRES)), "uint16"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(call, text):
    with pytest.raises(InputError, match=text.replace("(", r"\(")):
        call()


def resized_png(picture: np.ndarray, width: int, height: int) -> bytes:
    """Its header claims another size, with a checksum that is right."""
    raw = cv2.imencode(".png", picture)[1].tobytes()
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + raw[24:29]
    return raw[:12] + header + zlib.crc32(header).to_bytes(4, "big") + raw[33:]


def resized_jpeg(picture: np.ndarray, width: int, height: int) -> bytes:
    raw = bytearray(cv2.imencode(".jpg", picture)[1].tobytes())
    at = raw.index(b"\xff\xc0") + 5
    raw[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(raw)


def resized_bmp(picture: np.ndarray, width: int, height: int) -> bytes:
    raw = cv2.imencode(".bmp", picture)[1].tobytes()
    return raw[:18] + width.to_bytes(4, "little") + height.to_bytes(4, "little") + raw[26:]


@pytest.mark.parametrize("size", [(30_000, 30_000), (60_000, 50_000), (8192, 8192)])
@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp"])
def test_a_header_that_claims_gigabytes_takes_none(picture: np.ndarray, kind: str, size: tuple[int, int]) -> None:
    """Codecs would fill the missing part of a JPEG with grey."""
    raw = {"png": resized_png, "jpeg": resized_jpeg, "bmp": resized_bmp}[kind](picture, *size)
    for decode in (decode_file, lambda data, what: decode_depth_file("16UC1", data)):
        with pytest.raises(InputError, match=r"claims|truncated|cannot be decoded"):
            decode(raw, "image")


def test_truncated_masks_and_depth_are_refused() -> None:
    raw = cv2.imencode(".png", np.full((48, 64), 900, np.uint16))[1].tobytes()
    with pytest.raises(InputError, match="truncated"):
        decode_depth_file("16UC1; compressedDepth", bytes(12) + raw[:-20])
    with pytest.raises(InputError, match="truncated"):
        decode_mask_file(raw[:-20])


_sides = st.integers(-2, 40) | st.sampled_from([0, 2**31 - 1, 2**32 - 1, 10**12])


@given(
    st.sampled_from(SUPPORTED) | st.text(max_size=12),
    _sides,
    _sides,
    st.integers(0, 200) | st.sampled_from([2**32 - 1]),
    st.booleans(),
    st.integers(0, 9000),
)
def test_any_message_is_an_image_or_refused(
    encoding: str, height: int, width: int, step: int, big: bool, size: int
) -> None:
    data = np.arange(size, dtype=np.uint64).astype(np.uint8)
    for decode, channels in ((decode_image, (3,)), (decode_mask, ()), (decode_depth, ())):
        try:
            found = decode(encoding, height, width, step, big, data)
        except InputError as error:
            assert "\n" not in str(error) and ("image" in str(error) or "mask" in str(error) or "depth" in str(error))
        else:
            assert found.shape == (height, width, *channels) and np.isfinite(found).all() and (found >= 0).all()
