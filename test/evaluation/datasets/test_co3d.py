"""CO3Dv2: PyTorch3D's convention, half floats in PNGs, splits."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spots import check, damage, spots, write, write_image, write_png16

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS

W, H = 60, 90
K = np.array([[80.0, 0, 30.5], [0, 82, 43.25], [0, 0, 1]])
SPOTS = spots(K, W, H, count=3, seed=8)
SCALE = 0.5
SEQUENCES = ("110_13051_23361", "110_13051_23361", "189_20376_35616")


def annotation(index: int, convention: str = "ndc_isotropic") -> dict[str, Any]:
    """As the data set has it: rows times R, x left, y up, normalised device coordinates."""
    spot, sequence = SPOTS[index], SEQUENCES[index]
    turn = np.diag([-1.0, -1.0, 1.0])  # optical to PyTorch3D
    half = np.array([min(W, H)] * 2 if convention == "ndc_isotropic" else [W, H]) / 2
    # +1 is the left edge, half a pixel left of the first pixel's centre.
    center = (np.array([W, H]) / 2 - (K[:2, 2] + 0.5)) / half
    file = f"apple/{sequence}/images/frame{index + 1:06d}.jpg"
    return {
        "sequence_name": sequence,
        "frame_number": index,
        "frame_timestamp": 0.25 * (3 - index),
        "image": {"path": file, "size": [H, W]},
        "depth": {
            "path": f"{file.replace('images', 'depths')}.geometric.png",
            "scale_adjustment": SCALE,
            "mask_path": f"apple/{sequence}/depth_masks/frame{index + 1:06d}.png",
        },
        "viewpoint": {
            "R": (turn @ spot.c_T_w[:3, :3]).T.tolist(),
            "T": (turn @ spot.c_T_w[:3, 3]).tolist(),
            "focal_length": [float(K[0, 0] / half[0]), float(K[1, 1] / half[1])],
            "principal_point": center.tolist(),
            "intrinsics_format": convention,
        },
    }


def store(root: Path, frames: Any) -> None:
    (root / "apple/frame_annotations.jgz").write_bytes(gzip.compress(json.dumps(frames).encode()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    frames = [annotation(index) for index in range(3)]
    for frame, spot in zip(frames, SPOTS, strict=True):
        spot.write_image(tmp_path / frame["image"]["path"])
        bits = (spot.depth() / SCALE).astype(np.float16)
        bits[0, 0], bits[0, 1] = 3.0, np.inf  # masked out; none
        write_png16(tmp_path / frame["depth"]["path"], bits.view(np.uint16))
        mask = np.full((H, W, 3), 255, np.uint8)
        mask[0, 0] = 0
        write_image(tmp_path / frame["depth"]["mask_path"], mask)
    store(tmp_path, frames)
    lists = {"train": [["110_13051_23361", 0, "a"]], "val": [], "test": [["189_20376_35616", 2, "b"]]}
    write(tmp_path / "apple/set_lists/set_lists_fewview_dev.json", json.dumps(lists))
    return tmp_path


@pytest.mark.parametrize("convention", ["ndc_isotropic", "ndc_norm_image_bounds"])
def test_the_point_is_where_the_images_have_it(root: Path, convention: str) -> None:
    store(root, [annotation(index, convention) for index in range(3)])
    first, second = DATASETS["co3d"].open(root)
    assert [(first.name, first.split), (second.name, second.split)] == [
        ("apple/110_13051_23361", "train"), ("apple/189_20376_35616", "test"),
    ]  # fmt: skip
    assert not first.metric and first.ordered
    assert [view.stamp_ns for view in first.views] == [500_000_000, 750_000_000]  # the second frame comes first
    for view, spot in zip((*first.views, *second.views), (SPOTS[1], SPOTS[0], SPOTS[2]), strict=True):
        check(view, spot)


def test_the_annotation_projects_as_pytorch3d_does() -> None:
    """The tree above in PyTorch3D's own words: NDC of the point, then its definition of the screen."""
    viewpoint, spot = annotation(0)["viewpoint"], SPOTS[0]
    x, y, z = np.array([0.3, -1.1, 2.4]) @ np.array(viewpoint["R"]) + viewpoint["T"]
    ndc = np.array(viewpoint["focal_length"]) * [x / z, y / z] + viewpoint["principal_point"]
    screen = np.array([W, H]) / 2 - ndc * min(W, H) / 2  # in pixels from the left and upper edge
    np.testing.assert_allclose(screen - 0.5, spot.pixel, atol=1e-9)


def test_without_set_lists_and_depth(root: Path) -> None:
    (root / "apple/set_lists/set_lists_fewview_dev.json").unlink()
    frames = [annotation(index) for index in range(3)]
    for frame in frames:
        frame["depth"] = None
    store(root, frames)
    first, _ = DATASETS["co3d"].open(root / "apple")
    assert first.split == "" and first.views[0].depth() is None


def _set(*names: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(frame: dict[str, Any]) -> None:
        for name in names[:-1]:
            frame = frame[name]
        frame[names[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("viewpoint", "intrinsics_format", to="ndc_new"), r"frame_annotations\.jgz.*ndc_new"),
        (_set("viewpoint", "R", to=[1, 2]), r"frame_annotations\.jgz.*viewpoint"),
        (_set("viewpoint", "R", to=[[2, 0, 0], [0, 1, 0], [0, 0, 1]]), r"frame_annotations\.jgz.*not a rigid motion"),
        (_set("viewpoint", "focal_length", to=[0, 1]), r"frame_annotations\.jgz.*positive"),
        (_set("viewpoint", to=None), r"frame_annotations\.jgz.*viewpoint"),
        (_set("image", "size", to=[1]), r"frame_annotations\.jgz.*size"),
        (_set("image", "path", to="apple/gone.jpg"), r"gone\.jpg"),
        (_set("depth", "path", to="apple/gone.png"), r"gone\.png"),
        (_set("depth", "scale_adjustment", to="big"), r"frame_annotations\.jgz.*big"),
    ],
)
def test_broken_frames_are_named(root: Path, change: Callable[[dict[str, Any]], None], said: str) -> None:
    frames = [annotation(index) for index in range(3)]
    change(frames[1])
    store(root, frames)
    with pytest.raises(InputError, match=said):
        list(DATASETS["co3d"].open(root))


def test_broken_files_are_named(root: Path) -> None:
    file = root / "apple/frame_annotations.jgz"
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b"[]", gzip.compress(b"[{"), gzip.compress(b"{}")):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"frame_annotations\.jgz"):
            list(DATASETS["co3d"].open(root))
    file.write_bytes(whole)
    write(root / "apple/set_lists/set_lists_fewview_dev.json", '{"test": [["a"]]}')
    with pytest.raises(InputError, match="set_lists_fewview_dev"):
        list(DATASETS["co3d"].open(root))


def test_damage_is_refused_by_name(root: Path) -> None:
    damage("co3d", root)
