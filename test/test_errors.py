"""An error is one line, whatever it quotes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dust3r_ros.errors import CheckpointError, Dust3rRosError, InputError, MapFileError, refuse_pointers
from dust3r_ros.io.bags.reader import Bag
from dust3r_ros.io.encodings import decode_file
from dust3r_ros.io.image_sources import VideoFile
from dust3r_ros.network.checkpoint import load_checkpoint
from dust3r_ros.storage.loading import load_state

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665a5ea423c2713\nsize 12345\n"


@given(st.text(max_size=200), st.integers(0, 50))
def test_a_message_is_one_line_of_bounded_length(quoted: str, times: int) -> None:
    error = InputError(f"topic '{quoted * times}' is wrong; it must be a name")
    assert len(str(error).splitlines()) == 1 and len(str(error)) <= 2000
    assert str(error).startswith("topic '") and str(error).endswith("it must be a name")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("message", ["image 'a  b.png' is truncated", "lens of 'Münster/küche' → x"])
def test_an_ordinary_message_stays_as_it_is(message: str) -> None:
    assert str(Dust3rRosError(message)) == message


@pytest.mark.parametrize(
    ("name", "door", "error"),
    [
        ("a.mcap", Bag, InputError),
        ("a.bag", Bag, InputError),
        ("a.mp4", VideoFile, InputError),
        ("a.png", lambda path: decode_file(path.read_bytes(), "image"), InputError),
        ("a.pth", load_checkpoint, CheckpointError),
        ("map.db", load_state, MapFileError),
    ],
)
def test_what_git_lfs_leaves_in_a_files_place_is_named(
    tmp_path: Path, name: str, door: Callable[[Path], object], error: type[Dust3rRosError]
) -> None:
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(error, match="git lfs pull"):
        door(tmp_path / name)


def test_other_files_and_those_that_cannot_be_read_are_no_pointers(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"version 2")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "missing"):
        refuse_pointers(path)
    (tmp_path / "large.onnx").write_bytes(POINTER)
    with pytest.raises(InputError, match=r"large\.onnx"):
        refuse_pointers(tmp_path)
