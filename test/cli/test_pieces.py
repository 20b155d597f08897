"""dust3r-map --workers: a recording in pieces gives one map, the same for any number of processes."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import suppress
from math import inf
from pathlib import Path

import cv2
import numpy as np
import pytest
from scoring import alignment
from sequences import walk

from dust3r_ros.cli import pieces as in_pieces
from dust3r_ros.cli.map import _parser, main, map_piece
from dust3r_ros.cli.pieces import MappedPiece
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.mapping.reconstruction import TRUSTED
from dust3r_ros.scenes.export import write_folder
from dust3r_ros.session import pieces
from dust3r_ros.session.pieces import Piece
from dust3r_ros.sparse.landmarks import Intrinsics

ROOT = Path(__file__).resolve().parents[2]


def test_a_map_in_pieces_does_not_depend_on_the_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is as good as that of one piece: every image that can be read once, about as near to the truth."""
    sequence = walk("orbit", 36)
    write_folder(sequence, tmp_path / "walk")
    sorted((tmp_path / "walk/rgb").iterdir())[8].write_bytes(b"broken")
    monkeypatch.setattr(pieces, "_LEAST", 6.0)
    options = ["--set", "working_size=160", "--set", "tracking_size=240", "--set", "dense=false"]

    def mapped(name: str, *more: str) -> Path:
        assert main([str(tmp_path / "walk"), "--out", str(tmp_path / name), *options, *more]) == 0
        return tmp_path / name

    whole, one, two = mapped("whole", "--quiet"), mapped("one", "--workers", "1"), mapped("two", "--workers", "2")
    found = re.search(r"images in (\d) pieces\n", capsys.readouterr().out)
    assert found is not None and int(found[1]) in (2, 3)
    for name in ("trajectory.txt", "keyframes.txt", "map.ply", "cameras.yaml"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    errors = []
    for folder in (whole, one):
        poses = read_tum(folder / "trajectory.txt")
        assert len({pose.stamp_ns for pose in poses}) == len(poses) == 35
        _, off = alignment(poses, sequence)
        errors.append(float(np.sqrt(np.mean(off**2))))
    assert errors[1] < 1.2 * errors[0] + 0.002
    keyframes = [pose.stamp_ns for pose in read_tum(one / "keyframes.txt")]
    assert len(set(keyframes)) == len(keyframes), "an image of two pieces is one keyframe"
    assert json.loads((one / "summary.json").read_text())["frames"] == 35
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in whole.iterdir())


COMMAND = """
import sys
from dust3r_ros.cli.map import main
from dust3r_ros.session import pieces

if __name__ == "__main__":  # processes of the pool import this file, too
    pieces._LEAST = 6.0
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C goes to all processes of the terminal, SIGTERM to the command only."""
    write_folder(walk("orbit", 36), tmp_path / "walk")
    (tmp_path / "command.py").write_text(COMMAND)
    asked = [sys.executable, tmp_path / "command.py", tmp_path / "walk", "--out", tmp_path / "out", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(asked, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        end = time.monotonic() + 60.0
        while len(_alive(process.pid)) < 3 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)  # the command, the mapper of the first piece, and Python's watch over such processes
        assert list((tmp_path / "out").glob(".pieces-*")), "it maps"
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        _, said = process.communicate(timeout=30.0)
        end = time.monotonic() + 10.0
        while (left := _alive(process.pid)) and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130 and said.splitlines()[-1] == (
        "dust3r-map: error: interrupted; nothing more is written"
    )
    assert not (tmp_path / "out").exists()
    assert not left


def _alive(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
            found += [int(path.parent.name)] * (int(of) == session and state != "Z")
    return found


@pytest.mark.parametrize(
    "more, part",
    [(["--load", "x.db"], "--load"), (["--record", "x"], "--record"), (["--backend", "dust3r"], "backend 'dust3r'")],
)
def test_what_pieces_cannot_do_is_said(more: list[str], part: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "images").mkdir()
    asked = [str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--workers", "2", *more]
    assert main(asked) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "--workers" in error and part in error


def _mapped(
    monkeypatch: pytest.MonkeyPatch, folder: Path, sure: int, turns: tuple[float, ...] = (0.1, 1.0, 2.0, 0.2, 0.3)
) -> tuple[list[tuple[int, float]], list[str]]:
    """Which of five pieces are mapped, in order, with which deviation they begin, and what is said of them.

    The camera ``turns`` by so much in each; only piece ``sure`` tells the focal by itself.
    """
    begun: list[tuple[int, float]] = []

    class Pool:
        def __init__(self, *arguments: object) -> None: ...

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *error: object) -> None: ...

        def submit(self, map_piece, alone, piece, path, known) -> Future[MappedPiece]:
            number = int(path.name)
            begun.append((number, known["camera"].std if known else inf))
            std = 0.01 if known or number == sure else 0.3 - 0.1 * (number == 1)
            done: Future[MappedPiece] = Future()
            done.set_result(MappedPiece({"camera": Intrinsics(200.0, 200.0, std)}, piece.frames, [f"{number} {std}"]))
            return done

    monkeypatch.setattr(in_pieces, "ProcessPoolExecutor", Pool)
    parts = [Piece((("camera", number),), number, number + 1, turn) for number, turn in enumerate(turns)]
    arguments = argparse.Namespace(quiet=True, workers=2)
    paths = [folder / str(number) for number in range(5)]
    found = in_pieces._map_all(arguments, parts, paths, lambda *given: MappedPiece({}, (), []))
    return begun, [words for one in found for words in one.warnings]


def test_a_piece_that_is_sure_of_its_focal_calibrates_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, said = _mapped(monkeypatch, tmp_path, sure=2)
    assert begun == [(2, inf), (0, 0.01), (1, 0.01), (3, 0.01), (4, 0.01)], "none is mapped twice"
    assert said == [f"{number} 0.01" for number in range(5)]
    begun, said = _mapped(monkeypatch, tmp_path, sure=1)
    assert begun == [(2, inf), (1, inf), (0, 0.01), (2, 0.01), (3, 0.01), (4, 0.01)]
    assert said == [f"{number} 0.01" for number in range(5)], "of the maps that count"


def test_where_none_is_sure_the_most_certain_one_calibrates_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maps with different focals would not fit each other, so the others begin as if it were certain."""
    begun, _ = _mapped(monkeypatch, tmp_path, sure=-1)
    assert begun[:2] == [(2, inf), (1, inf)] and [number for number, _ in begun[2:]] == [0, 2, 3, 4]
    assert all(std < TRUSTED for _, std in begun[2:])
    begun, _ = _mapped(monkeypatch, tmp_path, sure=-1, turns=(0.1, 0.2, 0.1, 0.1, 0.1))
    assert [std < TRUSTED for _, std in begun] == [False, True, True, True, True], "no other could determine it"


def test_images_of_another_size_that_were_not_looked_at_are_mapped(tmp_path: Path) -> None:
    """The names of all are known when they are decoded; that of the first in a piece follows from those of others."""
    sequence = walk("orbit", 24)
    write_folder(sequence, tmp_path / "walk")
    files = sorted((tmp_path / "walk/rgb").iterdir())[:16]
    for file in files[8:]:
        cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), None, fx=2, fy=2))
    other = f"camera_{2 * sequence.width}x{2 * sequence.height}"
    stamps = sequence.stamps_ns[:16].tolist()
    names = ["camera"] * 10 + [other] * 6
    options = ["--set", "working_size=160", "--set", "tracking_size=240", "--set", "dense=false"]
    arguments = _parser().parse_args([str(tmp_path / "walk"), "--out", str(tmp_path / "out"), *options])
    for first in (0, 8):
        piece = Piece(tuple(zip(names, stamps, strict=True))[first:], stamps[first], stamps[-1] + 1)
        found = map_piece(arguments, piece, tmp_path / "piece.db", {})
        assert set(found.frames) == set(list(zip(["camera"] * 8 + [other] * 8, stamps, strict=True))[first:])
        assert len(found.intrinsics) == (2 if first == 0 else 1) and not found.warnings
