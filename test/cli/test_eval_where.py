"""dust3r-eval where: every data set says what it takes; a folder can be checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from spots import numbers, spots, write

from dust3r_ros.cli.eval import main
from dust3r_ros.evaluation.datasets import DATASETS
from dust3r_ros.evaluation.protocols.registry import PROTOCOLS


@pytest.mark.parametrize("name", DATASETS)
def test_it_says_what_to_fetch_and_how_it_lies(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["where", name.upper()]) == 0
    said = capsys.readouterr().out
    dataset = DATASETS[name]
    for part in (dataset.title, dataset.source, dataset.fetch, dataset.licence, dataset.notes):
        assert part in said
    for line in dataset.layout.strip().splitlines():
        assert line in said
    protocols = said.splitlines()[-1].partition(": ")[2].split(", ")
    assert f"'dust3r-eval run {name} PATH'" in said and "speed" in protocols and set(protocols) <= PROTOCOLS.keys()


def test_without_a_name_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["where"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(DATASETS)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["where", "imagenet"]) == 2
    said = capsys.readouterr().err
    assert "imagenet" in said and "7scenes" in said and "\n" not in said.strip()


def test_a_folder_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = spots(np.array([[90.0, 0, 31.5], [0, 90, 23.5], [0, 0, 1]]), 64, 48)
    lines = []
    for stamp, spot in enumerate(clip):
        spot.write_image(tmp_path / f"test/ab/{stamp}.png")
        lines.append(f"{stamp} 1.4 1.9 0.5 0.5 0 0 {numbers(spot.c_T_w[:3])}")
    write(tmp_path / "test/ab.txt", "https://x", *lines)
    assert main(["where", "realestate10k", "--check", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "ab: 2 images, 2 with a pose, 0 with depth, test\n"
    (tmp_path / "test/ab/1.png").unlink()
    assert main(["where", "realestate10k", "--check", str(tmp_path)]) == 2
    assert "1.jpg" in capsys.readouterr().err


def test_check_needs_a_name_and_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["where", "--check", str(tmp_path)]) == 2
    assert "needs the name" in capsys.readouterr().err
    assert main(["where", "tum", "--check", str(tmp_path / "gone")]) == 2
    assert "gone" in capsys.readouterr().err
