"""The queue before the mapper: order, what is dropped, failures, the end."""

import threading

import pytest

from dust3r_ros.node.worker import Worker


class Gate:
    """Work that waits until it may go on, so that a test knows what is in the queue."""

    def __init__(self):
        self.done = []
        self.failures = []
        self.begun = threading.Event()
        self.open = threading.Event()

    def work(self, item):
        self.begun.set()
        assert self.open.wait(5)
        if item == "bad":
            raise ValueError("bad item")
        self.done.append(item)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


def make(gate, size):
    return Worker(gate.work, size, gate.failures.append)


def test_a_full_queue_drops_the_oldest_and_counts_it(gate):
    worker = make(gate, 2)
    worker.offer(0)
    assert gate.begun.wait(5)
    for item in range(1, 6):
        worker.offer(item)
    assert (worker.dropped, worker.waiting) == (3, 2)
    gate.open.set()
    assert worker.submit(lambda: "between").result(5) == "between"
    while worker.waiting:
        worker.submit(lambda: None).result(5)
    assert worker.stop(5)
    assert gate.done == [0, 4, 5]


def test_a_job_goes_before_items_that_wait_and_runs_in_the_same_thread(gate):
    worker = make(gate, 10)
    worker.offer(0)
    assert gate.begun.wait(5)
    worker.offer(1)
    seen = worker.submit(lambda: (list(gate.done), threading.current_thread() is threading.main_thread()))
    gate.open.set()
    assert seen.result(5) == ([0], False)
    worker.stop(5)


def test_a_failure_is_handed_over_and_the_next_item_is_done(gate):
    gate.open.set()
    worker = make(gate, 10)
    worker.offer("bad")
    worker.offer(1)
    for _ in range(100):
        if gate.done:
            break
        worker.submit(lambda: None).result(5)
    assert gate.done == [1]
    assert [str(error) for error in gate.failures] == ["bad item"]
    worker.stop(5)


def test_a_failing_job_fails_its_future_only(gate):
    worker = make(gate, 1)
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda: 1 / 0).result(5)
    assert worker.submit(lambda: 2).result(5) == 2
    assert gate.failures == []
    worker.stop(5)


def test_stop_forgets_what_waits_and_refuses_what_comes_later(gate):
    worker = make(gate, 10)
    worker.offer(0)
    assert gate.begun.wait(5)
    worker.offer(1)
    job = worker.submit(lambda: "done")
    gate.open.set()
    assert worker.stop(5)
    assert gate.done == [0]
    assert job.result(5) == "done"
    worker.offer(2)
    with pytest.raises(RuntimeError, match="stopped"):
        worker.submit(lambda: None).result(5)
    assert gate.done == [0]


def test_clear_says_how_many_it_forgot(gate):
    worker = make(gate, 10)
    worker.offer(0)
    assert gate.begun.wait(5)
    worker.offer(1)
    worker.offer(2)
    assert (worker.clear(), worker.dropped, worker.waiting) == (2, 0, 0)
    gate.open.set()
    worker.stop(5)


def test_what_has_time_is_done_while_nothing_waits():
    """Piece by piece, an item or a job in between; again after the next item when it was through."""
    done, begun, go, through = [], threading.Event(), threading.Event(), threading.Event()

    def idle():
        begun.set()
        assert go.wait(5)
        done.append("piece")
        if done.count("piece") < 3:
            return True
        through.set()
        return False

    worker = Worker(done.append, 10, done.append, idle=idle)
    worker.offer("first")
    assert begun.wait(5)
    worker.offer("second")
    worker.submit(lambda: done.append("job"))
    go.set()
    assert through.wait(5) and worker.stop(5.0)
    assert done[:6] == ["first", "piece", "job", "second", "piece", "piece"]
