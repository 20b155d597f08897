"""Decodes images, masks and depth of messages and files to plain arrays."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from dust3r_ros.errors import InputError, refuse_pointer
from dust3r_ros.features.masks import NOTHING
from dust3r_ros.geometry.undistortion import MOST_PIXELS
from dust3r_ros.types import Array32, Image


@dataclass(frozen=True)
class _Layout:
    channels: int
    depth: int = 8  # bits per channel
    color: int | None = None  # OpenCV conversion to RGB; None: it is RGB already
    even_width: bool = False


_LAYOUTS: dict[str, _Layout] = {
    "mono8": _Layout(1, 8, cv2.COLOR_GRAY2RGB),
    "8UC1": _Layout(1, 8, cv2.COLOR_GRAY2RGB),
    "mono16": _Layout(1, 16, cv2.COLOR_GRAY2RGB),
    "rgb8": _Layout(3),
    "bgr8": _Layout(3, 8, cv2.COLOR_BGR2RGB),
    "8UC3": _Layout(3, 8, cv2.COLOR_BGR2RGB),
    "rgba8": _Layout(4, 8, cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout(4, 8, cv2.COLOR_BGRA2RGB),
    "rgb16": _Layout(3, 16),
    "bgr16": _Layout(3, 16, cv2.COLOR_BGR2RGB),
    # OpenCV names a Bayer pattern by its second row and column: RGGB is "BG".
    "bayer_rggb8": _Layout(1, 8, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": _Layout(1, 8, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": _Layout(1, 8, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": _Layout(1, 8, cv2.COLOR_BayerGB2RGB),
    "bayer_rggb16": _Layout(1, 16, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": _Layout(1, 16, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": _Layout(1, 16, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": _Layout(1, 16, cv2.COLOR_BayerGB2RGB),
    "yuv422": _Layout(2, 8, cv2.COLOR_YUV2RGB_UYVY, even_width=True),
    "uyvy": _Layout(2, 8, cv2.COLOR_YUV2RGB_UYVY, even_width=True),
    "yuv422_yuy2": _Layout(2, 8, cv2.COLOR_YUV2RGB_YUY2, even_width=True),
    "yuyv": _Layout(2, 8, cv2.COLOR_YUV2RGB_YUY2, even_width=True),
}

SUPPORTED: tuple[str, ...] = tuple(_LAYOUTS)


def decode_image(encoding: str, height: int, width: int, step: int, is_bigendian: bool | int, data: Any) -> Image:
    """The pixels of a sensor_msgs/Image as RGB (H, W, 3) uint8, copied.

    ``data`` is any buffer of bytes; ``step`` is the length of a row in bytes. 16 bits become 8 (``eight_bits``). Raises
    ``InputError`` for an encoding that is not ``SUPPORTED``, an empty image, or too few data.
    """
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        raise InputError(f"image encoding '{encoding}' is not supported; supported are {', '.join(SUPPORTED)}")
    rows = _rows(encoding, layout, int(height), int(width), int(step), np.frombuffer(data, np.uint8))
    if layout.depth == 16:
        rows = eight_bits(np.ascontiguousarray(rows).view(">u2" if is_bigendian else "<u2"))
    pixels = np.ascontiguousarray(rows).reshape(height, width, layout.channels)
    if layout.color is None:
        return pixels.copy() if np.shares_memory(pixels, rows) else pixels
    try:
        return np.asarray(cv2.cvtColor(pixels, layout.color), np.uint8)
    except cv2.error as error:
        what = f"image of {width}x{height} pixels, encoding '{encoding}'"
        raise InputError(f"{what}, cannot be converted: {error.err}") from error


_SAMPLES = 20_000  # values of an image that tell its range
_OUTSIDE = 200  # one value of so many may lie below it, and one above: dead pixels, lamps
_FEW = 64  # a band with fewer grey levels is stretched
_STRETCH = 4  # by so many powers of two at most: a plain wall should not be all noise


def eight_bits(wide: np.ndarray) -> Image:
    """Values (...) uint16 of an image as uint8: of all 16 bits the upper 8, of 10, 12 or 14 the upper 8 of these.

    The bits in use follow from the image alone, so that it is the same live, in a recording and in a part of one. What
    a thermal camera sees is often a narrow band far from 0: then 256 levels are put around that.
    """
    step = wide.size // _SAMPLES + 1
    seen = np.sort(wide.reshape(-1)[:: step + (step % 3 == 0)])  # of all three colours
    least, most = int(seen[len(seen) // _OUTSIDE]), int(seen[-1 - len(seen) // _OUTSIDE])
    base, shift = 0, max(0, most.bit_length() - 8)
    if (most - least) >> shift < _FEW:
        for narrow in range(max(0, shift - _STRETCH), shift):
            start = (least >> narrow) // 64 * 64 << narrow  # in coarse steps: it should stay from image to image
            if start + (256 << narrow) > most:
                base, shift = start, narrow
                break
    return np.minimum((np.maximum(wide, base) - base) >> shift, 255).astype(np.uint8)


def _rows(encoding: str, layout: _Layout, height: int, width: int, step: int, data: Image) -> Image:
    """(H, bytes per row) without padding."""
    what = f"image of {width}x{height} pixels, encoding '{encoding}'"
    if height <= 0 or width <= 0:
        raise InputError(f"{what}, is empty; width and height must be positive")
    if layout.even_width and width % 2:
        raise InputError(f"{what}, has an odd width; it must be even, because pairs of pixels share their colour")
    used = width * layout.channels * (layout.depth // 8)
    if step < used:
        raise InputError(f"{what}, has a step of {step} bytes; a row needs at least {used}")
    if len(data) < step * height:
        raise InputError(f"{what}, holds {len(data)} bytes; {height} rows of step {step} need {step * height}")
    return data[: step * height].reshape(height, step)[:, :used]


def decode_compressed(kind: str, data: Any) -> Image:
    """The pixels of a sensor_msgs/CompressedImage as RGB (H, W, 3) uint8.

    ``kind``, the message's format, is "jpeg", "png" or the longer form of image_transport ("rgb8; jpeg compressed
    bgr8"). Raises ``InputError`` for depth transports and for data that are not a complete image.
    """
    if "compressedDepth" in kind:
        raise InputError(f"compressed image of format '{kind}' holds depth; give the topic of a colour or grey image")
    image = decode_file(data, f"compressed image of format '{kind}'")
    mosaic = f"{kind[:10]}8"  # of 8 or, by now, of 16 bits; image_transport compresses it as it is
    if kind.startswith("bayer_") and mosaic in _LAYOUTS and (image == image[..., :1]).all():
        height, width = image.shape[:2]
        return decode_image(mosaic, height, width, width, False, np.ascontiguousarray(image[..., 0]))
    # image_transport may store RGB in place of BGR, and then the format says so.
    return np.ascontiguousarray(image[..., ::-1]) if "compressed rgb" in kind else image


def decode_file(data: Any, what: str) -> Image:
    """RGB (H, W, 3) uint8 from the bytes of an image file (any format OpenCV reads); alpha is dropped.

    ``what`` names it in the ``InputError`` for bytes that are not an image or are truncated.
    """
    return _to_rgb(_pixels(data, what), what)


def decode_cutout(data: Any, what: str) -> tuple[Image, Image | None]:
    """RGB as of ``decode_file``, and a mask (H, W) uint8, ``NOTHING`` where the image is transparent; None: nowhere.

    There it has one colour, that of the rest (median): whatever was left there is not seen, and the outline stands out
    little. Of an image that is transparent everywhere, alpha was never set.
    """
    pixels = _pixels(data, what)
    image = _to_rgb(pixels, what)
    if pixels.shape[2:] != (4,):
        return image, None
    transparent = pixels[..., 3] <= np.iinfo(pixels.dtype).max // 2
    if transparent.all() or not transparent.any():
        return image, None
    shown = image[~transparent]
    image[transparent] = np.median(shown[:: len(shown) // _SAMPLES + 1], axis=0)
    return image, np.where(transparent, np.uint8(NOTHING), np.uint8(0))


def _pixels(data: Any, what: str) -> np.ndarray:
    raw = bytes(data)
    if not raw:
        raise InputError(f"{what} is empty; it must hold an encoded image")
    return _decoded(raw, what, "JPEG, PNG")


def _to_rgb(pixels: np.ndarray, what: str) -> Image:
    if pixels.dtype == np.uint16:
        pixels = eight_bits(pixels if pixels.ndim == 2 else pixels[..., :3])
    if pixels.dtype != np.uint8:
        raise InputError(f"{what} holds {pixels.dtype} pixels; they must be unsigned, of 8 or 16 bits")
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    colors = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    if channels not in colors:
        raise InputError(f"{what} has {channels} channels; it must have 1, 3 or 4")
    return np.asarray(cv2.cvtColor(pixels, colors[channels]), np.uint8)


def _jpeg_size(raw: bytes) -> tuple[int, int] | None:
    """Width and height; None unless the scan data are there and end with the end-of-image marker (ITU T.81, B.1).

    Codecs silently fill what is missing with grey: a block of 8 x 8 pixels takes at least a bit.
    """
    at, width, height = 2, 0, 0
    while at + 4 <= len(raw):
        if raw[at] != 0xFF:
            return None
        if raw[at + 1] == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= raw[at + 1] <= 0xCF and raw[at + 1] not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = (int.from_bytes(raw[at + n : at + n + 2], "big") for n in (5, 7))
        if raw[at + 1] == 0xDA:  # start of scan: in its data, 0xFF is followed by 0 or a restart marker
            whole = raw.find(b"\xff\xd9", at) >= 0 and 8 * (len(raw) - at) >= width * height // 64
            return (width, height) if whole else None
        at += 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    return None


def _png_size(raw: bytes) -> tuple[int, int] | None:
    """Width and height; None for a file without its end."""
    return (int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")) if b"IEND" in raw else None


def _other_size(raw: bytes) -> tuple[int, int]:
    """Width and height as Pillow sees them; zeros if it does not."""
    try:
        from PIL import Image as Pillow  # here, since a node, which gets JPEG and PNG, needs none
    except ImportError:
        return 0, 0
    try:
        with Pillow.open(io.BytesIO(raw)) as image:
            return image.size
    except Pillow.DecompressionBombError:
        return MOST_PIXELS, 2
    except Exception:  # a damaged header may raise anything
        return 0, 0


_SIZES: dict[bytes, Callable[[bytes], tuple[int, int] | None]] = {b"\xff\xd8": _jpeg_size, b"\x89PNG": _png_size}


# The header of compressed_depth_image_transport before the PNG: format (int32), two parameters (float32).
_CONFIG_BYTES = 12
_MASKS = {"mono8": np.uint8, "8UC1": np.uint8}
_DEPTHS = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32}
_MILLIMETRE = np.float32(1e-3)
_NEAREST_M = 250.0  # where the nearest twentieth of depth ends, at most: a depth camera does not see as far


def decode_mask(encoding: str, height: int, width: int, step: int, is_bigendian: bool | int, data: Any) -> Image:
    """The mask of a sensor_msgs/Image, (H, W) uint8, copied; non-zero pixels are ignored in mapping.

    Raises ``InputError`` for an encoding other than mono8 and 8UC1, an empty image or too few data.
    """
    return _plane("mask", _MASKS, encoding, height, width, step, is_bigendian, data).copy()


def decode_depth(encoding: str, height: int, width: int, step: int, is_bigendian: bool | int, data: Any) -> Array32:
    """The depth of a sensor_msgs/Image, (H, W) float32, metres, 0 where there is none (REP 118).

    16UC1 and mono16 are in millimetres, 32FC1 is in metres. Raises ``InputError`` for another encoding, an empty image,
    too few data, or floats that look like millimetres.
    """
    return _metres(_plane("depth", _DEPTHS, encoding, height, width, step, is_bigendian, data))


def decode_mask_file(data: Any) -> Image:
    """The mask of a sensor_msgs/CompressedImage, (H, W) uint8; ``InputError`` when it cannot be decoded."""
    pixels = _decoded(bytes(data), "compressed mask", "PNG")
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise InputError(f"compressed mask holds {pixels.dtype} {pixels.shape}; it must be one channel of 8 bits")
    return pixels


def decode_depth_file(kind: str, data: Any) -> Array32:
    """The depth of a sensor_msgs/CompressedImage of format ``kind``, (H, W) float32, metres, 0 where there is none.

    Reads 16-bit PNG, bare or after the header of compressed_depth_image_transport ("16UC1; compressedDepth"). Raises
    ``InputError`` for quantised floats ("32FC1; compressedDepth") and for data that cannot be decoded.
    """
    raw = bytes(data)
    if "compressedDepth" in kind:
        if kind.startswith("32FC1"):
            raise InputError(f"compressed depth of format '{kind}' is not supported; publish 16UC1 or raw depth")
        raw = raw[_CONFIG_BYTES:]
    pixels = _decoded(raw, "compressed depth", "PNG")
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise InputError(f"compressed depth holds {pixels.dtype} {pixels.shape}; it must be one channel of 16 bits")
    return _metres(pixels)


def _plane(
    what: str,
    types: dict[str, Any],
    encoding: str,
    height: int,
    width: int,
    step: int,
    is_bigendian: bool | int,
    data: Any,
) -> np.ndarray:
    """(H, W) view of the single channel."""
    if encoding not in types:
        raise InputError(f"{what} encoding '{encoding}' is not supported; supported are {', '.join(types)}")
    kind = np.dtype(types[encoding]).newbyteorder(">" if is_bigendian else "<")
    raw = np.frombuffer(data, np.uint8)
    shown = f"{what} of {width}x{height} pixels, encoding '{encoding}'"
    if height <= 0 or width <= 0:
        raise InputError(f"{shown}, is empty; width and height must be positive")
    used = width * kind.itemsize
    if step < used or len(raw) < step * height:
        raise InputError(
            f"{shown}, has a step of {step} and holds {len(raw)} bytes; it needs at least {used} and {step * height}"
        )
    rows = np.ascontiguousarray(raw[: step * height].reshape(height, step)[:, :used])
    return rows.view(kind)


def _metres(pixels: np.ndarray) -> Array32:
    if pixels.dtype.kind == "u":
        return pixels.astype(np.float32) * _MILLIMETRE
    metres = pixels.astype(np.float32)
    metres[~(np.isfinite(metres) & (metres > 0))] = 0.0
    some = metres[:: len(metres) // 64 + 1, :: metres.shape[1] // 64 + 1]
    if some.any() and (near := np.percentile(some[some > 0], 5)) > _NEAREST_M:
        raise InputError(
            f"depth begins {near:.0f} m away, as if in millimetres; 32FC1 is in metres, and millimetres are 16UC1"
        )
    return metres


def _decoded(raw: bytes, what: str, kinds: str) -> np.ndarray:
    """The unconverted pixels of an image file; ``kinds``: the formats named in the ``InputError``.

    Its size is read first: a few bytes can claim, and unfold to, gigabytes.
    """
    refuse_pointer(what, raw)
    size = next((of for magic, of in _SIZES.items() if raw.startswith(magic)), _other_size)(raw)
    if size is None:
        raise InputError(f"{what} is truncated: its {len(raw)} bytes end before the image does")
    if size[0] * size[1] > MOST_PIXELS:
        raise InputError(f"{what} claims {size[0]}x{size[1]} pixels; at most {MOST_PIXELS} are read")
    try:
        pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED) if raw else None
    except cv2.error as error:
        raise InputError(f"{what} cannot be decoded: {error.err}") from error
    if pixels is None:
        raise InputError(f"{what} cannot be decoded: its {len(raw)} bytes are not a {kinds} or other known image")
    return pixels
