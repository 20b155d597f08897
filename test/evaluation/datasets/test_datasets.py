"""What holds for every data set: names, empty folders, the page that describes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS, named

PAGE = Path(__file__).resolve().parents[3] / "docs" / "datasets.md"


def test_all_of_them_are_there() -> None:
    assert set(DATASETS) == {
        "tum", "7scenes", "euroc", "icl-nuim", "scannet", "cambridge", "co3d", "realestate10k", "nyu", "bonn",
        "kitti-odometry", "kitti-depth", "ddad", "dtu",
    }  # fmt: skip
    assert all(dataset.name == name for name, dataset in DATASETS.items())
    assert len({dataset.title for dataset in DATASETS.values()}) == len(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_a_folder_without_it_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"'{tmp_path}/gone' is not a folder.*where {name}'"):
        DATASETS[name].open(tmp_path / "gone")
    (tmp_path / "something").mkdir()
    (tmp_path / "readme.md").write_text("else")
    with pytest.raises(InputError, match=f"'{tmp_path}' holds nothing of {name}"):
        list(DATASETS[name].open(tmp_path))


def test_an_unknown_name_lists_the_known() -> None:
    assert named("TUM") is DATASETS["tum"]
    with pytest.raises(InputError, match=r"'imagenet'.*7scenes"):
        named("imagenet")


@pytest.mark.parametrize("name", DATASETS)
def test_the_page_describes_it_as_the_command_does(name: str) -> None:
    page, dataset = PAGE.read_text(encoding="utf-8"), DATASETS[name]
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    assert dataset.title in row and dataset.licence in row
    assert " ".join(dataset.notes.split()) in " ".join(page.split())
    for line in dataset.layout.strip().splitlines():
        assert line in page
