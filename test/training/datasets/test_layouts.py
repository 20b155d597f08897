"""What is particular to each set: splits, other forms of its layout, what its conventions mean, what is refused."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import training_trees
from spots import write, write_png16
from training_trees import Opener

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.layouts import tfrecord
from dust3r_ros.layouts.tfrecord import Message
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.training.datasets import TRAINING_SETS, PairFolder, waymo
from dust3r_ros.training.datasets.layout import unpacked_lens
from dust3r_ros.training.datasets.waymo import seen_points
from dust3r_ros.training.views import ViewPair


def first_of(source: PairFolder, index: int = 0) -> ViewPair:
    return source.pair(index, np.random.default_rng(0))


def only(path: Path, pattern: str) -> Path:
    return sorted(path.rglob(pattern))[0]


def refused(source: PairFolder, said: str) -> None:
    with pytest.raises(InputError, match=said):
        len(source)


def test_co3d_leaves_test_sequences_out(opened: Opener, tmp_path: Path) -> None:
    source = opened("co3d")
    assert len(source) == 5 and source.held_out() is None
    annotations = tmp_path / "data/apple/frame_annotations.jgz"
    frames = json.loads(gzip.decompress(annotations.read_bytes()))
    for at, frame in enumerate(frames):
        frame["sequence_name"] = ("a", "b", "c")[at // 2]
    annotations.write_bytes(gzip.compress(json.dumps(frames).encode()))
    lists = {"train": [["a", 0, "x"]], "val": [["b", 0, "x"]], "test": [["c", 0, "x"]]}
    write(tmp_path / "data/apple/set_lists/set_lists_fewview_dev.json", json.dumps(lists))
    source = opened("co3d")
    apart = source.held_out()
    assert len(source) == 2 and apart is not None and len(apart) == 2
    assert "frame000001" in first_of(source).source and "frame000003" in first_of(apart).source


def test_co3d_of_one_category(opened: Opener, tmp_path: Path) -> None:
    whole = first_of(opened("co3d"))
    one = first_of(TRAINING_SETS["co3d"].open(tmp_path / "data/apple", tmp_path / "cache"))
    np.testing.assert_array_equal(one.first.image, whole.first.image)
    np.testing.assert_array_equal(one.second.depth, whole.second.depth)


def test_blendedmvs_keeps_the_official_projects_to_validate(
    walk: RenderedSequence, opened: Opener, tmp_path: Path
) -> None:
    training_trees.blendedmvs(walk, tmp_path / "data")
    training_trees.blendedmvs(walk, tmp_path / "data", "59817e4a1bd4b175e7038d19")
    source = opened("blendedmvs")
    apart = source.held_out()
    assert len(source) == 5 and apart is not None and "59817e4a" in first_of(apart).source
    write(tmp_path / "data/validation_list.txt", "57f8d9bbe73f6760f10e916a")
    assert "59817e4a" in first_of(opened("blendedmvs")).source


@pytest.mark.parametrize("gone", ["blended_images/00000002.jpg", "rendered_depth_maps/00000002.pfm", "cams"])
def test_blendedmvs_with_a_file_missing_is_refused(gone: str, opened: Opener, tmp_path: Path) -> None:
    source, path = opened("blendedmvs"), tmp_path / "data/57f8d9bbe73f6760f10e916a" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(source, str(path))


def test_arkitscenes_takes_images_with_pose_and_depth(opened: Opener, tmp_path: Path) -> None:
    source = opened("arkitscenes")
    trajectory = only(tmp_path, "*.traj")
    lines = trajectory.read_text().splitlines()
    # One pose is of another moment, one depth is missing, poses are in no order.
    moved = f"{float(lines[1].split()[0]) + 0.05:.6f} {lines[1].split(maxsplit=1)[1]}"
    write(trajectory, *[lines[0], moved, *lines[2:]][::-1])
    only(tmp_path, "lowres_depth/*6791.323.png").unlink()
    assert len(source) == 3
    assert {first_of(source, index).source[-11:-5] for index in range(3)} <= {"91.123", "91.423", "91.523"}


def test_arkitscenes_leaves_unsure_depth_out(opened: Opener, tmp_path: Path) -> None:
    sure = np.full((96, 128), 2, np.uint8)
    sure[:, :40] = 0
    opened("arkitscenes")
    for file in (tmp_path / "data").rglob("lowres_depth/*.png"):
        other = file.parents[1] / "confidence" / file.name
        other.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(other), sure)
    pair = first_of(opened("arkitscenes"))
    assert not pair.first.depth[:, :40].any() and (pair.second.depth[:, 40:] > 0).all()


def test_arkitscenes_in_either_folder_and_fold(walk: RenderedSequence, tmp_path: Path) -> None:
    training_trees.arkitscenes(walk, tmp_path / "data", "Training")
    training_trees.arkitscenes(walk, tmp_path / "data", "Validation")
    source = TRAINING_SETS["arkitscenes"].open(tmp_path / "data", tmp_path / "cache")
    apart = source.held_out()
    assert len(source) == 5 and apart is not None and "Validation/40753679" in first_of(apart).source


def test_arkitscenes_says_what_is_missing(opened: Opener, tmp_path: Path) -> None:
    source = opened("arkitscenes")
    lens = only(tmp_path, "*.pincam")
    text = lens.read_text()
    lens.write_text("256 192 200")
    refused(source, rf"{lens.name}' line 1.*width height fx fy cx cy")
    lens.write_text(text * 2)
    refused(source, rf"{lens.name}' holds 2 lines")
    lens.unlink()
    refused(source, r"lowres_wide_intrinsics' holds no \.pincam for '40753679_6791\.123\.png'")
    shutil.rmtree(lens.parent)
    refused(source, "lowres_wide_intrinsics' is needed")


def test_a_camera_of_another_size_is_refused(opened: Opener, tmp_path: Path) -> None:
    source = opened("arkitscenes")
    for lens in tmp_path.rglob("*.pincam"):
        lens.write_text(lens.read_text().replace("128 96 ", "256 192 "))
    with pytest.raises(InputError, match="is 128x96; its camera is 256x192"):
        first_of(source)


def test_staticthings3d_as_the_converter_links_it(walk: RenderedSequence, opened: Opener, tmp_path: Path) -> None:
    whole = first_of(opened("staticthings3d"))
    training_trees.staticthings3d(walk, tmp_path / "linked", converted=True)
    linked = first_of(TRAINING_SETS["staticthings3d"].open(tmp_path / "linked", tmp_path / "cache"))
    for one, other in ((whole.first, linked.first), (whole.second, linked.second)):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.w_T_c, other.w_T_c)
        np.testing.assert_array_equal(one.K, other.K)


def test_staticthings3d_takes_both_passes_in_turn(opened: Opener, tmp_path: Path) -> None:
    source, data = opened("staticthings3d"), tmp_path / "data"
    shutil.copytree(data / "frames_cleanpass", data / "frames_finalpass")
    found = {"final" if "finalpass" in first_of(source, index).source.split("'")[1] else "clean" for index in range(5)}
    assert found == {"final", "clean"}


@pytest.mark.parametrize("gone", ["frames_cleanpass", "depths", "intrinsics"])
def test_staticthings3d_with_a_part_missing_is_refused(gone: str, opened: Opener, tmp_path: Path) -> None:
    source = opened("staticthings3d")
    shutil.rmtree(tmp_path / "data" / gone)
    refused(source, f"data/{gone}")


def test_both_cameras_of_staticthings3d_and_both_devices_of_scannetpp_see_one_scene(
    walk: RenderedSequence, opened: Opener, tmp_path: Path
) -> None:
    """So that neither is trained on where the other is held out."""
    assert opened("scannetpp").groups().tolist() == [0, 10]
    shutil.rmtree(tmp_path / "data")
    source = opened("staticthings3d")
    for left in (tmp_path / "data").rglob("left"):
        shutil.copytree(left, left.with_name("right"))
    for first in (tmp_path / "data").rglob("0000"):
        shutil.copytree(first, first.with_name("0001"))
    assert source.groups().tolist() == [0, 10, 20]


def test_habitat_without_splits_and_with(walk: RenderedSequence, opened: Opener, tmp_path: Path) -> None:
    training_trees.habitat(walk, tmp_path / "data", "")
    assert len(opened("habitat")) == 5 and opened("habitat").held_out() is None
    training_trees.habitat(walk, tmp_path / "data", "val")
    apart = opened("habitat").held_out()
    assert apart is not None and "val/00006" in first_of(apart).source


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hfov": 190}, r"hfov \[128, 96, 190\]"),
        ({"width": "wide"}, "must be pixels"),
        ({"frames": {}}, "must hold a list 'frames'"),
        ({"frames": [{"depth": "depth/000000.png"}]}, "frame 0 has no file 'color'"),
        ({"frames": [{"color": "color/000000.jpg", "depth": "gone.png"}]}, r"gone\.png' is missing"),
        ({"frames": [{"color": "color/000000.jpg", "depth": "color/000000.jpg"}]}, r"\.npy.*are read"),
        ({"frames": [{"color": "color/000000.jpg", "depth": "depth/000000.png"}]}, r"position \[x, y, z\]"),
    ],
)
def test_habitat_says_what_is_wrong(change: dict[str, object], said: str, opened: Opener, tmp_path: Path) -> None:
    source, path = opened("habitat"), only(tmp_path, "frames.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(source, rf"frames\.json.*{said}|{said}")


def test_megadepth_leaves_orderings_out(opened: Opener, tmp_path: Path, walk: RenderedSequence) -> None:
    source = opened("megadepth")
    for index in (1, 3):
        file = only(tmp_path, f"{index}_o.h5")
        file.unlink()
        with h5py.File(file, "w") as made:
            made["depth"] = -np.ones_like(walk.depths[0])
    assert len(source) == 3


def test_megadepth_needs_h5py(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened("megadepth")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "h5py", None)
        refused(source, "needs h5py: pip install h5py")
    assert len(opened("megadepth")) == 5


def test_megadepth_finds_depth_that_comes_later(opened: Opener, tmp_path: Path) -> None:
    opened("megadepth")
    away, half = (only(tmp_path, f"{index}_o.h5") for index in (1, 3))
    whole = half.read_bytes()
    half.write_bytes(whole[:100])
    moved = away.rename(tmp_path / away.name)
    assert len(opened("megadepth")) == 4
    half.write_bytes(whole)
    assert {first_of(opened("megadepth"), index).first.depth.shape for index in range(4)} == {(96, 128)}
    moved.rename(away)
    assert len(opened("megadepth")) == 5


def test_megadepth_wants_the_model_without_lenses(opened: Opener, walk: RenderedSequence, tmp_path: Path) -> None:
    source, model = opened("megadepth"), only(tmp_path, "cameras.bin").parent
    names = [f"{index}_o.jpg" for index in range(len(walk))]
    training_trees.colmap_text(walk, model, names, "SIMPLE_RADIAL 256 192 200 128 96 0.1")
    with pytest.raises(InputError, match=r"cameras\.txt' holds a camera with a lens.*image_undistorter"):
        len(opened("megadepth"))
    training_trees.colmap_text(walk, model, names, "PINHOLE 192 256 200 200 96 128")
    with pytest.raises(InputError, match=r"_o\.jpg' is 128x96.*192x256.*one shape"):
        len(opened("megadepth"))
    # Text and binary say the same.
    expected = first_of(source)
    focal = 2 * walk.focal
    training_trees.colmap_text(walk, model, names, f"PINHOLE 256 192 {focal!r} {focal!r} 128 96")
    np.testing.assert_allclose(first_of(opened("megadepth")).first.K, expected.first.K)
    shutil.rmtree(model)
    with pytest.raises(InputError, match="Undistorted_SfM/0000/sparse' is missing"):
        opened("megadepth")


def test_scannetpp_by_either_device_and_split(walk: RenderedSequence, opened: Opener, tmp_path: Path) -> None:
    source = opened("scannetpp")
    assert len(source) == 10 and source.held_out() is None
    shutil.rmtree(tmp_path / "data/data/036bce3393/dslr")
    source = opened("scannetpp")
    assert len(source) == 5 and "iphone" in first_of(source).source
    write(tmp_path / "data/splits/nvs_sem_train.txt", "another")
    write(tmp_path / "data/splits/nvs_sem_val.txt", "036bce3393")
    with pytest.raises(InputError, match="nothing of scannetpp to train with"):
        opened("scannetpp")
    assert len(opened("scannetpp", split="val")) == 5


def test_scannetpp_enlarges_the_lidars_depth(opened: Opener, tmp_path: Path) -> None:
    """Half as wide and high; nothing is made up between a near thing and a far one."""
    opened("scannetpp")
    phone = tmp_path / "data/data/036bce3393/iphone"
    for file in sorted((phone / "render_depth").iterdir()):
        small = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[::2, ::2]
        write_png16(phone / "depth" / file.name, small)
    whole = first_of(opened("scannetpp"), 5)
    shutil.rmtree(phone / "render_depth")
    pair = first_of(opened("scannetpp"), 5)
    assert "iphone" in pair.source and pair.first.depth.shape == (96, 128)
    both = (pair.first.depth > 0) & (whole.first.depth > 0)
    assert both.mean() > 0.9
    ratio = pair.first.depth[both] / whole.first.depth[both]
    assert np.median(np.abs(ratio - 1)) < 0.01 and set(np.unique(pair.first.depth)) <= {
        0,
        *np.unique(whole.first.depth),
    }
    for file in (phone / "depth").iterdir():
        write_png16(file, np.ones((40, 40)))
    with pytest.raises(InputError, match=r"frame_.*png' is 40x40; its camera is 128x96"):
        first_of(TRAINING_SETS["scannetpp"].open(tmp_path / "data", tmp_path / "new"), 5)


def test_waymo_gives_small_images_with_their_camera(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = first_of(opened("waymo"))
    monkeypatch.setattr(waymo, "_LONG_SIDE", 64)
    half = first_of(TRAINING_SETS["waymo"].open(tmp_path / "data", tmp_path / "half"))
    assert whole.first.image.shape == (96, 128, 3) and half.first.image.shape == (48, 64, 3)
    # The corner of the image is the same ray: pixels are counted from their middles.
    for K, corner in ((whole.first.K, [127.5, 95.5, 1]), (half.first.K, [63.5, 47.5, 1])):
        np.testing.assert_allclose(np.linalg.solve(K, corner), np.linalg.solve(whole.first.K, [127.5, 95.5, 1]))
    shrunk = cv2.resize(whole.first.image, (64, 48), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(half.first.image, shrunk)
    assert (half.first.depth > 0).mean() > (whole.first.depth > 0).mean()


@pytest.mark.parametrize("name", ["scannetpp", "waymo"])
def test_lenses_are_taken_out_of_images_and_depth(
    name: str, opened: Opener, walk: RenderedSequence, tmp_path: Path
) -> None:
    """A view is the rendered image as a pinhole with the view's K has it."""
    opened(name)
    reader, root = TRAINING_SETS[name].reader, tmp_path / "data"
    v, u = np.mgrid[:96, :128]
    lens = np.array([[walk.focal, 0, 63.5], [0, walk.focal, 47.5], [0, 0, 1]])
    for part in reader.parts(root, "train"):
        for frame, image, depth in zip(reader.frames(root, part, 64), walk.images, walk.depths, strict=True):
            x, y, _ = (np.stack([u, v, np.ones_like(u)], axis=-1) @ (lens @ np.linalg.inv(frame.K)).T).T
            maps, inside = (
                (x.T.astype(np.float32), y.T.astype(np.float32)),
                (x.T > 2) & (x.T < 125) & (y.T > 2) & (y.T < 93),
            )
            seen, deep = reader.view(root, frame)
            known = inside & (deep > 0)
            apart = np.abs(cv2.remap(image, *maps, cv2.INTER_LINEAR).astype(int) - seen)[known].mean()
            off = np.abs(cv2.remap(depth, *maps, cv2.INTER_NEAREST) - deep)[known] / deep[known]
            assert known.mean() > 0.3 and apart < 7 and np.median(off) < 0.01


def test_waymo_points_lie_where_the_set_sees_them(opened: Opener, tmp_path: Path) -> None:
    opened("waymo")
    reader, root = TRAINING_SETS["waymo"].reader, tmp_path / "data"
    (part,) = reader.parts(root, "train")
    ((_, record), *_), (frame, *_) = (
        list(tfrecord.records(part.folder, tfrecord.opened(part.folder))),
        list(reader.frames(root, part, 64)),
    )
    points, pixels = seen_points(Message(record), training_trees.FRONT)
    c = unpacked_lens(frame.extra)
    raw_K = np.array([[c.fx, 0, c.cx], [0, c.fy, c.cy], [0, 0, 1]])
    c_T_w = invert(frame.w_T_c)
    turn = cv2.Rodrigues(c_T_w[:3, :3])[0]
    projected = cv2.projectPoints(points, turn, c_T_w[:3, 3], raw_K, np.array(c.coefficients))[0].reshape(-1, 2)
    assert len(points) > 5000 and np.abs(projected - pixels).max() < 0.51  # they are whole numbers


def test_waymo_has_the_poses_of_the_walk(opened: Opener, walk: RenderedSequence, tmp_path: Path) -> None:
    """The vehicle's at each image, the camera's in the vehicle; frames of a segment in their order."""
    opened("waymo")
    reader, root = TRAINING_SETS["waymo"].reader, tmp_path / "data"
    (part,) = reader.parts(root, "train")
    for frame, T in zip(reader.frames(root, part, 64), walk.w_T_c, strict=True):
        np.testing.assert_allclose(invert(T) @ frame.w_T_c, np.eye(4), atol=1e-6)


def test_waymo_splits(walk: RenderedSequence, opened: Opener, tmp_path: Path) -> None:
    training_trees.waymo(walk, tmp_path / "data", "validation")
    training_trees.waymo(walk, tmp_path / "data", "training")
    source = opened("waymo")
    apart = source.held_out()
    assert apart is not None and len(apart) == len(source) == 5 and "validation/segment" in first_of(apart).source
    shutil.move(only(tmp_path, "training/*.tfrecord"), tmp_path / "data")
    shutil.rmtree(tmp_path / "data/training")
    assert len(opened("waymo")) == 5


def test_waymo_records_of_another_kind_are_refused(opened: Opener, tmp_path: Path) -> None:
    import wire

    source, path = opened("waymo"), only(tmp_path, "*.tfrecord")
    path.write_bytes(wire.records([wire.data(1, wire.data(1, b"scenario"))]))
    refused(source, r"segment-100.*no valid frame of Waymo's perception data at byte 0: a message without images")
    path.write_bytes(wire.records([wire.data(4, wire.number(1, 3))]))
    refused(source, "camera 3 without a calibration")
