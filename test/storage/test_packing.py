"""Arrays of a saved map: what is bit-equal, and that damage is found."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from dust3r_ros.storage import packing


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<i8", "u1"])
def test_arrays(dtype: str) -> None:
    values = np.random.default_rng(0).normal(100, 50, (7, 5)).astype(dtype)
    back = packing.unpack_array(packing.pack_array(values, dtype), dtype, 7, 5)
    assert back.dtype == values.dtype and np.array_equal(back, values)
    assert packing.unpack_array(packing.pack_array(values[:0], dtype), dtype, -1, 5).shape == (0, 5)
    with pytest.raises(ValueError):
        packing.unpack_array(packing.pack_array(values, dtype), dtype, 7, 4)


@pytest.mark.parametrize("values", [[], [5], [3, 4, 5, 2**31 - 1, 0], [0, -7, 12]])
def test_steps(values: list[int]) -> None:
    back = packing.unpack_steps(packing.pack_steps(np.array(values, np.int64)))
    assert back.dtype == np.int64 and back.tolist() == values


def test_offsets_come_back_bit_by_bit() -> None:
    center = np.array([319.5, 239.5])
    measured = np.random.default_rng(1).uniform(0, 640, (50, 2)).astype(np.float32).astype(np.float64)
    for offsets, sized in ((measured - center, 4), (np.random.default_rng(2).normal(size=(50, 2)), 8)):
        blob = packing.pack_offsets(offsets, center)
        assert blob[:1] == str(sized).encode()
        assert packing.unpack_offsets(blob, center).tobytes() == offsets.tobytes()


def test_depth_takes_two_bytes_at_most() -> None:
    rows, columns = np.mgrid[:48, :64]
    depth = (2 + 0.01 * rows + 0.02 * columns).astype(np.float32)
    blob = packing.pack_map(depth, 2.0)
    assert len(blob) < depth.size and np.allclose(packing.unpack_map(blob, 48, 64, 2.0), depth, rtol=6e-4)


def test_masks() -> None:
    mask = np.random.default_rng(3).random((5, 7)) < 0.5
    back = packing.unpack_mask(packing.pack_mask(mask), 5, 7)
    assert back is not None and back.dtype == bool and np.array_equal(back, mask)
    assert packing.pack_mask(None) is None and packing.unpack_mask(None, 5, 7) is None


def test_one_bit_is_enough_to_be_refused() -> None:
    rng = np.random.default_rng(4)
    pose = np.eye(4)
    pose[:3, 3] = rng.normal(size=3)
    image = rng.integers(0, 256, (16, 24, 3), np.uint8)
    depth = rng.uniform(1, 5, (16, 24)).astype(np.float32)
    for blob, unpack in (
        (packing.pack_pose(pose), packing.unpack_pose),
        (packing.pack_image(image), lambda b: packing.unpack_image(b, 16, 24)),
        (packing.pack_map(depth), lambda b: packing.unpack_map(b, 16, 24)),
        (packing.pack_array(depth, "<f4"), lambda b: packing.unpack_array(b, "<f4", 16, 24)),
    ):
        unpack(blob)
        for at in rng.integers(8, len(blob), 20):
            broken = bytearray(blob)
            broken[at] ^= 1 << int(rng.integers(8))
            with pytest.raises(ValueError):
                unpack(bytes(broken))


def test_a_blob_does_not_unfold_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_MOST", 1 << 20)
    blob = zlib.compress(bytes(1 << 20))
    assert len(packing.unpack_bytes(blob)) == 1 << 20
    for bad in (zlib.compress(bytes((1 << 20) + 1)), blob[:-1]):
        with pytest.raises(ValueError, match="cut off, or more than 1 MiB"):
            packing.unpack_bytes(bad)
