"""Saved maps of one place become one, those of others stay apart; frame, unit and cameras of what was joined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from places import CONFIG, around, write_map
from scoring import alignment, path_length

from dust3r_ros.config import as_mapping
from dust3r_ros.errors import InputError
from dust3r_ros.mapping.joining import gather
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.session.joined import JoinedMap, join_maps
from dust3r_ros.storage.loading import load_state
from dust3r_ros.storage.saved_map import save_map

WALKS = {"monday": (0, 1, 0), "tuesday": (0, 2, 6), "wednesday": (0, 3, 12), "elsewhere": (1, 4, 0)}


@pytest.fixture(scope="module")
def walks() -> dict[str, RenderedSequence]:
    """Three of one room, one of another."""
    return {name: around(*which) for name, which in WALKS.items()}


@pytest.fixture(scope="module")
def maps(walks: dict[str, RenderedSequence], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("maps")
    return {name: write_map(walk, folder / f"{name}.db") for name, walk in walks.items()}


@pytest.fixture(scope="module")
def joined(maps: dict[str, Path]) -> JoinedMap:
    (found,) = join_maps(maps, CONFIG)
    return found


def test_three_recordings_of_one_room_become_one_map(joined: JoinedMap, walks: dict[str, RenderedSequence]) -> None:
    assert joined.names == ("monday", "tuesday", "wednesday") and not joined.warnings
    assert joined.mapper.counts.maps == 1 and not joined.metric
    together = []
    for name in joined.names:
        found = joined.trajectory(name)
        assert len(found) == len(walks[name]), "every frame, each recording by itself though their stamps are the same"
        fit, off = alignment(found, walks[name])
        assert np.sqrt(np.mean(off**2)) < 0.005 * path_length(walks[name])
        together.append(fit)
    for fit in together[1:]:
        assert fit.scale == pytest.approx(together[0].scale, rel=0.01)
        np.testing.assert_allclose(fit.translation, together[0].translation, atol=0.03)
    focal = joined.mapper.cameras["camera"].focal
    assert list(joined.mapper.cameras) == ["camera"] and focal == pytest.approx(walks["monday"].focal, rel=0.01)


def test_the_same_maps_give_the_same_bytes(joined: JoinedMap, maps: dict[str, Path]) -> None:
    (again,) = join_maps(maps, CONFIG)
    assert [k.w_T_c.tobytes() for k in again.mapper.keyframes] == [k.w_T_c.tobytes() for k in joined.mapper.keyframes]


def test_a_joined_map_is_one_that_can_be_continued(
    joined: JoinedMap, walks: dict[str, RenderedSequence], tmp_path: Path
) -> None:
    save_map(tmp_path / "map.db", joined.mapper, joined.settings)
    mapper = Mapper(CONFIG)
    mapper.resume(load_state(tmp_path / "map.db"))
    assert mapper.counts.keyframes == joined.mapper.counts.keyframes
    more = around(0, 5, 3, frames=6)
    states = [
        mapper.process(int(t), "camera", image).state for t, image in zip(more.stamps_ns, more.images, strict=True)
    ]
    assert states == ["tracking"] * 6


@pytest.mark.parametrize("other", [1, 2, 3])
def test_a_room_with_the_same_table_stays_apart(maps: dict[str, Path], other: int, tmp_path: Path) -> None:
    """The camera looks at the table all the time; what is around it differs."""
    there = write_map(around(other, 3 + other, table_of=0), tmp_path / "twin.db")
    assert list(join_maps({"here": maps["monday"], "there": there}, CONFIG)) == []


@pytest.mark.parametrize("std", [0.01, 0.07])
def test_the_joined_map_is_in_metres_if_one_of_its_maps_is(
    maps: dict[str, Path], walks, tmp_path: Path, std: float
) -> None:
    """And lies where that one does, though it is not the first. It says so if the unit is certain enough."""
    mapper = Mapper(CONFIG)
    mapper.resume(load_state(maps["tuesday"]))
    fit, _ = alignment([pose for pose in mapper.trajectory() if pose.stamp_ns], walks["tuesday"])
    mapper.move(fit)
    world = {"metric": True, "relative_std": std, "metres_per_unit": 1.0}
    save_map(tmp_path / "metric.db", mapper, {**as_mapping(CONFIG), "world": world})
    (found,) = join_maps({"monday": maps["monday"], "metric": tmp_path / "metric.db"}, CONFIG)
    assert found.metric == (std == 0.01)
    assert found.settings["world"]["relative_std"] == (pytest.approx(std) if found.metric else None)
    for name, walk in (("monday", walks["monday"]), ("metric", walks["tuesday"])):
        true = [walk.w_T_c[list(walk.stamps_ns).index(pose.stamp_ns)][:3, 3] for pose in found.trajectory(name)]
        np.testing.assert_allclose([pose.w_T_c[:3, 3] for pose in found.trajectory(name)], true, atol=0.05)


def test_a_map_left_behind_is_not_in_metres_by_its_file(maps: dict[str, Path], walks, tmp_path: Path) -> None:
    """A file says so of the map that the camera was in last; another one in it has a unit of its own."""
    both = gather([load_state(maps[name]) for name in ("monday", "tuesday")], ["monday", "tuesday"], CONFIG)
    mapper = Mapper(CONFIG)
    mapper.resume(both.state)
    fit, _ = alignment([pose for pose in mapper.trajectory() if pose.stamp_ns], walks["monday"])
    mapper.move(fit)
    world = {"metric": True, "relative_std": 0.01, "metres_per_unit": 1.0}
    save_map(tmp_path / "two.db", mapper, {**as_mapping(CONFIG), "world": world})
    (found,) = join_maps({"two": tmp_path / "two.db", "wednesday": maps["wednesday"]}, CONFIG)
    assert found.metric and not found.warnings
    fit, _ = alignment(found.trajectory("wednesday"), walks["wednesday"])
    assert fit.scale == pytest.approx(1.0, abs=0.02)


def test_which_cameras_are_one(maps: dict[str, Path], tmp_path: Path) -> None:
    """One name and about one focal; or one calibration, whatever the names. Another focal is another camera."""
    monday, tuesday = load_state(maps["monday"]), load_state(maps["tuesday"])
    assert gather([monday, tuesday], ["a", "b"], CONFIG).cameras == ({"camera": "camera"}, {"camera": "camera"})
    longer = tuple(replace(known, focal=1.2 * known.focal) for known in tuesday.submaps[0].intrinsics)
    zoomed = replace(tuesday, submaps=(replace(tuesday.submaps[0], intrinsics=longer),))
    assert gather([monday, zoomed], ["a", "b"], CONFIG).cameras[1] == {"camera": "camera_2"}
    given = {"width": 240, "fx": 200.0}

    def called(state, name: str, calibration: object):
        camera = replace(state.cameras[0], name=name)
        submap = state.submaps[0]
        keyframes = tuple(replace(keyframe, camera=name) for keyframe in submap.keyframes)
        frames = tuple(replace(frame, camera=name) for frame in submap.frames)
        settings = {"calibrations": {"applied": {name: calibration}}}
        own = (replace(submap, keyframes=keyframes, frames=frames),)
        return replace(state, cameras=(camera,), submaps=own, settings=settings)

    front, back = called(monday, "front", given), called(tuesday, "back", given)
    assert gather([front, back], ["a", "b"], CONFIG).cameras[1] == {"back": "front"}
    other = called(tuesday, "front", {**given, "fx": 201.0})
    assert gather([front, other], ["a", "b"], CONFIG).cameras[1] == {"front": "front_2"}


def test_maps_of_other_sizes_are_refused_by_name(maps: dict[str, Path]) -> None:
    states = [load_state(maps[name]) for name in ("monday", "tuesday")]
    with pytest.raises(InputError, match="map 'b' was made with working_size 512, map 'a' with 160"):
        gather([states[0], replace(states[1], working_size=512)], ["a", "b"], CONFIG)
