"""NYU Depth v2: the labelled .mat and the extracted images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from spots import check, damage, spots

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS

K = np.array([[518.85790117450188, 0, 325.58244941119034], [0, 519.46961112127485, 253.73616633400465], [0, 0, 1]])
SPOTS = spots(K, 640, 480, count=3, seed=10)


@pytest.fixture
def extracted(tmp_path: Path) -> Path:
    places = ("test/bathroom/{}_00045", "test/bathroom/{}_00046", "train/office/{}_00003")
    for place, spot in zip(places, SPOTS, strict=True):
        spot.write_image(tmp_path / "official_splits" / f"{place.format('rgb')}.jpg")
        spot.write_depth(tmp_path / "official_splits" / f"{place.format('sync_depth')}.png", 1000)
    return tmp_path


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        # MATLAB has (H, W, 3, N) and (H, W, N), columns first; HDF5 shows the axes in reverse.
        file["images"] = np.stack([spot.image().transpose(2, 1, 0) for spot in SPOTS])
        file["rawDepths"] = np.stack([spot.depth().T for spot in SPOTS])
    scipy.io.savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[3]]), "testNdxs": np.array([[1], [2]])})
    return tmp_path


def test_the_point_is_where_the_extracted_images_have_it(extracted: Path) -> None:
    train, test = DATASETS["nyu"].open(extracted)
    assert [(train.name, train.split), (test.name, test.split)] == [
        ("train/office", "train"), ("test/bathroom", "test"),
    ]  # fmt: skip
    assert train.metric and not train.ordered
    for view, spot in zip((*test.views, *train.views), SPOTS, strict=True):
        assert view.w_T_c is None
        check(view, spot)


def test_the_point_is_where_the_labelled_file_has_it(labelled: Path) -> None:
    train, test = DATASETS["nyu"].open(labelled)
    assert (train.split, test.split) == ("train", "test")
    for view, spot in zip((*test.views, *train.views), SPOTS, strict=True):
        check(view, spot)


def test_broken_labelled_files_are_named(labelled: Path) -> None:
    scipy.io.savemat(labelled / "splits.mat", {"trainNdxs": np.array([[1]]), "testNdxs": np.array([[4]])})
    with pytest.raises(InputError, match=r"splits\.mat.*3 images"):
        list(DATASETS["nyu"].open(labelled))
    scipy.io.savemat(labelled / "splits.mat", {"trainNdxs": np.array([[1]])})
    with pytest.raises(InputError, match=r"splits\.mat"):
        list(DATASETS["nyu"].open(labelled))
    (labelled / "splits.mat").unlink()
    with pytest.raises(InputError, match=r"splits\.mat"):
        list(DATASETS["nyu"].open(labelled))
    scipy.io.savemat(labelled / "nyu_depth_v2_labeled.mat", {"images": np.zeros(3)})  # of version 5
    with pytest.raises(InputError, match=r"nyu_depth_v2_labeled\.mat"):
        list(DATASETS["nyu"].open(labelled))


def test_without_h5py_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"nyu_depth_v2_labeled\.mat.*pip install h5py"):
        list(DATASETS["nyu"].open(tmp_path))


def test_a_missing_depth_image_is_named(extracted: Path) -> None:
    (extracted / "official_splits/test/bathroom/sync_depth_00046.png").unlink()
    with pytest.raises(InputError, match="sync_depth_00046"):
        list(DATASETS["nyu"].open(extracted))


def test_eight_bit_depth_is_refused(extracted: Path) -> None:
    SPOTS[0].write_image(extracted / "official_splits/test/bathroom/sync_depth_00045.png")
    *_, test = DATASETS["nyu"].open(extracted)
    with pytest.raises(InputError, match=r"sync_depth_00045.*16 bit"):
        test.views[0].depth()


def test_damage_is_refused_by_name(extracted: Path) -> None:
    damage("nyu", extracted)


def test_damage_of_the_labelled_file_is_refused_by_name(labelled: Path) -> None:
    damage("nyu", labelled)
