"""ROS domains are held by one process at a time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dust3r_ros.node.tools import domains
from dust3r_ros.node.tools.domains import DomainError, free_domain, release_domain

ASK = "from dust3r_ros.node.tools.domains import free_domain; print(free_domain())"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Locks that nobody else on this machine knows."""
    monkeypatch.setattr(domains.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(domains, "DOMAINS", 2)
    return tmp_path


def test_every_call_gives_another_one_until_all_are_taken(elsewhere):
    first, second = free_domain(), free_domain()
    assert {first, second} == {0, 1}
    with pytest.raises(DomainError, match="all 2 ROS domains of this machine are in use"):
        free_domain()
    release_domain(first)
    assert free_domain() == first
    for number in (first, second):
        release_domain(number)


def test_a_process_that_ended_holds_none(elsewhere):
    environment = {"TMPDIR": str(elsewhere), "PYTHONPATH": ":".join(filter(None, sys.path))}
    for _ in range(3):
        number = int(
            subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, check=True).stdout
        )
        assert 0 <= number < 102
    held = [free_domain(), free_domain()]
    for domain in held:
        release_domain(domain)
