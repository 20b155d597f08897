"""Files appear whole or not at all, and a failed write is a sentence."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from dust3r_ros.errors import OutputError
from dust3r_ros.io.files import atomic_folder, atomic_path, make_folder, write_bytes, write_text


def test_the_file_appears_with_the_end_of_the_block(tmp_path: Path) -> None:
    target = tmp_path / "map.ply"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == tmp_path and temporary.suffix == ".ply"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["map.ply"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "map.ply"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["map.ply"]


def test_results_are_as_readable_as_other_files(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "ä")
    (tmp_path / "b.txt").write_text("b")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")]
    assert modes[0] == modes[1]
    assert (tmp_path / "a.txt").read_bytes() == "ä".encode()


@pytest.mark.parametrize(
    "code, words", [(errno.ENOSPC, "no space"), (errno.EACCES, "permission"), (errno.EIO, "Input/output")]
)
def test_a_failing_file_system_is_a_sentence(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(OutputError, match=words) as caught, atomic_path(tmp_path / "map.ply"):
        raise OSError(code, os.strerror(code))
    assert "map.ply" in str(caught.value) and "\n" not in str(caught.value)
    assert not os.listdir(tmp_path)


def test_a_full_disk(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OutputError, match="no space"), atomic_path(tmp_path / "map.ply"), full.open("wb") as file:
        file.write(b"x" * 100_000)


def test_missing_and_wrong_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        write_bytes(tmp_path / "nowhere" / "map.ply", b"x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="in the way"):
        make_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="in the way"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="too long"):
        write_bytes(tmp_path / ("long" * 100), b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="in the way"):
        write_bytes(tmp_path / "folder", b"x")
    assert make_folder(tmp_path / "a" / "b").is_dir()
    with monkeypatch.context() as patch:  # whoever runs the tests may be allowed everything
        patch.setattr("os.access", lambda *_: False)
        with pytest.raises(OutputError, match="permission denied"):
            make_folder(tmp_path / "a" / "b")


def test_folders_are_whole_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "scene") as folder:
        (folder / "one").write_text("1")
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)
    with atomic_folder(tmp_path / "deep" / "scene") as folder:
        (folder / "one").write_text("1")
    assert (tmp_path / "deep" / "scene" / "one").read_text() == "1"
    with pytest.raises(OutputError, match="exists already"), atomic_folder(tmp_path / "deep"):
        pass


def test_a_pipe_or_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="it is a device or a pipe; name a file"), atomic_path(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_links_stay_and_what_they_lead_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/old").write_text("old")
    for link, target in (("a.ply", "disk/old"), ("b.ply", "disk/new.ply")):
        (tmp_path / link).symlink_to(target)
        with atomic_path(tmp_path / link) as temporary:
            assert temporary.parent.samefile(tmp_path / "disk") and temporary.suffix == ".ply"
            temporary.write_text(link)
        assert (tmp_path / link).is_symlink() and (tmp_path / target).read_text() == link
    (tmp_path / "scene").symlink_to("disk/scene")
    with atomic_folder(tmp_path / "scene") as folder:
        (folder / "one").touch()
    assert (tmp_path / "scene").is_symlink() and os.listdir(tmp_path / "disk/scene") == ["one"]
    (tmp_path / "c.ply").symlink_to("unmounted/c.ply")
    with pytest.raises(OutputError, match=r"unmounted/c\.ply' cannot be written: its folder does not exist"):
        write_text(tmp_path / "c.ply", "c")
    assert sorted(os.listdir(tmp_path / "disk")) == ["new.ply", "old", "scene"]
