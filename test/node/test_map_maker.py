"""The back end where its backend fails, as on a GPU that is out of memory or gone: it is said, and the map goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rigs import stereo_rig
from sequences import SMALL, walk

from dust3r_ros.backends import make_backend
from dust3r_ros.config import MapperConfig, NodeConfig
from dust3r_ros.errors import BackendError
from dust3r_ros.node.map_maker import LOG, MESSAGE, Audience, MapMaker, Setting
from dust3r_ros.scenes.sequence import FOCAL_PER_WIDTH
from dust3r_ros.session import session
from dust3r_ros.storage.saved_map import load_map
from dust3r_ros.tracking.exchange import KeyframeRequest
from dust3r_ros.types import Frame, TrackingState

CONFIG = replace(SMALL, focal=FOCAL_PER_WIDTH * 240, working_size=96)
AUDIENCE = Audience(live={"map_period": 0.0, "map_stride": 2, "map_max_points": 10**6, "min_confidence": 1.5})
MEMORY = BackendError("2 images do not fit into memory; lower 'working_size'")
GONE = RuntimeError("CUDA error: device-side assert triggered")
Made = Callable[..., tuple[MapMaker, dict[str, Any], list[tuple[str, Any]]]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Makes a back end; its backend raises ``fault["is"]`` if that is set. With what it sends to the node."""

    def make(backlog: str) -> tuple[MapMaker, dict[str, Any], list[tuple[str, Any]]]:
        fault: dict[str, Any] = {"is": None}
        sent: list[tuple[str, Any]] = []

        def failing(config: MapperConfig) -> Any:
            backend = make_backend(config)
            predict = backend.predict

            def guarded(*arguments: Any, **more: Any) -> Any:
                if fault["is"] is not None:
                    raise fault["is"]
                return predict(*arguments, **more)

            monkeypatch.setattr(backend, "predict", guarded)
            return backend

        monkeypatch.setattr(session, "make_backend", failing)
        setting = Setting(CONFIG, replace(NodeConfig(), backlog=backlog), "camera")
        return MapMaker(lambda kind, value: sent.append((kind, value)), setting), fault, sent

    return make


def take(maker: MapMaker, index: int) -> Any:
    sequence = walk("orbit", 24)
    frame = Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index])
    return maker.take(KeyframeRequest(frame), "f", AUDIENCE)


def errors(sent: list[tuple[str, Any]]) -> list[str]:
    return [value[1] for kind, value in sent if kind == LOG and value[0] == "error"]


@pytest.mark.parametrize("error", [MEMORY, GONE])
def test_an_image_whose_depth_fails_is_said_to_have_failed(made: Made, error: Exception) -> None:
    maker, fault, _ = made("every")
    failed = 0
    for index in range(24):
        fault["is"] = error if 6 <= index < 14 else None
        news = take(maker, index)
        failed += bool(news.failed)
        assert not news.failed or str(error) in news.failed.strip().splitlines()[-1]
    assert failed >= 2
    assert news.update.state is TrackingState.TRACKING and news.status.counts.frames == 24 and not news.failed
    maker.close()


@pytest.mark.parametrize("error", [MEMORY, GONE])
def test_work_that_was_postponed_and_fails_is_in_the_status(made: Made, error: Exception) -> None:
    maker, fault, sent = made("latest")

    def run(first: int, last: int) -> Any:
        for index in range(first, last):
            news = take(maker, index)
            assert not news.failed and news.update.state is not TrackingState.LOST
            for _ in range(4):
                maker.work(True)
        end = time.monotonic() + 30
        while maker.work(True):
            assert time.monotonic() < end
            time.sleep(0.005)
        return maker._news(fresh=True).status

    assert run(0, 8).problems == ()
    fault["is"] = error
    status = run(8, 16)
    assert len(status.problems) == 1 and str(error) in status.problems[0]
    assert status.problems[0].startswith("part of the mapping work failed: ")
    assert 1 <= len(errors(sent)) <= 2, "said once for each kind of work"
    fault["is"] = None
    status = run(16, 24)
    assert status.problems == () and status.counts.keyframes > 6
    maker.close()


@pytest.mark.parametrize("loaded", ["map.db", "other.db"])
def test_a_map_to_localise_in_is_kept_once_it_grows_and_never_another(loaded: str, tmp_path: Path) -> None:
    config, files = replace(CONFIG, dense=False), [tmp_path / name for name in ("map.db", "other.db")]
    for path in files:
        maker = MapMaker(lambda *_: None, Setting(config, NodeConfig(backlog="every", map_db=str(path)), "camera"))
        for index in range(12):
            take(maker, index)
        maker.close()
    before = [len(load_map(path).keyframes) for path in files]
    node = NodeConfig(backlog="every", map_db=str(files[0]), load_map=str(tmp_path / loaded))
    maker = MapMaker(lambda *_: None, Setting(replace(config, mode="localization"), node, "camera"))
    assert take(maker, 12).status.map_file == ""
    for mapping in (True, False, True):
        maker.set_mapping(mapping)
    for index in range(13, 24):
        take(maker, index)
    problems = maker._news(fresh=True).status.problems
    maker.close()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["map.db", "other.db"]
    kept, other = (len(load_map(path).keyframes) for path in files)
    assert (kept > before[0]) == (loaded == "map.db") and other == before[1]
    assert bool(problems) == (loaded == "other.db")
    assert all(problem.startswith("mapping continues, but the map is not saved") for problem in problems)


def test_the_path_is_sent_again_with_the_poses_of_images_that_were_only_followed(made: Made) -> None:
    """Else it would end before the last images, until the next one that the map takes."""
    maker, _, sent = made("every")
    take(maker, 0)

    def paths() -> int:
        maker.show(replace(AUDIENCE, listeners={"path": 1}))
        if maker._map._job is not None:
            maker._map._job.result()
        maker._map._rest_until = 0.0
        return sum(kind == MESSAGE and value[0] == "path" for kind, value in sent)

    assert (paths(), paths()) == (1, 1)
    maker.keep([])
    assert paths() == 2
    maker.close()


def test_a_map_whose_sending_is_overdue_at_the_end_is_no_error(made: Made) -> None:
    """The process ended with a traceback in the log: what sends had ended before."""
    maker, _, _ = made("every")
    take(maker, 0)
    maker._map._rest_until = time.monotonic() + 60.0
    maker.show(replace(AUDIENCE, listeners={"path": 1}))
    maker.close()
    maker._map._rest_until = 0.0
    assert not maker.work(False)


def test_when_the_map_is_moved_every_camera_is_told_where_it_is_now() -> None:
    """Until its own next image, a camera would be tracked in the old coordinates: metres beside the others."""
    rig = stereo_rig(60)
    setting = Setting(replace(CONFIG, dense=False), replace(NodeConfig(), backlog="every"), "left")
    maker = MapMaker(lambda *_: None, setting)
    metric, told = False, []
    for k, (stamp_ns, camera, image) in enumerate(rig.frames()):
        seen = rig.seen[camera]
        o_T_c = seen.w_T_c[np.searchsorted(seen.stamps_ns, stamp_ns)] if k >= 24 else None
        news = maker.take(KeyframeRequest(Frame(stamp_ns, camera, image, o_T_c=o_T_c)), camera, AUDIENCE)
        if news.metric and not metric:
            told.append({snapshot.camera for snapshot in news.snapshots})
        metric = news.metric
    maker.close()
    assert told == [{"left", "right"}]
