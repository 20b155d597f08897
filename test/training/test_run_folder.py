"""States on disk: whole or not there, the last ones kept, everything random put back; weights in pieces."""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_worlds import RECIPE

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from dust3r_ros.cli.weights import main  # noqa: E402
from dust3r_ros.errors import CheckpointError, InputError, OutputError  # noqa: E402
from dust3r_ros.network.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from dust3r_ros.training.recipe import from_mapping  # noqa: E402
from dust3r_ros.training.run_folder import (  # noqa: E402
    join_weights,
    random_states,
    read_state,
    seed_everything,
    set_random_states,
    split_weights,
    states,
    write_state,
)
from dust3r_ros.training.start import new_model  # noqa: E402


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


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    recipe = from_mapping(RECIPE, {}, "small")
    save_checkpoint(new_model(recipe.architecture(recipe.stages[0]), 0), tmp_path / "model")
    (tmp_path / "pieces").mkdir()
    (tmp_path / "pieces" / "weights.09").write_bytes(b"of an earlier leg")
    count = split_weights(tmp_path / "model", tmp_path / "pieces", size=100_000)
    files = sorted(path.name for path in (tmp_path / "pieces").iterdir())
    assert files == ["pieces.json", *(f"weights.{k:02d}" for k in range(count))] and count > 1
    return tmp_path / "pieces"


def test_what_is_joined_is_what_was_cut_in_half_precision(pieces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pieces / "MODEL_CARD.md").write_text("# card")
    assert main(["join", str(pieces)]) == 0
    assert "MB" in capsys.readouterr().out
    whole, again = load_checkpoint(pieces.parent / "model"), load_checkpoint(pieces / "model")
    assert whole.config == again.config
    for (name, value), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value.half().float(), other.float()), name
    assert (pieces / "model" / "MODEL_CARD.md").read_text() == "# card"
    assert main(["join", str(pieces)]) != 0  # it is there already


def test_damaged_pieces_are_refused(pieces: Path, tmp_path: Path) -> None:
    first = (pieces / "weights.00").read_bytes()
    (pieces / "weights.00").write_bytes(first[:-1])
    with pytest.raises(CheckpointError, match="truncated or from another run"):
        join_weights(pieces, tmp_path / "out")
    (pieces / "weights.00").unlink()
    with pytest.raises(CheckpointError, match=r"weights\.00.*copy all pieces"):
        join_weights(pieces, tmp_path / "out")
    about = json.loads((pieces / "pieces.json").read_text())
    for wrong in ({**about, "pieces": ["../model/config.json"]}, {**about, "pieces": []}, {"bytes": 1}, []):
        (pieces / "pieces.json").write_text(json.dumps(wrong))
        with pytest.raises(CheckpointError, match="is not a manifest of pieces"):
            join_weights(pieces, tmp_path / "out")
    with pytest.raises(CheckpointError, match="holds no pieces"):
        join_weights(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
