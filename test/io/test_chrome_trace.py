"""Chrome traces: events of this process, of forks and of others, bounded, as viewers read them."""

import json
import os
import threading
from time import perf_counter

import pytest

from dust3r_ros.errors import OutputError
from dust3r_ros.io.chrome_trace import ChromeTrace, check_place
from dust3r_ros.timing import Stopwatch


@pytest.fixture
def trace():
    made = ChromeTrace("front end", kept=50)
    yield made
    made.close()


def written(trace, path):
    trace.write(path)
    assert list(path.parent.iterdir()) == [path], "nothing but the file is left"
    found = json.loads(path.read_text())
    return found["otherData"], found["traceEvents"]


def test_stages_lie_within_each_other_under_their_threads(trace, tmp_path):
    watch = Stopwatch(heard=trace.stage)
    before = perf_counter()

    def work():
        with watch("outer"), watch("inner"):
            trace.count("waiting images", 3)

    thread = threading.Thread(target=work, name="tracking")
    thread.start()
    thread.join()
    after = perf_counter()
    about, events = written(trace, tmp_path / "run.json")
    assert about["clock"] == "monotonic" and about["kept"] == "all 3 events"
    (outer,) = [event for event in events if event["name"] == "outer"]
    (inner,) = [event for event in events if event["name"] == "inner"]
    (count,) = [event for event in events if event["ph"] == "C"]
    assert 1e6 * before - 0.01 <= outer["ts"] <= inner["ts"] <= count["ts"] <= inner["ts"] + inner["dur"] + 0.01
    assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 0.01 <= 1e6 * after + 0.02
    assert count["args"] == {"value": 3.0}
    names = {
        (event["name"], event["pid"], event["tid"]): event["args"]["name"] for event in events if event["ph"] == "M"
    }
    assert names["process_name", os.getpid(), 0] == "front end"
    assert names["thread_name", os.getpid(), outer["tid"]] == "tracking"


def test_a_fork_is_a_process_of_its_own(trace, tmp_path):
    with trace("before"):
        pass
    child = os.fork()
    if not child:
        with trace("in the copy"):
            pass
        os._exit(0)
    os.waitpid(child, 0)
    _, events = written(trace, tmp_path / "run.json")
    assert [event["pid"] for event in events if event["name"] == "in the copy"] == [child]
    assert [event["pid"] for event in events if event["name"] == "before"] == [os.getpid()]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {os.getpid(): "front end", child: "front end: background work"}


def test_what_was_taken_from_one_is_added_to_another(trace, tmp_path):
    other = ChromeTrace("back end")
    with other("image"):
        pass
    bundle = other.take()
    trace.add(bundle)
    assert not other.take().events
    other.close()
    about, events = written(trace, tmp_path / "run.json")
    assert [event["name"] for event in events if event["ph"] == "X"] == ["image"]
    assert about["kept"] == "all 1 events"


def test_only_the_newest_events_are_kept_and_the_file_says_so(trace, tmp_path):
    for value in range(120):
        trace.count("lag", value)
    about, events = written(trace, tmp_path / "run.json")
    assert about["kept"] == "the newest 50 events; 70 older ones were dropped"
    assert [event["args"]["value"] for event in events if event["ph"] == "C"] == list(range(70, 120))


def test_a_place_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    check_place(tmp_path / "new" / "run.json")
    (tmp_path / "file").write_text("")
    for path, why in ((tmp_path, "the name of a file"), (tmp_path / "file" / "run.json", "in the way")):
        with pytest.raises(OutputError, match=why):
            check_place(path)
