"""The link to a back end that ends and cannot be started again for long."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rclpy.logging import get_logger
from sequences import SMALL

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import BackendError
from dust3r_ros.node import back_end_link
from dust3r_ros.node.back_end_link import BackEndLink, Hearing
from dust3r_ros.node.map_maker import Setting
from dust3r_ros.node.pipeline import Pipeline
from dust3r_ros.tracking.exchange import FollowedPose

POSE = FollowedPose(0, "camera", 0, 0, np.eye(4), 1.0, np.zeros(0, np.int64), np.zeros((0, 2)), 0)


def test_poses_without_a_back_end_are_counted_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, again = threading.Event(), threading.Event()
    heard: list[tuple[Any, ...]] = []

    def back(*news: Any) -> None:
        heard.append(news)
        again.set()

    hearing = Hearing(lambda *_: None, lambda _: None, back, lambda _: None, ended.set)
    link = BackEndLink(Setting(SMALL, NodeConfig(), "camera"), get_logger("link"), hearing)
    start, tried, repaired = link._start, threading.Semaphore(0), threading.Event()

    def failing(setting: Setting) -> Any:
        if repaired.is_set():
            return start(setting)
        tried.release()
        raise BackendError("no memory")

    monkeypatch.setattr(link, "_start", failing)
    monkeypatch.setattr(back_end_link, "_WAIT_S", 0.01)
    try:
        link.report(POSE)
        assert link.unreported == 1
        assert link._back_end is not None
        os.kill(link._back_end.pid, signal.SIGKILL)
        assert ended.wait(30) and tried.acquire(timeout=30)
        for _ in range(1000):
            link.report(POSE)
        assert link.unreported == 1001 and len(link._unreported) == 1, "it is the one from before"
        repaired.set()
        assert again.wait(60)
        assert heard[0][2] == 1001 and link.unreported == 0 and link.there
        link.report(POSE)
        link.call("keep", []).result(30)
        assert link.unreported == 0
    finally:
        link.stop()


def test_a_link_that_is_stopped_while_it_starts_a_back_end_leaves_none() -> None:
    """It would hold the map's file, which the next one wants to write."""
    ended = threading.Event()
    link = BackEndLink(
        Setting(SMALL, NodeConfig(), "camera"),
        get_logger("link"),
        Hearing(lambda *_: None, lambda _: None, lambda *_: None, lambda _: None, ended.set),
    )
    assert link._back_end is not None
    os.kill(link._back_end.pid, signal.SIGKILL)
    assert ended.wait(30)
    link.stop()
    assert link._restarter is not None and not link._restarter.is_alive() and not link.there


@pytest.mark.parametrize(
    ("began", "now", "loaded"),
    [("mapping", None, ""), ("mapping", False, ""), ("localization", None, "a.db"), ("localization", True, "")],
)
def test_a_back_end_that_starts_again_takes_the_file_that_was_written(
    began: str, now: bool | None, loaded: str, tmp_path: Path
) -> None:
    (tmp_path / "b.db").touch()
    node = NodeConfig(load_map="a.db", map_db=str(tmp_path / "b.db"), map_start="new")
    link = BackEndLink.__new__(BackEndLink)
    link._setting, link._mapping, link._restarts = Setting(replace(SMALL, mode=began), node, "camera"), now, 1
    again = link._setting_again().node
    assert (again.load_map, again.map_start) == (loaded, "new" if loaded else "continue")


def test_a_map_file_that_cannot_be_written_when_mapping_begins_is_said(tmp_path: Path) -> None:
    said, warned = threading.Event(), list[str]()

    def warning(text: str, **_: Any) -> None:
        warned.append(text)
        said.set()

    hearing = Hearing(lambda *_: None, lambda _: None, lambda *_: None, lambda _: None, lambda: None)
    setting = Setting(replace(SMALL, mode="localization"), NodeConfig(map_db=str(tmp_path)), "camera")
    pipeline = Pipeline.__new__(Pipeline)
    pipeline._link = link = BackEndLink(setting, get_logger("link"), hearing)
    pipeline._worker = SimpleNamespace(submit=lambda job: job())  # type: ignore[assignment]
    pipeline._logger = SimpleNamespace(warning=warning)  # type: ignore[assignment]
    try:
        pipeline.set_mapping(True)
        assert said.wait(30) and warned == [f"'{tmp_path}' is a folder; it must be a file"]
    finally:
        link.stop()


def test_two_threads_report_poses_at_once() -> None:
    link = BackEndLink.__new__(BackEndLink)
    link._unreported, link._back_end, kept = Rushed(), Calls(), []
    link._back_end.kept = kept
    link._unreported.extend([POSE] * 3)
    link.call("hello")
    assert len(kept) == 2, "one went with another thread's call"


class Rushed(deque):
    """Another thread takes a pose just before this one does."""

    def popleft(self) -> Any:
        if len(self) == 1:
            self.clear()
        return super().popleft()


class Calls:
    """A back end that keeps poses."""

    kept: list[Any]

    def call(self, method: str, *arguments: Any) -> Any:
        if method == "keep":
            self.kept += arguments[0]
