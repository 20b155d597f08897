"""What all tests share, and how they are shared out among processes."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

# Helpers that several test modules import: oracle, scoring.
sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

import kept
import threads

threads.limit()
# Modules are compiled once, whatever is set: not in each of the hundred processes that a run starts.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# In a shell's background jobs Ctrl-C is ignored, and so it would be by the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

_NICE = 14  # of tests that need no real time: below the mapping process of a node, which is nice itself
SHARED = Path(__file__).resolve().parents[2] / "shared"

# Tests of these folders and files take longest; begun first, none is left alone at the end.
SLOW = (
    "test/node/", "test/test_colcon.py", "test/training/test_gpu_day.py", "test/benchmarks/", "test/evaluation/",
    "test/cli/", "test/mapping/", "test/session/", "test/storage/",
)  # fmt: skip
# Tests of several files that share a process, as they do the node's middleware, or a map.
TOGETHER = ("test/node/", ("test/mapping/test_culling.py", "test/mapping/test_renumbering.py"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference data beside the checkout; skips where there is none."""
    if not (SHARED / "fixtures").is_dir():
        pytest.skip("no reference data beside the checkout (../shared)")
    return SHARED


def pytest_configure(config: pytest.Config) -> None:
    """A folder for what is made once for all processes of the run."""
    if hasattr(config, "workerinput"):
        kept.folder = Path(config.workerinput["kept"])
        return
    folder = tempfile.TemporaryDirectory(prefix="dust3r_ros_tests_")
    kept.folder = Path(folder.name)
    config.add_cleanup(folder.cleanup)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Another process hears of it."""
    node.workerinput["kept"] = str(kept.folder)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among several processes, slow files first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: [not item.nodeid.startswith(slow) for slow in SLOW])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than cores: the one with the node's tests mostly waits."""
    from dust3r_ros.geometry.processes import usable_cores

    return 1 + usable_cores()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Among several processes, what the node's tests wait for goes first."""
    if hasattr(item.config, "workerinput") and not item.nodeid.startswith("test/node/") and not os.nice(0):
        os.nice(_NICE)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays together, and so do ``TOGETHER``: what a fixture maps is mapped once, and of processes that talk to
    each other, each with several threads, no more than one test's run at a time.
    """
    if config.getoption("dist") != "load":
        return None  # asked for by name
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((str(files) for files in TOGETHER if file.startswith(files)), file)

    config.option.loadscopereorder = False
    return ByFile(config, log)
