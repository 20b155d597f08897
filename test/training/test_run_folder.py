"""States on disk: whole or not there, the last ones kept, everything random put back."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.errors import InputError, OutputError  # noqa: E402
from dust3r_ros.training.run_folder import (  # noqa: E402
    random_states,
    read_state,
    seed_everything,
    set_random_states,
    states,
    write_state,
)


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100, 1_000_000_000_0):
        write_state(tmp_path / "state", step, {"step": step}, 2)
    assert [int(path.stem.partition("-")[2]) for path in states(tmp_path / "state")] == [100, 10_000_000_000]
    assert read_state(tmp_path / "state") == ({"format": 2, "step": 10_000_000_000}, [])


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file grows beyond 100 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_costs_nothing_of_what_was_there(tmp_path: Path, full_disk: None) -> None:
    write_state(tmp_path, 1, {"x": torch.ones(10)}, 1)
    with pytest.raises(OutputError, match=r"step-000000002.pt' cannot be written"):
        write_state(tmp_path, 2, {"x": torch.ones(100_000)}, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.pt"]
    assert torch.equal(read_state(tmp_path)[0]["x"], torch.ones(10))


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_state(tmp_path, step, {"step": step}, 3)
    newest = tmp_path / "step-000000003.pt"
    newest.write_bytes(newest.read_bytes()[:-40])
    torch.save({"format": 99}, tmp_path / "step-000000002.pt")
    content, wrong = read_state(tmp_path)
    assert content["step"] == 1 and "step-000000003.pt' cannot be read" in wrong[0] and "this version" in wrong[1]
    (tmp_path / "step-000000001.pt").unlink()
    with pytest.raises(InputError, match=r"no state to resume from.*step-000000003.*without --resume"):
        read_state(tmp_path)


def test_a_state_that_wants_to_run_code_is_not_opened(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, ("raise SystemExit",))

    torch.save({"format": 1, "x": Hostile()}, tmp_path / "step-000000001.pt")
    with pytest.raises(InputError, match="cannot be read"):
        read_state(tmp_path)


def drawn() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(()))]


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    seed_everything(3, 0)
    drawn()
    write_state(tmp_path, 1, {"random": random_states()}, 1)
    expected = drawn()
    drawn()
    set_random_states(read_state(tmp_path)[0]["random"])
    assert drawn() == expected


def test_processes_draw_differently() -> None:
    seed_everything(3, 0)
    first = drawn()
    seed_everything(3, 1)
    second = drawn()
    seed_everything(3, 0)
    assert drawn() == first and all(a != b for a, b in zip(first, second, strict=True))
