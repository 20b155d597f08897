"""``files_root``: services of the real node read and write in that folder and nowhere else."""

import os

import pytest
from dust3r_ros.srv import ExportMap, LoadMap, SaveCalibration, SaveMap

from dust3r_ros.node.interface import SERVICES, interface_type

PATHS = {  # each is outside: plain, upwards, by the home folder, a variable, a link to a folder, a link to a file
    "absolute": "{outside}/x",
    "upwards": "../outside/x",
    "upwards from below": "maps/../../outside/x",
    "a name that begins alike": "{root}-other/x",
    "home": "~/x",
    "variable": "$HOME/x",
    "link to a folder": "out/x",
    "link to a file": "link.db",
    "link by itself": "out",
}


@pytest.fixture
def node(start_node, sequence, tmp_path, monkeypatch):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
    (root / "out").symlink_to(outside)
    (root / "link.db").symlink_to(outside / "kept.db")
    (outside / "kept.db").write_bytes(b"kept")
    monkeypatch.setenv("HOME", str(outside))
    bench = start_node(files_root=str(root), dense=False, focal=sequence.focal)
    bench.play(sequence, last=8)
    bench.handled(8)
    return bench, root, outside


def test_every_service_that_takes_a_path_is_confined(node, tmp_path):
    bench, root, outside = node
    taking = {
        name: interface_type(row)
        for name, row in SERVICES.items()
        if "path" in interface_type(row).Request.get_fields_and_field_types()
    }
    assert set(taking) == {"save_map", "load_map", "save_calibration", "export_map"}
    kept = bench.status(lambda s: s.keyframes, "there is a map").keyframes
    for name, kind in taking.items():
        more = {"format": "ply"} if name == "export_map" else {}
        for path in PATHS.values():
            asked = path.format(root=root, outside=outside)
            answer = bench.recorder.call(kind, name, kind.Request(path=asked, **more), 60)
            assert not answer.success, (name, path)
            assert answer.message == (
                f"path '{asked}' lies outside '{root}'; files_root confines services to that folder"
            )
    assert {path.name: path.is_symlink() for path in root.iterdir()} == {"out": True, "link.db": True}
    assert (outside / "kept.db").read_bytes() == b"kept"
    assert {path.name for path in outside.iterdir()} - {".ros"} == {"kept.db"}
    assert not (tmp_path / "root-other").exists()
    bench.status(lambda s: s.keyframes == kept, "the map is as it was")


def test_within_the_folder_all_is_as_without(node):
    bench, root, _ = node
    (root / "also").symlink_to(root / "maps")  # a link that stays inside
    call = bench.recorder.call
    for path, written in (("maps/a.db", "maps/a.db"), (f"{root}/b.db", "b.db"), ("also/../maps/c.db", "maps/c.db")):
        answer = call(SaveMap, "save_map", SaveMap.Request(path=path), 60)
        assert answer.success and str(root / written) in answer.message, answer.message
        assert (root / written).is_file()
    answer = call(SaveCalibration, "save_calibration", SaveCalibration.Request(path="cameras"))
    assert list(answer.files) == [str(root / "cameras/camera.yaml")] and os.path.isfile(answer.files[0])
    assert call(ExportMap, "export_map", ExportMap.Request(path="map.ply", format="ply"), 60).success
    assert (root / "map.ply").is_file()
    answer = call(LoadMap, "load_map", LoadMap.Request(path="also/a.db"), 60)
    assert answer.success, answer.message
