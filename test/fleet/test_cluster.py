"""What surrounds tasks of Ray: what it is asked, what a cancelled job leaves. test/cli/test_fleet.py has clusters."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from dust3r_ros.errors import ConfigError
from dust3r_ros.fleet.cluster import Cluster, _environment, _local, _withdraw, need_ray, run
from dust3r_ros.fleet.recordings import FAILED, MAPPED, RECORD, RUNNING, Job, Record, read_record
from dust3r_ros.geometry import processes

VARIABLES = ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """None of Ray's are set, nor after the test; and Ray is a module without content."""
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name not in VARIABLES})
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    return monkeypatch


def test_a_local_cluster_is_reached_by_this_user_only(variables: pytest.MonkeyPatch) -> None:
    need_ray(Cluster())
    usage, mode, token, network = (os.environ[name] for name in VARIABLES)
    assert (usage, mode, network) == ("0", "token", "0") and len(token) == 64
    asked = _local(Cluster(workers=3), "/tmp/place")
    assert asked["_node_ip_address"] == "127.0.0.1" and asked["include_dashboard"] is False
    assert (asked["num_cpus"], asked["_temp_dir"]) == (3, "/tmp/place")


def test_what_the_user_set_stays(variables: pytest.MonkeyPatch) -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    need_ray(Cluster())
    assert os.environ["RAY_AUTH_MODE"] == "disabled" and "RAY_AUTH_TOKEN" not in os.environ


def test_another_cluster_has_its_own_token_and_network(variables: pytest.MonkeyPatch) -> None:
    need_ray(Cluster("ray://first:10001"))
    assert [name in os.environ for name in VARIABLES] == [True, False, False, False]


def test_without_ray_the_extra_is_named(variables: pytest.MonkeyPatch) -> None:
    variables.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="install the extra 'fleet'"):
        need_ray(Cluster())


def test_variables_are_set_within_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_OLD", "before")
    monkeypatch.delenv("FLEET_NEW", raising=False)
    with pytest.raises(RuntimeError), _environment({"FLEET_OLD": "within", "FLEET_NEW": "within"}):
        assert os.environ["FLEET_OLD"] == os.environ["FLEET_NEW"] == "within"
        raise RuntimeError
    assert os.environ["FLEET_OLD"] == "before" and "FLEET_NEW" not in os.environ


def test_a_cancelled_job_counts_as_never_begun_unless_it_ended(tmp_path: Path) -> None:
    job = Job("walk", "/walk", str(tmp_path / "walk"), "r", 1)
    (tmp_path / "walk").mkdir()
    record = Record("/walk", "r", MAPPED)
    record.write(job.folder)
    _withdraw(job)
    assert read_record(job.folder) is not None
    replace(record, state=RUNNING).write(job.folder)
    _withdraw(job)
    assert not (tmp_path / "walk").exists(), "nothing else was written there"
    _withdraw(job)


class Here(ModuleType):
    """What is asked of Ray, done in this process: a task is over when it is begun."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions = SimpleNamespace(
            **{
                name: type(name, (Exception,), {})
                for name in ("RayTaskError", "RaySystemError", "RuntimeEnvSetupError")
            }
        )
        self.exceptions.RayError = RuntimeError

    def put(self, value: object) -> object:
        return value

    def get(self, done: Callable[[], object]) -> object:
        return done()

    def wait(self, running: list, num_returns: int, timeout: float) -> tuple[list, list]:
        return running[:num_returns], running[num_returns:]

    def remote(self, **options: object) -> Callable[[Callable], object]:
        return lambda task: SimpleNamespace(remote=lambda *given: partial(task, *given))

    def get_runtime_context(self) -> object:
        return SimpleNamespace(get_node_id=lambda: "node")


def test_a_record_that_cannot_be_written_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has a folder in the place of its record at the end, one already at the beginning, one a file for a folder."""
    monkeypatch.setitem(sys.modules, "ray", Here())
    monkeypatch.setattr(processes, "use_one_thread", lambda: None)
    jobs = [Job(name, str(tmp_path), str(tmp_path / name), "r", 1) for name in ("end", "begin", "file", "good")]
    (tmp_path / "begin" / RECORD).mkdir(parents=True)
    (tmp_path / "file").touch()

    def work(job: Job, tick: Callable[[int, int], None]) -> Record:
        if job.name == "end":
            (tmp_path / "end" / RECORD).unlink()
            (tmp_path / "end" / RECORD / "x").mkdir(parents=True)
        return Record(job.recording, job.request, MAPPED, done=3)

    found: dict[str, Record] = {}
    run(jobs, work, Cluster(), lambda: False, lambda job, record: found.update({job.name: record}), lambda done: None)
    assert {name: record.state for name, record in found.items()} == {
        "end": FAILED, "begin": FAILED, "file": FAILED, "good": MAPPED,
    }  # fmt: skip
    assert all(str(tmp_path / name) in found[name].message for name in ("end", "begin", "file"))
    assert found["end"].message.startswith(f"{MAPPED}, but its record")
    written = read_record(str(tmp_path / "good"))
    assert written is not None and (written.state, written.done) == (MAPPED, 3)
